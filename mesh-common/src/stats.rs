//! Counters that the kernel programs keep: indices into `COUNTERS`.

/// `connect()`s of enrolled workloads that were handed to the agent.
pub const PROXY: u32 = 0;
/// `connect()`s of enrolled workloads to destinations that are not the mesh's.
pub const PASS: u32 = 1;
/// `connect()`s whose record could not be kept; they were refused.
pub const NO_MEMORY: u32 = 2;
/// `connect()`s that were sent straight to a workload of this node.
pub const DIRECT: u32 = 3;
/// `connect()`s that a policy denied.
pub const DENIED: u32 = 4;
/// `connect()`s that were refused because nobody serves the share that was picked.
pub const NOBODY: u32 = 5;
/// `connect()`s that went past an agent that does not answer.
pub const FAILED_OPEN: u32 = 6;
/// `connect()`s that were denied because the agent does not answer.
pub const FAILED_CLOSED: u32 = 7;
/// Health probes of the node's own processes.
pub const PROBE: u32 = 8;
/// Connections that arrived and were handed to the agent.
pub const CAPTURED: u32 = 9;
/// Connections that arrived and were refused because the agent does not answer.
pub const REFUSED: u32 = 10;
/// Connections that arrived and went past an agent that does not answer.
pub const ARRIVED_OPEN: u32 = 11;
/// Connections of which there is neither an event nor a sum: both maps are full.
pub const EVENTS_LOST: u32 = 12;
/// `connect()`s to what the mesh does not know that were denied.
pub const OUTSIDE_DENIED: u32 = 13;
/// `connect()`s to what the mesh does not know that were reported.
pub const OUTSIDE: u32 = 14;
/// The number of counters.
pub const COUNT: usize = 15;

/// The label value of each counter of `connect()`s, in `mesh_kernel_connects_total`.
pub const VERDICTS: [(u32, &str); 11] = [
    (PROXY, "proxy"),
    (PASS, "pass"),
    (NO_MEMORY, "no_memory"),
    (DIRECT, "direct"),
    (DENIED, "denied"),
    (NOBODY, "no_endpoint"),
    (FAILED_OPEN, "failed_open"),
    (FAILED_CLOSED, "failed_closed"),
    (PROBE, "probe"),
    (OUTSIDE_DENIED, "outside_denied"),
    (OUTSIDE, "outside"),
];

/// The label value of each counter of arrivals, in `mesh_kernel_arrivals_total`.
pub const ARRIVALS: [(u32, &str); 3] =
    [(CAPTURED, "captured"), (REFUSED, "refused"), (ARRIVED_OPEN, "failed_open")];
