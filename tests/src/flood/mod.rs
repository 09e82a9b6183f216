//! Floods: attack clients that send more, slower or worse than any application would.
//!
//! A flood is paced: it makes so many attempts a second and keeps so many of them open, whatever
//! becomes of them, so that it is the same against anything that listens.

mod frames;
mod peer;
mod plain;
mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use tls::Handshaker;
pub use tls::{Credentials, sink};

/// How often attempts are launched: all that are due since the last time.
const TICK: Duration = Duration::from_millis(5);

/// How long an attempt waits for the other side to end it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The kinds of floods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Flood {
    /// Opens connections and leaves them idle
    Connections,
    /// Makes full TLS handshakes, and ends the connection
    Handshakes,
    /// Opens tunnels and leaves them idle
    Tunnels,
    /// Opens streams: as a peer in few tunnels, as a workload by short connections
    Streams,
    /// Connects to a port that a policy denies
    DeniedConnects,
    /// Sends to an echo server until it is held back, and reads nothing
    SlowReaders,
    /// Sends one byte at a time
    OneByteWriters,
    /// Sends heads of requests that do not end
    HugeHeads,
    /// Sends what no protocol allows
    MalformedFrames,
}

/// The sender of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Party {
    /// A host on the network without an identity
    Stranger,
    /// An enrolled pod of the attacked node
    Workload,
    /// A node with a valid certificate, by both transports
    Peer,
}

/// How fast a flood is, and how wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Attempts a second.
    pub per_second: u32,
    /// Attempts that are open at the same time; beyond them none is launched.
    pub open: usize,
    /// Pause between two steps of one attempt, such as its bytes or streams.
    pub step: Duration,
}

/// The addresses that a flood is for.
#[derive(Clone, Debug)]
pub struct Aim {
    /// The application, by a service or by its own address.
    pub to: SocketAddr,
    /// The port of tunnels of the same workload.
    pub tunnel: SocketAddr,
    /// The certificates that a peer shows and that handshakes need.
    pub credentials: PathBuf,
}

/// Counts of a running flood.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    attempts: AtomicU64,
    steps: AtomicU64,
}

/// A client that attacks.
#[derive(Debug)]
struct Caller {
    flood: Flood,
    to: SocketAddr,
    tunnel: SocketAddr,
    pace: Pace,
    handshaker: Handshaker,
    counts: Counts,
}

impl Flood {
    /// All, in the order of the tables.
    pub const ALL: [Self; 9] = [
        Self::Connections,
        Self::Handshakes,
        Self::Tunnels,
        Self::Streams,
        Self::DeniedConnects,
        Self::SlowReaders,
        Self::OneByteWriters,
        Self::HugeHeads,
        Self::MalformedFrames,
    ];

    /// The name, for machines and command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::Tunnels => "tunnels",
            Self::Streams => "streams",
            Self::DeniedConnects => "denied_connects",
            Self::SlowReaders => "slow_readers",
            Self::OneByteWriters => "one_byte_writers",
            Self::HugeHeads => "huge_heads",
            Self::MalformedFrames => "malformed_frames",
        }
    }

    /// The parties that can send it: tunnels and streams need a certificate, except that each
    /// connection of a workload becomes a stream.
    pub const fn parties(self) -> &'static [Party] {
        match self {
            Self::Tunnels => &[Party::Peer],
            Self::Streams => &[Party::Workload, Party::Peer],
            Self::Connections
            | Self::Handshakes
            | Self::DeniedConnects
            | Self::SlowReaders
            | Self::OneByteWriters
            | Self::HugeHeads
            | Self::MalformedFrames => &Party::ALL,
        }
    }

    /// Its pace. Attempts that cost a handshake are fewer: their number is to be more than a
    /// legitimate client needs, and less than takes all processors of a small machine by itself.
    pub const fn pace(self, party: Party) -> Pace {
        let (per_second, open, step_us) = match (self, party) {
            (Self::Connections, _) => (2000, 4000, 0),
            (Self::Handshakes, _) => (200, 256, 0),
            (Self::Tunnels, _) => (200, 512, 0),
            // 8 tunnels, each 250 streams a second.
            (Self::Streams, Party::Peer) => (100, 8, 4000),
            (Self::Streams, _) => (1000, 256, 0),
            (Self::DeniedConnects, Party::Workload) => (5000, 64, 0),
            // 8 tunnels, each 125 streams a second.
            (Self::DeniedConnects, Party::Peer) => (100, 8, 8000),
            (Self::DeniedConnects, Party::Stranger) => (1000, 64, 0),
            (Self::SlowReaders, Party::Peer) => (100, 16, 0),
            // 64 connections, each 40 bytes a second: 2,560 packets.
            (Self::OneByteWriters, _) => (200, 64, 25_000),
            (Self::HugeHeads, Party::Peer) => (50, 64, 0),
            (Self::SlowReaders, _) => (100, 64, 5000),
            (Self::HugeHeads, _) | (Self::MalformedFrames, Party::Peer) => (100, 64, 0),
            (Self::MalformedFrames, _) => (500, 64, 0),
        };
        Pace { per_second, open, step: Duration::from_micros(step_us) }
    }

    /// Sends it by `party` until `ended` is.
    ///
    /// # Errors
    ///
    /// The credentials cannot be read.
    pub async fn send(
        self,
        party: Party,
        aim: &Aim,
        counts: &Counts,
        ended: impl Future<Output = ()>,
    ) -> Result<()> {
        let credentials = Credentials::load(&aim.credentials)?;
        let caller = Arc::new(Caller {
            flood: self,
            to: aim.to,
            tunnel: aim.tunnel,
            pace: self.pace(party),
            handshaker: Handshaker::new(&credentials, party == Party::Peer)?,
            counts: counts.clone(),
        });
        launch(caller.pace, counts, ended, |number| {
            let caller = Arc::clone(&caller);
            async move {
                match party {
                    Party::Stranger | Party::Workload => {
                        caller.attempt_without_certificate(number).await
                    }
                    Party::Peer => caller.attempt_as_peer(number).await,
                }
            }
        })
        .await
    }
}

impl Party {
    /// All, in the order of the tables.
    pub const ALL: [Self; 3] = [Self::Stranger, Self::Workload, Self::Peer];

    /// The name, for machines and command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Workload => "workload",
            Self::Peer => "peer",
        }
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Counts {
    /// Attempts that were launched.
    pub fn attempts(&self) -> u64 {
        self.0.attempts.load(Ordering::Relaxed)
    }

    /// Steps of all attempts: bytes of writers, streams of peers.
    pub fn steps(&self) -> u64 {
        self.0.steps.load(Ordering::Relaxed)
    }

    fn add_attempt(&self) -> u64 {
        self.0.attempts.fetch_add(1, Ordering::Relaxed)
    }

    fn add_step(&self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// Launches attempts until `ended` is. An attempt that fails is what the other side wants.
async fn launch<F>(
    pace: Pace,
    counts: &Counts,
    ended: impl Future<Output = ()>,
    attempt: impl Fn(u64) -> F,
) -> Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut open = JoinSet::new();
    let mut clock = interval(TICK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut ended = std::pin::pin!(ended);
    let mut due = 0;
    loop {
        tokio::select! {
            biased;
            () = &mut ended => return Ok(()),
            Some(joined) = open.join_next(), if !open.is_empty() => {
                drop(joined.context("an attempt panicked")?);
            }
            _now = clock.tick() => {
                due = allow(due, pace);
                while due >= UNIT && open.len() < pace.open {
                    due -= UNIT;
                    open.spawn(attempt(counts.add_attempt()));
                }
            }
        }
    }
}

/// One attempt, in the unit of what is due: microseconds × attempts a second.
const UNIT: u64 = 1_000_000;

/// The attempts that are due after one more tick, at most those of four: a flood does not make up
/// for attempts that it could not launch.
fn allow(due: u64, pace: Pace) -> u64 {
    let tick = u64::from(pace.per_second) * u64::try_from(TICK.as_micros()).unwrap_or(u64::MAX);
    (due + tick).min(tick * 4 + UNIT)
}

/// Reads and throws away until the other side ends it.
async fn discard(mut from: impl AsyncRead + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    while from.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// The same, for a moment: whoever does not end it then is not waited for.
async fn discard_briefly(from: impl AsyncRead + Unpin) -> io::Result<()> {
    timeout(PATIENCE, discard(from)).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_due_at_the_rate_and_are_not_made_up_for() {
        let pace = |per_second| Pace { per_second, open: 1, step: Duration::ZERO };
        let after = |per_second, ticks| (0..ticks).fold(0, |due, _| allow(due, pace(per_second)));
        assert_eq!(after(1000, 1) / UNIT, 5);
        assert_eq!(after(100, 1) / UNIT, 0);
        assert_eq!(after(100, 2) / UNIT, 1, "half an attempt is not lost");
        assert_eq!(after(1000, 1000) / UNIT, 21);
    }

    #[test]
    fn each_flood_has_a_name_and_a_party() {
        for flood in Flood::ALL {
            assert_eq!(Flood::from_str(flood.name(), false), Ok(flood));
            assert!(flood.parties().iter().all(|party| flood.pace(*party).per_second > 0));
            assert!(flood.parties().contains(&Party::Workload) || flood == Flood::Tunnels);
        }
        for party in Party::ALL {
            assert_eq!(Party::from_str(party.name(), false), Ok(party));
        }
    }

    #[tokio::test]
    async fn no_more_attempts_are_open_than_the_pace_says() {
        let counts = Counts::default();
        let pace = Pace { per_second: 100_000, open: 3, step: Duration::ZERO };
        let ended = async {
            while counts.attempts() < 3 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(TICK * 4).await;
        };
        launch(pace, &counts, ended, |_number| std::future::pending()).await.unwrap();
        assert_eq!(counts.attempts(), 3);
    }
}
