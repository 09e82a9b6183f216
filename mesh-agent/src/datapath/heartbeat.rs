//! Tells the kernel that this agent works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};

use crate::datapath::Kernel;
use crate::task::scope::Scope;
use crate::task::worker::Runtimes;

/// The time between two beats. The kernel gives the agent up after four.
const BEAT: Duration = Duration::from_millis(200);

/// How long a data thread may take for a turn before the agent stops to beat. Long enough for a node
/// that is merely busy.
const STUCK: Duration = Duration::from_secs(5);

/// Beats until the scope drains, as long as every data thread has its turns: one thread that hangs
/// is an agent that hangs.
pub async fn run(kernel: Arc<Kernel>, runtimes: Runtimes, scope: Scope) {
    let now = now_ns();
    let turns: Vec<_> = runtimes.all().iter().map(|_| Arc::new(AtomicU64::new(now))).collect();
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut failed, mut stuck) = (false, false);
    loop {
        tokio::select! {
            biased;
            () = scope.draining() => return,
            _now = beat.tick() => {}
        }
        let now = now_ns();
        let last = turns.iter().map(|turn| turn.load(Ordering::Relaxed)).min().unwrap_or(now);
        if u128::from(now.saturating_sub(last)) > STUCK.as_nanos() {
            if !stuck {
                tracing::error!("a data thread does nothing; workloads' failure modes apply");
            }
            stuck = true;
            continue;
        }
        stuck = false;
        match kernel.beat(now) {
            Ok(()) => failed = false,
            Err(error) if !failed => {
                failed = true;
                tracing::error!(%error, "the kernel does not take the heartbeat");
            }
            Err(_again) => {}
        }
        for (runtime, turn) in runtimes.all().iter().zip(&turns) {
            let turn = Arc::clone(turn);
            scope.spawn_on(runtime, async move { turn.store(now_ns(), Ordering::Relaxed) });
        }
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, as `bpf_ktime_get_ns()` answers them.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
