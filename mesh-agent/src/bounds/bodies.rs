//! Bytes of requests that are kept, so that they may be sent again or to somebody else too.
//!
//! More is taken from what is free: a workload may have a quarter as much as all of them have
//! left. So one alone comes to a fifth of the whole, several share, and there is room for the next in
//! any case (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches",
//! 1998).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A workload may have the whole of what is free, divided by this.
const PARTS: usize = 4;

/// The bytes of all workloads of the node.
#[derive(Debug)]
pub(super) struct Total {
    most: usize,
    used: AtomicUsize,
}

/// The bytes of one workload.
#[derive(Debug)]
pub struct Bodies {
    total: Arc<Total>,
    used: AtomicUsize,
}

/// Bytes that are kept, until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the bytes back"]
pub struct KeptBody {
    bodies: Arc<Bodies>,
    bytes: usize,
}

impl Total {
    /// At most so many bytes.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0) })
    }
}

impl Bodies {
    /// None yet, of one more workload.
    pub(super) fn of(total: &Arc<Total>) -> Arc<Self> {
        Arc::new(Self { total: Arc::clone(total), used: AtomicUsize::new(0) })
    }

    /// Nothing yet, of one more request.
    pub fn keep(self: &Arc<Self>) -> KeptBody {
        KeptBody { bodies: Arc::clone(self), bytes: 0 }
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.total.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl KeptBody {
    /// Has so many bytes from now on, more or less than before. False: there is no room for so many, and
    /// it has as many as before.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let Self { bodies, bytes: has } = self;
        let Some(more) = bytes.checked_sub(*has) else {
            bodies.give_back(*has - bytes);
            *has = bytes;
            return true;
        };
        // Of several threads that ask for the last bytes at once, all may be refused.
        let own = bodies.used.fetch_add(more, Ordering::Relaxed) + more;
        let all = bodies.total.used.fetch_add(more, Ordering::Relaxed) + more;
        let free = bodies.total.most.saturating_sub(all);
        if own > free / PARTS {
            bodies.give_back(more);
            return false;
        }
        *has = bytes;
        true
    }
}

impl Drop for KeptBody {
    fn drop(&mut self) {
        self.bodies.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_alone_has_a_fifth_and_leaves_room_for_the_next() {
        let total = Total::new(1000);
        let (first, second) = (Bodies::of(&total), Bodies::of(&total));
        let mut kept = first.keep();
        assert!(kept.hold(200));
        assert!(!kept.hold(201));
        let mut others = second.keep();
        assert!(others.hold(160));
        assert!(!others.hold(161));
        assert!(kept.hold(0) && others.hold(200) && others.hold(100));
        assert_eq!(total.used.load(Ordering::Relaxed), 100);
        drop(others);
        assert_eq!(total.used.load(Ordering::Relaxed), 0);
    }

    proptest! {
        #[test]
        fn never_more_than_there_is_and_always_room_for_who_has_nothing(
            steps in prop::collection::vec((0_usize..5, 0_usize..400, any::<bool>()), 1..100),
        ) {
            let total = Total::new(1000);
            let workloads: Vec<_> = (0..6).map(|_| Bodies::of(&total)).collect();
            let mut all = Vec::new();
            for (who, bytes, ends) in steps {
                if ends {
                    all.pop();
                    continue;
                }
                let mut kept = workloads[who].keep();
                let before = workloads[who].used.load(Ordering::Relaxed);
                let held = kept.hold(bytes);
                let after = workloads[who].used.load(Ordering::Relaxed);
                prop_assert_eq!(after - before, if held { bytes } else { 0 });
                all.push(kept);
                let used = total.used.load(Ordering::Relaxed);
                let sum: usize = workloads.iter().map(|it| it.used.load(Ordering::Relaxed)).sum();
                prop_assert_eq!(used, sum);
                prop_assert!(used < 1000);
                // A workload that has nothing may have a fifth of what is free.
                prop_assert!(workloads[5].keep().hold((1000 - used) / (PARTS + 1)));
            }
        }
    }
}
