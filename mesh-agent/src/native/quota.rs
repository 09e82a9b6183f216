//! How much a peer may have open with a workload, and how much all of its peers together: streams,
//! and bytes that came and were not read. Over all tunnels, on whichever threads they are.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::model::id::ResourceName;
use crate::model::spiffe::SpiffeId;

/// The most of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Streams that are open or worked on.
    pub streams: usize,
    /// Bytes that came and were not read.
    pub bytes: usize,
}

/// Limits of peers in one workload's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// One of them.
    pub peer: Most,
    /// All of them together.
    pub workload: Most,
}

/// The use by each peer of each workload, for as long as there is any.
#[derive(Debug)]
pub struct Quotas<Peer, Workload> {
    peers: HashMap<Peer, Weak<Quota>>,
    workloads: HashMap<Workload, Weak<Quota>>,
    /// The quota of all workloads of the node together; `None`: only each its own.
    node: Option<Arc<Quota>>,
}

/// The two ends of a tunnel that a peer has opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The identity that the peer has proved.
    pub peer: SpiffeId,
    /// The workload whose certificate it was shown.
    pub local: ResourceName,
}

/// Quotas of the peers that have connected to a namespace's workloads, on all data threads.
#[derive(Debug)]
pub struct ClientQuotas(Mutex<Quotas<Ends, ResourceName>>);

impl ClientQuotas {
    /// None yet, within what the node has.
    pub fn within(node: Arc<Quota>) -> Self {
        Self(Mutex::new(Quotas::within(node)))
    }

    /// The quota of a peer: one for all its tunnels to a workload.
    pub fn of(&self, ends: &Ends, bounds: Bounds) -> Arc<Quota> {
        // A panic elsewhere leaves the tables whole: each change is one call.
        let mut quotas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        quotas.of(ends, &ends.local, bounds)
    }
}

/// The use, and the most of it.
#[derive(Debug)]
pub struct Quota {
    streams: AtomicUsize,
    bytes: AtomicUsize,
    most: Most,
    /// The quota in which this use counts too.
    parent: Option<Arc<Self>>,
}

/// One stream's share of a quota, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    quota: Arc<Quota>,
    bytes: usize,
}

impl<Peer, Workload> Default for Quotas<Peer, Workload> {
    fn default() -> Self {
        Self { peers: HashMap::new(), workloads: HashMap::new(), node: None }
    }
}

impl<Peer: Clone + Eq + Hash, Workload: Clone + Eq + Hash> Quotas<Peer, Workload> {
    /// None yet, within what the node has.
    pub fn within(node: Arc<Quota>) -> Self {
        Self { node: Some(node), ..Self::default() }
    }

    /// The quota of a peer with a workload: one for all its tunnels. `peer` says of which workload.
    pub fn of(&mut self, peer: &Peer, workload: &Workload, bounds: Bounds) -> Arc<Quota> {
        if let Some(quota) = self.peers.get(peer).and_then(Weak::upgrade) {
            return quota;
        }
        // Those that have gone leave an entry until the next one comes.
        self.peers.retain(|_, quota| quota.strong_count() > 0);
        self.workloads.retain(|_, quota| quota.strong_count() > 0);
        let all = self.workloads.get(workload).and_then(Weak::upgrade).unwrap_or_else(|| {
            let quota = Arc::new(Quota::new(bounds.workload, self.node.clone()));
            self.workloads.insert(workload.clone(), Arc::downgrade(&quota));
            quota
        });
        let quota = Arc::new(Quota::new(bounds.peer, Some(all)));
        self.peers.insert(peer.clone(), Arc::downgrade(&quota));
        quota
    }
}

impl Quota {
    /// An unused one, within `parent`.
    pub const fn new(most: Most, parent: Option<Arc<Self>>) -> Self {
        Self { streams: AtomicUsize::new(0), bytes: AtomicUsize::new(0), most, parent }
    }

    /// A share for one more stream, if it may be.
    pub fn stream(self: &Arc<Self>) -> Option<Share> {
        let share = Share { quota: Arc::clone(self), bytes: 0 };
        // Dropping the share gives back what was taken here.
        let fits = self.take(1, |quota| &quota.streams, |most| most.streams);
        fits.then_some(share)
    }

    /// Takes so much more, here and at all levels above. False: that is more than there may be, here or
    /// there; there, only if this one has more than an equal part, or is of one that has. So those who
    /// have most lose, and all together have at most twice as much as they may.
    fn take(
        &self,
        more: usize,
        used: impl Fn(&Self) -> &AtomicUsize,
        most: impl Fn(Most) -> usize,
    ) -> bool {
        let add =
            |quota: &Self| used(quota).fetch_add(more, Ordering::Relaxed).saturating_add(more);
        let own = add(self);
        let mut fits = own <= most(self.most);
        let (mut level, mut has, mut parts) = (self, own, 1_usize);
        while let Some(above) = &level.parent {
            // A user of it holds it.
            let count = Arc::strong_count(above);
            parts = parts.saturating_mul(count);
            let (all, may) = (add(above), most(above.most));
            fits &= all <= may || has <= may / count || own <= may / parts;
            (level, has) = (above, all);
        }
        fits
    }

    /// Streams and bytes that are in use.
    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn used(&self) -> (usize, usize) {
        (self.streams.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |quota| quota.parent.as_deref())
    }
}

impl Share {
    /// So many bytes came. False: that is more than there may be; they count all the same, until
    /// they are read or the stream is given up.
    #[must_use]
    pub fn came(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.quota.take(bytes, |quota| &quota.bytes, |most| most.bytes)
    }

    /// All of what came was read.
    pub fn read(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.quota.chain().for_each(|quota| {
            quota.bytes.fetch_sub(bytes, Ordering::Relaxed);
        });
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.read();
        self.quota.chain().for_each(|quota| {
            quota.streams.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_share_what_a_workload_has_and_give_it_back() {
        let workload = Arc::new(Quota::new(Most { streams: 3, bytes: 100 }, None));
        let peer = || {
            let most = Most { streams: 2, bytes: 60 };
            Arc::new(Quota::new(most, Some(Arc::clone(&workload))))
        };
        let (one, two) = (peer(), peer());
        let mut first = one.stream().unwrap();
        let second = one.stream().unwrap();
        assert!(one.stream().is_none(), "a peer's own limit");
        let mut third = two.stream().unwrap();
        assert!(two.stream().is_none(), "the workload's");
        assert_eq!((one.used(), two.used(), workload.used()), ((2, 0), (1, 0), (3, 0)));
        assert!(first.came(60));
        assert!(!first.came(1), "a peer's own limit");
        first.read();
        assert!(first.came(50) && third.came(50));
        assert!(!third.came(1), "the workload's");
        assert_eq!((one.used(), two.used(), workload.used()), ((2, 50), (1, 51), (3, 101)));
        drop((first, second, third));
        assert_eq!((one.used(), two.used(), workload.used()), ((0, 0), (0, 0), (0, 0)));
    }

    #[test]
    fn a_peer_with_little_is_not_the_one_that_loses() {
        let most = |bytes| Most { streams: 8, bytes };
        let bounds = Bounds { peer: most(60), workload: most(100) };
        let mut quotas = Quotas::default();
        let [greedy, more, little] = [1, 2, 3].map(|peer| quotas.of(&peer, &"web", bounds));
        let mut shares = [&greedy, &more, &little].map(|quota| quota.stream().unwrap());
        assert!(shares[0].came(50) && shares[1].came(50));
        assert!(shares[2].came(20), "it has less than a third");
        assert!(!shares[0].came(1) && !shares[1].came(1));
        assert!(!shares[2].came(20), "more than a third");
        shares[0].read();
        assert!(shares[2].came(1), "there is room");
    }

    #[test]
    fn a_workload_with_little_is_not_the_one_that_loses() {
        let most = |bytes| Most { streams: 8, bytes };
        let bounds = Bounds { peer: most(60), workload: most(100) };
        let node = Arc::new(Quota::new(most(90), None));
        let mut quotas = Quotas::within(Arc::clone(&node));
        let greedy = [1, 2].map(|peer| quotas.of(&peer, &"web", bounds));
        let (little, small) = (quotas.of(&3, &"db", bounds), quotas.of(&4, &"web", bounds));
        let mut shares = greedy.each_ref().map(|quota| quota.stream().unwrap());
        assert!(shares[0].came(45) && shares[1].came(45));
        let (mut little, mut small) = (little.stream().unwrap(), small.stream().unwrap());
        assert!(little.came(10), "another workload has little");
        assert!(!shares[0].came(1) && !shares[1].came(1), "the node has no more");
        assert!(small.came(5), "a peer that has little, of the workload that has most");
        assert!(!little.came(20), "more than an equal part");
        drop((shares, little, small));
        assert_eq!(node.used(), (0, 0));
    }

    #[test]
    fn a_peer_has_one_quota_while_it_is_used() {
        let most = |bytes| Most { streams: 8, bytes };
        let bounds = Bounds { peer: most(60), workload: most(100) };
        let mut quotas = Quotas::default();
        let one = quotas.of(&("web", 1), &"web", bounds);
        let again = quotas.of(&("web", 1), &"web", bounds);
        let (two, other) =
            (quotas.of(&("web", 2), &"web", bounds), quotas.of(&("db", 1), &"db", bounds));
        let mut shares = [&one, &again, &two, &other].map(|quota| quota.stream().unwrap());
        assert!(shares[0].came(30) && shares[1].came(30) && shares[2].came(40));
        assert!(!shares[2].came(11), "the workload has as much as it may");
        assert!(shares[3].came(60), "another workload");
        drop((shares, one, again, two));
        assert_eq!(quotas.of(&("web", 1), &"web", bounds).used(), (0, 0));
        assert_eq!((quotas.peers.len(), quotas.workloads.len()), (2, 2));
    }
}
