//! Records of the kernel about sockets, and how the other end of a connection finds them.

use crate::addr::Addr;

abi! {
    /// Value of `SOCKETS` (kept on the socket itself), `ORIGINS` and `FLOWS`.
    pub struct Record[104] {
        /// [`SourceKey::id`](crate::source::SourceKey) of the workload whose socket it is.
        pub source_id: u64,
        /// [`SourceKey::kind`](crate::source::SourceKey).
        pub source_kind: u32,
        /// One of the roles below.
        pub role: u32,
        /// An opening socket: where the application wanted to go. Agent and accepted: the real
        /// client.
        pub addr: [u32; 4],
        /// Its port, network byte order. 0: there is no address.
        pub port_be: u16,
        /// The endpoint that the kernel has picked: its port, network byte order. 0: none.
        pub picked_port_be: u16,
        /// Its backend's index in the split.
        pub backend: u32,
        /// The endpoint that the kernel has picked.
        pub picked: [u32; 4],
        /// The id of the workload that connects.
        pub source: u64,
        /// The id of the workload that is connected to, if it is one of this node.
        pub destination: u64,
        /// The id of the policy that decided, if one did.
        pub policy: u64,
        /// When it was opened, in ns of `CLOCK_MONOTONIC`; 0: not yet.
        pub opened: u64,
        /// [`flow::payload`](crate::flow::payload) needs it.
        pub received_at_fin_wait2: u64,
        /// [`CAN_ACCELERATE`], [`WAS_RESET`], both or nothing.
        pub flags: u32,
        /// Explicit padding; always zero.
        pub pad: u32,
    }
}

abi! {
    /// Key of `ORIGINS`: a connection to the agent, by the end that opened it.
    pub struct ConnKey[32] {
        /// The cookie of its network namespace: loopback addresses are the same in all.
        pub netns: u64,
        /// Its address.
        pub addr: [u32; 4],
        /// Its port, network byte order.
        pub port_be: u16,
        /// The port that it goes to, network byte order.
        pub to_port_be: u16,
        /// The last word of the address that it goes to: each destination has one of its own, or a port.
        pub to: u32,
    }
}

abi! {
    /// Key of `FLOWS`: a connection inside of this node that the kernel has authorized, until it is
    /// accepted.
    pub struct FlowKey[48] {
        /// The cookie of the network namespace if the connection does not leave it, as far as its
        /// addresses say; 0 otherwise: the accepting end does not know the opening one's.
        pub netns: u64,
        /// The end that opens it.
        pub client: [u32; 4],
        /// The end that accepts it.
        pub server: [u32; 4],
        /// The client's port, network byte order.
        pub client_port_be: u16,
        /// The server's port, network byte order.
        pub server_port_be: u16,
        /// Explicit padding; always zero, because keys compare by bytes.
        pub pad: u32,
    }
}

/// `Record::role`: an application's socket whose connection goes to the agent.
pub const REDIRECTED: u32 = 1;
/// `Record::role`: the agent's own socket inside a workload's namespace. Never captured.
pub const AGENT: u32 = 2;
/// `Record::role`: an application's accepted socket whose other end is the agent.
pub const ACCEPTED: u32 = 3;
/// `Record::role`: an application's socket that is connected to another workload of this node.
pub const DIRECT: u32 = 4;
/// `Record::role`: a socket of the node's own processes that probes a workload's health.
pub const PROBE: u32 = 5;
/// `Record::role`: a workload of the node's own namespace that connects to itself.
pub const ITSELF: u32 = 6;
/// `Record::role`: an application's socket that goes past an agent that does not answer.
pub const PASSED: u32 = 7;

/// `Record::flags`: both ends want acceleration.
pub const CAN_ACCELERATE: u32 = 1;
/// `Record::flags`: the other end has reset the connection.
pub const WAS_RESET: u32 = 2;

impl Record {
    /// A record of which only the role is known.
    #[inline]
    pub const fn new(role: u32) -> Self {
        Self {
            source_id: 0,
            source_kind: 0,
            role,
            addr: [0; 4],
            port_be: 0,
            picked_port_be: 0,
            backend: 0,
            picked: [0; 4],
            source: 0,
            destination: 0,
            policy: 0,
            opened: 0,
            received_at_fin_wait2: 0,
            flags: 0,
            pad: 0,
        }
    }
}

impl ConnKey {
    /// The key of a connection to the agent at `to`.
    #[inline]
    pub const fn new(netns: u64, (addr, port_be): (Addr, u16), to: (Addr, u16)) -> Self {
        let ([.., to], to_port_be) = to;
        Self { netns, addr, port_be, to_port_be, to }
    }
}

impl FlowKey {
    /// The key of a connection; `netns` is that of either end.
    #[inline]
    pub const fn new(netns: u64, client: (Addr, u16), server: (Addr, u16)) -> Self {
        let [c0, c1, c2, c3] = client.0;
        let [s0, s1, s2, s3] = server.0;
        let inside = (c0 == s0 && c1 == s1 && c2 == s2 && c3 == s3)
            || crate::addr::is_inside(client.0)
            || crate::addr::is_loopback(server.0);
        Self {
            netns: if inside { netns } else { 0 },
            client: client.0,
            server: server.0,
            client_port_be: client.1,
            server_port_be: server.1,
            pad: 0,
        }
    }
}
