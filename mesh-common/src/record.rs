//! What the kernel remembers of a socket, and how the agent finds it.

use crate::addr::Addr;

abi! {
    /// Value of `SOCKETS` (kept on the socket itself), `ORIGINS` and `CLIENTS`.
    pub struct Record[40] {
        /// [`SourceKey::id`](crate::source::SourceKey) of the workload whose socket it is.
        pub source_id: u64,
        /// [`SourceKey::kind`](crate::source::SourceKey).
        pub source_kind: u32,
        /// [`REDIRECTED`], [`AGENT`] or [`ACCEPTED`].
        pub role: u32,
        /// Redirected: where the application wanted to go. Agent and accepted: the real client.
        pub addr: [u32; 4],
        /// Its port, network byte order. 0: there is no address.
        pub port_be: u16,
        /// Explicit padding; always zero.
        pub pad: [u8; 6],
    }
}

abi! {
    /// Key of `ORIGINS` and `CLIENTS`: the end of a connection that opened it.
    pub struct ConnKey[32] {
        /// The cookie of its network namespace: loopback addresses are the same in all.
        pub netns: u64,
        /// Its address.
        pub addr: [u32; 4],
        /// Its port, network byte order.
        pub port_be: u16,
        /// Explicit padding; always zero, because keys compare by bytes.
        pub pad: [u8; 6],
    }
}

/// `Record::role`: an application's socket whose connection goes to the agent.
pub const REDIRECTED: u32 = 1;
/// `Record::role`: the agent's own socket inside a workload's namespace. Never captured.
pub const AGENT: u32 = 2;
/// `Record::role`: an application's accepted socket whose other end is the agent.
pub const ACCEPTED: u32 = 3;

impl ConnKey {
    /// The key of an end.
    #[inline]
    pub const fn new(netns: u64, addr: Addr, port_be: u16) -> Self {
        Self { netns, addr, port_be, pad: [0; 6] }
    }
}
