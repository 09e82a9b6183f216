//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use crate::config;
use crate::hostile::{self, Attack, Cell, Sink};
use crate::load::{Load, Victim};
use crate::memory;
use crate::result::HELD;
use crate::unread::Fill;
use crate::workload::{Contender, Path, Workload};

/// Measures the mesh against direct traffic between the same pods. Needs root; leaves nothing
/// behind.
#[derive(Clone, Debug, Parser)]
#[command(name = "mesh-bench", args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Shorter rounds: about five minutes, good enough to see what a change did
    #[arg(long)]
    pub quick: bool,
    /// Print the result as one JSON object on standard output, and all else on standard error
    #[arg(long)]
    pub json: bool,
    /// How often everything is measured [default: 7, or 3 with --quick; of floods 3, or 2]
    #[arg(long)]
    pub rounds: Option<usize>,
    /// How long one measurement takes [default: 3, or 0.6 with --quick; of floods 1.5, or 0.6]
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Measure only what has this in its name, as `cross_node`, `same_node/http` or `bulk_1`;
    /// floods only if this begins with `hostile`, as `hostile/streams/peer`
    #[arg(long, value_name = "PATTERN")]
    pub only: Option<String>,
    /// Measure this as well
    #[arg(long, value_name = "CONTENDER")]
    pub with: Vec<With>,
    /// Leave this out
    #[arg(long, value_name = "CONTENDER")]
    pub without: Vec<Without>,
    /// Draw the ratios into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// The role of this program inside a pod.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Role {
    /// Serve until the input closes
    #[command(hide = true)]
    Serve,
    /// Do a workload, and report
    #[command(hide = true)]
    Load(Load),
    /// Accept connections and read nothing, until the input closes
    #[command(hide = true)]
    Deaf,
    /// Fill connections to a server that reads nothing, and report
    #[command(hide = true)]
    Fill(Fill),
    /// Send requests while there is a flood, and report
    #[command(hide = true)]
    Victim(Victim),
    /// Flood a workload until a line comes, and report
    #[command(hide = true)]
    Attack(Attack),
    /// Take handshakes and read what comes, until the input closes
    #[command(hide = true)]
    Sink(Sink),
    /// Measure how long an agent takes to start with a configuration of some sizes, and to put a
    /// change of one service in force
    Config(config::Config),
    /// Show a result that --json has printed: as tables in Markdown, unless told otherwise
    Show(Show),
}

/// How a result is shown.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Show {
    /// The file whose last line is the result
    pub result: PathBuf,
    /// Draw the ratios into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Replace the tables in this document, between `<!-- results: begin -->` and its end
    #[arg(long, value_name = "FILE")]
    pub into: Option<PathBuf>,
}

/// Contenders that are measured only if asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum With {
    /// The mesh with `sameNode: agent`: the agent carries connections inside of its node
    Agent,
    /// The mesh with `sameNode: mtls`: the same, through a tunnel with mutual TLS
    Mtls,
    /// A pair of haproxy with mutual TLS between them, between nodes
    Haproxy,
    /// A pair of nginx with mutual TLS between them, between nodes, for HTTP
    Nginx,
}

/// Contenders that are measured unless told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Without {
    /// The mesh as it is by default
    Mesh,
    /// The mesh with `acceleration: sockmap`, inside of a node
    Accelerated,
    /// The mesh with 1,000 rules for a service, between nodes
    #[value(name = "many_rules")]
    ManyRules,
}

/// The measurements, how often and how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub rounds: usize,
    pub length: Duration,
    pub contenders: Vec<Contender>,
    /// In the order in which they are measured.
    pub cells: Vec<(Path, Workload)>,
    /// Where the agents' memory for open connections is measured.
    pub memory: Vec<Path>,
    /// How many connections are held for that.
    pub held: u64,
    /// Whether it is measured what waits for those who do not read.
    pub unread: bool,
    /// Floods during which others are measured.
    pub hostile: Vec<Cell>,
}

impl Args {
    /// Makes a plan.
    ///
    /// # Errors
    ///
    /// Nothing is to be measured.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let only = self.only.as_deref().unwrap_or_default();
        // They take nodes and minutes of their own: only if asked for.
        let is_hostile = only.starts_with(hostile::NAME);
        let hostile = if is_hostile { Cell::matching(only) } else { Vec::new() };
        let (rounds, seconds) = match (is_hostile, self.quick) {
            (true, true) => (2, 0.6),
            (true, false) => (3, 1.5),
            (false, true) => (3, 0.6),
            (false, false) => (7, 3.0),
        };
        let (rounds, seconds) = (self.rounds.unwrap_or(rounds), self.seconds.unwrap_or(seconds));
        ensure!(rounds > 0, "--rounds must be at least 1");
        ensure!((0.1..=600.0).contains(&seconds), "--seconds must be between 0.1 and 600");
        let all = Path::ALL.into_iter().flat_map(|path| Workload::ALL.map(|load| (path, load)));
        let cells: Vec<_> = all
            .filter(|(path, load)| load.is_on(*path))
            .filter(|(path, load)| format!("{}/{}", path.name(), load.name()).contains(only))
            .collect();
        let memory = [Path::SameNode, Path::CrossNode].into_iter();
        let memory: Vec<_> =
            memory.filter(|path| format!("{}/{HELD}", path.name()).contains(only)).collect();
        let unread = format!("{}/unread", Path::SameNode.name()).contains(only);
        let found = !cells.is_empty() || !memory.is_empty() || unread || !hostile.is_empty();
        ensure!(found, "nothing is called {only:?}");
        let contenders = Contender::ALL.into_iter().filter(|contender| match contender {
            Contender::Direct => true,
            Contender::Mesh => !self.without.contains(&Without::Mesh),
            Contender::Accelerated => !self.without.contains(&Without::Accelerated),
            Contender::Agent => self.with.contains(&With::Agent),
            Contender::Mtls => self.with.contains(&With::Mtls),
            Contender::ManyRules => !self.without.contains(&Without::ManyRules),
            Contender::Haproxy => self.with.contains(&With::Haproxy),
            Contender::Nginx => self.with.contains(&With::Nginx),
        });
        // A contender that has nothing of what is measured is not started.
        let near = unread || memory.contains(&Path::SameNode);
        let paths = cells.iter().map(|(path, _)| *path).chain(memory.iter().copied());
        let paths: Vec<_> = paths.chain(near.then_some(Path::SameNode)).collect();
        let contenders =
            contenders.filter(|contender| paths.iter().any(|path| contender.has(*path))).collect();
        let length = Duration::from_secs_f64(seconds);
        let held = if self.quick { memory::FEW } else { memory::MANY };
        Ok(Plan { rounds, length, contenders, cells, memory, held, unread, hostile })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Plan {
        Args::parse_from([&["mesh-bench"], args].concat()).plan().unwrap()
    }

    /// Rounds, cells, paths whose memory is measured, and whether what waits is.
    #[track_caller]
    fn check(args: &[&str], expect: (usize, usize, usize, bool)) {
        let plan = plan(args);
        assert_eq!((plan.rounds, plan.cells.len(), plan.memory.len(), plan.unread), expect);
    }

    #[track_caller]
    fn check_contenders(args: &[&str], expect: &[&str]) {
        let names: Vec<_> = plan(args).contenders.into_iter().map(Contender::name).collect();
        assert_eq!(names, expect);
    }

    #[test]
    fn everything_is_measured_unless_told_otherwise() {
        check(&[], (7, 31, 2, true));
        check(&["--quick"], (3, 31, 2, true));
        check(&["--quick", "--rounds", "1"], (1, 31, 2, true));
    }

    #[test]
    fn a_pattern_finds_paths_and_workloads() {
        check(&["--only", "same_node"], (7, 7, 1, true));
        check(&["--only", "same_node/http"], (7, 3, 0, false));
        check(&["--only", "bulk_1"], (7, 3, 0, false));
        check(&["--only", "stopped_reader"], (7, 2, 0, false));
        check(&["--only", "cross_node/mixed"], (7, 3, 0, false));
        check(&["--only", "routed"], (7, 5, 0, false));
        check(&["--only", "http2"], (7, 2, 0, false));
        check(&["--only", "held"], (7, 0, 2, false));
        check(&["--only", "unread"], (7, 0, 0, true));
    }

    #[test]
    fn fewer_connections_are_held_if_it_has_to_be_quick() {
        let held = [vec![], vec!["--quick"]].map(|args| plan(&args).held);
        assert_eq!(held, [10_000, 2000]);
    }

    #[test]
    fn contenders_are_asked_for_and_have_what_is_measured() {
        check_contenders(&[], &["direct", "mesh", "accelerated", "many_rules"]);
        let all = Contender::ALL.map(Contender::name);
        let with = ["mtls", "agent", "nginx", "haproxy"].map(|name| ["--with", name]);
        check_contenders(with.as_flattened(), &all);
        check_contenders(&["--without", "accelerated"], &["direct", "mesh", "many_rules"]);
        check_contenders(&["--without", "many_rules"], &["direct", "mesh", "accelerated"]);
        check_contenders(&["--only", "routed"], &["direct", "mesh", "many_rules"]);
        check_contenders(&["--only", "cross_node/bulk_1", "--with", "agent"], &["direct", "mesh"]);
        check_contenders(&["--only", "unread"], &["direct", "mesh", "accelerated"]);
    }

    #[test]
    fn floods_are_measured_alone_and_only_if_asked_for() {
        check(&["--only", "hostile"], (3, 0, 0, false));
        check(&["--only", "hostile", "--quick"], (2, 0, 0, false));
        check_contenders(&["--only", "hostile"], &[]);
        let floods = |args: &[&str]| plan(args).hostile.len();
        assert_eq!(floods(&[]), 0);
        assert_eq!(floods(&["--only", "hostile"]), 24);
        assert_eq!(floods(&["--only", "hostile/tunnels"]), 1);
    }

    #[test]
    fn a_pattern_that_finds_nothing_is_refused() {
        let args = Args::parse_from(["mesh-bench", "--only", "udp"]);
        assert_eq!(args.plan().unwrap_err().to_string(), "nothing is called \"udp\"");
    }
}
