//! Many bytes, both ways, each of them checked.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_tests::pattern::Pattern;
use mesh_tests::report::{Confirmation, Event, Transfer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::args::{self, Closer};
use crate::dial::dial;
use crate::{client, serve, tell};

/// Transfers as `plan` says, and reports.
pub(crate) async fn run(plan: &args::Transfer) -> Result<()> {
    let start = Instant::now();
    let mut seen = Transfer { sent: 0, received: 0, confirmed: None, error: None, total_us: 0 };
    let result = match timeout(plan.target.timeout(), steps(plan, &mut seen)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    };
    seen.error = result.err().map(|error| client::name(&error));
    seen.total_us = client::micros(start);
    tell(&Event::Transfer(seen))
}

async fn steps(plan: &args::Transfer, seen: &mut Transfer) -> io::Result<()> {
    let mut stream = dial(&plan.target).await?;
    let (mut reader, mut writer) = stream.split();
    let up = Pattern::new(Pattern::UP);
    match plan.closer {
        Closer::Client => {
            let send = async {
                let digest = serve::fill(&mut writer, up, plan.up).await?;
                writer.shutdown().await?;
                Ok(digest)
            };
            let (digest, ()) =
                tokio::try_join!(send, expect(&mut reader, plan.down, &mut seen.received))?;
            seen.sent = plan.up;
            let mut line = String::new();
            reader.read_to_string(&mut line).await?;
            let confirmation: Confirmation = serde_json::from_str(&line)?;
            let digest = digest.to_string();
            seen.confirmed = Some(confirmation == Confirmation { received: plan.up, digest });
        }
        Closer::Server => {
            expect(&mut reader, plan.down, &mut seen.received).await?;
            if reader.read(&mut [0]).await? > 0 {
                return Err(io::Error::other("bytes after the last"));
            }
            serve::fill(&mut writer, up, plan.up).await?;
            seen.sent = plan.up;
            writer.shutdown().await?;
        }
        Closer::Dead => {
            serve::fill(&mut writer, up, plan.up).await?;
            seen.sent = plan.up;
            writer.shutdown().await?;
            // Something was read, so the connection stands and the server sends.
            expect(&mut reader, plan.down.max(1), &mut seen.received).await?;
        }
        Closer::Reset => {
            serve::fill(&mut writer, up, plan.up).await?;
            seen.sent = plan.up;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
    }
    Ok(())
}

/// Reads `bytes` of the servers' pattern.
async fn expect(
    reader: &mut (impl AsyncRead + Unpin),
    bytes: u64,
    received: &mut u64,
) -> io::Result<()> {
    let mut pattern = Pattern::new(Pattern::DOWN);
    let mut buffer = vec![0; 64 * 1024];
    while *received < bytes {
        // Not a byte more: what follows is the confirmation.
        let room = usize::try_from(bytes - *received).unwrap_or(usize::MAX).min(buffer.len());
        let length = reader.read(&mut buffer[..room]).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        pattern
            .check(&buffer[..length])
            .map_err(|at| io::Error::other(format!("byte {at} is wrong")))?;
        *received += length as u64;
    }
    Ok(())
}
