//! The files of a script, read once.
//!
//! All VMs of a script run the same text, whatever happens to the files meanwhile; a changed
//! file makes a new [`Script`](super::script::Script) when the configuration is reloaded.

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

/// Largest file that is taken for a script.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Most modules a script may ask for, found or not: names may come from clients.
const MAX_MODULES: usize = 1000;

/// One file's text.
pub(super) struct Source {
    /// What the interpreter takes for its name: a mark and the path relative to the script's
    /// directory, as messages show it.
    chunk: String,
    text: Vec<u8>,
    /// What the first interpreter made of the text, for the others.
    compiled: OnceLock<Vec<u8>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.chunk).finish()
    }
}

impl Source {
    /// A text with a name in Lua's notation: `@` and a file, or `=` and anything.
    pub(super) fn new(chunk: impl Into<String>, text: Vec<u8>) -> Self {
        Self {
            chunk: chunk.into(),
            text,
            compiled: OnceLock::new(),
        }
    }

    /// Its name without the mark.
    pub(super) fn name(&self) -> &str {
        // invariant: a chunk has a mark before its name, one ASCII character.
        &self.chunk[1..]
    }

    /// The text as a function. Compiles it the first time only.
    pub(super) fn load(&self, lua: &Lua) -> mlua::Result<Function> {
        if let Some(code) = self.compiled.get() {
            // Our own output: nothing else is ever loaded as bytecode.
            let chunk = lua.load(code.as_slice()).set_mode(ChunkMode::Binary);
            return chunk.set_name(&self.chunk).into_function();
        }
        let chunk = lua.load(self.text.as_slice()).set_mode(ChunkMode::Text);
        let function = chunk.set_name(&self.chunk).into_function()?;
        // Another worker may have been first, with the same.
        let _ = self.compiled.set(function.dump(false));
        Ok(function)
    }
}

/// The main file and all that it requires, captured as they are asked for.
#[derive(Debug)]
pub(super) struct Sources {
    dir: PathBuf,
    main: Source,
    captured: Mutex<Captured>,
    /// Told when there are more files, once the script is loaded.
    grown: OnceLock<Arc<Notify>>,
}

#[derive(Debug)]
struct Captured {
    /// Also the modules that were not there, so that they stay away.
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
        // Whatever could be read has a name.
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

    /// From now on, tells when there are more files.
    pub(super) fn tell(&self, grown: Arc<Notify>) {
        // Told once, by whoever has loaded the script.
        let _ = self.grown.set(grown);
    }

    /// The main file.
    pub(super) fn main(&self) -> &Source {
        &self.main
    }

    /// All files that were read, and those that would have been had they been there.
    pub(super) fn files(&self) -> Files {
        self.captured.lock().files.clone()
    }

    /// The names of the modules that were found.
    pub(super) fn modules(&self) -> Vec<String> {
        let captured = self.captured.lock();
        let found = captured.modules.iter().filter(|(_, found)| found.is_ok());
        found.map(|(name, _)| name.clone()).collect()
    }

    /// The module of a name as `require` takes it: dots go down directories. Reads it the first
    /// time it is asked for.
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
        // A line for the shell; its line end stays, so that lines keep their numbers.
        let end = text.iter().position(|&byte| byte == b'\n');
        text.drain(..end.unwrap_or(text.len()));
    }
    Ok(text)
}
