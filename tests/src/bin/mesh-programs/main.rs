//! Real programs through the mesh: whatever a client says, writes and ends with has to be the same as
//! without the mesh, on every path that a connection may take.
//!
//! The programs' servers and clients are scripts in `tests/programs`, one a program.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a command-line tool")]

mod known;
mod outcome;
mod programs;
mod report;
mod run;
mod way;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::programs::{PROGRAMS, Program};
use crate::report::Report;
use crate::run::Folders;
use crate::way::{WAYS, Way, World};

/// Runs real programs on every path through the mesh. Needs root; leaves nothing behind.
#[derive(Clone, Debug, Parser)]
#[command(name = "mesh-programs")]
struct Args {
    /// Print the result as one JSON object as well, on the last line
    #[arg(long)]
    json: bool,
    /// Only the programs that need little
    #[arg(long)]
    quick: bool,
    /// Only this program; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only this path, besides that without a mesh; may be repeated
    #[arg(long, value_name = "NAME", value_enum)]
    path: Vec<Way>,
    /// Show what clients said without a mesh
    #[arg(long)]
    show: bool,
    /// The folder of the programs' scripts
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/programs"))]
    scripts: PathBuf,
    /// The folder of a Python environment's programs
    #[arg(long, value_name = "FOLDER")]
    venv: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything, and reports. Returns whether all that differs is known to.
fn run(args: &Args) -> Result<bool> {
    let chosen = chosen(args)?;
    let folders = Folders::new(&args.scripts, &args.venv)?;
    for program in &chosen {
        folders.prepare(program)?;
    }
    let mut report = Report::new(&chosen);
    for way in WAYS {
        if way != Way::None && !args.path.is_empty() && !args.path.contains(&way) {
            continue;
        }
        let world = World::new(way, &chosen)?;
        for program in &chosen {
            eprintln!("• {} {}", way.name(), program.name);
            for (case, outcome) in folders.run(&world, program)? {
                if way == Way::None {
                    ensure!(!outcome.is_late, "{} {case} does not end", program.name);
                    if args.show {
                        eprintln!("{case}: {}", outcome.text());
                    }
                }
                report.add(way, program, case, &outcome);
            }
        }
    }
    print!("{}", report.table());
    if args.json {
        println!("{}", report.json());
    }
    Ok(report.is_as_known())
}

/// The programs that are asked for.
fn chosen(args: &Args) -> Result<Vec<&'static Program>> {
    for name in &args.only {
        let names: Vec<_> = PROGRAMS.iter().map(|program| program.name).collect();
        ensure!(
            names.contains(&name.as_str()),
            "there is no program `{name}`, only {}",
            names.join(", ")
        );
    }
    let is_asked = |name: &str| args.only.is_empty() || args.only.iter().any(|it| it == name);
    let chosen = PROGRAMS.iter().filter(|program| is_asked(program.name));
    Ok(chosen.filter(|program| program.is_quick || !args.quick).collect())
}
