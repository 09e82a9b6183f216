//! Closed loops: the next request is sent when the last one is answered.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, timeout_at};

use super::{Load, PATIENCE, Part, Tally};
use crate::workload::Workload;
use crate::{http, threads};

/// How long a client waits before it tries again what failed.
const PAUSE: Duration = Duration::from_millis(5);

/// An open connection, and room for the answer.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    seen: Vec<u8>,
}

/// A client that asks for one thing after the other.
pub(super) trait Asks: Send + 'static {
    /// Sends a request, and reads its answer.
    fn ask(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// Sends requests on connections that stay open.
pub(super) fn keep_alive(part: Part<'_>) -> Result<Tally> {
    busy(part, async |to| Ok(vec![Client::open(to).await?]))
}

/// Opens connections, each for some clients, and has all of them ask at all times.
pub(super) fn busy<C: Asks>(
    part: Part<'_>,
    open: impl AsyncFn(SocketAddr) -> io::Result<Vec<C>>,
) -> Result<Tally> {
    let runtime = threads::runtime()?;
    let clients = runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..part.connections {
            let opened = timeout(PATIENCE, open(part.load.to)).await;
            clients.extend(opened.context("no answer")?.context("cannot connect")?);
        }
        Ok::<_, anyhow::Error>(clients)
    })?;
    let (start, end) = part.begin()?;
    runtime.block_on(async {
        let mut working = JoinSet::new();
        for mut client in clients {
            working.spawn(async move {
                let mut tally = Tally::default();
                // One deadline for all requests: a timer for each would be load.
                let working = work(&mut client, end, &mut tally);
                let ended = timeout_at((end + PATIENCE).into(), working).await;
                if !matches!(ended, Ok(Ok(()))) {
                    tally.failed += 1;
                }
                tally
            });
        }
        collect(working, start).await
    })
}

async fn work(client: &mut impl Asks, end: Instant, tally: &mut Tally) -> io::Result<()> {
    let mut now = Instant::now();
    while now < end {
        client.ask().await?;
        tally.done(now);
        now = Instant::now();
    }
    Ok(())
}

/// Opens a connection for each request, or for nothing but its end.
pub(super) fn new_connections(part: Part<'_>) -> Result<Tally> {
    let runtime = threads::runtime()?;
    let load = *part.load;
    let first = async { timeout(PATIENCE, once(&load)).await };
    runtime.block_on(first).context("no answer")?.context("no connection")?;
    let (start, end) = part.begin()?;
    runtime.block_on(async {
        let mut working = JoinSet::new();
        for _ in 0..part.connections {
            working.spawn(async move {
                let mut tally = Tally::default();
                while Instant::now() < end {
                    let begin = Instant::now();
                    if let Ok(Ok(())) = timeout(PATIENCE, once(&load)).await {
                        tally.done(begin);
                    } else {
                        tally.failed += 1;
                        sleep(PAUSE).await;
                    }
                }
                tally
            });
        }
        collect(working, start).await
    })
}

async fn collect(mut working: JoinSet<Tally>, start: Instant) -> Result<Tally> {
    let mut all = Tally::default();
    while let Some(tally) = working.join_next().await {
        all.add(tally?);
    }
    all.elapsed = start.elapsed();
    Ok(all)
}

/// One connection, with one request or with none; the server closes first.
async fn once(load: &Load) -> io::Result<()> {
    let mut stream = TcpStream::connect(load.to).await?;
    if load.workload == Workload::Connect {
        let length = stream.read(&mut [0]).await?;
        return if length == 0 { Ok(()) } else { Err(io::Error::other("bytes of nobody")) };
    }
    stream.set_nodelay(true)?;
    stream.write_all(http::GET_AND_CLOSE).await?;
    let mut seen = Vec::with_capacity(http::ANSWER_LIMIT);
    stream.read_to_end(&mut seen).await?;
    if http::is_answered(&seen)? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

impl Client {
    /// Connects, and tries the connection.
    pub(super) async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, seen: Vec::with_capacity(http::ANSWER_LIMIT) };
        client.request().await?;
        Ok(client)
    }

    /// Sends a request, and reads its answer.
    pub(super) async fn request(&mut self) -> io::Result<()> {
        self.stream.write_all(http::GET).await?;
        self.seen.clear();
        while !http::is_answered(&self.seen)? {
            if self.stream.read_buf(&mut self.seen).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

impl Asks for Client {
    async fn ask(&mut self) -> io::Result<()> {
        self.request().await
    }
}
