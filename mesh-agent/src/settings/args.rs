//! What was said on the command line or in the environment, before it is checked as a whole.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use crate::settings::defaults;

const EXAMPLES: &str = "\
Examples:
  A node of a mesh whose configuration is in ./mesh:
    mesh-agent run --node node-a --config ./mesh

  The same, with the access log in a file and metrics for the whole network:
    mesh-agent run --node node-a --config ./mesh --access-log mesh.log --admin 0.0.0.0:15000

  From the environment, as a unit or container does it:
    MESH_NODE=node-a MESH_CONFIG=/etc/mesh/config mesh-agent run

The agent needs root, or the capabilities CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN.
SIGTERM and SIGINT drain: no new connections, and up to --drain-timeout for open ones.";

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// This node's name, as `spec.node` of its workloads has it
    #[arg(long, value_name = "NAME", env = "MESH_NODE")]
    pub node: String,

    /// Folder of the mesh's configuration (*.yaml, *.yml), watched for changes
    #[arg(long, value_name = "DIR", env = "MESH_CONFIG")]
    pub config: PathBuf,

    /// Folder with root.crt, and root.key or node.crt and node.key
    #[arg(long, value_name = "DIR", env = "MESH_CA", default_value = defaults::CA_DIRECTORY)]
    pub ca: PathBuf,

    /// Cgroup v2 whose processes are in the mesh [default: the cgroup v2 root]
    #[arg(long, value_name = "PATH", env = "MESH_CGROUP")]
    pub cgroup: Option<PathBuf>,

    /// Where the BPF filesystem is; mounted there if it is not
    #[arg(long, value_name = "PATH", env = "MESH_BPFFS", default_value = defaults::BPFFS)]
    pub bpffs: PathBuf,

    /// Address of the admin server: /metrics, /readyz, /conditions and more.
    /// It has no authentication; keep it on loopback or behind a firewall
    #[arg(long, value_name = "ADDR", env = "MESH_ADMIN", default_value_t = defaults::ADMIN)]
    pub admin: SocketAddr,

    /// Where the access log goes: `-` is standard output, `off` nowhere, else a file to append to
    #[arg(
        long,
        value_name = "-|off|FILE",
        env = "MESH_ACCESS_LOG",
        default_value = "-",
        allow_hyphen_values = true
    )]
    pub access_log: String,

    /// Threads that carry connections [default: one for each CPU that the agent may use]
    #[arg(long, value_name = "N", env = "MESH_THREADS")]
    pub threads: Option<NonZeroUsize>,

    /// What to speak to agents that speak both: `native`, or `hbone` as with all others
    #[arg(long, value_enum, env = "MESH_TRANSPORT", default_value_t = Transport::Native)]
    pub transport: Transport,

    /// How long open connections may take to end when the agent stops
    #[arg(long, value_name = "SECONDS", env = "MESH_DRAIN_TIMEOUT",
        default_value_t = defaults::DRAIN_TIMEOUT.as_secs())]
    pub drain_timeout: u64,

    /// How long a workload's certificate lives; it is renewed at two thirds of that
    #[arg(long, value_name = "SECONDS", env = "MESH_LEAF_TTL",
        default_value_t = defaults::LEAF_TTL.as_secs(),
        value_parser = clap::value_parser!(u64).range(defaults::LEAF_TTL_RANGE))]
    pub leaf_ttl: u64,

    /// What the agent logs to standard error: a level, or levels by module
    /// (for example `info,mesh_agent::hbone=debug`)
    #[arg(long, value_name = "FILTER", env = "MESH_LOG", default_value = defaults::LOG)]
    pub log: String,

    /// Has the kernel programs log each redirected connection;
    /// `--log info,mesh_ebpf=debug` shows it
    #[arg(long, env = "MESH_KERNEL_LOG")]
    pub kernel_log: bool,
}

/// What is spoken between two agents that speak both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// Our own: many connections in one, at a fraction of the cost.
    Native,
    /// HTTP/2 `CONNECT`, as Istio's ambient mesh speaks it.
    Hbone,
}
