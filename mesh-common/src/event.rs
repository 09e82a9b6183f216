//! Reports of the kernel about the connections that it decides alone.

abi! {
    /// A record of the ring buffer `EVENTS`.
    pub struct Event[128] {
        /// One of the kinds below.
        pub kind: u32,
        /// Why a connection was not made: an `errno`, or 0.
        pub errno: u32,
        /// The id of the workload that connects.
        pub source: u64,
        /// The id of the workload that is connected to.
        pub destination: u64,
        /// The id of the policy that decided, if one did.
        pub policy: u64,
        /// The client's address; not known before it is opened.
        pub client: [u32; 4],
        /// The address that the application connected to.
        pub origin: [u32; 4],
        /// The endpoint.
        pub server: [u32; 4],
        /// The ports, network byte order.
        pub client_port_be: u16,
        /// The port that the application connected to.
        pub origin_port_be: u16,
        /// The endpoint's port.
        pub server_port_be: u16,
        /// Explicit padding; always zero.
        pub pad: u16,
        /// The endpoint's backend in the split.
        pub backend: u32,
        /// Smoothed round-trip time, in microseconds (`srtt_us` of the kernel, divided by 8).
        pub srtt_us: u32,
        /// Payload bytes from the client to the server, accelerated ones included.
        pub sent: u64,
        /// Payload bytes from the server to the client.
        pub received: u64,
        /// From opening to the end, in nanoseconds.
        pub lasted_ns: u64,
        /// [`ACCELERATED`] and one of [`RESET_BY_CLIENT`] and [`RESET_BY_SERVER`], or nothing.
        pub flags: u32,
        /// Explicit padding; always zero.
        pub pad_end: u32,
    }
}

/// `Event::kind`: a direct connection is established.
pub const OPENED: u32 = 1;
/// `Event::kind`: a direct connection is over; `errno` is set if it never was established.
pub const CLOSED: u32 = 2;
/// `Event::kind`: `connect()` was denied by a policy.
pub const DENIED: u32 = 3;
/// `Event::kind`: `connect()` was refused, because nobody serves the share that was picked.
pub const NOBODY: u32 = 4;
/// `Event::kind`: the agent did not answer, and the workload's failure mode denied the connection.
pub const FAILED_CLOSED: u32 = 5;
/// `Event::kind`: the agent did not answer, and the connection went past it.
pub const FAILED_OPEN: u32 = 6;

/// `Event::kind`: `connect()` was denied, because the mesh does not know the destination.
pub const OUTSIDE_DENIED: u32 = 7;
/// `Event::kind`: `connect()` to a destination that the mesh does not know went on.
pub const OUTSIDE: u32 = 8;

/// `Event::kind`: `connect()` was denied, because its socket is bound to a network device from which the
/// agent is not reached.
pub const DEVICE: u32 = 9;

/// `Event::flags`: bytes took the shorter way.
pub const ACCELERATED: u32 = 1;
/// `Event::flags`: the client has ended an established connection with a reset.
pub const RESET_BY_CLIENT: u32 = 2;
/// `Event::flags`: the server has.
pub const RESET_BY_SERVER: u32 = 4;
