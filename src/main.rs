//! The `stablegate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    stablegate::internal::cli::main()
}
