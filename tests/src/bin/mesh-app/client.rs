//! One connection of a client, step by step.

use std::io;
use std::time::{Duration, Instant};

use mesh_tests::report::{Banner, Connection, Stage};
use nix::errno::Errno;
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::args::{Connect, End};
use crate::dial::dial;

/// An open connection.
pub(crate) type Stream = BufReader<TcpStream>;

/// Connects, exchanges and closes.
pub(crate) async fn once(plan: &Connect, payload: &[u8]) -> Connection {
    let mut seen = Connection::default();
    let start = Instant::now();
    let steps = async {
        let mut stream = open(plan, &mut seen).await?;
        exchange(&mut stream, payload, &mut seen).await?;
        match plan.end {
            End::Orderly => close(stream, &mut seen).await,
            End::Leave => {
                seen.stage = Stage::Done;
                Ok(())
            }
            End::Reset => {
                seen.stage = Stage::Done;
                SockRef::from(stream.get_ref()).set_linger(Some(Duration::ZERO))
            }
        }
    };
    let result = match timeout(plan.target.timeout(), steps).await {
        Ok(result) => result,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    };
    seen.total_us = micros(start);
    seen.error = result.err().map(|error| name(&error));
    seen
}

/// Connects, and reads the banner if there is one.
pub(crate) async fn open(plan: &Connect, seen: &mut Connection) -> io::Result<Stream> {
    let start = Instant::now();
    let connected = dial(&plan.target).await;
    seen.connect_us = micros(start);
    let mut stream = BufReader::new(connected?);
    stream.get_ref().set_nodelay(true)?;
    seen.stage = Stage::Banner;
    // There is none if the connection was reset already: the next read says so.
    seen.peername = stream.get_ref().peer_addr().ok();
    seen.local = Some(stream.get_ref().local_addr()?);
    if plan.banner {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        seen.banner = Some(serde_json::from_str::<Banner>(&line)?);
    }
    Ok(stream)
}

/// Sends `payload`, and reads it back at the same time.
pub(crate) async fn exchange(
    stream: &mut Stream,
    payload: &[u8],
    seen: &mut Connection,
) -> io::Result<()> {
    seen.stage = Stage::Exchange;
    let mut answer = vec![0; payload.len()];
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::try_join!(writer.write_all(payload), reader.read_exact(&mut answer))?;
    if answer == payload { Ok(()) } else { Err(io::Error::other("another echo")) }
}

/// Closes our direction, and waits for the server to close its own.
async fn close(mut stream: Stream, seen: &mut Connection) -> io::Result<()> {
    seen.stage = Stage::Close;
    stream.shutdown().await?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    if !rest.is_empty() {
        return Err(io::Error::other("bytes after the answer"));
    }
    seen.stage = Stage::Done;
    Ok(())
}

/// The name of an error: an errno's if there is one.
pub(crate) fn name(error: &io::Error) -> String {
    match (error.raw_os_error(), error.kind()) {
        (Some(errno), _) => format!("{:?}", Errno::from_raw(errno)),
        (None, io::ErrorKind::TimedOut) => "timeout".to_owned(),
        (None, io::ErrorKind::UnexpectedEof) => "unexpected end".to_owned(),
        (None, _) => error.to_string(),
    }
}

/// The duration that `percent` of them do not exceed; they are sorted.
pub(crate) fn percentile(durations_us: &[u64], percent: usize) -> u64 {
    durations_us.get(durations_us.len() * percent / 100).copied().unwrap_or_default()
}

/// Microseconds since `start`.
pub(crate) fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}
