//! Project automation: everything a developer or CI does is a verb here.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a command-line tool")]

mod process;
mod toolchain;
mod setup;
mod ebpf;
mod run;
mod fuzz;
mod compat;
mod conformance;
mod paths;
mod programs;
mod security;
mod ci;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::run::Build;

/// Sets up, builds, tests, shows and measures the mesh.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask",
    after_help = "Start with `cargo xtask demo`: it installs what is missing, builds, and shows a \
                  mesh on this machine. It needs root, and leaves nothing behind."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Install what the build needs and this machine lacks, and only that
    ///
    /// The kernel programs need Rust 1.96.0 with its sources (from rustup, or from Debian's
    /// packages) and bpf-linker; the agent needs a C compiler, for its cryptography. Set
    /// `MESH_EBPF_TOOLCHAIN` to `rustup` or `debian` to choose where the compiler comes from.
    /// Every other verb does this by itself.
    Setup,
    /// Show the mesh at work on this machine, between network namespaces (root)
    Demo(Demo),
    /// Run the unit tests, then the integration tests (root)
    Test {
        /// Run only the tests whose name contains this
        filter: Option<String>,
    },
    /// Measure throughput, latency and cost against plain TCP (root)
    ///
    /// docs/performance.md says what is measured; `cargo xtask bench --help` lists the options.
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of `mesh-bench`, as `--quick` or `--only same_node`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run mixed traffic over two nodes while agents and workloads restart, links are cut, documents and
    /// certificates change and clocks are set (root)
    ///
    /// Ends with an account of every connection, request and byte: docs/soak.md. Exit status 1 if
    /// something failed that no event explains.
    Soak(Soak),
    /// Build the kernel programs
    Ebpf {
        /// Print the size of each program
        #[arg(long)]
        stats: bool,
    },
    /// Feed the parsers of what strangers send with inputs that coverage leads to
    ///
    /// Runs the targets of fuzz/ one after the other, from the committed corpus and what earlier
    /// runs have found (in the target folder). Installs cargo-fuzz when it is missing.
    Fuzz(Fuzz),
    /// Show that this tree's agent and an earlier one understand each other (root)
    ///
    /// Builds the agent of another revision and runs tests between two nodes, one with each of the
    /// two, both ways round and by both transports.
    Compat(Compat),
    /// Run the mesh conformance tests of Gateway API between two agents (root)
    ///
    /// They are ours, written from what Gateway API's assert, and have its names.
    Conformance(Conformance),
    /// Attack agents that serve, in all ways that are known, and see that each is refused (root)
    Security(Security),
    /// Send generated paths to real servers, and see that policies hold for all that they read
    ///
    /// Installs Tomcat, Jetty, Spring, nginx, Apache httpd, Go, Express, Flask and FastAPI as far as
    /// they are missing, runs them on loopback, compares what they reach with the record in
    /// tests/paths, and asks the policies about it.
    Paths(Paths),
    /// Run real programs on every path through the mesh, and compare with no mesh (root)
    ///
    /// Installs redis, nginx, dnsmasq, sshd, rsync, two databases and some packages of Python as far as
    /// they are missing. docs/programs.md says what is compared.
    Programs(Programs),
    /// Run the tests of shared state in every order of its threads (loom)
    Model,
    /// Check the rules that no lint can express: layers, file sizes, names
    Tidy,
    /// Run every check that CI runs
    Ci {
        /// Leave the tests out, because they have run already
        #[arg(long)]
        skip_tests: bool,
    },
}

/// The output and remains of the demo.
#[derive(Args, Debug)]
struct Demo {
    /// Print one JSON object per result, instead of text
    #[arg(long)]
    json: bool,
    /// Leave the laboratory standing, to look around
    #[arg(long)]
    keep: bool,
}

/// The targets that are fuzzed, and for how long.
#[derive(Args, Debug)]
struct Fuzz {
    /// Only this target, of those in `fuzz/fuzz_targets/`
    target: Option<String>,
    /// Run the target on this input alone, once: to see a failure again
    input: Option<PathBuf>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, conflicts_with = "input")]
    seconds: u32,
    /// How long all targets run together, in equal shares, instead
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["input", "seconds"])]
    within: Option<u32>,
    /// Without the address sanitizer and without what comparisons say: several times as many inputs in
    /// a second, for faults of safe code, which are panics
    #[arg(long)]
    fast: bool,
}

/// The versions that are compared.
#[derive(Args, Debug)]
struct Compat {
    /// The other revision: a tag, a branch or a commit [default: the newest tag]
    #[arg(long, value_name = "REV")]
    against: Option<String>,
    /// Print the result as one JSON object as well, on the last line
    #[arg(long)]
    json: bool,
}

/// How long the traffic lasts, and how its account is reported.
#[derive(Args, Debug)]
struct Soak {
    /// How long it lasts
    #[arg(long, value_name = "MINUTES", default_value_t = 3.0)]
    minutes: f64,
    /// The order of events and their times follow from this number [default: a random one]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Only these events, with commas between [default: all]: successor, restart, kill, pod, cut, edit,
    /// rotate, root, skew, step, leap
    #[arg(long, value_name = "EVENTS")]
    only: Option<String>,
    /// At most this many connections a second of each kind, and as many requests: for an hour on a
    /// machine that others use [default: as many as there can be]
    #[arg(long, value_name = "NUMBER")]
    rate: Option<u32>,
    /// Copy the agents' logs into this folder at the end
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
    /// Print the account as one JSON object as well, on the last line
    #[arg(long)]
    json: bool,
}

impl Soak {
    /// The arguments of `mesh-soak`.
    fn args(&self) -> Vec<String> {
        let mut args = vec!["--minutes".to_owned(), self.minutes.to_string()];
        let mut add = |option: &str, value: Option<String>| {
            args.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
        };
        add("--seed", self.seed.map(|seed| seed.to_string()));
        add("--only", self.only.clone());
        add("--rate", self.rate.map(|rate| rate.to_string()));
        // It is run in the workspace's folder.
        let absolute = |folder: &PathBuf| std::path::absolute(folder).unwrap_or(folder.clone());
        add("--logs", self.logs.as_ref().map(|folder| absolute(folder).display().to_string()));
        args.extend(self.json.then(|| "--json".to_owned()));
        args
    }
}

/// How the conformance tests are reported.
#[derive(Args, Debug)]
struct Conformance {
    /// Print the result as one JSON object as well, on the last line
    #[arg(long)]
    json: bool,
}

/// How the attacks are reported.
#[derive(Args, Debug)]
struct Security {
    /// Print the result as one JSON object as well, on the last line
    #[arg(long)]
    json: bool,
}

/// Which servers are asked, and what becomes of their answers.
#[derive(Args, Debug)]
struct Paths {
    /// Print the result as one JSON object as well, on the last line
    #[arg(long)]
    json: bool,
    /// Write what was seen into tests/paths, instead of comparing it
    #[arg(long, conflicts_with = "without")]
    record: bool,
    /// Leave a program out that cannot be had here; may be repeated
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
}

/// Which programs are run, and how that is reported.
#[derive(Args, Debug)]
struct Programs {
    /// Print the result as one JSON object as well, on the last line
    #[arg(long)]
    json: bool,
    /// Only the programs that need little: redis, nginx, websocket, grpc, ftp, smtp and dns
    #[arg(long)]
    quick: bool,
    /// Only this program; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only this path, besides that without a mesh; may be repeated
    #[arg(long, value_name = "NAME")]
    path: Vec<String>,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match verb {
        Verb::Setup => {
            setup::run(&workspace)?;
            setup::clients()?;
            println!("everything that the build and the tests need is here");
        }
        Verb::Demo(demo) => {
            let mut args = Vec::new();
            args.extend(demo.json.then(|| "--json".to_owned()));
            args.extend(demo.keep.then(|| "--keep".to_owned()));
            return run::program(&workspace, "demo", Build::Development, &args);
        }
        Verb::Test { filter } => run::tests(&workspace, filter.as_deref())?,
        Verb::Bench { args } => {
            return run::program(&workspace, "mesh-bench", Build::Release, &args);
        }
        Verb::Soak(soak) => {
            return run::program(&workspace, "mesh-soak", Build::Development, &soak.args());
        }
        Verb::Ebpf { stats } => ebpf::run(&workspace, stats)?,
        Verb::Fuzz(fuzz) => fuzz::run(&workspace, &fuzz)?,
        Verb::Compat(options) => return compat::run(&workspace, &options),
        Verb::Security(options) => return security::run(&workspace, &options),
        Verb::Conformance(options) => return conformance::run(&workspace, &options),
        Verb::Paths(options) => return paths::run(&workspace, &options),
        Verb::Programs(options) => return programs::run(&workspace, &options),
        Verb::Model => run::model(&workspace)?,
        Verb::Tidy => tidy::check(&workspace.root)?,
        Verb::Ci { skip_tests } => ci::run(&workspace, skip_tests)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Where things are.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    root: PathBuf,
    /// Cargo's target folder.
    target_dir: PathBuf,
}

impl Workspace {
    /// The workspace that this program was built from, and the target folder it was built in.
    fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the crate is not inside its workspace")?;
        if !root.join("Cargo.toml").exists() {
            bail!("{} is gone; build xtask again", root.display());
        }
        // <target>/debug/xtask
        let program = std::env::current_exe().context("finding this program")?;
        let target_dir = program.ancestors().nth(2).context("this program is not in a target")?;
        Ok(Self { root: root.to_owned(), target_dir: target_dir.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(args: &[&str], expect: &[&str]) {
        let cli = Cli::parse_from([&["xtask", "bench"], args].concat());
        let Verb::Bench { args } = cli.verb else { panic!("{:?}", cli.verb) };
        assert_eq!(args, expect);
    }

    #[test]
    fn the_soak_gets_all_that_it_is_told() {
        let check = |args: &[&str], expect: &[&str]| {
            let cli = Cli::parse_from([&["xtask", "soak"], args].concat());
            let Verb::Soak(soak) = cli.verb else { panic!("{:?}", cli.verb) };
            assert_eq!(soak.args(), expect);
        };
        check(&[], &["--minutes", "3"]);
        let all = ["--minutes", "0.5", "--seed", "7", "--only", "kill,step", "--rate", "20"];
        let all = [&all[..], &["--logs", "/tmp/x", "--json"]].concat();
        check(&all, &all);
    }

    #[test]
    fn the_benchmark_gets_all_that_it_is_told() {
        check(&[], &[]);
        check(&["--quick", "--plot", "a.svg"], &["--quick", "--plot", "a.svg"]);
        check(&["--json", "--only", "x", "--help"], &["--json", "--only", "x", "--help"]);
        check(&["show", "result.json"], &["show", "result.json"]);
        // As it had to be written once.
        check(&["--", "--rounds", "9"], &["--rounds", "9"]);
    }
}
