//! Command `stablegate check`.

use std::path::PathBuf;

use crate::config::Config;
use crate::gateway::{Environment, Generation};

#[derive(clap::Args)]
pub(super) struct Check {
    /// The configuration file.
    #[arg(short, long, default_value = "config.yaml")]
    config: PathBuf,
    /// Print the configuration in effect, every default spelled out.
    #[arg(long)]
    dump: bool,
}

pub(super) async fn run(arguments: Check) -> anyhow::Result<()> {
    let path = &arguments.config;
    let generation = Generation::read(path, &Environment::new(), None).await?;
    let config: &Config = &generation.config;
    if arguments.dump {
        print!("{}", config.dump()?);
    } else {
        println!(
            "{}: good: {} listeners, {} hosts, {} hooks",
            path.display(),
            config.listeners.len(),
            config.hosts.len(),
            config.hooks.len()
        );
    }
    Ok(())
}
