//! Which data thread an application's connection stays on.
//!
//! The kernel spreads connections over the threads' listeners by a hash: of eight, five or more are
//! on one of two threads in most cases, and a bulk transfer stays where it is for good. A connection
//! that would make one thread's share larger by more than one, or of many by more than a quarter, is
//! handed to the thread with the least.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many connections of one namespace each data thread has.
#[derive(Clone, Debug)]
pub struct Spread(Arc<[AtomicUsize]>);

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    spread: Spread,
    worker: usize,
}

impl Spread {
    /// Over so many threads.
    pub fn over(workers: usize) -> Self {
        Self((0..workers).map(|_| AtomicUsize::new(0)).collect())
    }

    /// A place for a connection that `worker` has accepted; which thread it is on.
    pub fn place(&self, worker: usize) -> (Place, usize) {
        let worker = choose(self.0.iter().map(|count| count.load(Ordering::Relaxed)), worker);
        if let Some(count) = self.0.get(worker) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        (Place { spread: self.clone(), worker }, worker)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(count) = self.spread.0.get(self.worker) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The thread that a connection goes to, which `own` has accepted: `own`, unless it has two more
/// than another and a quarter besides. Moving costs two system calls and wakes the other thread, and
/// of many connections that come and go the hash gives each thread about as many.
fn choose(counts: impl Iterator<Item = usize> + Clone, own: usize) -> usize {
    let mine = counts.clone().nth(own).unwrap_or_default();
    let least = counts.enumerate().min_by_key(|(_, count)| *count);
    least.filter(|(_, count)| mine >= count + 2 + count / 4).map_or(own, |(worker, _)| worker)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_thread_keeps_what_it_accepts_unless_another_has_less() {
        let check = |counts: &[usize], own, expect| {
            assert_eq!(choose(counts.iter().copied(), own), expect, "{counts:?}");
        };
        check(&[0, 0], 1, 1);
        check(&[0, 1], 1, 1);
        check(&[0, 2], 1, 0);
        check(&[5, 4, 3], 0, 2);
        check(&[21, 16], 0, 0);
        check(&[22, 16], 0, 1);
        check(&[7], 0, 0);
        check(&[], 0, 0);
    }

    proptest! {
        #[test]
        fn no_thread_has_many_more_than_another(
            accepted in prop::collection::vec(0_usize..4, 1..64),
        ) {
            let spread = Spread::over(4);
            let mut places = Vec::new();
            for worker in accepted {
                places.push(spread.place(worker));
                let counts = spread.0.iter().map(|count| count.load(Ordering::Relaxed));
                let (least, most) = (counts.clone().min().unwrap(), counts.max().unwrap());
                prop_assert!(most <= least + 2 + least / 4);
            }
            drop(places);
            prop_assert!(spread.0.iter().all(|count| count.load(Ordering::Relaxed) == 0));
        }
    }
}
