//! Addresses as 16 bytes, so that IPv4, IPv6 and v4-mapped sockets share one key.

/// An IPv6 address, or an IPv4 one mapped into `::ffff:0:0/96` (RFC 4291, section 2.5.5.2); network
/// byte order.
pub type Addr = [u8; 16];

/// The address `::ffff:a.b.c.d` of an IPv4 address as the kernel holds it: network byte order.
#[inline]
pub const fn from_v4_be(addr_be: u32) -> Addr {
    let [a, b, c, d] = addr_be.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The address of four words as the kernel holds them: network byte order.
#[inline]
pub const fn from_v6_be(words: [u32; 4]) -> Addr {
    let [a, b, c, d] = words;
    let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}

/// The four words of an address, as the kernel holds them: network byte order.
#[inline]
pub const fn to_v6_be(addr: Addr) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// The IPv4 address in network byte order, if `addr` is a mapped one.
#[inline]
pub const fn to_v4_be(addr: Addr) -> Option<u32> {
    let [a, b, c, d] = to_v6_be(addr);
    if a == 0 && b == 0 && c == 0xffff_u32.to_be() { Some(d) } else { None }
}

/// Whether the address is `127.0.0.1` (mapped) or `::1`: where the agent's listeners are.
#[inline]
pub const fn is_listener_loopback(addr: Addr) -> bool {
    let [a, b, c, d] = to_v6_be(addr);
    a == 0
        && b == 0
        && ((c == 0xffff_u32.to_be() && d == 0x7f00_0001_u32.to_be())
            || (c == 0 && d == 1_u32.to_be()))
}

/// Conversions for the agent, which has the standard library's types.
#[cfg(feature = "user")]
pub mod user {
    use core::net::{IpAddr, Ipv6Addr, SocketAddr};

    use super::Addr;

    /// The 16 bytes of an address.
    pub const fn from_ip(ip: IpAddr) -> Addr {
        match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        }
    }

    /// The address of 16 bytes; a mapped one comes back as IPv4.
    pub const fn to_ip(addr: Addr) -> IpAddr {
        Ipv6Addr::from_bits(u128::from_be_bytes(addr)).to_canonical()
    }

    /// The socket address of 16 bytes and a port in network byte order.
    pub const fn to_socket(addr: Addr, port_be: u16) -> SocketAddr {
        SocketAddr::new(to_ip(addr), u16::from_be(port_be))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn recognizes_the_listeners_addresses() {
        let v4 = |text: &str| {
            from_v4_be(u32::from(text.parse::<core::net::Ipv4Addr>().unwrap()).to_be())
        };
        let v6 = |text: &str| text.parse::<core::net::Ipv6Addr>().unwrap().octets();
        assert!(is_listener_loopback(v4("127.0.0.1")));
        assert!(is_listener_loopback(v6("::1")));
        for other in [v4("127.0.0.2"), v4("10.0.0.1"), v6("::"), v6("fd00::1")] {
            assert!(!is_listener_loopback(other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn words_survive(addr: [u8; 16]) {
            prop_assert_eq!(from_v6_be(to_v6_be(addr)), addr);
        }

        #[test]
        fn v4_survives(addr: u32) {
            prop_assert_eq!(to_v4_be(from_v4_be(addr)), Some(addr));
        }
    }
}
