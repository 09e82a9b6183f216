//! Gives memory back when the agent has started, and when many connections have gone.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::sys::heap;
use crate::task::scope::Scope;
use crate::telemetry::Telemetry;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// So many connections are worth it: 1,000 × 4 KiB at one end.
const MANY: u64 = 1_000;

/// Looks at how many connections are open, until `scope` drains.
pub(super) async fn run(telemetry: Telemetry, scope: Scope) {
    let mut tick = interval_at(Instant::now() + INTERVAL, INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut peak, mut has_started) = (Peak::default(), false);
    loop {
        tokio::select! {
            biased;
            () = scope.draining() => return,
            _ = tick.tick() => {
                let have_gone = peak.have_gone(telemetry.open_connections());
                // The kernel's types, which its programs are fitted to, are 40 MiB while they are read.
                if !std::mem::replace(&mut has_started, true) || have_gone {
                    heap::give_back();
                }
            }
        }
    }
}

/// The most connections since memory was given back.
#[derive(Debug, Default)]
struct Peak(u64);

impl Peak {
    /// Whether many have gone since. Counts from `open` then.
    fn have_gone(&mut self, open: u64) -> bool {
        let gone = self.0.saturating_sub(open) >= MANY;
        self.0 = if gone { open } else { self.0.max(open) };
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_for_each_thousand_that_goes() {
        let mut peak = Peak::default();
        let seen = [0, 5_000, 4_500, 4_001, 4_000, 4_000, 3_500, 3_000, 0, 0, 999, 0];
        let expect =
            [false, false, false, false, true, false, false, true, true, false, false, false];
        assert_eq!(seen.map(|open| peak.have_gone(open)), expect);
    }
}
