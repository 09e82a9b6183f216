//! How long the machine keeps an agent from telling the kernel that it works.
//!
//! An agent whose last sign of life is older than 2 s counts as gone: the kernel refuses connections
//! that it should carry (`EPERM`). On a machine with many times more to do than it can, the thread that
//! gives the signs may wait as long for a processor. The kernel's scheduler says for how long it did, and
//! counts no time in which the thread had nothing to do, or hung.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_tests::agent::Agent;
use mesh_tests::expect::eventually;

/// The agent's thread that gives signs of life, every 0.2 s.
const THREAD: &str = "watchdog";

/// Kept waiting for so long within [`WINDOW`], it is late.
const LATE: Duration = Duration::from_millis(1_500);

/// Waits that are further apart are not added.
const WINDOW: Duration = Duration::from_millis(2_500);

/// How often the scheduler is asked.
const LOOK: Duration = Duration::from_millis(100);

/// A wait is counted when it is over, which may be after the failures that come of it.
const SHOWN: Duration = Duration::from_secs(2);

/// Watches one agent after the other. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Starvation {
    pid: Arc<AtomicI32>,
    /// The longest wait within a window since it was forgotten, in milliseconds.
    longest_ms: Arc<AtomicU64>,
}

impl Starvation {
    /// Begins to watch, as long as this program runs.
    pub(crate) fn of(agent: &Agent) -> Self {
        let pid = Arc::new(AtomicI32::new(agent.pid().as_raw()));
        let longest_ms = Arc::new(AtomicU64::new(0));
        let watched = Self { pid, longest_ms };
        let watching = watched.clone();
        std::thread::spawn(move || watching.run());
        watched
    }

    /// Watches another agent from now on.
    pub(crate) fn watch(&self, agent: &Agent) {
        self.pid.store(agent.pid().as_raw(), Ordering::Relaxed);
    }

    /// Whether the agent was kept from giving a sign of life in time since [`Self::forget`].
    pub(crate) fn is_late(&self) -> bool {
        let late = || (self.longest() >= LATE).then_some(());
        let seen: Result<()> = eventually("a thread that waits", SHOWN, late);
        seen.is_ok()
    }

    /// The longest wait since [`Self::forget`].
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_millis(self.longest_ms.load(Ordering::Relaxed))
    }

    /// Forgets the past: it explains nothing that comes.
    pub(crate) fn forget(&self) {
        self.longest_ms.store(0, Ordering::Relaxed);
    }

    #[expect(clippy::disallowed_methods, reason = "the scheduler cannot be waited for")]
    fn run(self) {
        let mut watched = (0, None);
        let mut waits = Waits::default();
        loop {
            let pid = self.pid.load(Ordering::Relaxed);
            if watched.0 != pid || watched.1.is_none() {
                watched = (pid, thread_of(pid));
                waits = Waits::default();
            }
            if let Some(waited) = watched.1.as_ref().and_then(waited) {
                let within = waits.add(Instant::now(), waited).as_millis();
                let within_ms = u64::try_from(within).unwrap_or(u64::MAX);
                self.longest_ms.fetch_max(within_ms, Ordering::Relaxed);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// How long a thread had waited in all, at the last moments.
#[derive(Debug, Default)]
struct Waits(VecDeque<(Instant, Duration)>);

impl Waits {
    /// At `now` it has waited for `waited` in all. Returns for how long within the last [`WINDOW`], or
    /// since the look before, if that was longer ago.
    fn add(&mut self, now: Instant, waited: Duration) -> Duration {
        while self.0.len() > 1 && self.0.front().is_some_and(|(then, _)| now - *then > WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back((now, waited));
        self.0.front().map_or(Duration::ZERO, |(_, before)| waited.saturating_sub(*before))
    }
}

/// The file about the scheduling of a process's thread.
fn thread_of(pid: i32) -> Option<PathBuf> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let folders = threads.filter_map(|thread| Some(thread.ok()?.path()));
    let is_it = |folder: &PathBuf| {
        fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.trim() == THREAD)
    };
    Some(folders.into_iter().find(is_it)?.join("schedstat"))
}

/// For how long a thread has waited for a processor: the second number of its `schedstat`, in
/// nanoseconds (Documentation/scheduler/sched-stats.rst of Linux).
fn waited(schedstat: &PathBuf) -> Option<Duration> {
    let text = fs::read_to_string(schedstat).ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_added_within_a_window() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut waits = Waits::default();
        for (at, waited, expect) in [
            (0, 5_000, 0),
            (100, 5_010, 10),
            (900, 5_310, 310),
            // The first look is older than the window.
            (2_550, 5_410, 400),
            // Late itself: the look before is all there is.
            (9_000, 5_900, 490),
            (9_100, 5_901, 1),
        ] {
            assert_eq!(waits.add(start + ms(at), ms(waited)), ms(expect), "{at}");
        }
    }
}
