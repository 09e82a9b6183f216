//! Permissions to connect within one node, compiled from the policies.

abi! {
    /// Key of `VERDICTS`.
    pub struct VerdictKey[24] {
        /// The id of the workload that connects.
        pub source: u64,
        /// The [class](crate::workload::Workload) of the policies of the one it connects to. It is
        /// a function of what they say, so that a changed policy has a new class, whose verdicts
        /// are all written before any workload is of it.
        pub class: u64,
        /// The port, network byte order; 0: every other port.
        pub port_be: u16,
        /// Explicit padding; always zero, because keys compare by bytes.
        pub pad: [u8; 6],
    }
}

abi! {
    /// Value of `VERDICTS`.
    pub struct Verdict[16] {
        /// The id of the policy that says so; 0: none does.
        pub policy: u64,
        /// [`ALLOW`] or [`DENY`]; anything else: the agent has to say.
        pub says: u32,
        /// Explicit padding; always zero.
        pub pad: u32,
    }
}

/// `Verdict::says`: the two may be connected.
pub const ALLOW: u32 = 1;
/// `Verdict::says`: they may not.
pub const DENY: u32 = 2;
/// `Verdict::says`: the kernel cannot tell.
pub const ASK_AGENT: u32 = 3;

impl VerdictKey {
    /// The key of one port; 0: of every other.
    #[inline]
    pub const fn new(source: u64, class: u64, port_be: u16) -> Self {
        Self { source, class, port_be, pad: [0; 6] }
    }
}

impl Verdict {
    /// The verdict where no entry says anything: never "allow".
    pub const UNKNOWN: Self = Self { policy: 0, says: ASK_AGENT, pad: 0 };
}
