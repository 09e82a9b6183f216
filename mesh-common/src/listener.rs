//! Where the connections of applications reach the agent. Pure, so that it is tested on the host.
//!
//! Each destination has a loopback address, or a port, of its own, and so the local ports that it would have
//! without the mesh.

use crate::OUTBOUND_PORT;
use crate::addr::{self, Addr};

/// The last port of `::1` that destinations are spread over. The kernel gives none of these to a socket
/// that asks for any (`ip_local_port_range` begins above privileged ports): a socket whose own port it
/// was would be connected with itself.
const LAST_PORT_V6: u16 = 1023;

/// `::1`.
pub const V6: Addr = [0, 0, 0, 1_u32.to_be()];

/// The loopback address for connections to a destination by IPv4: one of `127.64.0.0/10`, with
/// [`OUTBOUND_PORT`].
#[inline(always)]
pub const fn v4(destination: (Addr, u16)) -> Addr {
    const NET: u32 = 0x7f40_0000;
    const HOSTS: u32 = 0x003f_ffff;
    addr::from_v4_be((NET | mixed(destination) & HOSTS).to_be())
}

/// The port of [`V6`] for connections to a destination by IPv6, host byte order: there is one loopback
/// address only.
#[inline(always)]
pub const fn v6_port(destination: (Addr, u16)) -> u16 {
    let below = (mixed(destination) as u64 * LAST_PORT_V6 as u64) >> 32;
    #[expect(clippy::cast_possible_truncation, reason = "the upper half is below the factor")]
    let below = below as u16;
    1 + below
}

#[inline(always)]
const fn mixed((destination, port_be): (Addr, u16)) -> u32 {
    let [a, b, c, d] = destination;
    addr::mix(addr::mix(addr::mix(addr::mix(port_be as u32 ^ a) ^ b) ^ c) ^ d)
}

/// Whether nobody but the agent is reached at an address and port.
#[inline(always)]
pub const fn is_only((to, port_be): (Addr, u16)) -> bool {
    addr::is_loopback(to) && port_be == OUTBOUND_PORT.to_be()
}

/// Whether a connection of `client` that goes to an address and port may be one that was sent to the agent:
/// there is a record of it in `ORIGINS`, then. A socket that is bound to a device cannot go to loopback, and
/// goes to its own address.
#[inline(always)]
pub fn may_be((client, to, port_be): (Addr, Addr, u16)) -> bool {
    let port = u16::from_be(port_be);
    if addr::is_loopback(to) {
        return port == OUTBOUND_PORT || (addr::to_v4_be(to).is_none() && port <= LAST_PORT_V6);
    }
    port == OUTBOUND_PORT && client == to
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const fn service(last: u8) -> Addr {
        [0xfd96_0000_u32.to_be(), 0, 0, (last as u32).to_be()]
    }

    #[test]
    fn destinations_have_loopback_addresses_of_their_own() {
        let mut seen = BTreeSet::new();
        for last in 0..=255_u8 {
            for port in [80_u16, 443, 8080] {
                let to =
                    v4((addr::from_v4_be((0x0a60_0000 | u32::from(last)).to_be()), port.to_be()));
                assert!(is_only((to, OUTBOUND_PORT.to_be())));
                let [_, second, ..] = u32::from_be(to[3]).to_be_bytes();
                assert!((64..128).contains(&second), "neither 127.0.0.1 nor a broadcast address");
                seen.insert(to);
            }
        }
        assert!(seen.len() > 760, "{}", seen.len());
    }

    #[test]
    fn destinations_have_ports_of_their_own() {
        let all = (0..=255_u8).map(|last| v6_port((service(last), 80_u16.to_be())));
        let seen: BTreeSet<_> = all.collect();
        // Of 256 that are thrown into 1,023 boxes, 226 are expected to be in different ones.
        assert!(seen.len() > 210, "{}", seen.len());
        assert!(seen.iter().all(|port| (1..1024).contains(port)), "{seen:?}");
        assert!(seen.iter().all(|port| may_be((V6, V6, port.to_be())) && *port != 0));
    }

    #[test]
    fn the_agent_is_reached_nowhere_else() {
        let (own, other) = (service(1), service(2));
        let loopback = addr::from_v4_be(0x7f00_0001_u32.to_be());
        for (client, to, port, expect) in [
            (V6, V6, OUTBOUND_PORT, true),
            (own, V6, 443, true),
            (V6, V6, 1024, false),
            (loopback, loopback, OUTBOUND_PORT, true),
            (loopback, loopback, 443, false),
            (own, own, OUTBOUND_PORT, true),
            (own, own, 443, false),
            (own, other, OUTBOUND_PORT, false),
        ] {
            assert_eq!(may_be((client, to, port.to_be())), expect, "{client:?} {to:?} {port}");
        }
    }
}
