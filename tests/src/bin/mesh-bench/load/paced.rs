//! Latency: one exchange at a time on a thread of its own, which nothing else delays.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::prctl::set_timerslack;

use super::{Load, PATIENCE, Report, Tally, begin};
use crate::http;

/// Requests a second, of all connections.
const RATE: u32 = 1000;

/// How much later than asked for a thread may be woken, in nanoseconds; the default is 50,000,
/// which would be a good part of what is measured.
const TIMER_SLACK: u64 = 1000;

/// Sends a byte and waits for it to come back, until the end.
pub(super) fn round_trips(load: &Load) -> Result<Report> {
    let mut stream = open(load)?;
    round_trip(&mut stream).context("no answer")?;
    let (start, end) = begin(load, &Barrier::new(1))?;
    let mut tally = Tally::default();
    let mut now = start;
    while now < end {
        if round_trip(&mut stream).is_err() {
            tally.failed += 1;
            break;
        }
        tally.done(now);
        now = Instant::now();
    }
    tally.elapsed = start.elapsed();
    Ok(tally.report())
}

/// Sends requests at fixed times. Durations count from those times, so that a request that had to
/// wait for the one before it is as late as its user sees it.
pub(super) fn requests(load: &Load) -> Result<Report> {
    let connections = load.workload.connections();
    let barrier = &Barrier::new(connections);
    let connections = u32::try_from(connections)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|index| scope.spawn(move || connection(load, index, connections, barrier)))
            .collect();
        let mut all = Tally::default();
        for thread in threads {
            all.add(thread.join().map_err(|_panic| anyhow!("a thread of the load panicked"))??);
        }
        Ok(all.report())
    })
}

/// The requests of one of `connections`: every so many of all.
fn connection(load: &Load, index: u32, connections: u32, barrier: &Barrier) -> Result<Tally> {
    set_timerslack(TIMER_SLACK).context("cannot set the timer slack")?;
    let expect = http::answer();
    // What fails here fails again, and is counted, below: the others wait at the barrier.
    let mut stream = open(load).ok();
    if let Some(stream) = &mut stream {
        drop(request(stream, &expect));
    }
    let (start, end) = begin(load, barrier)?;
    let mut tally = Tally::default();
    let mut due = start + Duration::from_secs(1) * index / RATE;
    while due < end {
        sleep_until(due);
        let opened = match stream.take() {
            Some(stream) => Ok(stream),
            None => open(load),
        };
        let answered = opened.and_then(|mut opened| {
            request(&mut opened, &expect)?;
            Ok(opened)
        });
        if answered.is_ok() {
            tally.done(due);
        } else {
            tally.failed += 1;
        }
        stream = answered.ok();
        due += Duration::from_secs(1) * connections / RATE;
    }
    tally.elapsed = start.elapsed();
    Ok(tally)
}

#[expect(clippy::disallowed_methods, reason = "a fixed rate is made of times, not of conditions")]
fn sleep_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}

fn open(load: &Load) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&load.to, PATIENCE).context("cannot connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn round_trip(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    stream.write_all(b"x")?;
    stream.read_exact(&mut byte)
}

fn request(stream: &mut TcpStream, expect: &[u8]) -> Result<()> {
    let mut seen = vec![0; expect.len()];
    stream.write_all(http::GET)?;
    stream.read_exact(&mut seen)?;
    Ok(http::check(&seen, expect)?)
}
