//! Counters that the kernel programs keep: indices into `COUNTERS`.

/// `connect()`s of enrolled workloads that were handed to the agent.
pub const PROXY: u32 = 0;
/// `connect()`s of enrolled workloads to destinations that are not the mesh's.
pub const PASS: u32 = 1;
/// Redirected `connect()`s whose record could not be kept; they were refused.
pub const NO_MEMORY: u32 = 2;
/// The number of counters.
pub const COUNT: usize = 3;

/// The label value of each counter in `mesh_kernel_connects_total`.
pub const VERDICTS: [&str; COUNT] = ["proxy", "pass", "no_memory"];
