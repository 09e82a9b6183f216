//! The contract between the kernel programs (`mesh-ebpf`) and the agent (`mesh-agent`).
//!
//! Every type that crosses the boundary is declared here with `abi!`, its size written down, so
//! that a change of layout does not build until the number is changed, and [`ABI_VERSION`] with it.
//! Decisions are pure functions with tests that run on the host; the kernel side is glue.
#![cfg_attr(not(any(test, feature = "user")), no_std)]
#![expect(clippy::inline_always, reason = "a BPF call takes five registers and no large values")]

#[macro_use]
mod abi;
pub mod accel;
pub mod addr;
pub mod arrival;
pub mod backend;
pub mod budget;
pub mod connect;
pub mod coverage;
pub mod event;
pub mod external;
pub mod flow;
pub mod listener;
pub mod maps;
pub mod record;
pub mod source;
pub mod destination;
pub mod stats;
pub mod summary;
pub mod verdict;
pub mod workload;

/// The version of everything that is pinned: it is part of the pin path, so that an agent never
/// reads maps of another layout. Bump it with every change to a type declared with `abi!`, to a
/// map's kind, or to the meaning of a flag.
pub const ABI_VERSION: u32 = 11;

/// The port on the loopback of each workload's namespace that `connect()` sends applications to when
/// they need the agent (Istio's convention). Nobody but the agent gets a connection to it, whoever
/// listens there.
pub const OUTBOUND_PORT: u16 = 15001;

/// The port of the plaintext listeners of each workload's namespace; connections reach them through
/// the kernel only (Istio's convention for plaintext).
pub const PLAINTEXT_PORT: u16 = 15006;

/// After how much silence the agent counts as hung, in nanoseconds. It beats every 200 ms: a machine that is
/// busy, or was paused for a moment, keeps it from several beats. An agent that has ended is noticed at once,
/// by its listeners.
pub const HEARTBEAT_LIMIT_NS: u64 = 2_000_000_000;

/// The port of the HBONE listener of each workload (Istio's convention).
pub const HBONE_PORT: u16 = 15008;
