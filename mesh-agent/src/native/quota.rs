//! How much a peer may have open with a workload, and how much all of its peers together: streams,
//! and bytes that came and were not read. Over all tunnels, on whichever threads they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Streams that are open or worked on.
    pub streams: usize,
    /// Bytes that came and were not read.
    pub bytes: usize,
}

/// What is in use, and the most of it.
#[derive(Debug)]
pub struct Quota {
    streams: AtomicUsize,
    bytes: AtomicUsize,
    most: Most,
    /// What is used here is used there too.
    parent: Option<Arc<Self>>,
}

/// One stream's share of a quota, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    quota: Arc<Quota>,
    bytes: usize,
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
        self.chain().for_each(|quota| {
            quota.streams.fetch_add(1, Ordering::Relaxed);
        });
        let fits = |quota: &Self| quota.streams.load(Ordering::Relaxed) <= quota.most.streams;
        self.chain().all(fits).then_some(share)
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
        let mut fits = true;
        for quota in self.quota.chain() {
            fits &= quota.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= quota.most.bytes;
        }
        fits
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

    fn used(quota: &Quota) -> (usize, usize) {
        (quota.streams.load(Ordering::Relaxed), quota.bytes.load(Ordering::Relaxed))
    }

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
        assert_eq!((used(&one), used(&two), used(&workload)), ((2, 0), (1, 0), (3, 0)));
        assert!(first.came(60));
        assert!(!first.came(1), "a peer's own limit");
        first.read();
        assert!(first.came(50) && third.came(50));
        assert!(!third.came(1), "the workload's");
        assert_eq!((used(&one), used(&two), used(&workload)), ((2, 50), (1, 51), (3, 101)));
        drop((first, second, third));
        assert_eq!((used(&one), used(&two), used(&workload)), ((0, 0), (0, 0), (0, 0)));
    }
}
