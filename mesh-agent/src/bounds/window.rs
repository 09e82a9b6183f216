//! How much clients may make the agent keep by connections of HTTP/2, of which tunnels of HBONE are
//! some, before anybody has read any of it.
//!
//! The window that HTTP/2 gives a client is promised when a connection begins, and cannot be taken
//! back. So it is promised from a budget: of each workload, and of each of its clients over all
//! connections. Each connection gets a part of what is left, so that the first ones get all that they
//! want, and one more always gets something.

use std::collections::HashMap;

use crate::bounds::Client;

/// A connection gets one of so many parts of what is left.
const PARTS: usize = 4;

/// The least that HTTP/2 knows for a connection (RFC 9113, section 6.9.2).
const LEAST_BYTES: u32 = 65_535;

/// How much may be promised.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// To one client of a workload, over all its connections.
    pub client_bytes: usize,
    /// To all clients of a workload.
    pub workload_bytes: usize,
}

/// The promises of one workload.
#[derive(Debug)]
pub(super) struct Promised {
    most: Windows,
    all: usize,
    /// Never of 0 bytes; no more than there are connections.
    clients: HashMap<Client, usize>,
}

impl Promised {
    /// Nothing yet.
    pub(super) fn new(most: Windows) -> Self {
        Self { most, all: 0, clients: HashMap::new() }
    }

    /// Promises `wanted` bytes to one more connection of `client`, or what there is.
    pub(super) fn take(&mut self, client: &Client, wanted: u32) -> u32 {
        let held = self.clients.get(client).copied().unwrap_or_default();
        let of_client = self.most.client_bytes.saturating_sub(held);
        let left = of_client.min(self.most.workload_bytes.saturating_sub(self.all));
        let part = u32::try_from(left / PARTS).unwrap_or(u32::MAX);
        let bytes = part.min(wanted).max(LEAST_BYTES);
        self.all += bytes as usize;
        *self.clients.entry(client.clone()).or_default() += bytes as usize;
        bytes
    }

    /// A connection has ended.
    pub(super) fn give_back(&mut self, client: &Client, bytes: u32) {
        self.all = self.all.saturating_sub(bytes as usize);
        if let Some(held) = self.clients.get_mut(client) {
            *held = held.saturating_sub(bytes as usize);
            if *held == 0 {
                self.clients.remove(client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::spiffe::SpiffeId;

    const MOST: Windows = Windows { client_bytes: 512 << 20, workload_bytes: 2 << 30 };
    const WANTED: u32 = 100 << 20;

    fn id(n: usize) -> Client {
        Client::Identity(SpiffeId::new("cluster.local", "demo", &format!("w{n}")).unwrap())
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
                prop_assert!(sum(Some(peer)) <= MOST.client_bytes + least);
                prop_assert_eq!(sum(None), promised.all);
            }
            for (peer, bytes) in tunnels {
                promised.give_back(&id(peer), bytes);
            }
            prop_assert_eq!((promised.all, promised.clients.len()), (0, 0));
        }
    }
}
