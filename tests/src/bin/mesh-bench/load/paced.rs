//! Latency: one exchange at a time on a thread of its own, which nothing else delays.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::prctl::set_timerslack;

use super::{Load, PATIENCE, Report, Tally, begin, http2};
use crate::http;

/// Requests a second, of all connections.
pub(super) const RATE: u32 = 1000;

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

/// The requests of one of `connections`.
fn connection(load: &Load, index: u32, connections: u32, barrier: &Barrier) -> Result<Tally> {
    let mut connection = Connection::open(load)?;
    let (start, end) = begin(load, barrier)?;
    let mut tally = Tally::default();
    for due in times(start, (index, connections), RATE).take_while(|due| *due < end) {
        sleep_until(due);
        if connection.request() {
            tally.done(due);
        } else {
            tally.failed += 1;
        }
    }
    tally.elapsed = start.elapsed();
    Ok(tally)
}

/// When the requests of connection `index` of `count` are due: every so many of all, which are
/// `rate` a second.
pub(super) fn times(
    start: Instant,
    (index, count): (u32, u32),
    rate: u32,
) -> impl Iterator<Item = Instant> {
    let (first, step) =
        (Duration::from_secs(1) * index / rate, Duration::from_secs(1) * count / rate);
    std::iter::successors(Some(start + first), move |due| Some(*due + step))
}

/// A connection that is opened again when it has failed.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    load: &'a Load,
    opened: Option<Opened>,
}

/// A connection that is open.
#[derive(Debug)]
enum Opened {
    Http1(TcpStream),
    Http2(http2::Waiting),
}

impl<'a> Connection<'a> {
    /// Opens a connection and tries it, and lets this thread be woken in time. A failing step of the
    /// connection fails again, and is counted, later: others wait for this thread.
    pub(super) fn open(load: &'a Load) -> Result<Self> {
        set_timerslack(TIMER_SLACK).context("cannot set the timer slack")?;
        let opened = Opened::open(load).ok();
        let mut connection = Self { load, opened };
        if connection.opened.is_some() {
            connection.request();
        }
        Ok(connection)
    }

    /// Sends a request on a connection of its own. Returns whether it was answered.
    pub(super) fn request_once(load: &'a Load) -> bool {
        Opened::open(load).and_then(|mut opened| opened.request()).is_ok()
    }

    /// Sends a request. Returns whether it was answered.
    pub(super) fn request(&mut self) -> bool {
        let opened = self.opened.take().map_or_else(|| Opened::open(self.load), Ok);
        let answered = opened.and_then(|mut opened| {
            opened.request()?;
            Ok(opened)
        });
        self.opened = answered.ok();
        self.opened.is_some()
    }
}

impl Opened {
    fn open(load: &Load) -> Result<Self> {
        Ok(if load.workload.is_http2() {
            Self::Http2(http2::Waiting::open(load.to)?)
        } else {
            Self::Http1(open(load)?)
        })
    }

    fn request(&mut self) -> Result<()> {
        match self {
            Self::Http1(stream) => Ok(request(stream)?),
            Self::Http2(waiting) => waiting.request(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a fixed rate is made of times, not of conditions")]
pub(super) fn sleep_until(due: Instant) {
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

fn request(stream: &mut TcpStream) -> io::Result<()> {
    let mut seen = [0; http::ANSWER_LIMIT];
    let mut length = 0;
    stream.write_all(http::GET)?;
    while !http::is_answered(&seen[..length])? {
        length += match stream.read(&mut seen[length..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => more,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_turns() {
        let start = Instant::now();
        let due = |index| {
            let times = times(start, (index, 16), RATE).take(2);
            times.map(|due| (due - start).as_millis()).collect::<Vec<_>>()
        };
        assert_eq!([due(0), due(15)], [[0, 16], [15, 31]]);
    }
}
