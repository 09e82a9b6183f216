//! Decisions about a connection that arrives. Pure, so that it is tested on the host.

use crate::addr::{Addr, mix};
use crate::source::{ENROLLED, Source};
use crate::workload::{CAPTURE, GUARDED, Inbound};

abi! {
    /// Value of `OWN`: what a copy of the program that sees arrivals is told of its namespace.
    pub struct Own[24] {
        /// The namespace's cookie.
        pub netns: u64,
        /// 1 if it is the node's own, which several workloads share: there loopback is no privilege.
        pub is_shared: u32,
        /// How many data threads the agent has, each with listeners of its own.
        pub threads: u32,
        /// A secret of the agent that spreads connections over them.
        pub seed: u32,
        /// [`ODD`](crate::maps::ODD), or 0: whose listeners are asked first.
        pub odd: u16,
        /// Explicit padding; always zero.
        pub pad: u16,
    }
}

/// The settings of a port of a namespace of which `INBOUND` has no entry: nothing, unless the namespace
/// is a workload's. Then it is not known what the policies say, and the agent has to.
#[inline(always)]
pub const fn without_entry(source: &Source) -> Option<Inbound> {
    if source.flags & ENROLLED == 0 {
        return None;
    }
    Some(Inbound { workload: source.workload, flags: CAPTURE | GUARDED, pad: 0 })
}

/// Picks the data thread that a connection is given to, by the end that opens it. `seed` is a secret:
/// else a client could choose its ports so that one thread has them all. A SYN cookie comes back to the
/// thread that has sent it.
#[inline(always)]
pub const fn thread_of(client: Addr, port_be: u16, seed: u32, threads: u32) -> u32 {
    let [a, b, c, d] = client;
    let hash = mix(mix(mix(mix(mix(seed ^ port_be as u32) ^ a) ^ b) ^ c) ^ d);
    // The upper half of the product is below `threads`.
    ((hash as u64 * threads as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::from_v4_be;
    use crate::source::{BY_CGROUP, NODE, WAITING};
    use crate::workload::FAIL_OPEN;

    #[test]
    fn a_workload_without_an_entry_is_not_open() {
        let check = |flags: u32, expect: Option<u64>| {
            let found = without_entry(&Source { workload: 7, namespace: 1, ..Source::new(flags) });
            assert_eq!(found.map(|inbound| inbound.workload), expect, "{flags:#x}");
            if let Some(inbound) = found {
                assert_eq!(inbound.flags, CAPTURE | GUARDED);
            }
        };
        check(ENROLLED, Some(7));
        check(ENROLLED | WAITING | FAIL_OPEN, Some(7));
        // The host's own: what is no unit's is not the mesh's.
        check(BY_CGROUP | NODE, None);
        check(NODE, None);
    }

    #[test]
    fn every_thread_has_its_share_of_one_clients_connections() {
        let client = from_v4_be(0x7f00_0001_u32.to_be());
        for threads in [1, 2, 3, 8, 64_u32] {
            for seed in [0, 1, 0x1234_5678, u32::MAX] {
                // A client's ports are all even, or all odd, for long.
                let mut counts = [0_u32; 64];
                let ports = (32_768..60_999_u16).step_by(2);
                let n_ports = u32::try_from(ports.len()).unwrap();
                for port in ports {
                    counts[thread_of(client, port.to_be(), seed, threads) as usize] += 1;
                }
                let share = n_ports / threads;
                for count in &counts[..threads as usize] {
                    assert!(share.abs_diff(*count) <= share / 3, "{threads} {seed:#x}: {counts:?}");
                }
            }
        }
    }

    #[test]
    fn nobody_knows_the_thread_without_the_seed() {
        let client = from_v4_be(0x0a00_0001_u32.to_be());
        let of = |seed: u32| thread_of(client, 1, seed, 64);
        let distinct: std::collections::BTreeSet<_> = (0..1_000).map(of).collect();
        assert_eq!(distinct.len(), 64);
    }
}
