//! Which addresses are the mesh's.

use crate::addr::Addr;

abi! {
    /// Key of `DESTINATIONS`: an address that an application may connect to.
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
    pub struct Destination[16] {
        /// The namespace cookie of the workload that has this address, if it is on this node; 0
        /// otherwise. A connection from that same namespace is the workload talking to itself.
        pub owner: u64,
        /// None are defined; always zero.
        pub flags: u32,
        /// Explicit padding; always zero.
        pub pad: u32,
    }
}

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;

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
