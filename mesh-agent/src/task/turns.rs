//! Turns of the agent's threads: whether each of them still runs its tasks.
//!
//! A task on every thread counts the thread's turns: it has one when all that waited before it had
//! theirs. A thread that is overloaded has few, and goes on; one that hangs polls no task any more, so
//! the polls are counted too. One watcher adds up how long each count stands
//! still, in steps of its own: when the whole process or machine was stopped, it has had no turn
//! either, and no thread is to blame.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::task::scope::Scope;

/// The time between two turns that are counted, and between two steps of the watcher.
pub const TURN: Duration = Duration::from_millis(200);

/// A stall of this length is counted.
pub const STALL: Duration = Duration::from_secs(1);

/// The longest time that counts of one step of the watcher. A longer one says that the watcher
/// had no turn either.
const MAX_STEP: Duration = Duration::from_millis(400);

/// The threads' turns. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Turns(Arc<[Thread]>);

/// One thread of the agent.
#[derive(Debug)]
struct Thread {
    name: String,
    is_vital: bool,
    turns: AtomicU64,
    /// Tasks that were polled.
    polls: AtomicU64,
    stalled_ms: AtomicU64,
    n_stalls: AtomicU64,
}

thread_local! {
    /// The threads of which this one is, and its number.
    static OWN: RefCell<Option<(Turns, usize)>> = const { RefCell::new(None) };
}

/// Counts a task of this thread that was polled, if the thread's turns are counted.
pub(super) fn polled() {
    OWN.with(|own| {
        if let Some((turns, thread)) = &*own.borrow()
            && let Some(thread) = turns.0.get(*thread)
        {
            // Nobody else writes it.
            let before = thread.polls.load(Ordering::Relaxed);
            thread.polls.store(before.wrapping_add(1), Ordering::Relaxed);
        }
    });
}

/// A thread's turns, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// The thread's name.
    pub thread: String,
    /// How long it has had no turn, in steps of [`TURN`].
    pub lasts: Duration,
    /// How often it had none for [`STALL`].
    pub count: u64,
}

impl Turns {
    /// Threads by name, in order. Of those that are not vital, a long turn is normal.
    pub fn new(threads: impl IntoIterator<Item = (String, bool)>) -> Self {
        let threads = threads.into_iter().map(|(name, is_vital)| Thread {
            name,
            is_vital,
            turns: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            stalled_ms: AtomicU64::new(0),
            n_stalls: AtomicU64::new(0),
        });
        Self(threads.collect())
    }

    /// The name of a thread.
    pub fn name(&self, thread: usize) -> &str {
        self.0.get(thread).map_or("", |thread| &thread.name)
    }

    /// The threads that are vital.
    pub fn vital(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, thread)| thread.is_vital).map(|(number, _)| number)
    }

    /// Counts the turns of the thread that runs this, which is number `thread`, until `scope`
    /// drains.
    pub async fn count(self, thread: usize, scope: Scope) {
        OWN.with(|own| *own.borrow_mut() = Some((self.clone(), thread)));
        let mut turn = interval(TURN);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = scope.draining() => return,
                _now = turn.tick() => {}
            }
            if let Some(thread) = self.0.get(thread) {
                thread.turns.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Every thread, as the watcher has seen it last.
    pub fn stalled(&self) -> Vec<Stalled> {
        let stalled = |thread: &Thread| Stalled {
            thread: thread.name.clone(),
            lasts: Duration::from_millis(thread.stalled_ms.load(Ordering::Relaxed)),
            count: thread.n_stalls.load(Ordering::Relaxed),
        };
        self.0.iter().map(stalled).collect()
    }
}

/// The watcher's view of one thread.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    turns: u64,
    polls: u64,
    found: Found,
}

/// The result of a step of the watcher for one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The thread's number.
    pub thread: usize,
    /// Without a turn: it hangs, or has more to do than it can.
    pub stall: Lapse,
    /// Without a poll of any task: it hangs.
    pub hang: Lapse,
}

/// How long something has not happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lapse {
    /// Until this step.
    pub before: Duration,
    /// Now.
    pub now: Duration,
}

impl Lapse {
    /// After another step, in which it has happened or not.
    fn step(self, has_happened: bool, passed: Duration) -> Self {
        let now = if has_happened { Duration::ZERO } else { self.now.saturating_add(passed) };
        Self { before: self.now, now }
    }

    /// Whether it has lasted for `limit` since this step.
    pub fn reaches(self, limit: Duration) -> bool {
        self.before < limit && limit <= self.now
    }

    /// Whether it is over after it had lasted for `limit`.
    pub fn recovers(self, limit: Duration) -> bool {
        self.now < limit && limit <= self.before
    }
}

/// Adds up how long each thread stands still.
#[derive(Debug)]
pub struct Watcher {
    turns: Turns,
    seen: Vec<Seen>,
}

impl Watcher {
    /// Of these threads, as if all had a turn now.
    pub fn new(turns: Turns) -> Self {
        let seen = vec![Seen::default(); turns.0.len()];
        Self { turns, seen }
    }

    /// One step, `passed` after the last one. Returns what it found of each thread, in order.
    pub fn step(&mut self, passed: Duration) -> impl Iterator<Item = Found> {
        let passed = passed.min(MAX_STEP);
        let threads = self.turns.0.iter().zip(&mut self.seen).enumerate();
        threads.map(move |(number, (thread, seen))| {
            let turns = thread.turns.load(Ordering::Relaxed);
            let polls = thread.polls.load(Ordering::Relaxed);
            let has_turned = turns != seen.turns;
            let found = Found {
                thread: number,
                stall: seen.found.stall.step(has_turned, passed),
                hang: seen.found.hang.step(has_turned || polls != seen.polls, passed),
            };
            *seen = Seen { turns, polls, found };
            let millis = u64::try_from(found.stall.now.as_millis()).unwrap_or(u64::MAX);
            thread.stalled_ms.store(millis, Ordering::Relaxed);
            if found.stall.reaches(STALL) {
                thread.n_stalls.fetch_add(1, Ordering::Relaxed);
            }
            found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> (Turns, Watcher) {
        let turns = Turns::new(names.iter().map(|name| ((*name).to_owned(), *name != "config")));
        (turns.clone(), Watcher::new(turns))
    }

    fn turn(turns: &Turns, thread: usize) {
        turns.0[thread].turns.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn the_thread_that_stands_still_is_found() {
        let (turns, mut watcher) = of(&["control", "data-0"]);
        for _ in 0..6 {
            turn(&turns, 0);
            watcher.step(TURN).for_each(drop);
        }
        let [control, data] = <[Stalled; 2]>::try_from(turns.stalled()).unwrap();
        assert_eq!((control.lasts, control.count), (Duration::ZERO, 0));
        assert_eq!((data.lasts, data.count), (TURN * 6, 1));
        turn(&turns, 1);
        let found: Vec<_> = watcher.step(TURN).collect();
        assert!(found[1].stall.recovers(STALL) && !found[1].stall.reaches(STALL));
        assert!(!found[0].stall.recovers(STALL));
        assert_eq!(turns.stalled()[1].lasts, Duration::ZERO);
    }

    #[test]
    fn a_thread_with_a_long_queue_does_not_hang() {
        let (turns, mut watcher) = of(&["control"]);
        for _ in 0..20 {
            turns.0[0].polls.fetch_add(1, Ordering::Relaxed);
            let found = watcher.step(TURN).next().unwrap();
            assert_eq!(found.hang.now, Duration::ZERO);
        }
        assert_eq!(turns.stalled()[0].lasts, TURN * 20, "it is not ready all the same");
        let mut hangs = 0;
        for _ in 0..20 {
            hangs += watcher.step(TURN).filter(|found| found.hang.reaches(STALL)).count();
        }
        assert_eq!(hangs, 1);
    }

    #[tokio::test]
    async fn tasks_that_are_polled_are_counted() {
        let (turns, _watcher) = of(&["control"]);
        let scope = Scope::new("test");
        scope.spawn(turns.clone().count(0, scope.clone()));
        while turns.0[0].turns.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let polls = || turns.0[0].polls.load(Ordering::Relaxed);
        let before = polls();
        scope.spawn(async {});
        while polls() == before {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_limit_is_reached_once() {
        let (_turns, mut watcher) = of(&["control"]);
        let mut reached = 0;
        for _ in 0..20 {
            reached += watcher.step(TURN).filter(|found| found.stall.reaches(STALL)).count();
        }
        assert_eq!(reached, 1);
    }

    /// A process that was stopped, a machine that was suspended or is overloaded, a clock that jumps.
    #[test]
    fn when_the_watcher_had_no_turn_no_thread_is_to_blame() {
        let (turns, mut watcher) = of(&["control"]);
        for _ in 0..100 {
            let found: Vec<_> = watcher.step(Duration::from_hours(1)).collect();
            assert_eq!(found[0].stall.now, MAX_STEP);
            turn(&turns, 0);
            assert_eq!(watcher.step(TURN).next().unwrap().stall.now, Duration::ZERO);
        }
    }

    #[test]
    fn the_vital_ones_are_told_apart() {
        let (turns, _watcher) = of(&["control", "config", "data-0"]);
        let names: Vec<_> = turns.vital().map(|thread| turns.name(thread).to_owned()).collect();
        assert_eq!(names, ["control", "data-0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_counts_its_turns_until_the_scope_drains() {
        let (turns, _watcher) = of(&["control"]);
        let scope = Scope::new("test");
        scope.spawn(turns.clone().count(0, scope.clone()));
        tokio::time::sleep(TURN * 5 + TURN / 2).await;
        assert_eq!(turns.0[0].turns.load(Ordering::Relaxed), 6);
        assert_eq!(scope.drain(TURN).await, 0);
    }
}
