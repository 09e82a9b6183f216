//! The kernel's knowledge of a workload of this node.
//!
//! # Ids
//!
//! The id of a workload or policy (`namespace/name`), or of a namespace, is the first 64 bits of the SHA-256
//! (FIPS 180-4) of the UTF-8 bytes of its name, as a little-endian number, never 0. Nobody finds another name
//! with the id of a given one; who holds the names makes sure that no two of them have one id.
//!
//! It is a function of the name and not a number that is given out, so that records and events that were
//! made before an agent was restarted mean the same after.

abi! {
    /// Value of `WORKLOADS`, by the workload's [id](crate::workload#ids): who can be connected to
    /// directly.
    pub struct Workload[24] {
        /// The cookie of the network namespace that its sockets are in.
        pub netns: u64,
        /// The class of its policies: the second part of [`VerdictKey`](crate::verdict::VerdictKey).
        /// 0: no policy applies to it, and every workload of this node may connect.
        pub class: u64,
        /// A set of [`VIA_AGENT`], [`BY_PORT`], [`ACCELERATE`].
        pub flags: u32,
        /// Explicit padding; always zero.
        pub pad: u32,
    }
}

abi! {
    /// Key of `INBOUND` and `PORTS`: a port of a namespace, or of a workload.
    pub struct PortKey[16] {
        /// The namespace's cookie (`INBOUND`) or the workload's id (`PORTS`).
        pub owner: u64,
        /// The port, network byte order; 0: every other port.
        pub port_be: u16,
        /// Explicit padding; always zero, because keys compare by bytes.
        pub pad: [u8; 6],
    }
}

abi! {
    /// Value of `INBOUND`: what happens to connections that arrive at a port.
    pub struct Inbound[16] {
        /// The workload's id.
        pub workload: u64,
        /// A set of [`CAPTURE`], [`GUARDED`] and of the failure modes.
        pub flags: u32,
        /// Explicit padding; always zero.
        pub pad: u32,
    }
}

/// `Workload::flags`, `Source::flags`, value of `PORTS`: connections between workloads of this
/// node go through the agent.
pub const VIA_AGENT: u32 = 1 << 8;
/// `Workload::flags`: `PORTS` has settings for single ports.
pub const BY_PORT: u32 = 1 << 9;
/// `Workload::flags`, `Source::flags`: its connections may be accelerated.
pub const ACCELERATE: u32 = 1 << 10;
/// `Source::flags`, `Inbound::flags`: while the agent does not answer, nothing that needs it goes.
pub const FAIL_CLOSED: u32 = 1 << 11;
/// `Source::flags`, `Inbound::flags`: while the agent does not answer, plaintext goes past it.
/// Neither this nor [`FAIL_CLOSED`]: what the kernel decides alone goes on, the rest is denied.
pub const FAIL_OPEN: u32 = 1 << 12;
/// `Inbound::flags`, `Slot::flags`, `Destination::flags`: plaintext never goes past an agent that
/// does not answer, because mutual TLS is demanded there or a policy needs the agent's judgment.
pub const GUARDED: u32 = 1 << 13;
/// `Inbound::flags`: what is not authorized in the kernel goes to the agent.
pub const CAPTURE: u32 = 1 << 14;

impl PortKey {
    /// The key of one port; 0: of every other.
    #[inline]
    pub const fn new(owner: u64, port_be: u16) -> Self {
        Self { owner, port_be, pad: [0; 6] }
    }
}
