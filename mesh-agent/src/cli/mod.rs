//! The command line.

mod ask;
pub mod ca;
pub mod certs;
pub mod coverage;
pub mod check;
pub mod check_report;
#[cfg(test)]
mod table_tests;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::app;
use crate::datapath::load;
use crate::datapath::lock::{NodeLock, REMEDY};
use crate::proxy::inbound::sources;
use crate::settings::args::{AuthorityArgs, switch};
use crate::settings::{self, RunArgs, Settings, VERSION, defaults};
use crate::sys::route;

const START: &str = "\
A mesh on one machine, from nothing:
  mesh-agent ca init --help      make the mesh's authority
  mesh-agent check --config DIR  see whether this machine and the configuration are fit
  mesh-agent run --node NAME --config DIR

Every flag of run, check, certs, coverage and uninstall can be given in the environment: --drain-timeout is
MESH_DRAIN_TIMEOUT.";

const CHECK_EXAMPLES: &str = "\
Examples:
  Before a change is made, for example in CI; needs no root and no running agent:
    mesh-agent check --config ./mesh --offline

  On a node, also its kernel, privileges, cgroups and certificates:
    mesh-agent check --config /etc/mesh/config --node node-a

Exit status: 0 if all is good (warnings do not count), 1 if there are faults, 2 if nothing could be looked
at: the folder of --config or the flags cannot be read.";

const ASK_EXAMPLES: &str = "\
The agent answers on a Unix socket that its owner alone may open: run this as the agent's user, root.";

const UNINSTALL_HELP: &str = "\
Detaches the kernel programs of one node's agent and removes what it left in the BPF filesystem.
New connections go to their destinations directly, in plaintext, and past every policy.
Stop the agent first: while it runs, nothing is removed without --force.";

/// A service mesh without sidecars: one agent on each node.
#[derive(Clone, Debug, Parser)]
#[command(name = "mesh-agent", version = VERSION, after_help = START, max_term_width = 100)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Runs the agent of this node, until SIGTERM
    Run(Box<RunArgs>),
    /// Makes the mesh's authority, and vouches for nodes
    Ca(ca::Args),
    /// Shows the certificates that this node's agent uses
    Certs(AskArgs),
    /// Shows how connections of this node's workloads really went: mutual TLS, direct, past the mesh
    Coverage(AskArgs),
    /// Says what is wrong with this machine or the configuration, before it hurts
    Check(CheckArgs),
    /// Removes what an agent left in the kernel
    Uninstall(UninstallArgs),
}

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
#[command(after_help = CHECK_EXAMPLES)]
pub struct CheckArgs {
    /// Folder of the mesh's configuration
    #[arg(long, value_name = "DIR", env = "MESH_CONFIG")]
    pub config: PathBuf,

    /// Takes a folder without documents for good: `run` has the same flag
    #[arg(long, env = "MESH_ALLOW_EMPTY", value_parser = switch())]
    pub allow_empty: bool,

    /// The issuer of the node's workloads' certificates.
    #[command(flatten)]
    pub authority: AuthorityArgs,

    /// This node's name; without it, what depends on the node is not checked
    #[arg(long, value_name = "NAME", env = "MESH_NODE")]
    pub node: Option<String>,

    /// Cgroup v2 whose processes are in the mesh [default: the cgroup v2 root]
    #[arg(long, value_name = "PATH", env = "MESH_CGROUP")]
    pub cgroup: Option<PathBuf>,

    /// Where the BPF filesystem is
    #[arg(long, value_name = "PATH", env = "MESH_BPFFS", default_value = defaults::BPFFS)]
    pub bpffs: PathBuf,

    /// Checks the configuration only, not this machine
    #[arg(long, env = "MESH_OFFLINE", value_parser = switch())]
    pub offline: bool,

    /// Prints JSON, for programs
    #[arg(long, env = "MESH_JSON", value_parser = switch())]
    pub json: bool,
}

/// Flags of the commands that ask a running agent.
#[derive(Args, Clone, Debug)]
#[command(after_help = ASK_EXAMPLES)]
pub struct AskArgs {
    /// The node whose agent is asked [default: the one that runs on this machine]
    #[arg(long, value_name = "NAME", env = "MESH_NODE")]
    pub node: Option<String>,

    /// The agent's admin socket [default: /run/mesh-agent/NODE/admin.sock]
    #[arg(long, value_name = "PATH", env = "MESH_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,

    /// Prints JSON, for programs
    #[arg(long, env = "MESH_JSON", value_parser = switch())]
    pub json: bool,
}

/// Flags of `uninstall`.
#[derive(Args, Clone, Debug)]
#[command(after_help = UNINSTALL_HELP)]
pub struct UninstallArgs {
    /// The node whose agent's leavings are removed
    #[arg(long, value_name = "NAME", env = "MESH_NODE")]
    pub node: String,

    /// Where the BPF filesystem is
    #[arg(long, value_name = "PATH", env = "MESH_BPFFS", default_value = defaults::BPFFS)]
    pub bpffs: PathBuf,

    /// Removes it also while an agent of the node runs
    #[arg(long, env = "MESH_FORCE", value_parser = switch())]
    pub force: bool,
}

/// Does what the command line says.
///
/// # Errors
///
/// It could not be done; the chain of causes says why, and what to do.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(args) => {
            let settings = Settings::try_from(*args)?;
            return app::run(&settings);
        }
        Command::Ca(args) => ca::run(&args, &mut io::stdout())?,
        Command::Check(args) => {
            let report = check::report(&args);
            check::print(&report, args.json, &mut io::stdout())?;
            return Ok(ExitCode::from(report.status()));
        }
        Command::Certs(args) => certs::run(&args, &mut io::stdout())?,
        Command::Coverage(args) => coverage::run(&args, &mut io::stdout())?,
        Command::Uninstall(args) => uninstall(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn uninstall(args: UninstallArgs) -> anyhow::Result<()> {
    let node = settings::node_name(args.node)?;
    let is_there = load::node_folder(&args.bpffs, &node).exists();
    // Held until all is removed: no agent starts meanwhile.
    let _lock = match is_there.then(|| NodeLock::take(&args.bpffs, &node)).transpose() {
        Ok(Some(None)) if !args.force => anyhow::bail!(
            "an agent of the node {node} runs: stop it first. With --force its workloads are open to \
             everybody, in plaintext, from now on"
        ),
        Ok(lock) => lock.flatten(),
        Err(error) => {
            let bpffs = args.bpffs.display();
            return Err(error)
                .with_context(|| format!("locking the node's folder in {bpffs} ({REMEDY})"));
        }
    };
    let removed = load::uninstall(&args.bpffs, &node).with_context(|| {
        format!("removing the pins in {}", load::node_folder(&args.bpffs, &node).display())
    })?;
    // Of the node's own namespace; those of pods are gone with their workloads. Without IPv6 there is none.
    if removed && let Err(error) = route::remove_local(sources::inside(), sources::INSIDE_BITS) {
        tracing::debug!(%error, "there is no route of the agent to remove");
    }
    let done = if removed { "removed" } else { "nothing is there" };
    let folder = load::node_folder(&args.bpffs, &node);
    let mut out = io::stdout();
    Ok(io::Write::write_fmt(&mut out, format_args!("{}: {done}\n", folder.display()))?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_every_command_has_its_variable() {
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
                assert!(arg.get_env().is_some(), "{} {:?}", command.get_name(), arg.get_long());
            }
        }
    }

    #[test]
    fn a_hyphen_is_standard_output() {
        let line = ["mesh-agent", "run", "--node=a", "--config=c", "--access-log", "-"];
        let Command::Run(args) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        assert_eq!(args.access_log, "-");
    }
}
