//! Many connections: a number of them, or until told to stop.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use mesh_tests::report::{Connection, Event, Totals};
use tokio::task::JoinSet;

use crate::args::Connect;
use crate::{client, control, tell};

/// The pause of a client that goes on, after a connection or a request that failed: one that is refused at
/// once does nothing else than ask again otherwise.
pub(crate) const AGAIN: Duration = Duration::from_millis(5);

/// The state that the workers share.
#[derive(Debug)]
struct Shared {
    plan: Connect,
    payload: Vec<u8>,
    begun: AtomicU64,
    stopped: AtomicBool,
    sum: Mutex<Sum>,
}

/// Connections that ended since the last mark.
#[derive(Debug, Default)]
struct Sum {
    totals: Totals,
    durations_us: Vec<u64>,
}

/// Connects as `plan` says. Reports each connection, unless it is continuous, and the totals.
pub(crate) async fn run(plan: Connect) -> Result<()> {
    let continuous = plan.continuous;
    let workers = plan.concurrency.max(1);
    let shared = Arc::new(Shared {
        payload: plan.payload(),
        plan,
        begun: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
        sum: Mutex::default(),
    });
    let mut running = JoinSet::new();
    for _ in 0..workers {
        running.spawn(work(Arc::clone(&shared)));
    }
    if continuous {
        let mut control = control::lines();
        while control.recv().await.is_some() {
            tell(&Event::Totals(shared.take()))?;
        }
    }
    shared.stopped.store(continuous, Ordering::Relaxed);
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    tell(&Event::Totals(shared.take()))
}

/// Connects again and again.
async fn work(shared: Arc<Shared>) -> Result<()> {
    let plan = &shared.plan;
    let pace = plan.rate.map(|rate| {
        Duration::from_secs(1) * u32::try_from(plan.concurrency).unwrap_or(1) / rate.max(1)
    });
    let mut ticks = pace.map(tokio::time::interval);
    loop {
        if shared.stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !plan.continuous && shared.begun.fetch_add(1, Ordering::Relaxed) >= plan.count {
            return Ok(());
        }
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let connection = client::once(plan, &shared.payload).await;
        shared.add(&connection);
        if plan.continuous && connection.error.is_some() {
            tokio::time::sleep(AGAIN).await;
        }
        if !plan.continuous {
            tell(&Event::Connection(connection))?;
        }
    }
}

impl Shared {
    fn add(&self, connection: &Connection) {
        let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.totals.count(connection);
        sum.durations_us.push(connection.total_us);
    }

    fn take(&self) -> Totals {
        let mut sum = mem::take(&mut *self.sum.lock().unwrap_or_else(PoisonError::into_inner));
        sum.durations_us.sort_unstable();
        let at = |percent| client::percentile(&sum.durations_us, percent);
        Totals { p50_us: at(50), p99_us: at(99), ..sum.totals }
    }
}
