//! From a workload of this node to its destination.

mod resolve;
pub mod same_node;
pub mod tcp;

pub use resolve::{Picked, Resolved, resolve};
