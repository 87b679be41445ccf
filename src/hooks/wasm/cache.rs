//! Compiled code, kept on disk.
//!
//! Compiled code is machine code: who can write it can do anything. So it is kept in a directory
//! that belongs to the gateway's user and that nobody else can write, and is read from nowhere else.

use std::fs::{self, DirBuilder, Metadata, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

/// Files that are kept; beyond that, those not used for longest go.
const MAX_FILES: usize = 64;

/// How the names of its files end.
const EXTENSION: &str = "cwasm";

/// A directory of compiled code.
#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
    /// Stands for the engine, its settings, and this program's version.
    engine: [u8; 32],
}

/// Where compiled code is kept unless it is said otherwise: `stablegate` in the user's cache
/// directory. `None` when the user has none.
pub fn default_directory() -> Option<PathBuf> {
    let absolute = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Some(base?.join("stablegate"))
}

impl Cache {
    /// Makes the directory if it is not there. `None`, with a line in the log, if it cannot be
    /// used.
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

    /// The file for the code of a plugin with this content.
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

    /// The code in a file of the cache. `None` if it is not there or cannot be used.
    pub(super) fn load(&self, engine: &Engine, file: &Path) -> Option<Component> {
        let refused = |error: &dyn std::fmt::Display| {
            let file = file.display();
            tracing::warn!(%file, %error, "compiled plugin is not used");
        };
        let opened = private(&self.directory).and_then(|()| {
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(file)?;
            own(&opened.metadata()?)?;
            Ok(opened)
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                refused(&error);
                return None;
            }
        };
        // For the order in which files go. Without it this one goes earlier than it should.
        let _ = opened.set_modified(SystemTime::now());
        // SAFETY: the file is output of this program for this engine: it and its directory belong
        // to this user and nobody else can write either, as was just checked, so it was put there
        // by `store`, which writes nothing else, under a name that is the hash of the engine and
        // of what was compiled, once it was complete. It is only ever replaced as a whole.
        match unsafe { Component::deserialize_file(engine, file) } {
            Ok(component) => Some(component),
            Err(error) => {
                refused(&error);
                None
            }
        }
    }

    /// Writes code to a file of the cache, all of it or nothing. It is only a cache: what fails is
    /// logged.
    pub(super) fn store(&self, file: &Path, code: &[u8]) {
        if let Err(error) = self.write(file, code) {
            let file = file.display();
            tracing::warn!(%file, %error, "compiled plugin is not kept");
        }
        self.prune();
    }

    fn write(&self, file: &Path, code: &[u8]) -> io::Result<()> {
        private(&self.directory)?;
        let beside = file.with_extension(format!("{:016x}.new", rand::random::<u64>()));
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
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let ours = entry.path().extension()? == EXTENSION;
                ours.then_some((entry.metadata().ok()?.modified().ok()?, entry.path()))
            })
            .collect();
        files.sort();
        for (_, file) in files.iter().rev().skip(MAX_FILES) {
            // Another gateway may have been first.
            let _ = fs::remove_file(file);
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
    // Its name must not be there before its content is.
    file.sync_all()
}

/// Makes the directory if it is not there, and says where it is: links on the way to it, such as
/// those of a service manager, are followed once.
fn prepare(directory: &Path) -> io::Result<PathBuf> {
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let directory = fs::canonicalize(directory)?;
    private(&directory)?;
    Ok(directory)
}

/// Fails unless the directory is one, belongs to this user, and cannot be written by others.
fn private(directory: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(directory)?;
    if !meta.is_dir() {
        return Err(io::Error::other("not a directory"));
    }
    own(&meta)
}

/// Fails if others than this user own or can write what has this metadata.
fn own(meta: &Metadata) -> io::Result<()> {
    // SAFETY: takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    if meta.uid() != user {
        return Err(io::Error::other("belongs to another user"));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(io::Error::other("others can write it"));
    }
    Ok(())
}

/// Hashes what the engine says of itself.
struct Hashing(Sha256);

impl Hasher for Hashing {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Only asked for by maps.
        0
    }
}
