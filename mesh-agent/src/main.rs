//! The agent's binary: parse, run, exit code.
#![expect(clippy::print_stderr, reason = "what goes wrong at the start is for people")]

use std::process::ExitCode;

use clap::Parser as _;
use mesh_agent::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mesh-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
