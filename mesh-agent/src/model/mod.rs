//! The mesh as plain data: no clock, no I/O, nothing that serializes.
//!
//! One word for one thing, everywhere in the project:
//!
//! | Word | Means |
//! |---|---|
//! | client, upstream | the side that connected to us, the side we connect to |
//! | source, destination | the workloads at the two ends |
//! | workload | something with an identity; usually a pod |
//! | service | a name with endpoints |
//! | endpoint | one address of one workload behind a service |
//! | backend | what a route points to, before balancing |
//! | trust domain, alias | where identities are from; another that stands for the mesh's own |
//! | tunnel, stream | one HBONE connection, one `CONNECT` in it |
//! | snapshot, revision | the whole view, its number |
//! | settings | the process's own; the mesh's is its configuration |
//! | verdict | allow or deny, and why |
//! | failure | a classified error at the seam |

pub mod condition;
pub mod fnv;
pub mod id;
pub mod likely;
pub mod policy;
pub mod external;
pub mod http;
pub mod route;
pub mod service;
pub mod share;
pub mod snapshot;
pub mod spiffe;
pub mod trace;
pub mod trust_domain;
pub mod workload;
