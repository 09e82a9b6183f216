//! Name and capacity of every map, in one table for the kernel side, the agent and the docs.

/// Hash: [`SourceKey`](crate::source::SourceKey) to [`Source`](crate::source::Source).
pub const SOURCES: &str = "SOURCES";
/// Hash: [`DestinationKey`](crate::destination::DestinationKey) to
/// [`Destination`](crate::destination::Destination).
pub const DESTINATIONS: &str = "DESTINATIONS";
/// LRU hash: [`ConnKey`](crate::record::ConnKey) to [`Record`](crate::record::Record): redirected
/// connections that the agent has not accepted yet.
pub const ORIGINS: &str = "ORIGINS";
/// LRU hash: [`ConnKey`](crate::record::ConnKey) to [`Record`](crate::record::Record): connections
/// of the agent that the application has not accepted yet.
pub const CLIENTS: &str = "CLIENTS";
/// Socket storage: [`Record`](crate::record::Record).
pub const SOCKETS: &str = "SOCKETS";
/// Per-CPU array of [`stats`](crate::stats).
pub const COUNTERS: &str = "COUNTERS";

/// Every map that is pinned.
pub const ALL: &[&str] = &[SOURCES, DESTINATIONS, ORIGINS, CLIENTS, SOCKETS, COUNTERS];

/// Workloads on one node, and cgroups. Kubernetes supports 110 pods a node; some run 500.
pub const MAX_SOURCES: usize = 4_096;
/// Virtual addresses with their ports, and workload addresses, of the whole mesh. Entries are
/// allocated as they are added: a full map is about 131,072 × 80 B = 10 MiB.
pub const MAX_DESTINATIONS: usize = 131_072;
/// Connections between `connect()` and `accept()`. The oldest is forgotten beyond this, and that
/// connection is refused. 65,536 × 120 B = 8 MiB.
pub const MAX_PENDING: usize = 65_536;
