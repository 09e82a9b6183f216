//! From a workload of this node to its destination.

mod resolve;
pub mod tcp;

pub use resolve::{Resolved, resolve};
