//! Addresses outside of the mesh that some namespaces may connect to.

use crate::addr::Addr;

abi! {
    /// The data of a key of `EXTERNALS`, a trie: what is fixed first, then an address of which a
    /// prefix counts.
    pub struct ExternalKey[28] {
        /// The [id](crate::workload#ids) of the namespace that may, in two words; 0: every one.
        pub namespace: [u32; 2],
        /// The port, network byte order; 0: every one.
        pub port_be: u32,
        /// The address, or the network.
        pub addr: Addr,
    }
}

/// The bits of a key that always count: all before the address.
const FIXED_BITS: u32 = 96;

/// The bits of a whole key.
pub const ALL_BITS: u32 = FIXED_BITS + 128;

impl ExternalKey {
    /// The key of an address, or of a network.
    #[inline(always)]
    pub const fn new(namespace: u64, port_be: u16, addr: Addr) -> Self {
        let low = (namespace & 0xffff_ffff) as u32;
        Self { namespace: [low, (namespace >> 32) as u32], port_be: port_be as u32, addr }
    }
}

/// How many bits of a key count for a network of so many bits, of which an IPv4 one is mapped.
pub const fn prefix_bits(bits: u8) -> u32 {
    FIXED_BITS + bits as u32
}
