//! The clients, in a pod: each workload is one run of this program.
//!
//! A client opens its connections and tries each, says [`BEGIN`], works for the given time, and
//! reports. Traffic before `BEGIN` is not measured.

mod bulk;
mod closed;
mod http2;
mod mixed;
mod paced;
mod phases;
mod stopped;
mod tally;
mod victim;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::threads;
use crate::workload::Workload;
use tally::Tally;

pub(crate) use victim::{Victim, VictimReport, run as run_victim};

/// The word of a client that begins to work.
pub(crate) const BEGIN: &str = "begin";

/// How long a connection, or one exchange on it, may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The task of a client.
#[derive(Clone, Copy, Debug, Parser)]
pub(crate) struct Load {
    /// The workload
    pub workload: Workload,
    /// The server
    #[arg(long)]
    pub to: SocketAddr,
    /// The server of what disturbs it on purpose
    #[arg(long)]
    pub beside: Option<SocketAddr>,
    /// How long to work
    #[arg(long)]
    pub seconds: f64,
}

/// The report of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Bytes that the servers say they have received; only of bulk workloads.
    pub bytes: u64,
    /// Exchanges, requests or connections that went well.
    pub done: u64,
    /// Those that did not.
    pub failed: u64,
    /// How long it took.
    pub seconds: f64,
    /// The median of the durations, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile of the durations, in microseconds.
    pub p99_us: f64,
    /// The longest duration, in microseconds.
    pub max_us: f64,
    /// The same without what disturbs it on purpose, if anything does.
    pub calm: Option<Calm>,
}

/// The report of a client while nothing disturbed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Calm {
    /// Exchanges a second that went well.
    pub rps: f64,
    /// The median of the durations, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile of the durations, in microseconds.
    pub p99_us: f64,
}

impl Report {
    /// Exchanges a second that went well.
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
    pub(crate) fn rps(&self) -> f64 {
        if self.seconds > 0.0 { self.done as f64 / self.seconds } else { 0.0 }
    }
}

/// Does it, and reports.
///
/// # Errors
///
/// No connection could be opened at the start.
pub(crate) fn run(load: &Load) -> Result<()> {
    let report = match load.workload {
        Workload::Bulk1 | Workload::Bulk8 => added_up(load, bulk::work),
        Workload::Pingpong => paced::round_trips(load),
        Workload::HttpRate | Workload::Http2Rate => paced::requests(load),
        Workload::HttpSaturated => added_up(load, closed::keep_alive),
        Workload::Http2Saturated => added_up(load, http2::streams),
        Workload::HttpNewConnection | Workload::Connect => added_up(load, closed::new_connections),
        Workload::StoppedReader | Workload::StoppedReaderBulk => stopped::requests(load),
        Workload::Mixed1 | Workload::Mixed8 | Workload::MixedPaced => mixed::requests(load),
    }?;
    let report = serde_json::to_string(&report).context("a report is valid JSON")?;
    writeln!(std::io::stdout(), "{report}").context("nobody reads our reports")
}

/// The share of one thread in a workload.
#[derive(Debug)]
struct Part<'a> {
    load: &'a Load,
    /// The number of the thread, from 0 on.
    index: usize,
    /// How many connections it has.
    connections: usize,
    /// Where all threads wait until all are ready.
    start: &'a Barrier,
}

impl Part<'_> {
    /// Waits for the other threads, and returns the times of the start and of the end.
    fn begin(&self) -> Result<(Instant, Instant)> {
        begin(self.load, self.start)
    }
}

/// Waits until all threads are ready; one of them says so.
fn begin(load: &Load, barrier: &Barrier) -> Result<(Instant, Instant)> {
    if barrier.wait().is_leader() {
        writeln!(std::io::stdout(), "{BEGIN}").context("nobody reads our reports")?;
    }
    let start = Instant::now();
    Ok((start, start + Duration::from_secs_f64(load.seconds)))
}

/// Shares the workload's connections among threads, and adds up what they did.
fn added_up(load: &Load, work: impl Fn(Part<'_>) -> Result<Tally> + Sync) -> Result<Report> {
    let mut all = Tally::default();
    for tally in on_threads(load, work)? {
        all.add(tally);
    }
    Ok(all.report())
}

/// Shares the workload's connections among threads. Returns what each has seen.
fn on_threads<T: Send>(load: &Load, work: impl Fn(Part<'_>) -> Result<T> + Sync) -> Result<Vec<T>> {
    let connections = load.workload.connections();
    let count = threads::count().min(connections);
    let start = &Barrier::new(count);
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| {
                let connections = threads::share(connections, count, index);
                scope.spawn(move || work(Part { load, index, connections, start }))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| {
            thread.join().map_err(|_panic| anyhow!("a thread of the load panicked"))?
        });
        joined.collect()
    })
}
