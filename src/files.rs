//! Files that others write and the gateway reads.
//!
//! Reading never blocks: a pipe, a device, a socket or a directory is refused, and each kind of
//! file has a limit of length. [`Files`] remembers the content of files, so that a later look finds
//! changes.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

/// Largest limit of any kind of file, bytes.
pub const MAX_FILE: u64 = 64 << 20;

/// Age from which a change has a timestamp that the next change will not share, seconds.
///
/// Some file systems store times in steps of two seconds.
const SETTLED: i64 = 3;

/// Set of files with the content found in each.
#[derive(Debug, Clone, Default)]
pub struct Files(BTreeMap<PathBuf, Known>);

/// State of one known file.
#[derive(Debug, Clone)]
struct Known {
    /// Limit of length, bytes.
    max: u64,
    /// Result of the last look; `None` before the first.
    found: Option<Found>,
    /// Stamp under which `found` is still valid; `None` if the file must be read again.
    stamp: Option<Stamp>,
}

/// SHA-256 of a regular file's content, or the error that reading it gave.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Content([u8; 32]),
    Nothing(String),
}

/// Metadata that changes when a file is written or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Result of looking at all files again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// Flag that the content of a file has changed.
    pub is_changed: bool,
    /// Flag that all files could be checked, which fails when the process has no descriptor left.
    pub is_complete: bool,
}

/// Opens a regular file for reading, without blocking.
///
/// # Errors
/// Those of opening a file; also if the file is not regular.
pub fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        // A socket, or a device that is not there.
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
/// Those of [`open`] and of reading; also if the file is longer.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut content = Vec::new();
    copy(&file, max, &mut content)?;
    Ok(content)
}

/// Returns an absolute path that does not depend on the working directory.
///
/// Leading `.` and `..` components are resolved, so that a path out of the working directory does
/// not lead through it.
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

/// Converts content to text.
///
/// # Errors
/// If the content is not UTF-8.
pub fn text(content: Vec<u8>) -> io::Result<String> {
    String::from_utf8(content)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "is not UTF-8"))
}

impl Files {
    /// Reads a regular file of at most `max` bytes, and remembers the result.
    ///
    /// # Errors
    /// Those of [`read`].
    pub fn read(&mut self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let result = read(path, max);
        let found = match &result {
            Ok(content) => Found::Content(Sha256::digest(content).into()),
            Err(error) => Found::Nothing(error.to_string()),
        };
        self.add(path.to_owned(), Known::of(max, found));
        result
    }

    /// Adds a file that has not been looked at.
    pub fn name(&mut self, path: PathBuf) {
        self.0.entry(path).or_insert(Known {
            max: MAX_FILE,
            found: None,
            stamp: None,
        });
    }

    /// Adds the files of `others`, with their content.
    ///
    /// For a file in both, the content read first is kept, so that a change between two reads is
    /// found.
    pub fn extend(&mut self, others: Self) {
        for (path, known) in others.0 {
            self.add(path, known);
        }
    }

    /// Adds the paths of `others`, without their content.
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

    /// Returns whether the set contains a file.
    pub fn contains(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    /// Returns all paths in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// Returns the SHA-256 of a file's content in hexadecimal, if the file could be read.
    pub fn sha256(&self, path: &Path) -> Option<String> {
        match self.0.get(path)?.found.as_ref()? {
            Found::Content(hash) => Some(hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            Found::Nothing(_) => None,
        }
    }

    /// Takes over the content from `before` of files that have not been looked at here.
    pub(crate) fn recall(&mut self, mut before: Self) {
        for (path, known) in &mut self.0 {
            if known.found.is_none()
                && let Some(before) = before.0.remove(path)
            {
                *known = before;
            }
        }
    }

    /// Looks at all files again.
    ///
    /// A file is read only if its time, length or identity differs from the last look.
    pub(crate) fn look(&mut self) -> Looked {
        let mut looked = Looked {
            is_changed: false,
            is_complete: true,
        };
        for (path, known) in &mut self.0 {
            // Taken before reading: a change after this line has another stamp at the next look.
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

    /// Returns whether any later change of the file will give another stamp.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs().cast_signed());
        now.saturating_sub(self.changed.0) >= SETTLED
    }
}

/// Computes the SHA-256 of a regular file's content.
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
    // The file may grow while it is read.
    match io::copy(&mut file.take(max + 1), to)? {
        len if len > max => Err(too_long()),
        _ => Ok(()),
    }
}

fn irregular() -> io::Error {
    io::Error::other("not a regular file")
}

/// Returns whether an error is a lack of descriptors, which says nothing about the file.
fn lacks_descriptor(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Writer that hashes the bytes written.
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
