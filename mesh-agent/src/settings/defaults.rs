//! Every default and limit: its unit, its reason, and the flag that changes it, if any.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::native::quota::{Bounds, Most};
use crate::proxy::breaker;
use crate::proxy::inbound::admission;
use crate::proxy::inbound::admission::budget::{Most as Handshakes, Rate};
use crate::sys::socket::PeerTimeout;

/// Where the authority's files are (`--ca`).
pub const CA_DIRECTORY: &str = "/etc/mesh/ca";

/// The trust domain where none is said (`--trust-domain`). Istio's default.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// The file with revocation lists, in the folder of the authority's files.
pub const REVOCATION_LISTS: &str = "crl.pem";

/// Where istiod signs (`--ca-address`): ztunnel's `CA_ADDRESS` in a default installation.
pub const ISTIO_ADDRESS: &str = "https://istiod.istio-system.svc:15012";

/// Where Istio's charts mount the token for it (`--ca-token`).
pub const ISTIO_TOKEN: &str = "/var/run/secrets/tokens/istio-token";

/// Where they mount the mesh's roots (`--ca-roots`).
pub const ISTIO_ROOTS: &str = "/var/run/secrets/istio/root-cert.pem";

/// The cluster's name where none is said (`--ca-cluster`). Istio's default.
pub const ISTIO_CLUSTER: &str = "Kubernetes";

/// Where the BPF filesystem is mounted, by convention of all tools (`--bpffs`).
pub const BPFFS: &str = "/sys/fs/bpf";

/// Below it each node's agent has a folder with its admin socket (`--admin-socket`).
pub const RUN_DIRECTORY: &str = "/run/mesh-agent";

/// The admin socket's name in that folder.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// The filter of the agent's log (`--log`).
pub const LOG: &str = "info";

/// How long connections may take to end when the agent stops (`--drain-timeout`). Kubernetes'
/// `terminationGracePeriodSeconds` is 30 s too.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest drain that may be asked for: a day. Longer is a mistake in the unit.
pub const MAX_DRAIN_TIMEOUT: Duration = Duration::from_hours(24);

/// Most data threads. Each has its own tunnels to every node, so that more cost peers memory.
pub const MAX_THREADS: usize = 256;

/// The domain in service host names. Kubernetes' default.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// A TCP connection to an endpoint or an agent. Four SYNs: Linux sends them after 0, 1, 3 and 7 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer's agent may take to answer for its application: its own [`CONNECT_TIMEOUT`], and
/// half of that again for the way.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A TLS handshake, from the first byte: both sides' work is milliseconds, the rest is for loss.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A tunnel without streams is closed after it. A handshake every five minutes costs nothing; a
/// tunnel to every node that was ever talked to costs both sides memory.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// Streams on one tunnel before another is opened. The value that RFC 9113, section 6.5.2,
/// recommends as the least a peer should allow.
pub const TUNNEL_MAX_STREAMS: u32 = 100;

/// HBONE tunnels of one data thread to one peer that are opened because the others carry bulk. Its
/// streams cannot be moved, and hold each other up: they share one TCP connection's window and wait
/// for what it has lost. 4 × 8 threads = 32 of a peer's [`MAX_TUNNELS`].
pub const HBONE_MAX_CONNECTIONS: usize = 4;

/// For how long after a stream of HBONE turned out to be bulk the next ones are expected to be, and
/// are spread over the tunnels that there are. Transfers that a program repeats follow within
/// seconds; what is spread in vain keeps surplus tunnels from becoming idle for as long.
pub const BULK_MEMORY: Duration = Duration::from_secs(10);

/// How long after another tunnel for bulk could not be opened it is not tried again: at worst a
/// handshake a second that a peer refuses, as with [`BREAKER`].
pub const TUNNEL_AGAIN: Duration = Duration::from_secs(1);

/// Bytes that may be under way on one stream (RFC 9113, section 5.2): 1 MiB fills 10 Gbit/s at a
/// round trip of 0.8 ms.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Bytes that may be under way on one tunnel: every stream's window, 100 × 1 MiB = 100 MiB at
/// worst, so that streams whose applications do not read cannot hold up the others.
pub const TUNNEL_WINDOW_BYTES: u32 = TUNNEL_MAX_STREAMS * STREAM_WINDOW_BYTES;

/// The part of the process's memory that clients and peers may make the agent keep: one of so many parts. The
/// rest is for the configuration, for connections that do as they should, and for the heap itself.
const MEMORY_PARTS: u64 = 2;

/// The most of it, where nothing is said (`--max-memory`).
const MOST_MEMORY_BYTES: u64 = 8 << 30;

/// The least that may be said.
pub const LEAST_MEMORY_MIB: u64 = 64;

/// Of that memory:
///
/// - One of so many parts is promised to connections of HTTP/2 and tunnels of HBONE.
pub const PROMISED_PARTS: usize = 2;

/// - One is what peers may leave unread on tunnels of the native transport: those that have most lose
///   then, and those that have little at twice as much.
pub const UNREAD_PARTS: usize = 4;

/// - One is for bodies that are kept, if it is less than [`KEPT_BODIES_BYTES`].
pub const BODIES_PARTS: usize = 16;

/// - There are no more sockets than so many bytes for each allow: for the head of a request, or a read
///   that cannot be written.
pub const SOCKET_BYTES: usize = 16 << 10;

/// The bytes that clients and peers may make the agent keep, by default, of a process that may have
/// `available`.
pub fn max_memory(available: u64) -> u64 {
    (available / MEMORY_PARTS).clamp(LEAST_MEMORY_MIB << 20, MOST_MEMORY_BYTES)
}

/// Bytes of requests that are kept in case that they have to be sent again, or a copy of them to
/// somebody else, in all: 51 MiB of one workload, which is at least 400 requests of 64 KiB at once.
pub const KEPT_BODIES_BYTES: usize = 256 << 20;

/// Bytes of one stream that may wait in the tunnel to be written: two of the largest reads.
pub const MAX_SEND_BUFFER_BYTES: usize = 512 << 10;

/// The largest DATA frame (RFC 9113, section 6.5.2, allows 16 KiB to 16 MiB - 1). One frame is 16
/// TLS records; larger ones make other streams wait for no further gain.
pub const MAX_FRAME_BYTES: u32 = 256 << 10;

/// Streams on one tunnel of the native transport. A thousand connections between two workloads and
/// threads need one TLS connection.
pub const NATIVE_MAX_STREAMS: u32 = 1024;

/// Bytes that may come on a new stream before its application has taken any: 64 MiB at worst for
/// all streams of a tunnel. It grows with streams that are read as fast as they come.
pub const NATIVE_WINDOW_BYTES: u32 = 64 << 10;

/// By how much the windows of one tunnel may grow in all: 64 streams may reach 1 MiB each.
pub const NATIVE_GROWTH_BYTES: u32 = 64 << 20;

/// Limits of peers that have connected to a workload in its agent, over all their tunnels.
///
/// - One of them: as many streams as 16 full tunnels have, and 256 bulk transfers whose windows are
///   full. A stream beyond is not taken, and one that leaves more unread is reset.
/// - All together: four such peers.
pub const NATIVE_CLIENTS: Bounds = Bounds {
    peer: Most { streams: 16 * 1024, bytes: 256 << 20 },
    workload: Most { streams: 64 * 1024, bytes: 1 << 30 },
};

/// Limits of peers that a workload has connected to in what they leave unread at its agent, over
/// all their tunnels. Its application has asked for each of these streams, so that it is more than
/// of the others.
///
/// - One of them: the windows of as many streams as it takes, 16 × 1,024 × 64 KiB = 1 GiB. So an
///   application that is stopped with all of them open loses none; only windows that have grown,
///   of streams that were read as fast as they came, can come to more.
/// - All together: two such peers.
pub const NATIVE_SERVERS: Bounds = Bounds {
    peer: Most { streams: usize::MAX, bytes: 1 << 30 },
    workload: Most { streams: usize::MAX, bytes: 2 << 30 },
};

/// Tunnels of the native transport of one data thread to one peer, of which all but the first are
/// opened because the others carry bulk. 8 × 8 threads = 64 of a peer's [`MAX_TUNNELS`].
pub const NATIVE_MAX_TUNNELS: usize = 8;

/// Bytes that may wait to be written on a tunnel before its streams are held up: two of the largest
/// reads.
pub const NATIVE_MAX_OUTPUT_BYTES: usize = 512 << 10;

/// How often a tunnel with streams is asked whether its peer is there (RFC 9113, section 6.7).
pub const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Connections that the kernel keeps for `accept`. `net.core.somaxconn` has been 4096 since
/// Linux 5.4, and caps it.
pub const LISTENER_BACKLOG: i32 = 4096;

/// Sockets of connections that the agent holds at once (`--max-sockets`). Two a connection: 131,072
/// connections. 262,144 × 8 KiB, of the agent's memory and the kernel's, = 2 GiB at worst, if they
/// are idle.
pub const MAX_SOCKETS: NonZeroUsize = NonZeroUsize::new(1 << 18).expect("invariant: not zero");

/// With fewer sockets the agent does not start: 32 connections are no use to anybody.
pub const LEAST_SOCKETS: usize = 64;

/// Descriptors that are never a connection's: 3 × 64 of the admin server, and 64 of the authority,
/// the configuration, the kernel's maps, namespaces that are entered, and what is accepted to be
/// refused.
pub const KEPT_DESCRIPTORS: usize = 256;

/// The sockets below which a holder, for a use of a workload, may take from what is kept for such: a tunnel
/// for each of 8 data threads, or four connections in plaintext.
pub const FEW_SOCKETS: usize = 8;

/// Tunnels of peers that one workload takes. 100 nodes with 8 threads each; beyond, a peer is told
/// to try later by a closed connection. One identity comes to four fifths of them.
pub const MAX_TUNNELS: usize = 1024;

/// Handshakes that peers may begin with the workloads of one namespace. A full one takes 0.3 ms of
/// a processor here (docs/performance.md):
///
/// - In all, 1,000 a second are 0.3 of a processor, and the burst of 2,000 is 0.6 s of one. When an
///   agent is restarted, 100 nodes with 8 threads come back with 800 tunnels at once.
/// - From one address, 100 a second are 0.03 of a processor, and the burst of 200 is 60 ms. A pod
///   opens a tunnel a thread; a host's address stands for all of its units.
/// - Under way, as many as there may be tunnels, and of one address an eighth: who says nothing
///   keeps a place for [`HANDSHAKE_TIMEOUT`], and fills an eighth at most. 16 units × 8 threads.
/// - When [`node_handshakes`] are used up, 10 a second and 16 under way are left to each namespace.
///   Of 110 pods, Kubernetes' most on a node, that is 0.3 of a processor and 1,760 at worst.
/// - 4,096 addresses × 100 bytes = 400 KiB a namespace, at worst.
pub const HANDSHAKES: admission::Options = admission::Options {
    total: Rate { per_second: 1_000, burst: 2_000 },
    per_peer: Rate { per_second: 100, burst: 200 },
    under_way: MAX_TUNNELS,
    under_way_per_peer: MAX_TUNNELS / 8,
    own: Handshakes { rate: Rate { per_second: 10, burst: 20 }, under_way: 16 },
    peers: 4096,
};

/// Handshakes that peers may begin with all workloads of the node together, with so many data
/// threads: 1,500 a second for each are 0.45 of its processor, and the burst of 3,000 is 0.9 s of
/// it. Under way, as many as two namespaces may have.
pub fn node_handshakes(threads: NonZeroUsize) -> Handshakes {
    let threads = u32::try_from(threads.get().min(MAX_THREADS)).unwrap_or(1);
    let rate = Rate { per_second: 1_500 * threads, burst: 3_000 * threads };
    Handshakes { rate, under_way: 2 * MAX_TUNNELS }
}

/// How long a peer is left alone that could not be reached, after the first failure and after
/// many: at least half of it, by chance. A second at most, so that a peer that is back is found
/// soon; one that refuses costs both sides two handshakes a second at worst, a namespace and
/// identity. 1,024 peers × 300 bytes = 300 KiB a namespace, at worst.
pub const BREAKER: breaker::Options = breaker::Options {
    first: Duration::from_millis(50),
    most: Duration::from_secs(1),
    peers: 1024,
};

/// TLS sessions that one workload's agent keeps for peers to resume. A session is 2.5 KiB: the
/// client's two certificates twice, in it and beside it. 2,048 × 2.5 KiB = 5 MiB a workload: both
/// tickets of every tunnel that it takes; 8 MiB at worst, however long the chains of clients are.
pub const SESSIONS: usize = 2 * MAX_TUNNELS;

/// Peers with whose sessions a workload's agent keeps as their client.
pub const SESSION_TARGETS: usize = 256;

/// Sessions with one of them: one for each of 8 data threads. 256 × 8 × 2.5 KiB = 5 MiB a workload,
/// at worst.
pub const SESSION_TICKETS: usize = 8;

/// How long a TCP peer may leave everything without an answer (`--peer-timeout`), in seconds: a peer
/// that vanished is noticed within two minutes, and a network may be down for one.
pub const PEER_TIMEOUT_SECS: u64 = 90;

/// The values of `--peer-timeout`, in seconds.
pub const PEER_TIMEOUT_RANGE: std::ops::RangeInclusive<u64> = PeerTimeout::MIN_SECS..=3600;

/// How long a thread may run no task until the process aborts (`--watchdog-timeout`). Ten times what
/// makes the agent not ready, and twice what makes the failure modes apply.
pub const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest such time.
pub const MAX_WATCHDOG_TIMEOUT: Duration = Duration::from_hours(1);

/// How often the authority's folder is looked at for renewed files.
pub const CA_POLL_INTERVAL: Duration = Duration::from_secs(30);

/// The delays between attempts to start a workload whose namespace or cgroup is not there: the
/// first, and the longest. A pod's namespace appears within a second or two of its document.
pub const WORKLOAD_RETRY: (Duration, Duration) =
    (Duration::from_millis(200), Duration::from_secs(5));

/// Updates of the configuration that may wait for the store.
pub const UPDATE_QUEUE: usize = 16;

/// The life of a workload's certificate. Renewed at two thirds of it; what is stolen is of use for
/// an hour at most.
pub const LEAF_TTL: Duration = Duration::from_hours(1);

/// The range of `--leaf-ttl`, in seconds. Below ten a renewal could come too late on a busy machine;
/// above a day a certificate is not short-lived any more.
pub const LEAF_TTL_RANGE: std::ops::RangeInclusive<u64> = 10..=86_400;

/// By how much the clocks of peers may be behind ours (`--clock-skew`), in seconds. Between Linkerd's
/// 20 s (`issuer.clockSkewAllowance`) and Istio's 120 s (`ClockSkewGracePeriod`).
pub const CLOCK_SKEW_SECS: u64 = 60;

/// The longest such time, in seconds: of an hour's certificate, that is as long again.
pub const MAX_CLOCK_SKEW_SECS: u64 = 3600;

/// How long connections of a peer may go on after its certificate has expired. A connection that an
/// application keeps for hours stays on the tunnel on which it was opened, and so with the
/// certificate of then: a day ends those of a stolen certificate, and few others.
pub const EXPIRED_PEER_TIMEOUT: Duration = Duration::from_hours(24);

/// How often peers with open tunnels are asked for their certificate's time: a new stream is refused
/// in the moment that it expires, and its tunnel retired as much later at most.
pub const PEER_REVIEW_INTERVAL: Duration = Duration::from_secs(5);

/// Series of connections in the metrics: pairs of workloads. 10,000 × 1.5 KiB = 15 MiB at worst.
pub const MAX_SERIES: usize = 10_000;

/// Bytes of access-log lines that may wait to be written: 4,096 of usual lines. As many again are being
/// written, so that 8 MiB are kept at worst, outside of `--max-memory`.
pub const ACCESS_LOG_QUEUE_BYTES: usize = 4 << 20;

/// Bytes of lines of the agent's own log that may wait, and as many again: 2 MiB at worst, outside of
/// `--max-memory`. Lines of some minutes, as each kind has few a second.
pub const LOG_QUEUE_BYTES: usize = 1 << 20;

/// Access-log lines in a second that connections of one source may have: 1 MB/s. A quarter of the
/// queue, so that one source cannot fill it while the disk waits for some seconds.
pub const ACCESS_LOG_RATE: u32 = 1000;

const _: () = assert!(TUNNEL_WINDOW_BYTES < 1 << 31, "RFC 9113, section 6.9.1");
const _: () = assert!(MAX_FRAME_BYTES >= 1 << 14 && MAX_FRAME_BYTES < 1 << 24);
const _: () = assert!(HBONE_MAX_CONNECTIONS >= 1);
