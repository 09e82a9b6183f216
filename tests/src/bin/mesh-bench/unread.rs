//! Bytes that wait in the kernel for an application that does not read, and the memory that they take.
//!
//! A sender must be held back, and what it has sent must not grow without a bound, whatever way it
//! takes to the other socket.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use mesh_tests::process::DEADLINE;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::carriage::Counters;
use crate::load::BEGIN;
use crate::pod::InPod;
use crate::serve::READY;
use crate::slot::Slot;
use crate::threads;
use crate::workload::{DEAF, Path};

/// How many connections are filled.
pub(crate) const CONNECTIONS: u32 = 16;

/// Bytes of large messages.
pub(crate) const LARGE: u32 = 65_536;

/// Bytes of small messages: what the kernel keeps for each may be more than the message.
pub(crate) const SMALL: u32 = 64;

/// After how long in which nothing is taken a sender is held back.
const HELD_BACK: Duration = Duration::from_millis(500);

/// The most that a connection is filled with: far more than TCP takes by default, which is 6 MiB at
/// the reader and 4 MiB at the writer. A contender that takes it all has held nobody back.
const MOST: u64 = 64 << 20;

/// Bytes of a page in `/proc/net/sockstat`, on every architecture that the mesh is built for.
const PAGE: u64 = 4096;

/// Fill connections, in a pod.
#[derive(Clone, Copy, Debug, Parser)]
pub(crate) struct Fill {
    /// The server
    #[arg(long)]
    pub to: SocketAddr,
    /// Bytes of each message
    #[arg(long)]
    pub size: u32,
}

/// The bytes that all senders together could send.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Filled {
    bytes: u64,
    /// How many of them were not held back.
    unbounded: u32,
}

/// The bytes that wait for a reader, and the memory that they take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unread {
    /// Bytes of each message.
    pub size: u32,
    /// Bytes that the senders got rid of, of all connections.
    pub sent: u64,
    /// Bytes that the kernel accounts to TCP, in all namespaces.
    pub tcp: u64,
    /// Bytes by which the machine's available memory went down, whatever they are accounted to.
    pub machine: u64,
}

impl Unread {
    /// Fills connections to a server of the same node that does not read.
    ///
    /// # Errors
    ///
    /// A connection failed or was not held back, or did not go the way of this contender.
    pub(crate) fn measure(slot: &Slot, size: u32) -> Result<Self> {
        let to = slot.target(Path::SameNode, DEAF).context("no service to connect to")?;
        let server = InPod::start(slot.near(), &["deaf"])?;
        let line = server.line(DEADLINE)?;
        ensure!(line == READY, "a server said {line:?} before it was ready");
        let counters = Counters::now(slot)?;
        let (to, size_text) = (to.to_string(), size.to_string());
        let mut client = InPod::start(slot.client(), &["fill", "--to", &to, "--size", &size_text])?;
        let line = client.line(DEADLINE)?;
        ensure!(line == BEGIN, "a client said {line:?} before it began");
        let before = (tcp_memory()?, available()?);
        client.say("go")?;
        let line = client.line(DEADLINE)?;
        let after = (tcp_memory()?, available()?);
        if let Some(expected) = slot.contender.verdict(Path::SameNode) {
            counters.check_verdicts(&Counters::now(slot)?, expected, CONNECTIONS.into())?;
        }
        let filled: Filled =
            serde_json::from_str(&line).with_context(|| format!("a client said {line:?}"))?;
        ensure!(
            filled.unbounded == 0,
            "{} of {CONNECTIONS} senders were not held back within {MOST} bytes",
            filled.unbounded
        );
        let tcp = after.0.saturating_sub(before.0);
        let machine = before.1.saturating_sub(after.1);
        Ok(Self { size, sent: filled.bytes, tcp, machine })
    }
}

/// Connects, says so, fills the connections when it is told to, reports, and keeps them.
///
/// # Errors
///
/// A connection failed.
pub(crate) fn run(fill: &Fill) -> Result<()> {
    let runtime = threads::runtime()?;
    let mut streams = runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(fill.to).await.context("cannot connect")?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        Ok::<_, anyhow::Error>(streams)
    })?;
    let mut out = std::io::stdout();
    writeln!(out, "{BEGIN}").context("nobody reads our reports")?;
    let mut told = String::new();
    std::io::stdin().read_line(&mut told).context("cannot read our input")?;
    let size = usize::try_from(fill.size)?;
    let filled = runtime.block_on(async {
        let mut filling = JoinSet::new();
        for mut stream in streams.drain(..) {
            let message = vec![b'x'; size];
            filling.spawn(async move {
                let bytes = until_held_back(&mut stream, &message, MOST).await?;
                Ok::<_, anyhow::Error>((stream, bytes))
            });
        }
        let mut filled = Filled { bytes: 0, unbounded: 0 };
        let mut kept = Vec::new();
        while let Some(ended) = filling.join_next().await {
            let (stream, bytes) = ended??;
            filled.bytes += bytes;
            filled.unbounded += u32::from(bytes >= MOST);
            kept.push(stream);
        }
        streams = kept;
        Ok::<_, anyhow::Error>(filled)
    })?;
    let report = serde_json::to_string(&filled).context("a report is valid JSON")?;
    writeln!(out, "{report}").context("nobody reads our reports")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("cannot read our input")?;
    drop(streams);
    Ok(())
}

/// Sends messages until none is taken for a while, or `most` bytes were. Returns how many it was.
///
/// # Errors
///
/// The connection ended.
pub(crate) async fn until_held_back(
    stream: &mut TcpStream,
    message: &[u8],
    most: u64,
) -> Result<u64> {
    let mut sent = 0;
    while sent < most {
        match timeout(HELD_BACK, stream.write(message)).await {
            Ok(length) => sent += length.context("cannot send")? as u64,
            Err(_elapsed) => break,
        }
    }
    Ok(sent)
}

/// Bytes that the kernel accounts to TCP.
fn tcp_memory() -> Result<u64> {
    let text =
        fs::read_to_string("/proc/net/sockstat").context("cannot read /proc/net/sockstat")?;
    pages(&text).map(|pages| pages * PAGE).context("/proc/net/sockstat does not know TCP's memory")
}

/// Finds the pages in `TCP: inuse 5 orphan 0 tw 0 alloc 7 mem 3` (proc(5)): of all namespaces.
fn pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "mem");
    words.nth(1)?.parse().ok()
}

/// Bytes of memory that programs could still get.
fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).context("/proc/meminfo does not know what is available")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_tcp_is_told_in_pages() {
        let text =
            "sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 7 mem 3\nUDP: inuse 0 mem 8\n";
        assert_eq!(pages(text), Some(3));
        assert_eq!(pages("TCP6: inuse 5\n"), None);
    }
}
