//! Limit of the reports that one workload may cause: a token bucket in one word, and a bound on the
//! sums that it may begin. Pure, so that it is tested on the host.
//!
//! The bucket is a virtual schedule (GCRA, ITU-T I.371): the moment at which it will be full again.
//! One compare-and-exchange takes a token, on whichever CPU.

abi! {
    /// Value of `BUDGETS`, by the workload's [id](crate::workload#ids).
    pub struct Budget[16] {
        /// When the bucket is full again, in ns of `CLOCK_MONOTONIC`.
        pub full_at: u64,
        /// Sums that were begun in one interval: the interval (upper half) and their number.
        pub begun: u64,
    }
}

/// Events of refused connections that one workload may cause in a second.
pub const EVENTS_PER_SECOND: u64 = 20;

/// Events that it may cause at once after a quiet time.
pub const BURST: u64 = 100;

/// Sums by destination that one workload may begin in an interval. Beyond them its connections are
/// summed without their destination.
pub const SUMS: u32 = 8;

/// Events of refused connections.
pub const EVENTS: Rate = Rate::new(EVENTS_PER_SECOND, BURST);

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Time in which a token comes back.
    token_ns: u64,
    /// Time in which an empty bucket fills.
    depth_ns: u64,
}

/// Attempts to change a word while other CPUs do. Without success there is no event, and the
/// connection is summed.
const ATTEMPTS: u32 = 4;

/// A word that several CPUs change.
pub trait Word {
    /// Its value.
    fn load(&self) -> u64;
    /// Makes it `new` if it is `old`. False: it was not.
    fn replace(&self, old: u64, new: u64) -> bool;
}

impl Budget {
    /// A full bucket at `now`.
    #[inline]
    pub const fn full(now: u64) -> Self {
        Self { full_at: now, begun: 0 }
    }
}

impl Rate {
    /// So many tokens in a second, and so many at once after a quiet time; each at least one.
    pub const fn new(per_second: u64, burst: u64) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second };
        let burst = if burst == 0 { 1 } else { burst };
        let token_ns = 1_000_000_000 / per_second;
        Self { token_ns, depth_ns: token_ns.saturating_mul(burst) }
    }

    /// Takes a token at `now`: the bucket's next value, or `None` if it is empty.
    ///
    /// Another CPU's clock may be slightly ahead, so that the bucket fills later than it could: it
    /// is empty then, not full.
    #[inline(always)]
    pub const fn spend(self, full_at: u64, now: u64) -> Option<u64> {
        let missing = full_at.wrapping_sub(now);
        // In the past: the difference is a small negative number.
        let missing = if missing > u64::MAX / 2 { 0 } else { missing };
        if missing > self.depth_ns - self.token_ns {
            return None;
        }
        Some(now.wrapping_add(missing + self.token_ns))
    }
}

/// Begins a sum in `interval`: the next value of [`Budget::begun`], or `None` beyond [`SUMS`].
#[inline(always)]
pub const fn begin(begun: u64, interval: u32) -> Option<u64> {
    let of_interval = (interval as u64) << 32;
    let count = if begun & !0xffff_ffff == of_interval { begun & 0xffff_ffff } else { 0 };
    if count < SUMS as u64 { Some(of_interval | (count + 1)) } else { None }
}

/// Changes a word as `next` says. False: it says that it must not be, or other CPUs were faster.
#[inline(always)]
pub fn change(word: &impl Word, next: impl Fn(u64) -> Option<u64>) -> bool {
    let mut attempts = ATTEMPTS;
    while attempts > 0 {
        let old = word.load();
        let Some(new) = next(old) else { return false };
        if word.replace(old, new) {
            return true;
        }
        attempts -= 1;
    }
    false
}

#[cfg(any(test, feature = "user"))]
impl Word for core::sync::atomic::AtomicU64 {
    fn load(&self) -> u64 {
        self.load(core::sync::atomic::Ordering::Relaxed)
    }

    fn replace(&self, old: u64, new: u64) -> bool {
        use core::sync::atomic::Ordering::Relaxed;
        self.compare_exchange(old, new, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// Tokens taken at these moments, from a bucket that is full at `start`.
    fn taken(start: u64, moments: impl IntoIterator<Item = u64>) -> u64 {
        let mut full_at = start;
        let mut taken = 0;
        for now in moments {
            if let Some(next) = EVENTS.spend(full_at, now) {
                full_at = next;
                taken += 1;
            }
        }
        taken
    }

    #[test]
    fn a_flood_gets_the_burst_and_then_the_rate() {
        // One attempt a microsecond, for ten seconds.
        let flood = (0..10_000_000).map(|n| n * 1_000);
        assert_eq!(taken(0, flood), BURST + 10 * EVENTS_PER_SECOND - 1);
    }

    #[test]
    fn a_workload_below_the_rate_is_never_refused() {
        let calm = (0..10_000).map(|n| n * EVENTS.token_ns);
        assert_eq!(taken(0, calm), 10_000);
    }

    proptest! {
        /// For all moments, also across a wrap of the clock: never more than the burst and
        /// the rate, and never fewer than the rate of those that keep to it.
        #[test]
        fn what_is_taken_is_bounded(
            start in any::<u64>(),
            gaps in prop::collection::vec(0..4 * EVENTS.token_ns, 1..1_000),
        ) {
            let lasted: u64 = gaps.iter().sum();
            let moments = gaps.iter().scan(start, |now, gap| {
                *now = now.wrapping_add(*gap);
                Some(*now)
            });
            let taken = taken(start, moments);
            prop_assert!(taken <= BURST + lasted / EVENTS.token_ns);
            prop_assert!(taken >= (gaps.len() as u64).min(BURST));
        }

        /// CPUs whose clocks differ by up to a millisecond get no more than one whose clock is that
        /// much ahead.
        #[test]
        fn clocks_that_differ_add_nothing(
            skews in prop::collection::vec(0..1_000_000_u64, 1..2_000),
        ) {
            let start = u64::MAX - 500_000;
            let moments = skews.iter().map(|skew| start.wrapping_add(*skew));
            prop_assert!(taken(start, moments) <= BURST + 1);
        }

        #[test]
        fn sums_are_bounded_in_each_interval(
            intervals in prop::collection::vec(any::<u32>(), 1..10),
        ) {
            let mut begun = 0;
            for (n, interval) in intervals.iter().enumerate() {
                if n > 0 && intervals[n - 1] == *interval {
                    continue;
                }
                // The first value could be of this interval: none was begun in it.
                let mut count = 0;
                while let Some(next) = begin(begun, *interval) {
                    begun = next;
                    count += 1;
                }
                prop_assert_eq!(count, SUMS);
            }
        }
    }

    #[test]
    fn cpus_that_race_share_one_bucket() {
        let word = AtomicU64::new(1);
        let taken: u64 = thread::scope(|scope| {
            let race =
                || (0..100_000).filter(|_| change(&word, |old| EVENTS.spend(old, 1))).count();
            let all: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
            all.into_iter().map(|one| one.join().unwrap() as u64).sum()
        });
        assert_eq!(taken, BURST);
    }
}
