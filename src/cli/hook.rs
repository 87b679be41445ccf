//! `stablegate hook`

#[derive(clap::Subcommand)]
pub(super) enum Command {}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {}
}
