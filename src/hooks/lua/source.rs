//! Sources of a script: its files, read once.
//!
//! All interpreters of a script run the same text, whatever happens to the files meanwhile. A
//! changed file makes a new [`Script`](super::script::Script) when the configuration is reloaded.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use mlua::chunk::ChunkMode;
use mlua::{Function, Lua};
use tokio::sync::Notify;

use crate::files::Files;
use crate::sync::Mutex;

/// Largest file that is taken for a script, bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Most modules that a script may ask for, found or not, because names may come from clients.
const MAX_MODULES: usize = 1000;

/// Text of one file.
pub(super) struct Source {
    /// Chunk name of the text: a mark and the path relative to the script's directory, as messages
    /// show it.
    chunk: String,
    text: Vec<u8>,
    /// Bytecode that the first interpreter compiled from the text, for the others.
    compiled: OnceLock<Vec<u8>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.chunk).finish()
    }
}

impl Source {
    /// Creates a source with a name in Lua's notation: `@` and a file, or `=` and anything.
    pub(super) fn new(chunk: impl Into<String>, text: Vec<u8>) -> Self {
        Self {
            chunk: chunk.into(),
            text,
            compiled: OnceLock::new(),
        }
    }

    /// Returns the name without its mark.
    pub(super) fn name(&self) -> &str {
        // invariant: a chunk has a mark before its name, one ASCII character.
        &self.chunk[1..]
    }

    /// Returns the text as a function. Compiles the text the first time only.
    pub(super) fn load(&self, lua: &Lua) -> mlua::Result<Function> {
        if let Some(code) = self.compiled.get() {
            // Our own output: nothing else is ever loaded as bytecode.
            let chunk = lua.load(code.as_slice()).set_mode(ChunkMode::Binary);
            return chunk.set_name(&self.chunk).into_function();
        }
        let chunk = lua.load(self.text.as_slice()).set_mode(ChunkMode::Text);
        let function = chunk.set_name(&self.chunk).into_function()?;
        // Another worker may have been first, with the same bytecode.
        let _ = self.compiled.set(function.dump(false));
        Ok(function)
    }
}

/// Sources of a script: the main file and all modules, read when they are first asked for.
#[derive(Debug)]
pub(super) struct Sources {
    dir: PathBuf,
    main: Source,
    captured: Mutex<Captured>,
    /// Notified when there are more files, once the script is loaded.
    grown: OnceLock<Arc<Notify>>,
}

#[derive(Debug)]
struct Captured {
    /// Modules by name, with those that were missing, so that they stay missing.
    modules: HashMap<String, Result<Arc<Source>, String>>,
    files: Files,
}

impl Sources {
    /// Reads the main file.
    pub(super) fn open(path: &Path) -> Result<Self, (String, Files)> {
        let mut files = Files::default();
        let text = match read(&mut files, path) {
            Ok(text) => text,
            Err(error) => return Err((format!("{}: {error}", path.display()), files)),
        };
        // A path that could be read has a file name.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            dir: path.parent().unwrap_or(Path::new("/")).to_owned(),
            main: Source::new(format!("@{name}"), text),
            captured: Mutex::new(Captured {
                modules: HashMap::new(),
                files,
            }),
            grown: OnceLock::new(),
        })
    }

    /// Sets what is notified, from now on, when there are more files.
    pub(super) fn tell(&self, grown: Arc<Notify>) {
        // Set once, by the loader of the script.
        let _ = self.grown.set(grown);
    }

    /// Returns the main file.
    pub(super) fn main(&self) -> &Source {
        &self.main
    }

    /// Returns all files that were read, and those that were looked for in vain.
    pub(super) fn files(&self) -> Files {
        self.captured.lock().files.clone()
    }

    /// Returns the names of the modules that were found.
    pub(super) fn modules(&self) -> Vec<String> {
        let captured = self.captured.lock();
        let found = captured.modules.iter().filter(|(_, found)| found.is_ok());
        found.map(|(name, _)| name.clone()).collect()
    }

    /// Returns a module by its name as `require` takes it: dots go down directories.
    ///
    /// Reads the module the first time it is asked for.
    pub(super) fn module(&self, name: &str) -> Result<Arc<Source>, String> {
        let mut captured = self.captured.lock();
        if let Some(known) = captured.modules.get(name) {
            return known.clone();
        }
        let plain = |part: &str| !part.is_empty() && !part.contains(['/', '\\', '\0']);
        if !name.split('.').all(plain) {
            return Err(format!(
                "module name '{name}' is refused: names are relative to the script, with dots between their parts"
            ));
        }
        if captured.modules.len() >= MAX_MODULES {
            return Err(format!("module '{name}' is one too many"));
        }
        let stem = name.replace('.', "/");
        let mut found = Err(format!(
            "module '{name}' not found: no file '{stem}.lua' and no file '{stem}/init.lua'"
        ));
        for file in [format!("{stem}.lua"), format!("{stem}/init.lua")] {
            match read(&mut captured.files, &self.dir.join(&file)) {
                Ok(text) => {
                    found = Ok(Arc::new(Source::new(format!("@{file}"), text)));
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    found = Err(format!("module '{name}': {file}: {error}"));
                    break;
                }
            }
        }
        captured.modules.insert(name.to_owned(), found.clone());
        if let Some(grown) = self.grown.get() {
            grown.notify_one();
        }
        found
    }
}

fn read(files: &mut Files, path: &Path) -> io::Result<Vec<u8>> {
    let mut text = files.read(path, MAX_FILE)?;
    if text.starts_with(b"\xef\xbb\xbf") {
        text.drain(..3);
    }
    if text.starts_with(b"#") {
        // A first line for the shell is cut; its line end stays, so that lines keep their numbers.
        let end = text.iter().position(|&byte| byte == b'\n');
        text.drain(..end.unwrap_or(text.len()));
    }
    Ok(text)
}
