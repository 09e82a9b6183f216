//! What happens when an application connects. Pure, so that it is tested on the host.

use crate::addr::Addr;
use crate::destination::{Destination, DestinationKey};

/// What the connect hook does with the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave the destination as it is: not ours, and nothing more is done.
    Pass,
    /// Hand the connection to the workload's outbound listener.
    Proxy,
}

/// Decides for one `connect()` of an enrolled workload in the namespace `netns`.
///
/// `lookup` is `DESTINATIONS`. The exact port is asked first, then every port of the address.
#[inline]
pub fn decide(
    netns: u64,
    addr: Addr,
    port_be: u16,
    lookup: impl Fn(&DestinationKey) -> Option<Destination>,
) -> Verdict {
    let destination = match lookup(&DestinationKey::tcp(addr, port_be)) {
        None => lookup(&DestinationKey::any_tcp_port(addr)),
        found => found,
    };
    match destination {
        None => Verdict::Pass,
        // A workload that talks to itself needs no mesh, and the agent's own last hop is this.
        Some(destination) if destination.owner == netns => Verdict::Pass,
        Some(_) => Verdict::Proxy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::from_v4_be;

    const HERE: u64 = 7;

    #[track_caller]
    fn check(table: &[(DestinationKey, u64)], port: u16, expect: Verdict) {
        let lookup = |key: &DestinationKey| {
            table.iter().find(|(other, _)| other == key).map(|&(_, owner)| Destination {
                owner,
                flags: 0,
                pad: 0,
            })
        };
        assert_eq!(decide(HERE, from_v4_be(1), port.to_be(), lookup), expect);
    }

    #[test]
    fn unknown_destinations_pass() {
        check(&[], 80, Verdict::Pass);
        check(&[(DestinationKey::tcp(from_v4_be(1), 80_u16.to_be()), 0)], 81, Verdict::Pass);
        check(&[(DestinationKey::any_tcp_port(from_v4_be(2)), 0)], 80, Verdict::Pass);
    }

    #[test]
    fn services_match_by_port_and_workloads_by_address() {
        check(&[(DestinationKey::tcp(from_v4_be(1), 80_u16.to_be()), 0)], 80, Verdict::Proxy);
        check(&[(DestinationKey::any_tcp_port(from_v4_be(1)), 0)], 80, Verdict::Proxy);
    }

    #[test]
    fn a_workload_that_talks_to_itself_passes() {
        check(&[(DestinationKey::any_tcp_port(from_v4_be(1)), HERE)], 80, Verdict::Pass);
        check(&[(DestinationKey::any_tcp_port(from_v4_be(1)), HERE + 1)], 80, Verdict::Proxy);
    }
}
