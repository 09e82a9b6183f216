//! The victim of a flood: requests at a fixed rate, on connections that stay and on new ones, while
//! lines of the input say whether there is a flood.

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser;
use serde::{Deserialize, Serialize};

use super::paced::{self, Connection};
use super::phases::{Compared, Director, Phase, Stage};
use super::{Load, Report, begin};
use crate::workload::Workload;

/// Connections that stay, and requests a second on all of them.
const KEPT: u32 = 8;
const RATE: u32 = 500;

/// Threads that open a connection for each request, and requests a second of all of them.
const OPENING: u32 = 4;
const NEW_RATE: u32 = 100;

/// Sends requests, and reports.
#[derive(Clone, Copy, Debug, Parser)]
pub(crate) struct Victim {
    /// The server
    #[arg(long)]
    pub to: SocketAddr,
}

/// Requests during a flood, with those of the calm before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct VictimReport {
    /// On connections that were open before the flood.
    pub requests: Report,
    /// On connections of their own.
    pub new: Report,
}

/// Sends requests until the input says that it is over, and reports.
///
/// # Errors
///
/// A line of the input is unknown.
pub(crate) fn run(victim: &Victim) -> Result<()> {
    let to = victim.to;
    let load = &Load { workload: Workload::HttpRate, to, beside: None, seconds: 0.0 };
    let barrier = &Barrier::new(usize::try_from(KEPT + OPENING)? + 1);
    let stage = &Stage::default();
    let [requests, new] = std::thread::scope(|scope| {
        let start = |count: u32, work: fn(_, _, _, _) -> _| {
            let turns = (0..count).map(move |index| (index, count));
            let spawn = |turn| scope.spawn(move || work(load, turn, barrier, stage));
            turns.map(spawn).collect::<Vec<_>>()
        };
        let all = [start(KEPT, keep), start(OPENING, open)];
        let directed = direct(load, barrier, stage);
        let [requests, new] = all.map(|threads| {
            let mut seen = Compared::default();
            for thread in threads {
                let joined = thread.join();
                seen.add(joined.map_err(|_panic| anyhow!("a thread of the load panicked"))??);
            }
            Ok::<_, anyhow::Error>(seen)
        });
        directed?;
        Ok::<_, anyhow::Error>([requests?, new?])
    })?;
    let spent = stage.spent();
    let report = VictimReport { requests: requests.report(spent), new: new.report(spent) };
    let report = serde_json::to_string(&report).context("a report is valid JSON")?;
    writeln!(std::io::stdout(), "{report}").context("nobody reads our reports")
}

/// Requests on a connection that stays.
fn keep(load: &Load, turn: (u32, u32), barrier: &Barrier, stage: &Stage) -> Result<Compared> {
    let mut connection = Connection::open(load)?;
    let (start, _end) = begin(load, barrier)?;
    let times = paced::times(start, turn, RATE);
    Ok(work(times, stage, || connection.request()))
}

/// Requests on connections of their own.
fn open(load: &Load, turn: (u32, u32), barrier: &Barrier, stage: &Stage) -> Result<Compared> {
    // Tried once, and kept from being delayed by the timer.
    drop(Connection::open(load)?);
    let (start, _end) = begin(load, barrier)?;
    let times = paced::times(start, turn, NEW_RATE);
    Ok(work(times, stage, || Connection::request_once(load)))
}

/// Requests at given times, until the run is over.
fn work(
    times: impl Iterator<Item = Instant>,
    stage: &Stage,
    mut request: impl FnMut() -> bool,
) -> Compared {
    let mut seen = Compared::default();
    for due in times {
        paced::sleep_until(due);
        let phase = stage.at(due);
        if phase == Phase::Over {
            break;
        }
        if request() {
            seen.done(phase, due);
        } else {
            seen.failed();
        }
    }
    seen
}

/// Follows the input.
fn direct(load: &Load, barrier: &Barrier, stage: &Stage) -> Result<()> {
    let mut director = Director::of(stage);
    begin(load, barrier)?;
    for line in std::io::stdin().lock().lines() {
        let phase = phase(&line.context("cannot read our input")?)?;
        director.enter(phase, Instant::now());
        if phase == Phase::Over {
            break;
        }
    }
    Ok(())
}

fn phase(line: &str) -> Result<Phase> {
    Ok(match line {
        "calm" => Phase::Calm,
        "between" => Phase::Between,
        "disturbed" => Phase::Disturbed,
        "over" => Phase::Over,
        other => bail!("no phase is called {other:?}"),
    })
}
