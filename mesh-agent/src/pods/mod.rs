//! The enrolled workloads of this node: pods by their network namespace, units by their cgroup.
//!
//! One task owns the set. A workload is captured only when its listeners are there and its
//! certificate is made, and its listeners go only after it is not captured any more.

mod accepting;
pub mod changes;
pub mod claims;
mod device;
mod failing;
pub mod finder;
mod guard;
pub mod listeners;
pub mod place;
pub mod run;
mod set;
mod taking;
pub mod unprotected;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Settings of the set.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's name.
    pub node: String,
    /// The cgroup v2 root, below which workloads' cgroups are named.
    pub cgroup_root: std::path::PathBuf,
    /// The delays between attempts to start a workload: the first, and the longest.
    pub retry: (Duration, Duration),
    /// The number of agents of this node that have handed over to the next, modulo 256.
    pub generation: u8,
    /// The ports of the node at which this agent is asked (`--admin`, `--metrics`).
    pub own_ports: Arc<BTreeSet<u16>>,
}
