//! The command line.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use crate::load::Load;
use crate::workload::{Contender, Path, Workload};

/// Measures the mesh against direct traffic between the same pods. Needs root; leaves nothing
/// behind.
#[derive(Clone, Debug, Parser)]
#[command(name = "mesh-bench", args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Shorter rounds: under three minutes, good enough to see what a change did
    #[arg(long)]
    pub quick: bool,
    /// Print the result as one JSON object on standard output, and all else on standard error
    #[arg(long)]
    pub json: bool,
    /// How often everything is measured [default: 5, or 3 with --quick]
    #[arg(long)]
    pub rounds: Option<usize>,
    /// How long one measurement takes [default: 3, or 0.6 with --quick]
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Measure only what has this in its name, as `cross_node`, `same_node/http` or `bulk_1`
    #[arg(long, value_name = "PATTERN")]
    pub only: Option<String>,
    /// Measure this as well, between nodes
    #[arg(long, value_name = "PROXY")]
    pub with: Vec<Peer>,
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What this program does inside a pod.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Role {
    /// Serve until the input closes
    #[command(hide = true)]
    Serve,
    /// Do a workload, and report
    #[command(hide = true)]
    Load(Load),
}

/// A well-known proxy to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// A pair of haproxy with mutual TLS between them
    Haproxy,
}

/// What is measured, how often and how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub rounds: usize,
    pub length: Duration,
    pub contenders: Vec<Contender>,
    /// In the order in which they are measured.
    pub cells: Vec<(Path, Workload)>,
    /// Whether memory is measured as well.
    pub memory: bool,
}

impl Args {
    /// Makes a plan.
    ///
    /// # Errors
    ///
    /// Nothing is to be measured.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let (rounds, seconds) = if self.quick { (3, 0.6) } else { (5, 3.0) };
        let (rounds, seconds) = (self.rounds.unwrap_or(rounds), self.seconds.unwrap_or(seconds));
        ensure!(rounds > 0, "--rounds must be at least 1");
        ensure!((0.1..=600.0).contains(&seconds), "--seconds must be between 0.1 and 600");
        let only = self.only.as_deref().unwrap_or_default();
        let all = Path::ALL.into_iter().flat_map(|path| Workload::ALL.map(|load| (path, load)));
        let cells: Vec<_> = all
            .filter(|(path, load)| format!("{}/{}", path.name(), load.name()).contains(only))
            .collect();
        let memory = MEMORY.contains(only);
        ensure!(!cells.is_empty() || memory, "nothing is called {only:?}");
        let mut contenders = vec![Contender::Direct, Contender::Mesh];
        if self.with.contains(&Peer::Haproxy) {
            contenders.push(Contender::Haproxy);
        }
        let length = Duration::from_secs_f64(seconds);
        Ok(Plan { rounds, length, contenders, cells, memory })
    }
}

/// What `--only` finds the measurement of memory by.
const MEMORY: &str = "cross_node/memory";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], rounds: usize, cells: usize, memory: bool) {
        let args = Args::parse_from([&["mesh-bench"], args].concat());
        let plan = args.plan().unwrap();
        assert_eq!((plan.rounds, plan.cells.len(), plan.memory), (rounds, cells, memory));
    }

    #[test]
    fn everything_is_measured_unless_told_otherwise() {
        check(&[], 5, 18, true);
        check(&["--quick"], 3, 18, true);
        check(&["--quick", "--rounds", "1"], 1, 18, true);
    }

    #[test]
    fn a_pattern_finds_paths_and_workloads() {
        check(&["--only", "same_node"], 5, 6, false);
        check(&["--only", "same_node/http"], 5, 3, false);
        check(&["--only", "bulk_1"], 5, 3, false);
        check(&["--only", "memory"], 5, 0, true);
    }

    #[test]
    fn a_pattern_that_finds_nothing_is_refused() {
        let args = Args::parse_from(["mesh-bench", "--only", "udp"]);
        assert_eq!(args.plan().unwrap_err().to_string(), "nothing is called \"udp\"");
    }
}
