//! Sums of connections that have no event of their own.

use crate::event::Event;

abi! {
    /// Key of `SUMS`: connections that are alike. Fields as in [`Event`].
    pub struct SumKey[72] {
        /// The id of the workload that connects.
        pub source: u64,
        /// The id of the workload that is connected to.
        pub destination: u64,
        /// The id of the policy that decided, if one did.
        pub policy: u64,
        /// The address that the application connected to.
        pub origin: [u32; 4],
        /// The endpoint.
        pub server: [u32; 4],
        /// The port that the application connected to, network byte order.
        pub origin_port_be: u16,
        /// The endpoint's port, network byte order.
        pub server_port_be: u16,
        /// A kind of [`event`](crate::event).
        pub kind: u32,
        /// Cause of a connection that was not made: an `errno`, or 0.
        pub errno: u32,
        /// The interval in which it is summed: the value of `INTERVAL` at that time.
        pub interval: u32,
    }
}

abi! {
    /// Value of `SUMS`.
    pub struct Sum[32] {
        /// Number of connections.
        pub connections: u64,
        /// Payload bytes from clients.
        pub sent: u64,
        /// Payload bytes to clients.
        pub received: u64,
        /// Nanoseconds from opening to the end.
        pub lasted_ns: u64,
    }
}

impl SumKey {
    /// Makes it the key of everything else of its kind that the same workload does.
    #[inline(always)]
    pub const fn clear_destination(&mut self) {
        self.destination = 0;
        self.policy = 0;
        self.origin = [0; 4];
        self.server = [0; 4];
        self.origin_port_be = 0;
        self.server_port_be = 0;
    }

    /// The event that one connection of them would have been, as far as they are alike.
    pub const fn event(&self) -> Event {
        Event {
            kind: self.kind,
            errno: self.errno,
            source: self.source,
            destination: self.destination,
            policy: self.policy,
            client: [0; 4],
            origin: self.origin,
            server: self.server,
            client_port_be: 0,
            origin_port_be: self.origin_port_be,
            server_port_be: self.server_port_be,
            pad: 0,
            backend: 0,
            srtt_us: 0,
            sent: 0,
            received: 0,
            lasted_ns: 0,
            flags: 0,
            pad_end: 0,
        }
    }
}

impl Sum {
    /// One connection that carried nothing.
    pub const ONE: Self = Self { connections: 1, sent: 0, received: 0, lasted_ns: 0 };
}
