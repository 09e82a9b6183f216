//! Actions of servers on a connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_tests::pattern::{Digest, Pattern};
use mesh_tests::report::{Banner, Confirmation, Event, Served};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::args::{Serve, Service};
use crate::{client, tell};

/// Bytes moved at once: the payload of four TLS records, so that tunnels are not fed crumbs.
const CHUNK: usize = 64 * 1024;

/// The bytes that were received on a connection.
#[derive(Debug)]
struct Received {
    bytes: u64,
    digest: Digest,
}

/// Serves one connection to its end.
pub(crate) async fn run(serve: &Serve, mut stream: TcpStream, peer: SocketAddr) {
    let mut received = Received { bytes: 0, digest: Digest::EMPTY };
    let result = connection(serve, &mut stream, peer, &mut received).await;
    if serve.log {
        let error = result.err().map(|error| client::name(&error));
        let Received { bytes, digest } = received;
        let served = Served { peer, received: bytes, digest: digest.to_string(), error };
        // A harness that stopped reading is the end of this process.
        drop(tell(&Event::Served(served)));
    }
}

async fn connection(
    serve: &Serve,
    stream: &mut TcpStream,
    peer: SocketAddr,
    received: &mut Received,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(version) = &serve.name {
        let (peername, local) = (stream.peer_addr()?, stream.local_addr()?);
        let banner = Banner { version: version.clone(), peer, peername, local };
        write_line(stream, serde_json::to_vec(&banner)?).await?;
    }
    let (mut reader, mut writer) = stream.split();
    match serve.service {
        Service::Echo => {
            let mut buffer = vec![0; CHUNK];
            while let length @ 1.. = receive(&mut reader, &mut buffer, received).await? {
                writer.write_all(&buffer[..length]).await?;
            }
            writer.shutdown().await
        }
        Service::Version => {
            writer.shutdown().await?;
            drain(&mut reader, received).await
        }
        Service::Sink => drain(&mut reader, received).await,
        Service::Source => {
            send(&mut writer, serve.bytes).await?;
            writer.shutdown().await?;
            drain(&mut reader, received).await
        }
        Service::Digest => {
            tokio::try_join!(send(&mut writer, serve.bytes), drain(&mut reader, received))?;
            let digest = received.digest.to_string();
            let confirmation = Confirmation { received: received.bytes, digest };
            write_line(&mut writer, serde_json::to_vec(&confirmation)?).await?;
            writer.shutdown().await
        }
        Service::Reset => {
            let mut buffer = vec![0; CHUNK];
            while received.bytes < serve.bytes
                && receive(&mut reader, &mut buffer, received).await? > 0
            {}
            SockRef::from(&*stream).set_linger(Some(Duration::ZERO))
        }
        Service::Close | Service::Datagram => Ok(()),
    }
}

/// Sends the first `bytes` of the servers' pattern.
async fn send(writer: &mut (impl AsyncWrite + Unpin), bytes: u64) -> io::Result<()> {
    fill(writer, Pattern::new(Pattern::DOWN), bytes).await.map(drop)
}

/// Sends the next `bytes` of a pattern, and returns their digest.
pub(crate) async fn fill(
    writer: &mut (impl AsyncWrite + Unpin),
    mut pattern: Pattern,
    bytes: u64,
) -> io::Result<Digest> {
    let mut buffer = vec![0; CHUNK];
    let mut digest = Digest::EMPTY;
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        pattern.fill(&mut buffer[..length]);
        digest.update(&buffer[..length]);
        writer.write_all(&buffer[..length]).await?;
        left -= length as u64;
    }
    Ok(digest)
}

/// Reads to the end.
async fn drain(reader: &mut (impl AsyncRead + Unpin), received: &mut Received) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while receive(reader, &mut buffer, received).await? > 0 {}
    Ok(())
}

/// Reads some bytes and accounts for them. 0 is the end.
async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    received: &mut Received,
) -> io::Result<usize> {
    let length = reader.read(buffer).await?;
    received.digest.update(&buffer[..length]);
    received.bytes += length as u64;
    Ok(length)
}

async fn write_line(writer: &mut (impl AsyncWrite + Unpin), mut line: Vec<u8>) -> io::Result<()> {
    line.push(b'\n');
    writer.write_all(&line).await
}
