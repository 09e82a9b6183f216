//! As many bytes as possible.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

use super::{PATIENCE, Part, Tally};
use crate::threads;

/// Bytes that are sent at once, as iperf3 does.
const CHUNK: u32 = 128 * 1024;

/// Sends on each connection until the end, and waits until all of it has arrived.
pub(super) fn work(part: Part<'_>) -> Result<Tally> {
    let runtime = threads::runtime()?;
    let streams = runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..part.connections {
            streams.push(TcpStream::connect(part.load.to).await.context("cannot connect")?);
        }
        Ok::<_, anyhow::Error>(streams)
    })?;
    let (start, end) = part.begin()?;
    runtime.block_on(async {
        let mut sending = JoinSet::new();
        for stream in streams {
            sending.spawn(timeout_at((end + PATIENCE).into(), send(stream, end, None)));
        }
        let mut tally = Tally::default();
        while let Some(sent) = sending.join_next().await {
            match sent? {
                Ok(Ok(bytes)) => {
                    tally.bytes += bytes;
                    tally.done(start);
                }
                Ok(Err(_)) | Err(_) => tally.failed += 1,
            }
        }
        tally.elapsed = start.elapsed();
        Ok(tally)
    })
}

/// Sends until the end, as much as it can, or so many bytes a second. Returns how many bytes the
/// server has received.
pub(super) async fn send(
    mut stream: TcpStream,
    end: Instant,
    rate: Option<u32>,
) -> io::Result<u64> {
    let chunk = vec![b'x'; CHUNK as usize];
    let mut due = Instant::now();
    while Instant::now() < end {
        stream.write_all(&chunk).await?;
        if let Some(rate) = rate {
            due += Duration::from_secs(1) * CHUNK / rate;
            sleep_until(due.into()).await;
        }
    }
    stream.shutdown().await?;
    stream.read_u64().await
}
