//! Command `stablegate migrate`.

mod draft;
mod fastway;
mod goscon;
mod source;

use std::path::Path;

use anyhow::Context;

use crate::config::Config;

#[derive(clap::Args)]
pub(super) struct Migrate {
    /// Whose configuration it is.
    #[arg(long, value_enum)]
    from: From,
    /// goscon's configuration file; of the others the command line, as one argument without the
    /// program's name.
    #[arg(value_name = "FILE OR FLAGS", allow_hyphen_values = true)]
    input: String,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum From {
    /// The YAML file of goscon since 2019.
    Goscon,
    /// The command line of goscon before that; its `-config` file is read, too.
    GosconFlags,
    /// The command line of fastway.
    Fastway,
}

/// Prints the equivalent configuration; what has no equivalent is named in its comments.
pub(super) fn run(arguments: &Migrate) -> anyhow::Result<()> {
    let draft = match arguments.from {
        From::Goscon => goscon::of_file(Path::new(&arguments.input))?,
        From::GosconFlags => goscon::of_flags(&arguments.input)?,
        From::Fastway => fastway::of_flags(&arguments.input)?,
    };
    let text = draft.to_string();
    print!("{text}");
    let by_hand = "this has to be set right by hand";
    Config::parse(&text, Path::new("the configuration above")).context(by_hand)?;
    draft.complete().context(by_hand)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/migration.md");

    #[test]
    fn every_key_is_documented() {
        let rows = DOCUMENT.lines().filter(|line| line.starts_with("| "));
        let left: String = rows.filter_map(|row| row.split('|').nth(1)).collect();
        for key in goscon::keys().chain(fastway::keys()) {
            let name = key.rsplit('.').next().unwrap_or(key);
            let is_there = left
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .any(|word| word == name);
            assert!(is_there, "{key} is not in docs/migration.md");
        }
    }
}
