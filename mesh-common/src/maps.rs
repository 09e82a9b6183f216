//! Name and capacity of every map, in one table for the kernel side, the agent and the docs.

/// Hash: [`SourceKey`](crate::source::SourceKey) to [`Source`](crate::source::Source).
pub const SOURCES: &str = "SOURCES";
/// Hash: [`PathKey`](crate::source::PathKey) to the [`Source`](crate::source::Source) of a cgroup that is
/// made there.
pub const PLACES: &str = "PLACES";
/// Hash: a workload's [id](crate::workload#ids) to [`Workload`](crate::workload::Workload).
pub const WORKLOADS: &str = "WORKLOADS";
/// Hash: [`DestinationKey`](crate::destination::DestinationKey) to
/// [`Destination`](crate::destination::Destination).
pub const DESTINATIONS: &str = "DESTINATIONS";
/// Hash: [`ConsumerKey`](crate::destination::ConsumerKey) to a set of `BACKENDS`.
pub const CONSUMERS: &str = "CONSUMERS";
/// Hash: [`ChunkKey`](crate::backend::ChunkKey), a set's number and a part of it, to its slots, a
/// [`Chunk`](crate::backend::Chunk).
pub const BACKENDS: &str = "BACKENDS";
/// Hash: [`VerdictKey`](crate::verdict::VerdictKey) to [`Verdict`](crate::verdict::Verdict).
pub const VERDICTS: &str = "VERDICTS";
/// Hash: [`PortKey`](crate::workload::PortKey), of a workload, to flags of that port.
pub const PORTS: &str = "PORTS";
/// Hash: [`PortKey`](crate::workload::PortKey), of a namespace, to
/// [`Inbound`](crate::workload::Inbound).
pub const INBOUND: &str = "INBOUND";
/// Hash: [`DestinationKey`](crate::destination::DestinationKey) of a probe's port to the id of its
/// workload.
pub const PROBES: &str = "PROBES";
/// Trie: [`ExternalKey`](crate::external::ExternalKey) of addresses outside of the mesh that may be
/// connected to.
pub const EXTERNALS: &str = "EXTERNALS";
/// Hash of sockets: [`ListenerKey`] to the agent's listener.
pub const LISTENERS: &str = "LISTENERS";
/// Array of one: when the agent last said that it works, in ns of `CLOCK_MONOTONIC`.
pub const HEARTBEAT: &str = "HEARTBEAT";
/// LRU hash: [`ConnKey`](crate::record::ConnKey) to [`Record`](crate::record::Record): redirected
/// connections that the agent has not accepted yet.
pub const ORIGINS: &str = "ORIGINS";
/// LRU hash: [`FlowKey`](crate::record::FlowKey) to [`Record`](crate::record::Record): authorized
/// connections that the application has not accepted yet.
pub const FLOWS: &str = "FLOWS";
/// Socket storage: [`Record`](crate::record::Record).
pub const SOCKETS: &str = "SOCKETS";
/// Per-CPU array of [`stats`](crate::stats).
pub const COUNTERS: &str = "COUNTERS";
/// Ring buffer of [`Event`](crate::event::Event).
pub const EVENTS: &str = "EVENTS";
/// LRU hash: a workload's [id](crate::workload#ids) to its [`Budget`](crate::budget::Budget). Only
/// ids of `SOURCES` get in, so that what is forgotten belongs to workloads that are gone.
pub const BUDGETS: &str = "BUDGETS";
/// Hash: [`SumKey`](crate::summary::SumKey) to [`Sum`](crate::summary::Sum).
pub const SUMS: &str = "SUMS";
/// Array of one: the number of the interval in which connections are summed. The agent moves it on,
/// and takes what was summed in those that are over.
pub const INTERVAL: &str = "INTERVAL";
/// Hash of sockets: [`FlowKey`](crate::record::FlowKey) of the direction in which a socket receives
/// to the socket.
pub const ACCELERATED: &str = "ACCELERATED";
/// Hash: [`FlowKey`](crate::record::FlowKey) of a direction to its
/// [`Tally`](crate::accel::Tally).
pub const TALLIES: &str = "TALLIES";
/// Socket storage: [`Fast`](crate::accel::Fast).
pub const FAST: &str = "FAST";
/// Array of one: 0 if nothing is accelerated.
pub const SWITCH: &str = "SWITCH";

/// Per-CPU hash: [`CoverKey`](crate::coverage::CoverKey) to a count. Not pinned: it counts for one agent.
pub const COVERAGE: &str = "COVERAGE";

/// Array of one: [`Own`](crate::arrival::Own). Not pinned: each copy of the program that sees arrivals has its
/// own.
pub const OWN: &str = "OWN";

/// Every map that is pinned.
pub const ALL: &[&str] = &[
    SOURCES,
    PLACES,
    WORKLOADS,
    DESTINATIONS,
    CONSUMERS,
    BACKENDS,
    VERDICTS,
    PORTS,
    INBOUND,
    PROBES,
    EXTERNALS,
    LISTENERS,
    HEARTBEAT,
    ORIGINS,
    FLOWS,
    SOCKETS,
    COUNTERS,
    EVENTS,
    BUDGETS,
    SUMS,
    INTERVAL,
    ACCELERATED,
    TALLIES,
    FAST,
    SWITCH,
];

/// Workloads on one node, and cgroups. Kubernetes supports 110 pods a node; some run 500.
pub const MAX_SOURCES: usize = 4_096;
/// Virtual addresses with their ports, and workload addresses, of the whole mesh: 65,536 services with a
/// port and an entry for all other ports each, and as many workloads and further ports. Entries are
/// allocated as they are added: a full map is about 262,144 × 100 B = 26 MiB.
pub const MAX_DESTINATIONS: usize = 262_144;
/// Sets of backends: one a port of a service, and one for each namespace with routes of its own.
pub const MAX_SETS: usize = 131_072;
/// Parts of all sets together, of 16 slots each.
pub const MAX_CHUNKS: usize = 131_072;
/// The same with those of sets that are being replaced: 262,144 × 960 B = 240 MiB, if all are there. Each
/// is allocated as it is added.
pub const MOST_CHUNKS: usize = 2 * MAX_CHUNKS;
/// Verdicts: workloads of this node × different sets of policies × ports that policies name.
pub const MAX_VERDICTS: usize = 1 << 20;
/// Ports with settings of their own on one node.
pub const MAX_PORTS: usize = 65_536;
/// Networks outside of the mesh × ports × namespaces that may connect to them.
pub const MAX_EXTERNALS: usize = 65_536;
/// Workloads × ways in which connections go.
pub const MAX_COVERED: usize = 10 * MAX_SOURCES;
/// Listeners of the agent: kinds × families × data threads × namespaces, and four of each unit. Entries are allocated when
/// they are added; the table itself is 262,144 × 16 B = 4 MiB.
pub const MAX_LISTENERS: usize = 64 * MAX_SOURCES;
/// Connections between `connect()` and `accept()`. The oldest is forgotten beyond this, and that
/// connection is refused. 65,536 × 190 B = 12 MiB.
pub const MAX_PENDING: usize = 65_536;
/// Directions of accelerated connections: two each. Further connections are not accelerated. Entries
/// are allocated when they are added; the table itself is 131,072 × 16 B = 2 MiB.
pub const MAX_ACCELERATED: usize = 131_072;
/// Bytes of the ring buffer: about 7,000 events between two turns of the agent.
pub const EVENT_BYTES: usize = 1 << 20;
/// Bytes of events in the ring buffer beyond which each workload's are limited to its budget.
pub const CROWDED_BYTES: usize = EVENT_BYTES / 2;
/// Sums that are kept: each of 1,300 workloads can begin all that it may in two intervals. Entries
/// are allocated when they are added: a full map is about 65,536 × 170 B = 11 MiB.
pub const MAX_SUMS: usize = 65_536;

abi! {
    /// Key of `LISTENERS`.
    pub struct ListenerKey[16] {
        /// The cookie of the network namespace; with [`UNIT`], the [id](crate::workload#ids) of a workload
        /// that shares its namespace with others.
        pub owner: u64,
        /// [`TUNNELS`], [`PLAINTEXT`] or [`OUTBOUND`], with [`UNIT`] for a workload's own, and with [`ODD`] if
        /// the agent's generation is odd: an agent and its successor have places of their own.
        pub kind: u16,
        /// 4 or 6.
        pub family: u16,
        /// The data thread, counted from 0. Where 0 is there all are: it is written last.
        pub thread: u32,
    }
}

/// A part of `ListenerKey::kind`: the agent has followed on an odd number of others.
pub const ODD: u16 = 1 << 8;

/// A part of `ListenerKey::kind`: the listener is one workload's of a namespace that several share, so that
/// its queue is that workload's alone. There is one of each kind and family, as thread 0.
pub const UNIT: u16 = 1 << 9;

/// `ListenerKey::kind`: tunnels of peers.
pub const TUNNELS: u16 = 1;
/// `ListenerKey::kind`: everything else that arrives.
pub const PLAINTEXT: u16 = 2;
/// `ListenerKey::kind`: connections of applications that `connect()` has sent to the agent.
pub const OUTBOUND: u16 = 3;
