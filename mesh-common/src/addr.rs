//! Addresses as 16 bytes, so that IPv4, IPv6 and v4-mapped sockets share one key.

/// An IPv6 address, or an IPv4 one mapped into `::ffff:0:0/96` (RFC 4291, section 2.5.5.2): four
/// words as the kernel holds them, in network byte order.
///
/// Words and not bytes, because the kernel's contexts are read by words, and the BPF back end makes
/// thirty instructions of what is then none.
pub type Addr = [u32; 4];

/// The third word of a mapped IPv4 address.
const MAPPED: u32 = 0xffff_u32.to_be();

/// `127.0.0.1`, network byte order.
const LOOPBACK_V4: u32 = 0x7f00_0001_u32.to_be();

/// The address `::ffff:a.b.c.d` of an IPv4 address as the kernel holds it: network byte order.
#[inline]
pub const fn from_v4_be(addr_be: u32) -> Addr {
    [0, 0, MAPPED, addr_be]
}

/// The IPv4 address in network byte order, if `addr` is a mapped one.
#[inline]
pub const fn to_v4_be(addr: Addr) -> Option<u32> {
    match addr {
        [0, 0, MAPPED, addr_be] => Some(addr_be),
        _ => None,
    }
}

/// The finalizer of `MurmurHash3`: each bit of the input changes half of those of the output.
#[inline(always)]
pub(crate) const fn mix(word: u32) -> u32 {
    let word = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
    let word = (word ^ (word >> 13)).wrapping_mul(0xc2b2_ae35);
    word ^ (word >> 16)
}

/// Whether the address is `127.0.0.1` (mapped) or `::1`: the source of a connection to a loopback address,
/// unless it was bound to another.
#[inline]
pub const fn is_source_loopback(addr: Addr) -> bool {
    const ONE: u32 = 1_u32.to_be();
    matches!(addr, [0, 0, MAPPED, LOOPBACK_V4] | [0, 0, 0, ONE])
}

/// Whether the address is one of `127.0.0.0/8` (mapped) or `::1`.
#[inline]
pub const fn is_loopback(addr: Addr) -> bool {
    const NET: u32 = 0x7f00_0000_u32.to_be();
    const MASK: u32 = 0xff00_0000_u32.to_be();
    const ONE: u32 = 1_u32.to_be();
    match addr {
        [0, 0, MAPPED, v4] => v4 & MASK == NET,
        other => matches!(other, [0, 0, 0, ONE]),
    }
}

/// The network of the agent's own IPv6 addresses within a namespace, `/64`: loopback has one only. Local by
/// chance (RFC 4193), and the same in each namespace; nothing is sent there from outside.
pub const INSIDE_V6: Addr = [0xfd5e_9c1a_u32.to_be(), 0x70b3_6d65_u32.to_be(), 0, 0];

/// Whether the address is loopback's, or one of [`INSIDE_V6`]: what comes from there has not left its
/// namespace. Where others may send *to*, [`is_loopback`] is asked: they reach the network if it is local.
#[inline]
pub const fn is_inside(addr: Addr) -> bool {
    let ([a, b, ..], [c, d, ..]) = (addr, INSIDE_V6);
    (a == c && b == d) || is_loopback(addr)
}

/// Whether the address is `0.0.0.0` (mapped) or `::`: a connection to it stays on this host.
#[inline]
pub const fn is_unspecified(addr: Addr) -> bool {
    matches!(addr, [0, 0, 0 | MAPPED, 0])
}

/// The address that a connection to `addr` goes to: the unspecified address of a family is its loopback
/// address there (Linux, `tcp_v4_connect` and `tcp_v6_connect`).
#[inline]
pub const fn connected(addr: Addr) -> Addr {
    match addr {
        [0, 0, MAPPED, 0] => [0, 0, MAPPED, LOOPBACK_V4],
        [0, 0, 0, 0] => [0, 0, 0, 1_u32.to_be()],
        other => other,
    }
}

/// Conversions for the agent, which has the standard library's types.
#[cfg(feature = "user")]
pub mod user {
    use core::net::{IpAddr, Ipv6Addr, SocketAddr};

    use super::Addr;

    /// The words of an address.
    pub fn from_ip(ip: IpAddr) -> Addr {
        let bits = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        #[expect(clippy::cast_possible_truncation, reason = "one word of four is meant")]
        let word = |shift: u32| ((bits >> shift) as u32).to_be();
        [word(96), word(64), word(32), word(0)]
    }

    /// The address of four words; a mapped one comes back as IPv4.
    pub fn to_ip(addr: Addr) -> IpAddr {
        let word = |index: usize, shift: u32| u128::from(u32::from_be(addr[index])) << shift;
        let bits = word(0, 96) | word(1, 64) | word(2, 32) | word(3, 0);
        Ipv6Addr::from_bits(bits).to_canonical()
    }

    /// The socket address of four words and a port in network byte order.
    pub fn to_socket(addr: Addr, port_be: u16) -> SocketAddr {
        SocketAddr::new(to_ip(addr), u16::from_be(port_be))
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn v4(text: &str) -> Addr {
        from_v4_be(text.parse::<Ipv4Addr>().unwrap().to_bits().to_be())
    }

    fn v6(text: &str) -> Addr {
        let octets = text.parse::<Ipv6Addr>().unwrap().octets();
        let (words, _) = octets.as_chunks::<4>();
        [0, 1, 2, 3].map(|index| u32::from_ne_bytes(words[index]))
    }

    #[test]
    fn recognizes_loopback() {
        for inside in [v4("127.0.0.1"), v4("127.8.9.10"), v6("::1")] {
            assert!(is_loopback(inside), "{inside:?}");
        }
        for other in [v4("10.0.0.127"), v4("128.0.0.1"), v6("::"), v6("::2"), v6("7f00::1")] {
            assert!(!is_loopback(other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn v4_survives(addr: u32) {
            prop_assert_eq!(to_v4_be(from_v4_be(addr)), Some(addr));
        }
    }

    #[cfg(feature = "user")]
    proptest! {
        #[test]
        fn addresses_survive(ip: core::net::IpAddr) {
            prop_assert_eq!(user::to_ip(user::from_ip(ip)), ip.to_canonical());
        }
    }
}
