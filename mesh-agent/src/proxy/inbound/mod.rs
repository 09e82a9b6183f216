//! From peers' agents to a workload of this node.

pub mod hbone;
pub mod last_hop;
