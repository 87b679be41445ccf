//! Command `stablegate hook new`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;

#[derive(clap::Args)]
pub(in crate::cli) struct New {
    /// Its name: letters, digits and dashes.
    #[arg(value_parser = name)]
    name: String,
    /// What it is written in.
    #[arg(long, value_enum)]
    lang: Language,
}

#[derive(Clone, Copy, ValueEnum)]
enum Language {
    Lua,
    Rust,
    C,
}

/// Template of a file: its path and its content.
///
/// `{{name}}` stands for the hook's name and `{{crate}}` for the crate name that Rust makes of it.
type Template = (&'static str, &'static str);

macro_rules! template {
    ($name:literal, $file:literal) => {
        ($name, include_str!(concat!("../../../plugins/", $file)))
    };
}

const LUA: &[Template] = &[template!("{{name}}.lua", "new/lua/hook.lua")];

const RUST: &[Template] = &[
    template!("{{name}}/Cargo.toml", "new/rust/Cargo.toml"),
    template!("{{name}}/README.md", "new/rust/README.md"),
    template!("{{name}}/src/lib.rs", "new/rust/src/lib.rs"),
    template!("{{name}}/wit/types.wit", "wit/0.1.0/types.wit"),
    template!("{{name}}/wit/exports.wit", "wit/0.1.0/exports.wit"),
    template!("{{name}}/wit/imports.wit", "wit/0.1.0/imports.wit"),
    template!("{{name}}/wit/world.wit", "wit/0.1.0/world.wit"),
];

const C: &[Template] = &[
    template!("{{name}}/Makefile", "new/c/Makefile"),
    template!("{{name}}/README.md", "new/c/README.md"),
    template!("{{name}}/{{name}}.c", "new/c/hook.c"),
    template!("{{name}}/stablegate.h", "token-auth-c/stablegate.h"),
];

/// Writes the files of a new hook into the working directory. Overwrites nothing.
pub(super) fn run(arguments: &New) -> anyhow::Result<()> {
    let name = &arguments.name;
    let (templates, next) = match arguments.lang {
        Language::Lua => (
            LUA,
            format!("config.yaml:  hooks: [{{name: {name}, lua: {name}.lua}}]"),
        ),
        Language::Rust => (RUST, format!("{name}/README.md says how to build it")),
        Language::C => (C, format!("{name}/README.md says how to build it")),
    };
    let fill = |text: &str| {
        text.replace("{{name}}", name)
            .replace("{{crate}}", &name.replace('-', "_"))
    };
    let files: Vec<(PathBuf, String)> = templates
        .iter()
        .map(|(file, text)| (fill(file).into(), fill(text)))
        .collect();
    if let Some((file, _)) = files.iter().find(|(file, _)| file.exists()) {
        bail!("{} is there already", file.display());
    }
    for (file, text) in &files {
        write(file, text).with_context(|| file.display().to_string())?;
        println!("{}", file.display());
    }
    println!("next: {next}");
    Ok(())
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(file, text)
}

fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("write letters, digits and dashes, a letter first".to_owned())
    }
}
