//! Requests at fixed times, and bulk beside them: whether a stream that has much to send makes the
//! others wait.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

use super::paced::{self, Connection};
use super::phases::{Compared, Director, Phase, Stage, lengths};
use super::{Load, PATIENCE, Report, begin, bulk};
use crate::threads;
use crate::workload::Workload;

/// How long bulk may take to come up to its speed before it is measured what it does to others.
const SETTLE: Duration = Duration::from_millis(100);

/// Bytes a second of bulk that is held to a rate: 1 Gb/s, at which there is processor time left.
const RATE: u32 = 125_000_000;

/// The bulk's result.
#[derive(Clone, Copy, Debug)]
struct Moved {
    /// Bytes that the servers say they have received.
    bytes: u64,
    /// From the first byte to the last confirmation.
    time: Duration,
}

/// Measures requests while there is nothing else, and while there is bulk.
pub(super) fn requests(load: &Load) -> Result<Report> {
    let connections = load.workload.connections() - load.workload.bulk_streams();
    let barrier = &Barrier::new(connections + 1);
    let count = u32::try_from(connections)?;
    let stage = &Stage::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| scope.spawn(move || connection(load, (index, count), barrier, stage)))
            .collect();
        let moved = direct(load, barrier, stage);
        let mut seen = Compared::default();
        for thread in threads {
            seen.add(thread.join().map_err(|_panic| anyhow!("a thread of the load panicked"))??);
        }
        let Moved { bytes, time } = moved?;
        let report = seen.report(stage.spent());
        Ok(Report { bytes, seconds: time.as_secs_f64(), ..report })
    })
}

/// The requests of one of all connections, until the run is over. One that is sent late belongs to
/// the phase in which it was due.
fn connection(load: &Load, turn: (u32, u32), barrier: &Barrier, stage: &Stage) -> Result<Compared> {
    let mut connection = Connection::open(load)?;
    let (start, _end) = begin(load, barrier)?;
    let mut seen = Compared::default();
    for due in paced::times(start, turn, paced::RATE) {
        paced::sleep_until(due);
        let phase = stage.at(due);
        if phase == Phase::Over {
            break;
        }
        if connection.request() {
            seen.done(phase, due);
        } else {
            seen.failed();
        }
    }
    Ok(seen)
}

/// Opens the bulk streams, and sends on them for the half of the time in the middle.
fn direct(load: &Load, barrier: &Barrier, stage: &Stage) -> Result<Moved> {
    let mut director = Director::of(stage);
    let runtime = threads::runtime()?;
    let to = load.beside.context("nobody to send bulk to")?;
    // A failure here is told below: the others wait at the barrier.
    let streams = runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..load.workload.bulk_streams() {
            streams.push(TcpStream::connect(to).await?);
        }
        Ok::<_, std::io::Error>(streams)
    });
    begin(load, barrier)?;
    let streams = streams.context("cannot connect for bulk")?;
    let rate = (load.workload == Workload::MixedPaced).then_some(RATE);
    let [calm, disturbed] = lengths(load.seconds);
    runtime.block_on(async {
        director.enter(Phase::Calm, Instant::now());
        sleep(calm).await;
        let start = Instant::now();
        director.enter(Phase::Between, start);
        let end = start + SETTLE + disturbed;
        let mut sending = JoinSet::new();
        for stream in streams {
            sending.spawn(timeout_at((end + PATIENCE).into(), bulk::send(stream, end, rate)));
        }
        sleep(SETTLE).await;
        director.enter(Phase::Disturbed, Instant::now());
        sleep(end.saturating_duration_since(Instant::now())).await;
        director.enter(Phase::Between, Instant::now());
        let mut bytes = 0;
        while let Some(sent) = sending.join_next().await {
            bytes += sent?.context("bulk does not end")?.context("bulk failed")?;
        }
        let time = start.elapsed();
        director.enter(Phase::Calm, Instant::now());
        sleep(calm).await;
        director.enter(Phase::Over, Instant::now());
        Ok(Moved { bytes, time })
    })
}
