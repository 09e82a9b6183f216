//! The agent's binary: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use mesh_agent::cli::{self, Cli};
use mesh_agent::telemetry::log;

fn main() -> ExitCode {
    // Also if this thread panics.
    let _flush = log::FlushAtEnd;
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            log::end(&error);
            ExitCode::FAILURE
        }
    }
}
