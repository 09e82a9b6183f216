//! Tells the kernel that this agent works.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};

use crate::datapath::Kernel;
use crate::task::scope::Scope;
use crate::task::worker::Runtimes;

/// The time between two beats. The kernel gives the agent up after four.
const BEAT: Duration = Duration::from_millis(200);

/// How long a thread may take for a turn before the agent stops to beat. Long enough for a node
/// that is merely busy, and for a large configuration to be read.
const STUCK: Duration = Duration::from_secs(5);

/// The thread's stack: it calls three functions.
const STACK_BYTES: usize = 64 << 10;

/// What the threads and the heart share.
struct Pulse {
    /// When each data thread, and at the end the control thread, last had a turn.
    turns: Vec<AtomicU64>,
    stopped: AtomicBool,
}

/// Beats from a thread of its own until `scope` drains, as long as every other thread has its
/// turns: one thread that hangs is an agent that hangs, but one that is busy is not.
///
/// # Errors
///
/// The thread cannot be started.
pub fn start(kernel: Arc<Kernel>, runtimes: Runtimes, scope: &Scope) -> io::Result<()> {
    let now = now_ns();
    let turns = (0..=runtimes.all().len()).map(|_| AtomicU64::new(now)).collect();
    let pulse = Arc::new(Pulse { turns, stopped: AtomicBool::new(false) });
    let heart = Arc::clone(&pulse);
    thread::Builder::new()
        .name("heartbeat".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || beat(&kernel, &heart))?;
    scope.spawn(take_turns(pulse, runtimes, scope.clone()));
    Ok(())
}

/// Has every thread show that it has its turns.
async fn take_turns(pulse: Arc<Pulse>, runtimes: Runtimes, scope: Scope) {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = scope.draining() => break,
            _now = beat.tick() => {}
        }
        pulse.turn(runtimes.all().len());
        for (worker, runtime) in runtimes.all().iter().enumerate() {
            let pulse = Arc::clone(&pulse);
            scope.spawn_on(runtime, async move { pulse.turn(worker) });
        }
    }
    pulse.stopped.store(true, Ordering::Relaxed);
}

/// The thread.
fn beat(kernel: &Kernel, pulse: &Pulse) {
    let (mut failed, mut stuck) = (false, false);
    while !pulse.stopped.load(Ordering::Relaxed) {
        let now = now_ns();
        let was_stuck = std::mem::replace(&mut stuck, pulse.is_stuck(now));
        if stuck && !was_stuck {
            tracing::error!("a thread does nothing; workloads' failure modes apply");
        }
        if !stuck && let Err(error) = kernel.beat(now) {
            if !failed {
                tracing::error!(%error, "the kernel does not take the heartbeat");
            }
            failed = true;
        }
        thread::park_timeout(BEAT);
    }
}

impl Pulse {
    fn turn(&self, thread: usize) {
        if let Some(turn) = self.turns.get(thread) {
            turn.store(now_ns(), Ordering::Relaxed);
        }
    }

    fn is_stuck(&self, now: u64) -> bool {
        let last = self.turns.iter().map(|turn| turn.load(Ordering::Relaxed)).min();
        u128::from(now.saturating_sub(last.unwrap_or(now))) > STUCK.as_nanos()
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, as `bpf_ktime_get_ns()` answers them.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_that_hangs_is_an_agent_that_hangs() {
        let limit = u64::try_from(STUCK.as_nanos()).unwrap();
        let turns = [7, 9, 8].map(AtomicU64::new).into();
        let pulse = Pulse { turns, stopped: AtomicBool::new(false) };
        assert!(!pulse.is_stuck(7 + limit));
        assert!(pulse.is_stuck(8 + limit));
        pulse.turn(0);
        pulse.turn(1);
        pulse.turn(2);
        assert!(!pulse.is_stuck(now_ns()));
    }
}
