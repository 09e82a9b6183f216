//! From peers to a workload of this node: in agents' tunnels, or in plaintext.

pub mod application;
pub mod admission;
pub mod asked;
pub mod hbone;
pub mod last_hop;
pub mod plaintext;
pub mod requests;
pub mod sources;
