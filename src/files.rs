//! Files that others write and the gateway reads.
//!
//! Whatever a name stands for, nobody waits for it: a pipe, a device, a socket or a directory is
//! refused, and a file is read as far as its kind may be long. [`Files`] remembers what was read,
//! so that a change is known from then on, whenever it is looked for.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

/// The longest file of all kinds, bytes.
pub const MAX_FILE: u64 = 64 << 20;

/// How old a change must be for the next one to have another time, seconds: some file systems keep
/// no finer times than two seconds.
const SETTLED: i64 = 3;

/// Files with what was found there.
#[derive(Debug, Clone, Default)]
pub struct Files(BTreeMap<PathBuf, Known>);

/// What is known of a file.
#[derive(Debug, Clone)]
struct Known {
    /// As far as it is read.
    max: u64,
    /// `None` if nobody has looked yet.
    found: Option<Found>,
    /// As long as it has this, its content is what was found.
    stamp: Option<Stamp>,
}

/// A regular file's content, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Content([u8; 32]),
    Nothing(String),
}

/// What is new when a file is written or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What looking at files again has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// Whether a file is not what it was.
    pub is_changed: bool,
    /// Whether all could be looked at: without descriptors none can.
    pub is_complete: bool,
}

/// Opens a regular file for reading. Waits for nobody.
///
/// # Errors
/// As opening a file, and for all that is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        // A socket, a device that is not there.
        Some(libc::ENXIO | libc::ENODEV) => irregular(),
        _ => error,
    })?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(irregular()),
    }
}

/// Reads a regular file of at most `max` bytes.
///
/// # Errors
/// As [`open`] and as reading, and for longer files, of which no more is read.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut content = Vec::new();
    copy(&file, max, &mut content)?;
    Ok(content)
}

/// The path, whatever becomes of the working directory: not through it where it leads out of it.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let Ok(mut from) = std::env::current_dir() else {
        return path.to_owned();
    };
    let mut rest = path.components();
    while let Some(Component::CurDir | Component::ParentDir) = rest.clone().next() {
        if let Some(Component::ParentDir) = rest.next() {
            from.pop();
        }
    }
    from.join(rest)
}

/// Content as text.
///
/// # Errors
/// For what is not UTF-8.
pub fn text(content: Vec<u8>) -> io::Result<String> {
    String::from_utf8(content)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "is not UTF-8"))
}

impl Files {
    /// Reads a regular file of at most `max` bytes, and remembers what is found.
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(&mut self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let result = read(path, max);
        let found = match &result {
            Ok(content) => Found::Content(Sha256::digest(content).into()),
            Err(error) => Found::Nothing(error.to_string()),
        };
        self.add(path.to_owned(), Known::of(max, found));
        result
    }

    /// Adds a file of which nothing is known.
    pub fn name(&mut self, path: PathBuf) {
        self.0.entry(path).or_insert(Known {
            max: MAX_FILE,
            found: None,
            stamp: None,
        });
    }

    /// Adds others. What was read first counts, so that a change between two readings is one.
    pub fn extend(&mut self, others: Self) {
        for (path, known) in others.0 {
            self.add(path, known);
        }
    }

    /// Adds the names of others, without what was found there.
    pub fn extend_names(&mut self, others: Self) {
        for path in others.0.into_keys() {
            self.name(path);
        }
    }

    fn add(&mut self, path: PathBuf, known: Known) {
        let there = self.0.entry(path).or_insert_with(|| known.clone());
        if there.found.is_none() {
            *there = known;
        }
    }

    /// Whether a file is one of them.
    pub fn contains(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    /// All of them, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// SHA-256 of a file's content in hexadecimal, if it has any.
    pub fn sha256(&self, path: &Path) -> Option<String> {
        match self.0.get(path)?.found.as_ref()? {
            Found::Content(hash) => Some(hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            Found::Nothing(_) => None,
        }
    }

    /// Takes over what `before` knows of those of which nothing is known here.
    pub(crate) fn recall(&mut self, mut before: Self) {
        for (path, known) in &mut self.0 {
            if known.found.is_none()
                && let Some(before) = before.0.remove(path)
            {
                *known = before;
            }
        }
    }

    /// Looks at all of them again. What has the time, length and identity that it had is not read.
    pub(crate) fn look(&mut self) -> Looked {
        let mut looked = Looked {
            is_changed: false,
            is_complete: true,
        };
        for (path, known) in &mut self.0 {
            // Taken first: a change after it gives the next look another one.
            let stamp = fs::metadata(path).ok().map(|meta| Stamp::of(&meta));
            if stamp.is_some() && stamp == known.stamp {
                continue;
            }
            let found = match hash(path, known.max) {
                Ok(hash) => Found::Content(hash),
                Err(error) if lacks_descriptor(&error) => {
                    looked.is_complete = false;
                    continue;
                }
                Err(error) => Found::Nothing(error.to_string()),
            };
            let is_content = matches!(found, Found::Content(_));
            looked.is_changed |= known.found.as_ref().is_some_and(|before| *before != found);
            known.found = Some(found);
            known.stamp = stamp.filter(|stamp| is_content && stamp.is_settled());
        }
        looked
    }
}

impl Known {
    fn of(max: u64, found: Found) -> Self {
        Self {
            max,
            found: Some(found),
            stamp: None,
        }
    }
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether whatever changes the file from now on gives it another one.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs().cast_signed());
        now.saturating_sub(self.changed.0) >= SETTLED
    }
}

/// SHA-256 of a regular file's content.
fn hash(path: &Path, max: u64) -> io::Result<[u8; 32]> {
    let file = open(path)?;
    let mut hash = Hashing(Sha256::new());
    copy(&file, max, &mut hash)?;
    Ok(hash.0.finalize().into())
}

fn copy(file: &File, max: u64, to: &mut impl Write) -> io::Result<()> {
    let too_long = || {
        let (max, unit) = match max >> 20 {
            0 => (max >> 10, "KiB"),
            max => (max, "MiB"),
        };
        io::Error::other(format!("larger than {max} {unit}"))
    };
    if file.metadata()?.len() > max {
        return Err(too_long());
    }
    // It may grow meanwhile.
    match io::copy(&mut file.take(max + 1), to)? {
        len if len > max => Err(too_long()),
        _ => Ok(()),
    }
}

fn irregular() -> io::Error {
    io::Error::other("not a regular file")
}

/// Whether an error says nothing of a file.
fn lacks_descriptor(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Hashes what is written to it.
pub(crate) struct Hashing(pub Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
