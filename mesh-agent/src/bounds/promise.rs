//! The memory that connections of HTTP/2, of which tunnels of HBONE are some, may make the agent keep
//! before anybody has read any of it.
//!
//! The window that HTTP/2 gives a client is promised when a connection begins, and cannot be taken
//! back. So it is promised from what the agent may have of memory, shared as its sockets are.

use std::sync::Arc;

use crate::bounds::ledger::Holder;
use crate::bounds::{Account, Client, Limit, Pool, Use};

/// The unit in which memory is counted.
pub(super) const UNIT_BYTES: usize = 1 << 14;

/// One of so many is kept for those who hold nothing: they have one connection each.
pub(super) const RESERVED: usize = 4;

/// The memory that a connection asks for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Without it, it is no use.
    pub least: u32,
    /// With it, it is as fast as it can be.
    pub most: u32,
}

/// Memory of a connection, promised until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the bytes back"]
pub struct Promise {
    account: Arc<Account>,
    used: Use,
    client: Option<Client>,
    pool: Pool,
    units: usize,
}

impl Account {
    /// Promises memory to one more connection: between the least that it wants and the most.
    ///
    /// # Errors
    ///
    /// There is too little: the client is given back with the limit.
    pub fn promise(
        self: &Arc<Self>,
        used: Use,
        client: Option<Client>,
        wanted: Wanted,
    ) -> Result<Promise, (Option<Client>, Limit)> {
        let units = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(UNIT_BYTES);
        let holder = Holder { workload: self.memory, used, client: client.as_ref() };
        let offered = self.node.memory().offer(holder, units(wanted.least), units(wanted.most));
        match offered {
            Ok((pool, units)) => {
                Ok(Promise { account: Arc::clone(self), used, client, pool, units })
            }
            Err(_whose) => {
                self.node.lock().refused(used, Limit::Memory);
                Err((client, Limit::Memory))
            }
        }
    }
}

impl Promise {
    /// How many bytes these are.
    pub fn bytes(&self) -> u32 {
        u32::try_from(self.units * UNIT_BYTES).unwrap_or(u32::MAX)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let Self { account, used, client, pool, units } = self;
        let holder = Holder { workload: account.memory, used: *used, client: client.as_ref() };
        account.node.memory().release(holder, *pool, *units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::{Node, Options};
    use crate::model::spiffe::SpiffeId;

    const MOST: Options = Options { sockets: 0, tunnels: 0, few: 0, promised: 1 << 30, bodies: 0 };

    fn peer(n: usize) -> Client {
        Client::Identity(SpiffeId::new("cluster.local", "demo", &format!("w{n}")).unwrap())
    }

    const WANTED: Wanted = Wanted { least: 1 << 20, most: 100 << 20 };

    /// All that a client is promised of a workload, in MiB, until it is refused.
    fn all(account: &Arc<Account>, client: &Client) -> (Vec<u32>, Vec<Promise>) {
        let one = || account.promise(Use::Tunnel, Some(client.clone()), WANTED).ok();
        let promises: Vec<_> = std::iter::from_fn(one).collect();
        (promises.iter().map(|promise| promise.bytes() >> 20).collect(), promises)
    }

    #[test]
    fn the_first_get_what_they_want_and_many_later_ones_the_least() {
        let account = Node::new(MOST).account();
        let (mib, promises) = all(&account, &peer(1));
        assert_eq!(mib[..4], [40, 30, 23, 17], "{mib:?}");
        let least = mib.iter().filter(|mib| **mib == 1).count();
        assert!(least > 150, "half of what it may have: {mib:?}");
        let (mib, others) = all(&account, &peer(2));
        assert!(mib.len() > 60, "another peer: {mib:?}");
        drop((promises, others));
        let again = account.promise(Use::Tunnel, Some(peer(1)), WANTED).unwrap();
        assert_eq!(again.bytes() >> 20, 40);
    }

    #[test]
    fn one_who_has_nothing_gets_something_after_greedy_ones() {
        // Of a container with half a GiB.
        let account = Node::new(Options { promised: 128 << 20, ..MOST }).account();
        let kept: Vec<_> = (0..20).map(|n| all(&account, &peer(n))).collect();
        let counts: Vec<_> = kept.iter().map(|(mib, _)| mib.len()).collect();
        assert!(counts[0] > 10, "{counts:?}");
        let others = counts.iter().filter(|count| **count == 1).count();
        assert!(others >= 2, "of those who come later: {counts:?}");
    }

    #[test]
    fn all_together_are_promised_no_more_than_there_is() {
        let node = Node::new(MOST);
        let accounts: Vec<_> = (0..20).map(|_| node.account()).collect();
        let mut kept = Vec::new();
        for (n, account) in accounts.iter().enumerate() {
            for client in 0..50 {
                kept.extend(all(account, &peer(100 * n + client)).1);
            }
        }
        let sum: u64 = kept.iter().map(|promise| u64::from(promise.bytes())).sum();
        assert!(sum <= 1 << 30, "{sum}");
        assert!(accounts[19].promise(Use::Tunnel, Some(peer(0)), WANTED).is_err());
        let refused = node.counts().refused[Use::Tunnel as usize];
        assert!(refused[Limit::Memory as usize] > 0);
        drop(kept);
        assert_eq!(node.memory().held().1, [0; 5]);
    }
}
