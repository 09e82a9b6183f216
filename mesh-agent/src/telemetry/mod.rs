//! Reports of the proxies: metrics under Istio's names, and the access log.
//!
//! A proxy calls [`Telemetry::opened`] when it knows who a connection is between, and
//! [`Telemetry::connection`] with one [`ConnectionEnd`] when it is over; everything that is
//! reported comes from these two. Connections that the kernel decides alone are reported by
//! [`flows`], without memory of what is open. Other modules set their few numbers through methods
//! here, or register a [`Source`] that is asked at each scrape. Nothing here waits or makes a
//! system call on the caller's thread; the exceptions are [`Telemetry::new`] and [`Telemetry::close`].

mod access_log;
mod cut;
mod event;
mod flows;
mod labels;
mod limit;
pub mod log;
mod metrics;
mod queue;
mod requests;
mod said;
mod series_metrics;
mod sink;
mod time;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

pub use self::event::{ConnectionEnd, Judged, Parties, Path, Peer, Reporter, Security};
pub use self::labels::NO_FLAGS;
pub use self::limit::{Mention, Mentioned, Network};
pub use self::requests::{RequestKind, RequestSeries, Unkept, Upgrade};
pub use self::said::Said;
pub use self::sink::Target;
pub use self::time::rfc3339;
use crate::bounds;
use crate::failure::Kind;
use crate::model::id::ResourceName;
use crate::model::spiffe::SpiffeId;
use crate::task::turns::Stalled;

/// How much is kept, and where the access log goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where access-log lines go.
    pub access_log: Target,
    /// Bytes of access-log lines that may wait to be written; lines without room are dropped and counted.
    pub access_log_queue_bytes: usize,
    /// Access-log lines in a second that connections of one source may have; 0: all of them.
    pub access_log_rate: u32,
    /// Most series of connections; further ones are counted together, in the series `overflow`.
    pub max_series: usize,
    /// The agent's version, for `mesh_build_info`.
    pub version: &'static str,
}

/// The reports of one agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telemetry {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
}

/// One open connection in the metrics.
///
/// Give it back with [`Telemetry::connection`]. Dropping it instead, as a panic does, counts the
/// connection as closed and failed for the reason `internal`.
#[derive(Debug)]
#[must_use = "dropping it counts the connection as failed"]
pub struct Series {
    counters: Arc<labels::Counters>,
    shared: Arc<Shared>,
    reporter: Reporter,
    reported: bool,
}

/// One open tunnel in the metrics, until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it counts the tunnel as closed"]
pub struct OpenTunnel(Arc<Shared>, Protocol);

/// Numbers that another module counts, read at each scrape. Register each variant at most once.
pub enum Source {
    /// Counts of the kernel programs since their maps were made.
    Kernel(Box<dyn Fn() -> KernelCounters + Send + Sync>),
    /// Which certificates are in use, and how they fare.
    Certificates(Box<dyn Fn() -> CertificateCounters + Send + Sync>),
    /// Sockets that are held, and that were refused.
    Sockets(Box<dyn Fn() -> bounds::Counts + Send + Sync>),
    /// How connections of workloads went, as an observer sees them.
    Coverage(Box<dyn Fn() -> Vec<CoverageCount> + Send + Sync>),
    /// Whether the agent's threads run their tasks.
    Threads(Box<dyn Fn() -> Vec<Stalled> + Send + Sync>),
    /// Addresses of the admin server, and whether the agent listens there.
    Admin(Box<dyn Fn() -> Vec<(std::net::SocketAddr, bool)> + Send + Sync>),
}

/// How often connections of a workload went one way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoverageCount {
    /// The workload.
    pub workload: ResourceName,
    /// `outbound`, `inbound`, or `socket` for sockets that no hook redirects.
    pub direction: &'static str,
    /// The way, in one word.
    pub how: &'static str,
    /// How often.
    pub count: u64,
}

/// How many connections an agent has carried for a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Secured {
    /// With mutual TLS.
    pub mutual_tls: u64,
    /// In plaintext.
    pub plaintext: u64,
}

/// Counts of the kernel programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// Calls of `connect()`, by the word for what was decided.
    pub connects: Vec<(&'static str, u64)>,
    /// Connections that arrived, by the word for what was decided.
    pub arrivals: Vec<(&'static str, u64)>,
    /// Events that did not fit the ring buffer.
    pub events_lost: u64,
    /// Entries that it refused, by map.
    pub refused: Vec<(&'static str, u64)>,
}

/// How certificates fare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateCounters {
    /// When each certificate in use expires.
    pub expiries: Vec<(SpiffeId, SystemTime)>,
    /// When what signs here expires; `None`: another process signs.
    pub authority: Option<SystemTime>,
    /// How many have less than a share of their life left: of what, of how many percent, how many.
    pub below: Vec<(&'static str, &'static str, u64)>,
    /// Renewals that succeeded.
    pub renewed: u64,
    /// Renewals that failed.
    pub failed: u64,
}

/// This agent's part in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It connected.
    Client,
    /// It accepted.
    Server,
}

/// A limit of handshakes that peers may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// How many begin in a second on the node, when the namespace's own are used up as well.
    NodeRate,
    /// How many are under way on the node, when the namespace's own are as well.
    NodeUnderWay,
    /// How many of one address begin in a second.
    PeerRate,
    /// How many of one address are under way.
    PeerUnderWay,
    /// How many begin in a second in one namespace.
    TotalRate,
    /// How many are under way in one namespace.
    TotalUnderWay,
}

/// The state that all clones share.
#[derive(Debug)]
struct Shared {
    version: &'static str,
    access_log: sink::AccessLog,
    lines: limit::Lines,
    series: labels::Table,
    /// By [`Reporter`].
    open: [Number; Reporter::ALL.len()],
    tunnels_open: [Number; Protocol::ALL.len()],
    tunnels_opened: [Number; Protocol::ALL.len()],
    tunnels_violated: [Number; Protocol::ALL.len()],
    /// By [`Role`], and whether a session was resumed.
    handshakes: [[Number; 2]; Role::ALL.len()],
    /// By [`Role`] and [`Kind`].
    handshakes_failed: [[Number; Kind::ALL.len()]; Role::ALL.len()],
    /// By [`Limit`].
    handshakes_refused: [Number; Limit::ALL.len()],
    dials_held: Number,
    /// By [`Upgrade`].
    upgrades: [Number; Upgrade::ALL.len()],
    unkept: [Number; Unkept::ALL.len()],
    /// Requests, by status and by who has answered.
    requests: Mutex<BTreeMap<(u16, &'static str), u64>>,
    snapshot_revision: Number,
    applied_revision: Number,
    conditions: Number,
    events_malformed: Number,
    policy_closed: Number,
    verdicts: Mutex<BTreeMap<Said, u64>>,
    sources: Mutex<Vec<Source>>,
}

/// A counter or gauge.
#[derive(Debug, Default)]
struct Number(AtomicU64);

impl Telemetry {
    /// Opens the access log and starts its thread.
    ///
    /// # Errors
    ///
    /// The access log's file cannot be opened, or the thread cannot be started.
    pub fn new(options: Options) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            version: options.version,
            access_log: sink::AccessLog::open(&options.access_log, options.access_log_queue_bytes)?,
            lines: limit::Lines::new(options.access_log_rate),
            series: labels::Table::new(options.max_series),
            open: Default::default(),
            tunnels_open: Default::default(),
            tunnels_opened: Default::default(),
            tunnels_violated: Default::default(),
            handshakes: Default::default(),
            handshakes_failed: Default::default(),
            handshakes_refused: Default::default(),
            dials_held: Number::default(),
            upgrades: Default::default(),
            unkept: Default::default(),
            requests: Mutex::default(),
            snapshot_revision: Number::default(),
            applied_revision: Number::default(),
            conditions: Number::default(),
            events_malformed: Number::default(),
            policy_closed: Number::default(),
            verdicts: Mutex::default(),
            sources: Mutex::default(),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics::Exposition(Arc::clone(&shared))));
        Ok(Self { shared, registry: Arc::new(registry) })
    }

    /// Counts a connection as opened.
    ///
    /// Everything that is counted of it later has the labels of `parties` as they are now, so call
    /// it when they are known: after the destination was chosen, or the choice failed.
    pub fn opened(&self, parties: &Parties) -> Series {
        self.shared.open[parties.reporter as usize].add(1);
        Series {
            counters: self.shared.series.opened(parties, 1),
            shared: Arc::clone(&self.shared),
            reporter: parties.reporter,
            reported: false,
        }
    }

    /// Reports the end of a connection: all metrics, and the line of the access log, unless its source
    /// has too many.
    pub fn connection(&self, mut series: Series, end: &ConnectionEnd) {
        series.reported = true;
        series.counters.closed(end, 1);
        if self.shared.may_log(end) {
            self.shared.write_line(end, 1);
        } else {
            series.counters.unlogged(1);
        }
    }

    /// Counts a tunnel as open until what is returned is dropped.
    pub fn tunnel_opened(&self, protocol: Protocol) -> OpenTunnel {
        self.shared.tunnels_open[protocol as usize].add(1);
        self.shared.tunnels_opened[protocol as usize].add(1);
        OpenTunnel(Arc::clone(&self.shared), protocol)
    }

    /// Counts a tunnel that is closed because the peer broke its protocol.
    pub fn tunnel_violated(&self, protocol: Protocol) {
        self.shared.tunnels_violated[protocol as usize].add(1);
    }

    /// Counts a handshake that succeeded. `resumed`: it went on with an earlier session.
    pub fn handshake_done(&self, role: Role, resumed: bool) {
        self.shared.handshakes[role as usize][usize::from(resumed)].add(1);
    }

    /// Counts a handshake that failed.
    pub fn handshake_failed(&self, role: Role, reason: Kind) {
        self.shared.handshakes_failed[role as usize][reason as usize].add(1);
    }

    /// Counts a handshake that a peer was not allowed to begin.
    pub fn handshake_refused(&self, limit: Limit) {
        self.shared.handshakes_refused[limit as usize].add(1);
    }

    /// How many connections this agent has carried for each workload: as their source's agent, and
    /// as their destination's.
    pub fn secured(&self) -> BTreeMap<(Reporter, ResourceName), Secured> {
        let mut all = BTreeMap::<_, Secured>::new();
        for (reporter, workload, is_mutual_tls, opened) in self.shared.series.carried() {
            let secured = all.entry((reporter, workload)).or_default();
            let count =
                if is_mutual_tls { &mut secured.mutual_tls } else { &mut secured.plaintext };
            *count += opened;
        }
        all
    }

    /// Counts what a policy has said of connections or requests.
    pub fn policy_said(&self, said: Said, times: u64) {
        let mut verdicts = self.shared.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = verdicts.len() >= said::MAX_VERDICTS;
        let said = if is_full && !verdicts.contains_key(&said) { said.overflow() } else { said };
        *verdicts.entry(said).or_default() += times;
    }

    /// Counts a connection that failed at once, because its peer had just failed.
    pub fn dial_held(&self) {
        self.shared.dials_held.add(1);
    }

    /// Where requests between `parties` are counted.
    pub fn requests(&self, parties: &Parties) -> RequestSeries {
        RequestSeries(self.shared.series.of(parties))
    }

    /// Counts an HTTP request that was answered with the status `code`: by a backend, or by the mesh
    /// for a reason.
    pub fn request_answered(&self, code: u16, by: &'static str) {
        let mut requests = self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((code, by)).or_default() += 1;
    }

    /// Notes which snapshot the proxies use, and how many conditions it has.
    pub fn set_snapshot(&self, revision: u64, conditions: usize) {
        self.shared.snapshot_revision.set(revision);
        self.shared.conditions.set(conditions as u64);
    }

    /// Notes which snapshot the kernel's maps hold.
    pub fn set_applied_revision(&self, revision: u64) {
        self.shared.applied_revision.set(revision);
    }

    /// Has `source` asked at each scrape. It must not wait: a scrape does.
    pub fn register_source(&self, source: Source) {
        self.shared.sources().push(source);
    }

    /// Forgets the series of workloads for which `exists` is false, unless they have open
    /// connections. Call it after each publication, so that series of what was deleted end and
    /// older snapshots' memory is let go.
    pub fn retain(&self, exists: impl Fn(&ResourceName) -> bool) {
        self.shared.series.retain(exists);
    }

    /// Connections through the agent that are open now, at both ends.
    pub fn open_connections(&self) -> u64 {
        self.shared.open.iter().map(Number::get).sum()
    }

    /// All metrics, in the text format of `OpenMetrics` 1.0.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // `fmt::Write` for `String` does not fail.
        let _infallible: Result<(), fmt::Error> = text::encode(&mut text, &self.registry);
        text
    }

    /// Writes what is left of the access log. Lines that come later are dropped and counted.
    pub async fn close(&self) {
        self.shared.access_log.close().await;
    }
}

impl Series {
    /// Where requests that the connection carries are counted.
    pub fn requests(&self) -> RequestSeries {
        RequestSeries(Arc::clone(&self.counters))
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        self.shared.open[self.reporter as usize].sub(1);
        if !self.reported {
            self.counters.lost();
        }
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.tunnels_open[self.1 as usize].sub(1);
    }
}

/// The protocol of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Our own transport.
    Native,
    /// HTTP/2 `CONNECT`.
    Hbone,
}

impl Protocol {
    /// Both, the better one first.
    pub const ALL: &[Self] = &[Self::Native, Self::Hbone];

    /// The word used in the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Hbone => "hbone",
        }
    }
}

impl Limit {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::NodeRate,
        Self::NodeUnderWay,
        Self::PeerRate,
        Self::PeerUnderWay,
        Self::TotalRate,
        Self::TotalUnderWay,
    ];

    /// The word used in the metrics and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodeRate => "node_rate",
            Self::NodeUnderWay => "node_under_way",
            Self::PeerRate => "peer_rate",
            Self::PeerUnderWay => "peer_under_way",
            Self::TotalRate => "total_rate",
            Self::TotalUnderWay => "total_under_way",
        }
    }
}

impl Role {
    /// Both.
    pub const ALL: &[Self] = &[Self::Client, Self::Server];

    /// The word used in the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel(_) => "Kernel",
            Self::Certificates(_) => "Certificates",
            Self::Coverage(_) => "Coverage",
            Self::Threads(_) => "Threads",
            Self::Sockets(_) => "Sockets",
            Self::Admin(_) => "Admin",
        })
    }
}

impl Number {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn sub(&self, value: u64) {
        self.0.fetch_sub(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
