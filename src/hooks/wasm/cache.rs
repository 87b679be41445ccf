//! Cache of compiled code on disk.
//!
//! Compiled code is machine code: who can write it can do anything. So the code is kept in a
//! directory that belongs to the gateway's user and that nobody else can write or replace, and is
//! loaded from nowhere else. Behind the code is its hash, so that a failing disk cannot have the
//! gateway run damaged code.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::files::Hashing;

/// Most bytes of the cache's files; beyond that, the files not used for longest are removed.
const MAX_SIZE: u64 = 512 * 1024 * 1024;

/// Extension of the cache's files.
const EXTENSION: &str = "cwasm";

/// Extension of files that are being written.
const UNFINISHED: &str = "new";

/// Directory of compiled code.
#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
    /// Hash of the engine, its settings, and this program's version.
    engine: [u8; 32],
}

/// Returns the default directory of compiled code: `stablegate` in the user's cache directory.
///
/// `None` when the user has no cache directory.
pub fn default_directory() -> Option<PathBuf> {
    let absolute = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Some(base?.join("stablegate"))
}

impl Cache {
    /// Opens a cache, and makes the directory if it is missing.
    ///
    /// `None`, with a line in the log, if the directory cannot be used.
    pub(super) fn open(directory: &Path, engine: &Engine) -> Option<Self> {
        let directory = match prepare(directory) {
            Ok(directory) => directory,
            Err(error) => {
                let directory = directory.display();
                tracing::warn!(%directory, %error, "compiled plugins are not kept");
                return None;
            }
        };
        let mut hash = Hashing(Sha256::new());
        env!("CARGO_PKG_VERSION").hash(&mut hash);
        engine.precompile_compatibility_hash().hash(&mut hash);
        Some(Self {
            directory,
            engine: hash.0.finalize().into(),
        })
    }

    /// Returns the file for the code of a plugin with this content.
    pub(super) fn file(&self, content: &[u8]) -> PathBuf {
        let mut hash = Sha256::new();
        hash.update(self.engine);
        hash.update(content);
        let name: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.directory.join(name).with_extension(EXTENSION)
    }

    /// Loads the code in a file of the cache. `None` if the file is missing or cannot be used.
    pub(super) fn load(&self, engine: &Engine, file: &Path) -> Option<Component> {
        let refused = |error: &dyn std::fmt::Display| {
            let file = file.display();
            tracing::warn!(%file, %error, "compiled plugin is not used");
        };
        let opened = match self.checked(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                refused(&error);
                return None;
            }
        };
        // Maps the file that was checked, whatever its name stands for by now. A mapped file's
        // pages are shared by all plugins with this code, and the system can take them back.
        let mapped = format!("/proc/self/fd/{}", opened.as_raw_fd());
        // SAFETY: the file is output of this program for this engine: this user owns it and nobody
        // else can write it or put another into its directory, so it was put there by `store`,
        // which writes nothing else, under a name that is the hash of the engine and of what was
        // compiled. It is what was written then, as its hash says, and is only ever replaced as a
        // whole, which leaves the one that is open as it is.
        match unsafe { Component::deserialize_file(engine, mapped) } {
            Ok(component) => Some(component),
            Err(error) => {
                refused(&error);
                None
            }
        }
    }

    /// Opens a file after checks that only this user can have written it and that it is undamaged.
    fn checked(&self, file: &Path) -> io::Result<File> {
        private(&self.directory)?;
        let mut opened = OpenOptions::new()
            .read(true)
            // Follows no link, and does not wait for a pipe.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(file)?;
        let meta = opened.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        own(&meta)?;
        // Pruning goes by this time. If it cannot be set, the file is removed too early at worst.
        let _ = opened.set_modified(SystemTime::now());
        let (mut hash, mut kept) = (Hashing(Sha256::new()), [0; 32]);
        let code = meta.len().saturating_sub(kept.len() as u64);
        io::copy(&mut (&opened).take(code), &mut hash)?;
        opened.read_exact(&mut kept)?;
        if hash.0.finalize() != kept {
            return Err(io::Error::other("damaged"));
        }
        Ok(opened)
    }

    /// Writes code to a file of the cache, all of it or nothing.
    ///
    /// Errors are only logged, as the code can be compiled again.
    pub(super) fn store(&self, file: &Path, code: &[u8]) {
        if let Err(error) = self.write(file, code) {
            let file = file.display();
            tracing::warn!(%file, %error, "compiled plugin is not kept");
        }
        self.prune();
    }

    fn write(&self, file: &Path, code: &[u8]) -> io::Result<()> {
        private(&self.directory)?;
        let random = rand::random::<u64>();
        let beside = file.with_extension(format!("{random:016x}.{UNFINISHED}"));
        let written = write_new(&beside, code).and_then(|()| fs::rename(&beside, file));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }

    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        // With unfinished files: a gateway that was killed leaves one.
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let path = entry.path();
                let extension = path.extension()?;
                let meta = entry.metadata().ok()?;
                let ours = extension == EXTENSION || extension == UNFINISHED;
                ours.then_some((meta.modified().ok()?, meta.len(), path))
            })
            .collect();
        files.sort();
        let mut size = 0;
        for (_, len, file) in files.iter().rev() {
            size += len;
            if size > MAX_SIZE {
                // Another gateway may have removed the file already.
                let _ = fs::remove_file(file);
            }
        }
    }
}

fn write_new(file: &Path, code: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(code)?;
    file.write_all(&Sha256::digest(code))?;
    // The content must be on disk before the name is.
    file.sync_all()
}

/// Makes the directory if it is missing, and returns its real path.
///
/// Links on the way to the directory, such as those of a service manager, are followed once.
fn prepare(directory: &Path) -> io::Result<PathBuf> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let directory = fs::canonicalize(directory)?;
    private(&directory)?;
    Ok(directory)
}

/// Fails unless the path is a directory of this user that others can neither write nor replace.
fn private(directory: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(directory)?;
    if !meta.is_dir() {
        return Err(io::Error::other("not a directory"));
    }
    own(&meta)?;
    for above in directory.ancestors().skip(1) {
        let meta = fs::symlink_metadata(above)?;
        // In a sticky directory, others can move only their own files.
        let sticky = meta.mode() & libc::S_ISVTX != 0;
        if ![0, user()].contains(&meta.uid()) || others_can_write(&meta) && !sticky {
            let above = above.display();
            return Err(io::Error::other(format!("others can write {above}")));
        }
    }
    Ok(())
}

/// Fails if the owner is not this user, or if others can write.
fn own(meta: &Metadata) -> io::Result<()> {
    if meta.uid() != user() {
        return Err(io::Error::other("belongs to another user"));
    }
    if others_can_write(meta) {
        return Err(io::Error::other("others can write it"));
    }
    Ok(())
}

fn others_can_write(meta: &Metadata) -> bool {
    meta.mode() & 0o022 != 0
}

fn user() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

impl Hasher for Hashing {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Only maps ask for this value.
        0
    }
}
