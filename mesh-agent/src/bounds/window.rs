//! How much a peer may send on a tunnel of HBONE before an application has read any of it.
//!
//! What HTTP/2 allows a peer is promised when a tunnel begins, and cannot be taken back. So it is
//! promised from a budget: of each workload, and of each of its peers over all tunnels. Each tunnel
//! gets a part of what is left, so that the first ones get all that they want, and one more always
//! gets something.

use std::collections::HashMap;

use crate::model::spiffe::SpiffeId;

/// A tunnel gets one of so many parts of what is left.
const PARTS: usize = 4;

/// The least that HTTP/2 knows for a connection (RFC 9113, section 6.9.2).
const LEAST_BYTES: u32 = 65_535;

/// How much may be promised.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// To one peer of a workload, over all its tunnels.
    pub peer_bytes: usize,
    /// To all peers of a workload.
    pub workload_bytes: usize,
}

/// What one workload's peers were promised.
#[derive(Debug)]
pub(super) struct Promised {
    most: Windows,
    all: usize,
    /// Never of 0 bytes; no more than there are tunnels.
    peers: HashMap<SpiffeId, usize>,
}

impl Promised {
    /// Nothing yet.
    pub(super) fn new(most: Windows) -> Self {
        Self { most, all: 0, peers: HashMap::new() }
    }

    /// Promises `wanted` bytes to one more tunnel of `peer`, or what there is.
    pub(super) fn take(&mut self, peer: &SpiffeId, wanted: u32) -> u32 {
        let held = self.peers.get(peer).copied().unwrap_or_default();
        let of_peer = self.most.peer_bytes.saturating_sub(held);
        let left = of_peer.min(self.most.workload_bytes.saturating_sub(self.all));
        let part = u32::try_from(left / PARTS).unwrap_or(u32::MAX);
        let bytes = part.min(wanted).max(LEAST_BYTES);
        self.all += bytes as usize;
        *self.peers.entry(peer.clone()).or_default() += bytes as usize;
        bytes
    }

    /// A tunnel has ended.
    pub(super) fn give_back(&mut self, peer: &SpiffeId, bytes: u32) {
        self.all = self.all.saturating_sub(bytes as usize);
        if let Some(held) = self.peers.get_mut(peer) {
            *held = held.saturating_sub(bytes as usize);
            if *held == 0 {
                self.peers.remove(peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: Windows = Windows { peer_bytes: 512 << 20, workload_bytes: 2 << 30 };
    const WANTED: u32 = 100 << 20;

    fn id(n: usize) -> SpiffeId {
        SpiffeId::new("cluster.local", "demo", &format!("w{n}")).unwrap()
    }

    #[test]
    fn the_first_tunnels_get_what_they_want_and_the_last_something() {
        let mut promised = Promised::new(MOST);
        let mib: Vec<_> = (0..8).map(|_| promised.take(&id(0), WANTED) >> 20).collect();
        assert_eq!(mib, [100, 100, 78, 58, 43, 32, 24, 18]);
        let rest: Vec<_> = (8..1000).map(|_| promised.take(&id(0), WANTED)).collect();
        assert_eq!(rest.last(), Some(&LEAST_BYTES));
        assert_eq!(promised.take(&id(1), WANTED), WANTED, "another peer");
    }

    proptest! {
        #[test]
        fn no_more_is_promised_than_there_is(
            steps in prop::collection::vec((0..6_usize, prop::bool::weighted(0.3)), 1..600),
        ) {
            let mut promised = Promised::new(MOST);
            let mut tunnels = Vec::new();
            for (peer, ends) in steps {
                if ends && !tunnels.is_empty() {
                    let (peer, bytes) = tunnels.swap_remove(tunnels.len() / 2);
                    promised.give_back(&id(peer), bytes);
                    continue;
                }
                tunnels.push((peer, promised.take(&id(peer), WANTED)));
                let least = tunnels.len() * LEAST_BYTES as usize;
                let sum = |which: Option<usize>| {
                    let of = tunnels.iter().filter(|(peer, _)| which.is_none_or(|it| it == *peer));
                    of.map(|(_, bytes)| *bytes as usize).sum::<usize>()
                };
                prop_assert!(sum(None) <= MOST.workload_bytes + least);
                prop_assert!(sum(Some(peer)) <= MOST.peer_bytes + least);
                prop_assert_eq!(sum(None), promised.all);
            }
            for (peer, bytes) in tunnels {
                promised.give_back(&id(peer), bytes);
            }
            prop_assert_eq!((promised.all, promised.peers.len()), (0, 0));
        }
    }
}
