//! Which addresses are the mesh's.

use crate::addr::Addr;

abi! {
    /// Key of `DESTINATIONS` and `PROBES`: an address that a socket may connect to.
    pub struct DestinationKey[20] {
        /// A service's virtual address, or a workload's own.
        pub addr: [u32; 4],
        /// Port, network byte order; 0: every port (a workload's own address).
        pub port_be: u16,
        /// `IPPROTO_TCP`.
        pub protocol: u8,
        /// Explicit padding; always zero, because keys compare by bytes.
        pub pad: u8,
    }
}

abi! {
    /// Value of `DESTINATIONS`.
    pub struct Destination[32] {
        /// The namespace cookie of the pod that has this address, if it is on this node; 0
        /// otherwise. A connection from that same namespace is the pod talking to itself.
        pub owner: u64,
        /// The id of the workload that has this address, if it is on this node; 0 otherwise, and
        /// for services.
        pub workload: u64,
        /// The set in `BACKENDS` to pick from; 0: there is none, and the address is itself.
        pub set: u32,
        /// A set of [`HAS_CONSUMERS`], [`ASK`], [`NOBODY`] and `GUARDED`.
        pub flags: u32,
        /// Explicit padding; always zero.
        pub pad: u64,
    }
}

abi! {
    /// Key of `CONSUMERS`: clients of some namespaces have routes of their own.
    pub struct ConsumerKey[16] {
        /// The [id](crate::workload#ids) of the client's namespace.
        pub namespace: u64,
        /// [`Destination::set`].
        pub set: u32,
        /// Explicit padding; always zero, because keys compare by bytes.
        pub pad: u32,
    }
}

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;

/// `Destination::flags`: `CONSUMERS` may have another set for the client's namespace.
pub const HAS_CONSUMERS: u32 = 1;
/// `Destination::flags`: only the agent can tell where connections go.
pub const ASK: u32 = 4;
/// `Destination::flags`: nobody serves it: a port that a service does not have.
pub const NOBODY: u32 = 8;

impl DestinationKey {
    /// The key of one TCP port of an address.
    #[inline]
    pub const fn tcp(addr: Addr, port_be: u16) -> Self {
        Self { addr, port_be, protocol: TCP, pad: 0 }
    }

    /// The key of every TCP port of an address.
    #[inline]
    pub const fn any_tcp_port(addr: Addr) -> Self {
        Self::tcp(addr, 0)
    }
}
