//! Reports the connections that the kernel has summed, because one workload had too many.

use std::sync::Arc;
use std::time::Duration;

use mesh_common::event::Event;
use mesh_common::summary::{Sum, SumKey};
use tokio::time::{Instant, MissedTickBehavior};

use crate::datapath::summaries::Summaries;
use crate::flows::names::Names;
use crate::flows::report::{Alike, tell};
use crate::store::Reader;
use crate::task::clock;
use crate::task::duty::Duty;
use crate::task::scope::Scope;
use crate::telemetry::Telemetry;

/// Time between two looks at the sums: a sum is reported one to two of them after it was begun.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reports the sums of `node`'s kernel until `scope` drains. Sums that are left then are the successor's.
pub async fn run(
    mut summaries: Summaries,
    mesh: Reader,
    node: Arc<str>,
    telemetry: Telemetry,
    (duty, scope): (Duty, Scope),
) {
    let mut names = Names::default();
    let mut revision = 0;
    let mut failed = false;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = scope.draining() => return,
            _ = ticks.tick() => {}
        }
        let snapshot = mesh.load();
        // Without a snapshot nothing has a name.
        if snapshot.revision == 0 {
            continue;
        }
        if snapshot.revision != revision {
            names.refresh(&snapshot, &node, Instant::now());
            revision = snapshot.revision;
        }
        let now = clock::now();
        let Some(_work) = duty.work(&scope).await else { return };
        match summaries.take() {
            Ok(sums) => {
                failed = false;
                for (key, sum) in &sums {
                    let connections = sum.connections;
                    let event = &event(key, sum);
                    tell(&telemetry, Alike { event, connections }, &snapshot, &names, now);
                }
            }
            Err(error) if failed => tracing::debug!(%error, "sums cannot be read"),
            Err(error) => {
                failed = true;
                tracing::error!(%error, "sums of refused connections cannot be read; trying again");
            }
        }
    }
}

/// The event that stands for a sum: the bytes of all its connections, and the time of one.
fn event(key: &SumKey, sum: &Sum) -> Event {
    let lasted_ns = sum.lasted_ns.checked_div(sum.connections).unwrap_or(0);
    Event { sent: sum.sent, received: sum.received, lasted_ns, ..key.event() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_has_all_bytes_and_the_mean_time() {
        let key = SumKey {
            source: 1,
            destination: 2,
            policy: 3,
            origin: [4; 4],
            server: [5; 4],
            origin_port_be: 6,
            server_port_be: 7,
            kind: mesh_common::event::CLOSED,
            errno: 0,
            interval: 8,
        };
        let sum = Sum { connections: 3, sent: 10, received: 20, lasted_ns: 31 };
        let event = event(&key, &sum);
        assert_eq!((event.sent, event.received, event.lasted_ns), (10, 20, 10));
        assert_eq!((event.source, event.destination, event.policy), (1, 2, 3));
        assert_eq!((event.origin, event.server), ([4; 4], [5; 4]));
    }
}
