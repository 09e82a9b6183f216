//! Arguments of the command line or the environment, before they are checked as a whole.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use crate::identity::authority;
use crate::model::trust_domain;
use crate::settings::defaults;
use crate::sys::socket::PeerTimeout;

/// The values of a flag without one, as the environment has them: `1`, `true`, `yes`, `on`, and their opposites.
pub fn switch() -> BoolishValueParser {
    BoolishValueParser::new()
}

/// A trust domain's name, checked.
///
/// # Errors
///
/// It is no name of a trust domain.
pub fn parse_trust_domain(name: &str) -> Result<String, trust_domain::InvalidName> {
    trust_domain::check_name(name).map(|()| name.to_owned())
}

const EXAMPLES: &str = "\
Examples:
  A node of a mesh whose configuration is in ./mesh:
    mesh-agent run --node node-a --config ./mesh

  The same, with the access log in a file and metrics for the whole network:
    mesh-agent run --node node-a --config ./mesh --access-log mesh.log --metrics 0.0.0.0:15020

  From the environment, as a unit or container does it:
    MESH_NODE=node-a MESH_CONFIG=/etc/mesh/config mesh-agent run

The agent needs root, or the capabilities CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN.
Another agent of the same node takes over: this one drains, and ends. SIGTERM and SIGINT: connections
are served until none is open, for up to --drain-timeout; then they are cut.";

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

    /// Lets that folder become empty: then nothing is in force any more. Otherwise the last
    /// configuration stays, because nobody means that in most cases
    #[arg(long, env = "MESH_ALLOW_EMPTY", value_parser = switch())]
    pub allow_empty: bool,

    /// The issuer of this node's workloads' certificates.
    #[command(flatten)]
    pub authority: AuthorityArgs,

    /// Cgroup v2 whose processes are in the mesh [default: the cgroup v2 root]
    #[arg(long, value_name = "PATH", env = "MESH_CGROUP")]
    pub cgroup: Option<PathBuf>,

    /// Where the BPF filesystem is; mounted there if it is not
    #[arg(long, value_name = "PATH", env = "MESH_BPFFS", default_value = defaults::BPFFS)]
    pub bpffs: PathBuf,

    /// Unix socket of the admin server, which only its owner may open: certificates, metrics
    /// and all the agent knows; `mesh-agent certs` asks it [default: /run/mesh-agent/NODE/admin.sock]
    #[arg(long, value_name = "PATH", env = "MESH_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,

    /// The same at an address of loopback, for every user of this machine [default: nowhere]
    #[arg(long, value_name = "ADDR", env = "MESH_ADMIN")]
    pub admin: Option<SocketAddr>,

    /// Address for scrapers and probes: /metrics, /readyz and /healthz alone [default: nowhere]
    #[arg(long, value_name = "ADDR", env = "MESH_METRICS")]
    pub metrics: Option<SocketAddr>,

    /// Where the access log goes: `-` is standard output, `off` nowhere, else a file to append to
    #[arg(
        long,
        value_name = "-|off|FILE",
        env = "MESH_ACCESS_LOG",
        default_value = "-",
        allow_hyphen_values = true
    )]
    pub access_log: String,

    /// Access-log lines in a second that connections of one source may have, and a tenth of that for
    /// those that fail; more are counted without a line. 0: no limit
    #[arg(long, value_name = "LINES", env = "MESH_ACCESS_LOG_RATE",
        default_value_t = defaults::ACCESS_LOG_RATE)]
    pub access_log_rate: u32,

    /// Threads that carry connections [default: one for each CPU that the agent may use]
    #[arg(long, value_name = "N", env = "MESH_THREADS")]
    pub threads: Option<NonZeroUsize>,

    /// Transport to agents that speak both: `native`, or `hbone` as with all others
    #[arg(long, value_enum, env = "MESH_TRANSPORT", default_value_t = Transport::Native)]
    pub transport: Transport,

    /// Sockets of connections that the agent holds at once, at most, shared by clients and
    /// workloads; fewer if the limit of open files (`ulimit -Hn`) or --max-memory does not allow
    /// as many
    #[arg(long, value_name = "N", env = "MESH_MAX_SOCKETS",
        default_value_t = defaults::MAX_SOCKETS.get() as u64,
        value_parser = clap::value_parser!(u64).range(defaults::LEAST_SOCKETS as u64..))]
    pub max_sockets: u64,

    /// Memory that clients and peers may make the agent keep, at most, in MiB; by default half of
    /// what the machine or the agent's control group has, and 8192 at the most
    #[arg(long, value_name = "MIB", env = "MESH_MAX_MEMORY",
        value_parser = clap::value_parser!(u64).range(defaults::LEAST_MEMORY_MIB..))]
    pub max_memory: Option<u64>,

    /// How long open connections may take to end when the agent stops
    #[arg(long, value_name = "SECONDS", env = "MESH_DRAIN_TIMEOUT",
        default_value_t = defaults::DRAIN_TIMEOUT.as_secs())]
    pub drain_timeout: u64,

    /// Runs the agent as a child of this process, for a service manager: on SIGUSR2 this process ends,
    /// and the agent serves on until a successor has taken over, or for a minute
    #[arg(long, env = "MESH_AS_CHILD", value_parser = switch())]
    pub as_child: bool,

    /// How long a TCP peer may leave everything without an answer until its connection is reset:
    /// applications, other agents and clients of the admin server
    #[arg(long, value_name = "SECONDS", env = "MESH_PEER_TIMEOUT",
        default_value_t = defaults::PEER_TIMEOUT_SECS,
        value_parser = clap::value_parser!(u64).range(defaults::PEER_TIMEOUT_RANGE))]
    pub peer_timeout: u64,

    /// How long a thread of the agent may run no task until the process aborts, with the stacks of
    /// all threads in its log, to be started again; 0: it goes on
    #[arg(long, value_name = "SECONDS", env = "MESH_WATCHDOG_TIMEOUT",
        default_value_t = defaults::WATCHDOG_TIMEOUT.as_secs(),
        value_parser = clap::value_parser!(u64).range(..=defaults::MAX_WATCHDOG_TIMEOUT.as_secs()))]
    pub watchdog_timeout: u64,

    /// How long a workload's certificate lives; it is renewed at two thirds of that
    #[arg(long, value_name = "SECONDS", env = "MESH_LEAF_TTL",
        default_value_t = defaults::LEAF_TTL.as_secs(),
        value_parser = clap::value_parser!(u64).range(defaults::LEAF_TTL_RANGE))]
    pub leaf_ttl: u64,

    /// How long open connections of a peer may go on after its certificate has expired, or its
    /// workload has left the node that signed it. It opens no new ones meanwhile
    #[arg(long, value_name = "SECONDS", env = "MESH_EXPIRED_PEER_TIMEOUT",
        default_value_t = defaults::EXPIRED_PEER_TIMEOUT.as_secs())]
    pub expired_peer_timeout: u64,

    /// Filter of the agent's log on standard error: a level, or levels by module
    /// (for example `info,mesh_agent::hbone=debug`)
    #[arg(long, value_name = "FILTER", env = "MESH_LOG", default_value = defaults::LOG)]
    pub log: String,

    /// Has the kernel programs log each redirected connection;
    /// `--log info,mesh_ebpf=debug` shows it
    #[arg(long, env = "MESH_KERNEL_LOG", value_parser = switch())]
    pub kernel_log: bool,
}

/// Flags that say who vouches for the workloads; of `run` and `check`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Authority")]
pub struct AuthorityArgs {
    /// Issuer of this node's workloads' certificates
    #[arg(long, value_enum, env = "MESH_AUTHORITY", default_value_t = AuthorityKind::Embedded)]
    pub authority: AuthorityKind,

    /// Folder with the authority's files: crl.pem, if anything is revoked;
    /// for `embedded` also root.crt, and root.key or node.crt and node.key;
    /// for `files` also root.crt, and NAMESPACE/ACCOUNT.crt and .key for each identity
    #[arg(long, value_name = "DIR", env = "MESH_CA", default_value = defaults::CA_DIRECTORY)]
    pub ca: PathBuf,

    /// For `embedded`: by how much the clocks of peers may be behind this node's. Certificates begin as
    /// long before they are made
    #[arg(long, value_name = "SECONDS", env = "MESH_CLOCK_SKEW",
        default_value_t = defaults::CLOCK_SKEW_SECS,
        value_parser = clap::value_parser!(u64).range(..=defaults::MAX_CLOCK_SKEW_SECS))]
    pub clock_skew: u64,

    /// Trust domain of all identities: lower-case letters, digits, `.`, `-` and `_`. One that the root
    /// names must be the same [default: the root's, otherwise cluster.local]
    #[arg(long, value_name = "NAME", env = "MESH_TRUST_DOMAIN", value_parser = parse_trust_domain)]
    pub trust_domain: Option<String>,

    /// Further trust domains whose identities may call this node's workloads
    #[arg(long, value_name = "NAME,…", env = "MESH_TRUST_DOMAIN_ALIASES", value_delimiter = ',',
        value_parser = parse_trust_domain)]
    pub trust_domain_aliases: Vec<String>,

    /// For `istio`: where istiod or istio-csr answers
    #[arg(long, value_name = "URL", env = "MESH_CA_ADDRESS",
        default_value = defaults::ISTIO_ADDRESS)]
    pub ca_address: String,

    /// For `istio`: file with the token that shows who this agent is, for the audience `istio-ca`
    #[arg(long, value_name = "FILE", env = "MESH_CA_TOKEN", default_value = defaults::ISTIO_TOKEN)]
    pub ca_token: PathBuf,

    /// For `istio`: file with the roots, of the authority itself and of the mesh
    #[arg(long, value_name = "FILE", env = "MESH_CA_ROOTS", default_value = defaults::ISTIO_ROOTS)]
    pub ca_roots: PathBuf,

    /// For `istio`: the name of this cluster
    #[arg(long, value_name = "NAME", env = "MESH_CA_CLUSTER",
        default_value = defaults::ISTIO_CLUSTER)]
    pub ca_cluster: String,
}

/// The kinds of authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AuthorityKind {
    /// The mesh's own: this node signs, with what `mesh-agent ca` has made.
    Embedded,
    /// Certificates are files, which a PKI of yours makes and renews.
    Files,
    /// Istio's certificate service, for each certificate over gRPC.
    Istio,
}

impl AuthorityArgs {
    /// The authority's options. `peer_timeout` is for connections to it.
    pub fn options(&self, peer_timeout: PeerTimeout) -> authority::Options {
        let domain = || self.trust_domain.clone();
        let or_default = || domain().unwrap_or_else(|| defaults::TRUST_DOMAIN.to_owned());
        match self.authority {
            AuthorityKind::Embedded => authority::Options::Embedded(
                self.ca.clone(),
                domain(),
                Duration::from_secs(self.clock_skew),
            ),
            AuthorityKind::Files => authority::Options::Files(self.ca.clone(), or_default()),
            AuthorityKind::Istio => authority::Options::Istio(authority::istio::Options {
                address: self.ca_address.clone(),
                token: self.ca_token.clone(),
                roots: self.ca_roots.clone(),
                lists: self.ca.join(defaults::REVOCATION_LISTS),
                cluster: self.ca_cluster.clone(),
                trust_domain: or_default(),
                peer_timeout,
            }),
        }
    }
}

/// The transport between two agents that speak both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// Our own: many connections in one, at a fraction of the cost.
    Native,
    /// HTTP/2 `CONNECT`, as Istio's ambient mesh speaks it.
    Hbone,
}
