//! Everything the standard library cannot do safely: raw system calls, and namespaces.
//!
//! The only module with `unsafe`. Its code is small, and safe for every argument.
#![expect(unsafe_code, reason = "this is the one module that may; see ARCHITECTURE.md")]

pub mod bpf;
pub mod bpffs;
pub mod btf;
pub mod caps;
pub mod cgroup;
pub mod child;
pub mod confine;
pub mod descriptors;
pub mod diag;
pub mod heap;
pub mod memory;
pub mod netlink;
pub mod netns;
pub mod readable;
pub mod route;
pub mod socket;
pub mod stacks;
pub mod stderr;
pub mod strays;
