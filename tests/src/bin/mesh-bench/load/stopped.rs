//! Many connections that are busy with requests, and one whose reader stops.
//!
//! The stopped connection must hold up nobody else, however long it is not read.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use super::closed::Client;
use super::phases::{Compared, Director, Phase, Stage, lengths};
use super::{Load, PATIENCE, Part, Report, on_threads};
use crate::threads;
use crate::unread::{LARGE, SMALL, until_held_back};
use crate::workload::Workload;

/// How long a bulk stream is read before its reader stops, so that its windows have grown.
const WARM_UP: Duration = Duration::from_millis(300);

/// The most that is sent before a stream that is not read is held back, both ways: each socket
/// between two pods has 10 MiB at most, and with a pair of proxies there are twelve.
const MOST: u64 = 256 << 20;

/// The bytes that may still be taken from a writer that was held back, as sockets find more room.
const SLACK: u64 = 1 << 20;

/// A connection to a server that sends back what it reads. When its client stops reading, the
/// server is held back when it sends, reads no more itself, and both ways are full.
#[derive(Debug)]
struct Stopper {
    stream: TcpStream,
    /// Bytes that were sent and not read back.
    owed: u64,
}

/// Measures requests while all connections are read, and while one is not.
pub(super) fn requests(load: &Load) -> Result<Report> {
    let stage = Arc::new(Stage::default());
    let mut seen = Compared::default();
    for part in on_threads(load, |part| work(&part, &stage))? {
        seen.add(part);
    }
    Ok(seen.report(stage.spent()))
}

/// The work of one thread. The first one has the connection that is not read.
fn work(part: &Part<'_>, stage: &Arc<Stage>) -> Result<Compared> {
    let runtime = threads::runtime()?;
    let load = *part.load;
    let (stopper, clients) = runtime.block_on(async {
        let stopper = if part.index == 0 { Some(Stopper::open(&load).await?) } else { None };
        let mut clients = Vec::new();
        for _ in usize::from(stopper.is_some())..part.connections {
            let client = timeout(PATIENCE, Client::open(load.to)).await;
            clients.push(client.context("no answer")?.context("cannot connect")?);
        }
        Ok::<_, anyhow::Error>((stopper, clients))
    })?;
    let (_start, end) = part.begin()?;
    // Beside the phases there is the time to be held back, and to be read again.
    let latest = end + PATIENCE * 3;
    runtime.block_on(async {
        let mut working = JoinSet::new();
        for mut client in clients {
            let stage = Arc::clone(stage);
            working.spawn(async move {
                let mut seen = Compared::default();
                let ended = timeout_at(latest.into(), answered(&mut client, &stage, &mut seen));
                if !matches!(ended.await, Ok(Ok(()))) {
                    seen.failed();
                }
                seen
            });
        }
        if let Some(stopper) = stopper {
            let directed = timeout_at(latest.into(), direct(stopper, stage, &load)).await;
            directed.context("the stream that is not read goes on")??;
        }
        let mut all = Compared::default();
        while let Some(seen) = working.join_next().await {
            all.add(seen?);
        }
        Ok(all)
    })
}

/// Sends requests until the run is over.
async fn answered(client: &mut Client, stage: &Stage, seen: &mut Compared) -> io::Result<()> {
    loop {
        let start = Instant::now();
        let phase = stage.at(start);
        if phase == Phase::Over {
            return Ok(());
        }
        client.request().await?;
        seen.done(phase, start);
    }
}

/// The life of the one connection: as busy as the others, not read, and as busy again.
async fn direct(mut stopper: Stopper, stage: &Stage, load: &Load) -> Result<()> {
    let mut director = Director::of(stage);
    let [calm, disturbed] = lengths(load.seconds);
    director.enter(Phase::Calm, Instant::now());
    stopper.exchange(calm).await?;
    director.enter(Phase::Between, Instant::now());
    let size = if load.workload == Workload::StoppedReaderBulk {
        stopper.transfer(WARM_UP).await?;
        LARGE
    } else {
        SMALL
    };
    let message = vec![b'x'; usize::try_from(size)?];
    let sent = until_held_back(&mut stopper.stream, &message, MOST).await?;
    ensure!(sent < MOST, "a writer was not held back within {MOST} bytes");
    stopper.owed += sent;
    director.enter(Phase::Disturbed, Instant::now());
    let taken = stopper.press(&message, disturbed).await?;
    director.enter(Phase::Between, Instant::now());
    ensure!(taken < SLACK, "{taken} bytes were taken from a writer that was held back");
    stopper.read_all().await?;
    director.enter(Phase::Calm, Instant::now());
    stopper.exchange(calm).await?;
    director.enter(Phase::Over, Instant::now());
    Ok(())
}

impl Stopper {
    /// Connects, and tries the connection.
    async fn open(load: &Load) -> Result<Self> {
        let to = load.beside.context("nobody to send to whose answers are not read")?;
        let stream = timeout(PATIENCE, TcpStream::connect(to)).await.context("no connection")?;
        let stream = stream.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let mut stopper = Self { stream, owed: 0 };
        timeout(PATIENCE, stopper.exchange(Duration::ZERO)).await.context("no answer")??;
        Ok(stopper)
    }

    /// Sends a message and reads it back, at least once and again until `length` has passed.
    async fn exchange(&mut self, length: Duration) -> io::Result<()> {
        let end = Instant::now() + length;
        let mut message = vec![b'x'; SMALL as usize];
        loop {
            self.stream.write_all(&message).await?;
            self.stream.read_exact(&mut message).await?;
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// Sends and reads as much as it can for as long as `length`.
    async fn transfer(&mut self, length: Duration) -> io::Result<()> {
        let end = Instant::now() + length;
        let (mut sent, mut received) = (0, 0);
        let (mut reader, mut writer) = self.stream.split();
        let chunk = vec![b'x'; LARGE as usize];
        let mut buffer = vec![0; LARGE as usize];
        let send = async {
            while Instant::now() < end {
                sent += writer.write(&chunk).await? as u64;
            }
            Ok::<(), io::Error>(())
        };
        let read = async {
            while let length @ 1.. = reader.read(&mut buffer).await? {
                received += length as u64;
            }
            Err(io::ErrorKind::UnexpectedEof.into())
        };
        tokio::select! { biased; ended = send => ended, ended = read => ended }?;
        self.owed += sent - received;
        Ok(())
    }

    /// Tries to send for as long as `length`. Returns how many bytes were taken.
    async fn press(&mut self, message: &[u8], length: Duration) -> io::Result<u64> {
        let end = Instant::now() + length;
        let mut taken = 0;
        while let Ok(length) = timeout_at(end.into(), self.stream.write(message)).await {
            taken += length? as u64;
        }
        self.owed += taken;
        Ok(taken)
    }

    /// Reads all that was sent.
    async fn read_all(&mut self) -> Result<()> {
        let mut buffer = vec![0; LARGE as usize];
        while self.owed > 0 {
            let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await;
            let length = read.context("what was not read does not come")?? as u64;
            ensure!(length > 0, "a connection ended with {} bytes under way", self.owed);
            self.owed = self.owed.checked_sub(length).context("more came back than was sent")?;
        }
        Ok(())
    }
}
