//! The process's own settings: read once, complete and valid ever after.
//!
//! [`RunArgs`] is what was said, [`Settings`] what it means. No module but `app` and `cli` sees
//! `Settings`: others get the few values that they need.

pub mod args;
pub mod defaults;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::args::{RunArgs, Transport};
use crate::identity::{authority, tls};
use crate::native::quota;
use crate::native::session::Limits;
use crate::sys::socket::PeerTimeout;
use crate::telemetry::{self, Target, log};
use crate::{bounds, datapath, hbone, identity, native, pods, proxy, tunnels};

/// The longest node name. It is the common name of the node's certificate (RFC 5280, appendix A:
/// `ub-common-name`), and a folder's name in the BPF filesystem.
const MAX_NODE_BYTES: usize = 64;

/// The settings of `run`. Its fields are private: it cannot be there without being valid.
#[derive(Clone, Debug)]
pub struct Settings {
    node: String,
    config: PathBuf,
    allow_empty: bool,
    authority: authority::Options,
    trust_domain_aliases: BTreeSet<String>,
    cgroup: Option<PathBuf>,
    bpffs: PathBuf,
    admin_socket: PathBuf,
    admin: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    access_log: Target,
    access_log_rate: u32,
    threads: NonZeroUsize,
    drain_timeout: Duration,
    as_child: bool,
    log: String,
    kernel_log: bool,
    leaf_ttl: Duration,
    stale_timeout: Duration,
    peer_timeout: PeerTimeout,
    watchdog_timeout: Option<Duration>,
    transport: Transport,
    max_sockets: usize,
    max_memory_mib: Option<u64>,
}

/// Why the flags cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The admin server would answer strangers.
    #[error(
        "--admin {0} is not of loopback, and has no authentication: use 127.0.0.1 or [::1], \
         or --metrics for what scrapers and probes need"
    )]
    Admin(SocketAddr),
    /// The access log has no place.
    #[error("--access-log is empty; use `-`, `off` or a file")]
    AccessLog,
    /// The drain is longer than [`defaults::MAX_DRAIN_TIMEOUT`].
    #[error("--drain-timeout {0} is more than a day; its unit is seconds")]
    DrainTimeout(u64),
    /// The log's filter cannot be read.
    #[error("--log cannot be used")]
    Log(#[from] log::Error),
    /// The node's name is no name.
    #[error(
        "--node `{0}` is not 1 to 64 letters, digits, `-` and `.`, and a letter or digit first"
    )]
    Node(String),
    /// More threads than [`defaults::MAX_THREADS`].
    #[error("--threads {0} is more than {max}", max = defaults::MAX_THREADS)]
    Threads(NonZeroUsize),
}

impl Settings {
    /// Where the configuration is.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Whether the configuration may become empty.
    pub const fn allow_empty(&self) -> bool {
        self.allow_empty
    }

    /// The authority of the workloads.
    pub const fn authority(&self) -> &authority::Options {
        &self.authority
    }

    /// This node's name: 1 to 64 letters, digits, `-` and `.`. Fit to name a folder.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The cgroup whose processes are in the mesh; `None`: the cgroup v2 root.
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_deref()
    }

    /// Where the BPF filesystem is or shall be.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The admin server's Unix socket.
    pub fn admin_socket(&self) -> &Path {
        &self.admin_socket
    }

    /// The admin server's address, if it has one; of loopback.
    pub const fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The address for scrapers and probes, if there is one.
    pub const fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// How many data threads, 1 to [`defaults::MAX_THREADS`].
    pub const fn threads(&self) -> NonZeroUsize {
        self.threads
    }

    /// How long open connections may take to end.
    pub const fn drain_timeout(&self) -> Duration {
        self.drain_timeout
    }

    /// Whether the agent is a child of the process that was started.
    pub const fn as_child(&self) -> bool {
        self.as_child
    }

    /// How long a TCP peer may leave everything without an answer.
    pub const fn peer_timeout(&self) -> PeerTimeout {
        self.peer_timeout
    }

    /// How long a thread may run no task until the process aborts; `None`: for ever.
    pub const fn watchdog_timeout(&self) -> Option<Duration> {
        self.watchdog_timeout
    }

    /// The log's filter; [`log::init`] takes it.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// For [`telemetry::Telemetry::new`].
    pub fn telemetry(&self) -> telemetry::Options {
        telemetry::Options {
            access_log: self.access_log.clone(),
            access_log_queue_bytes: defaults::ACCESS_LOG_QUEUE_BYTES,
            access_log_rate: self.access_log_rate,
            max_series: defaults::MAX_SERIES,
            version: VERSION,
        }
    }
}

impl Settings {
    /// For the proxies.
    pub fn proxy(&self) -> proxy::Options {
        let native = native::Options {
            limits: Limits {
                streams: defaults::NATIVE_MAX_STREAMS,
                window: defaults::NATIVE_WINDOW_BYTES,
                growth: defaults::NATIVE_GROWTH_BYTES,
            },
            clients: defaults::NATIVE_CLIENTS,
            servers: defaults::NATIVE_SERVERS,
            max_tunnels: defaults::NATIVE_MAX_TUNNELS,
            max_output_bytes: defaults::NATIVE_MAX_OUTPUT_BYTES,
            idle_timeout: defaults::TUNNEL_IDLE_TIMEOUT,
            ping_interval: defaults::PING_INTERVAL,
            ping_timeout: self.peer_timeout.duration(),
        };
        let hbone = hbone::Options {
            max_streams: defaults::TUNNEL_MAX_STREAMS,
            max_connections: defaults::HBONE_MAX_CONNECTIONS,
            stream_window_bytes: defaults::STREAM_WINDOW_BYTES,
            tunnel_window_bytes: defaults::TUNNEL_WINDOW_BYTES,
            bulk_memory: defaults::BULK_MEMORY,
            max_frame_bytes: defaults::MAX_FRAME_BYTES,
            max_send_buffer_bytes: defaults::MAX_SEND_BUFFER_BYTES,
            idle_timeout: defaults::TUNNEL_IDLE_TIMEOUT,
            ping_interval: defaults::PING_INTERVAL,
            ping_timeout: self.peer_timeout.duration(),
            greeting_timeout: defaults::HANDSHAKE_TIMEOUT,
        };
        proxy::Options {
            tunnels: tunnels::Options {
                native: (self.transport == Transport::Native).then_some(native),
                hbone,
                answer_timeout: defaults::ANSWER_TIMEOUT,
                again: defaults::TUNNEL_AGAIN,
            },
            sessions: tls::Bounds {
                targets: defaults::SESSION_TARGETS,
                tickets: defaults::SESSION_TICKETS,
                sessions: defaults::SESSIONS,
            },
            breaker: defaults::BREAKER,
            handshakes: defaults::HANDSHAKES,
            node_handshakes: defaults::node_handshakes(self.threads),
            connect_timeout: defaults::CONNECT_TIMEOUT,
            handshake_timeout: defaults::HANDSHAKE_TIMEOUT,
            backlog: defaults::LISTENER_BACKLOG,
            peer_timeout: self.peer_timeout,
        }
    }

    /// The most sockets of connections that were asked for.
    pub const fn max_sockets(&self) -> usize {
        self.max_sockets
    }

    /// The bytes that clients and peers may make the agent keep, where the process may have `available`.
    pub fn memory(&self, available: u64) -> usize {
        let said = self.max_memory_mib.map(|mib| mib.saturating_mul(1 << 20));
        let bytes = said.unwrap_or_else(|| defaults::max_memory(available));
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// The bounds of sockets, where the process may have `files` open and has `open` of them
    /// before the first workload is enrolled, and of what comes with them, within `memory`.
    pub fn bounds(&self, files: u64, open: usize, memory: usize) -> bounds::Options {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let left = files.saturating_sub(open).saturating_sub(defaults::KEPT_DESCRIPTORS);
        bounds::Options {
            sockets: self.max_sockets.min(left).min(memory / defaults::SOCKET_BYTES),
            tunnels: defaults::MAX_TUNNELS,
            few: defaults::FEW_SOCKETS,
            promised: memory / defaults::PROMISED_PARTS,
            bodies: defaults::KEPT_BODIES_BYTES.min(memory / defaults::BODIES_PARTS),
        }
    }

    /// Bytes that peers may leave unread on tunnels of the native transport, of all workloads together.
    pub fn unread(memory: usize) -> quota::Most {
        quota::Most { streams: usize::MAX, bytes: memory / defaults::UNREAD_PARTS }
    }

    /// For the kernel side; `cgroup_root` is where cgroup v2 is mounted.
    pub fn datapath(&self, cgroup_root: &Path) -> datapath::Options {
        datapath::Options {
            node: self.node.clone(),
            bpffs: self.bpffs.clone(),
            cgroup: self.cgroup.clone().unwrap_or_else(|| cgroup_root.to_owned()),
            cgroup_root: cgroup_root.to_owned(),
            log_level: if self.kernel_log { KERNEL_LOG_DEBUG } else { 0 },
        }
    }

    /// The ports at which the agent is asked.
    fn own_ports(&self) -> BTreeSet<u16> {
        [self.admin, self.metrics].into_iter().flatten().map(|address| address.port()).collect()
    }

    /// For the set of enrolled workloads; `cgroup_root` is where cgroup v2 is mounted, and `generation`
    /// this agent's number among those of the node that have handed over.
    pub fn pods(&self, cgroup_root: &Path, generation: u8) -> pods::Options {
        pods::Options {
            node: self.node.clone(),
            cgroup_root: cgroup_root.to_owned(),
            retry: defaults::WORKLOAD_RETRY,
            generation,
            own_ports: Arc::new(self.own_ports()),
        }
    }

    /// For the certificates.
    pub fn identity(&self) -> identity::Options {
        identity::Options {
            leaf_ttl: self.leaf_ttl,
            poll_interval: defaults::CA_POLL_INTERVAL,
            trust_domain_aliases: self.trust_domain_aliases.clone(),
            stale_timeout: self.stale_timeout,
        }
    }

    /// Whether the kernel programs log.
    pub const fn kernel_log(&self) -> bool {
        self.kernel_log
    }
}

/// aya-log's number for the level `debug`.
const KERNEL_LOG_DEBUG: u8 = 4;

/// The agent's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

impl TryFrom<RunArgs> for Settings {
    type Error = Error;

    fn try_from(args: RunArgs) -> Result<Self, Error> {
        log::check(&args.log)?;
        if let Some(admin) = args.admin.filter(|admin| !admin.ip().to_canonical().is_loopback()) {
            return Err(Error::Admin(admin));
        }
        if args.drain_timeout > defaults::MAX_DRAIN_TIMEOUT.as_secs() {
            return Err(Error::DrainTimeout(args.drain_timeout));
        }
        let node = node_name(args.node)?;
        let peer_timeout = PeerTimeout::from_secs(args.peer_timeout);
        Ok(Self {
            admin_socket: args.admin_socket.unwrap_or_else(|| admin_socket(&node)),
            node,
            config: args.config,
            allow_empty: args.allow_empty,
            authority: args.authority.options(peer_timeout),
            trust_domain_aliases: args.authority.trust_domain_aliases.into_iter().collect(),
            cgroup: args.cgroup,
            bpffs: args.bpffs,
            admin: args.admin,
            metrics: args.metrics,
            access_log: access_log(&args.access_log)?,
            access_log_rate: args.access_log_rate,
            threads: threads(args.threads)?,
            drain_timeout: Duration::from_secs(args.drain_timeout),
            as_child: args.as_child,
            log: args.log,
            kernel_log: args.kernel_log,
            leaf_ttl: Duration::from_secs(args.leaf_ttl),
            stale_timeout: Duration::from_secs(args.expired_peer_timeout),
            peer_timeout,
            watchdog_timeout: (args.watchdog_timeout > 0)
                .then(|| Duration::from_secs(args.watchdog_timeout)),
            transport: args.transport,
            max_sockets: usize::try_from(args.max_sockets).unwrap_or(usize::MAX),
            max_memory_mib: args.max_memory,
        })
    }
}

/// Where the admin socket of a node's agent is by default.
pub fn admin_socket(node: &str) -> PathBuf {
    Path::new(defaults::RUN_DIRECTORY).join(node).join(defaults::ADMIN_SOCKET)
}

/// Checks a node's name, for every command that takes one.
///
/// # Errors
///
/// It is not 1 to 64 letters, digits, `-` and `.`, and a letter or digit first.
pub fn node_name(name: String) -> Result<String, Error> {
    let starts = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if starts && name.len() <= MAX_NODE_BYTES && name.bytes().all(known) {
        Ok(name)
    } else {
        Err(Error::Node(name))
    }
}

fn access_log(text: &str) -> Result<Target, Error> {
    match text {
        "" => Err(Error::AccessLog),
        "-" => Ok(Target::Stdout),
        "off" => Ok(Target::Off),
        file => Ok(Target::File(file.into())),
    }
}

/// The number that was asked for, or the CPUs that the process may use. Where the system does not say, one.
fn threads(asked: Option<NonZeroUsize>) -> Result<NonZeroUsize, Error> {
    let most = const { NonZeroUsize::new(defaults::MAX_THREADS).expect("invariant: not zero") };
    match asked {
        Some(asked) if asked > most => Err(Error::Threads(asked)),
        Some(asked) => Ok(asked),
        None => {
            let cpus = std::thread::available_parallelism();
            Ok(cpus.map_or(NonZeroUsize::MIN, |cpus| cpus.min(most)))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};
    use tokio::time::Instant;

    use super::*;
    use crate::proxy::inbound::admission::Admission;
    use crate::proxy::inbound::admission::budget::Budget;

    fn parse(flags: &[&str]) -> Result<Settings, String> {
        let command = RunArgs::augment_args(Command::new("run"));
        let given = ["run", "--node", "node-a", "--config", "/c"];
        let matches = command
            .args_override_self(true)
            .try_get_matches_from(given.iter().chain(flags))
            .map_err(|error| error.to_string())?;
        let args = RunArgs::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        Settings::try_from(args).map_err(|error| error.to_string())
    }

    fn refused(flags: &[&str], expect: &str) {
        let error = parse(flags).unwrap_err();
        assert!(error.contains(expect), "{flags:?}: {error}");
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let settings = parse(&[]).unwrap();
        assert!(matches!(
            settings.authority(),
            authority::Options::Embedded(dir, None, skew)
                if dir == Path::new("/etc/mesh/ca") && skew.as_secs() == 60
        ));
        assert_eq!(settings.bpffs(), Path::new("/sys/fs/bpf"));
        assert_eq!(settings.admin_socket(), Path::new("/run/mesh-agent/node-a/admin.sock"));
        assert_eq!((settings.admin(), settings.metrics()), (None, None));
        assert_eq!(settings.drain_timeout(), Duration::from_secs(30));
        assert_eq!(settings.telemetry().access_log, Target::Stdout);
        assert_eq!((settings.cgroup(), settings.log()), (None, "info"));
        assert!(settings.threads().get() >= 1);
    }

    #[test]
    fn what_is_said_is_taken() {
        let settings = parse(&[
            "--access-log",
            "off",
            "--threads",
            "3",
            "--drain-timeout",
            "0",
            "--cgroup",
            "/g",
            "--admin",
            "[::1]:9",
            "--metrics",
            "0.0.0.0:15020",
            "--log",
            "warn,h2=error",
        ])
        .unwrap();
        assert_eq!(settings.telemetry().access_log, Target::Off);
        assert_eq!(settings.threads().get(), 3);
        assert_eq!(settings.drain_timeout(), Duration::ZERO);
        assert_eq!(settings.cgroup(), Some(Path::new("/g")));
        assert_eq!(settings.admin().unwrap().to_string(), "[::1]:9");
        assert_eq!(settings.metrics().unwrap().to_string(), "0.0.0.0:15020");
        let file = parse(&["--access-log", "/var/log/mesh.log"]).unwrap();
        assert_eq!(file.telemetry().access_log, Target::File("/var/log/mesh.log".into()));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for node in ["", "a/b", "..", "-a", "a b", &"a".repeat(65)] {
            refused(&[&format!("--node={node}")], "is not 1 to 64");
        }
        refused(&["--drain-timeout", "86401"], "seconds");
        refused(&["--drain-timeout", "30s"], "--drain-timeout");
        refused(&["--threads", "0"], "--threads");
        refused(&["--max-sockets", "63"], "--max-sockets");
        refused(&["--threads", "257"], "is more than 256");
        refused(&["--access-log", ""], "--access-log");
        refused(&["--admin", "15000"], "--admin");
        for stranger in ["0.0.0.0:15000", "[::]:15000", "192.0.2.1:15000", "[::ffff:192.0.2.1]:1"] {
            refused(&["--admin", stranger], "is not of loopback");
        }
        refused(&["--log", "a=b=c"], "--log cannot be used");
    }

    #[test]
    fn sockets_are_below_the_limit_of_open_files() {
        let memory = 8 << 30;
        let check = |flags: &[&str], files, open, expect| {
            let options = parse(flags).unwrap().bounds(files, open, memory);
            assert_eq!(options.sockets, expect, "{files}");
        };
        check(&[], 1 << 20, 100, 1 << 18);
        check(&[], 4096, 100, 4096 - 100 - 256);
        check(&[], 300, 100, 0);
        check(&["--max-sockets", "500"], 1 << 20, 100, 500);
        check(&["--max-sockets", "500"], 600, 100, 244);
    }

    #[test]
    fn memory_is_half_of_what_there_is() {
        let check = |flags: &[&str], available: u64, mib| {
            let settings = parse(flags).unwrap();
            assert_eq!(settings.memory(available) >> 20, mib, "{available}");
        };
        check(&[], 24 << 30, 8192);
        check(&[], 2 << 30, 1024);
        check(&[], 1 << 20, 64);
        check(&["--max-memory", "100"], 24 << 30, 100);
        refused(&["--max-memory", "63"], "--max-memory");
        let small = parse(&[]).unwrap().bounds(1 << 20, 100, 128 << 20);
        let all = (small.sockets, small.promised >> 20, small.bodies >> 20);
        assert_eq!(all, (8192, 64, 8));
        assert_eq!(Settings::unread(128 << 20).bytes, 32 << 20);
    }

    #[test]
    fn a_hundred_nodes_with_eight_threads_may_come_back_at_once() {
        let options = parse(&["--threads", "1"]).unwrap().proxy();
        let mut all = Budget::new(options.node_handshakes);
        let mut admission = Admission::new(options.handshakes);
        let now = Instant::now();
        for node in 0..100 {
            for _thread in 0..8 {
                admission.admit([10, 0, 0, node].into(), &mut all, now).unwrap();
            }
        }
    }

    #[test]
    fn every_flag_has_its_variable() {
        let command = RunArgs::augment_args(Command::new("run"));
        for arg in command.get_arguments() {
            let flag = arg.get_long().unwrap().to_uppercase().replace('-', "_");
            let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned());
            assert_eq!(variable, Some(format!("MESH_{flag}")));
        }
    }
}
