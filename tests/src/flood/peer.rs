//! Floods of a peer with a valid certificate, by both transports in turn.

use std::future::pending;
use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::frames::Transport;
use super::{Caller, Flood, discard, discard_briefly};

/// Streams of a tunnel that are open at the same time, in a flood of streams.
const STREAMS: u32 = 64;

/// Streams of a tunnel that is not read, and what is sent on each: less than the least window of a
/// native stream, and together less than the one that all streams of HTTP/2 have at first.
const UNREAD_STREAMS: u32 = 4;
const UNREAD: usize = 15_000;

impl Caller {
    /// Attempt number `number`.
    pub(super) async fn attempt_as_peer(&self, number: u64) -> io::Result<()> {
        if self.flood == Flood::Connections {
            return discard(TcpStream::connect(self.tunnel).await?).await;
        }
        let transport = Transport::of(number);
        let mut tls = Box::pin(self.handshaker.connect(self.tunnel, transport)).await?;
        match self.flood {
            Flood::Handshakes => tls.shutdown().await,
            Flood::SlowReaders => {
                let mut bytes = transport.begin();
                for stream in 1..=UNREAD_STREAMS {
                    bytes.extend(transport.open(stream, self.to));
                    bytes.extend(transport.data(stream, &[b'x'; UNREAD]));
                }
                tls.write_all(&bytes).await?;
                self.counts.add_step();
                // Kept, and never read.
                let _kept = tls;
                pending().await
            }
            Flood::HugeHeads => self.send_all(tls, &transport.huge_head(self.to)).await,
            Flood::MalformedFrames => {
                self.send_all(tls, &transport.malformed(number / 2, self.to)).await
            }
            Flood::Connections
            | Flood::Tunnels
            | Flood::Streams
            | Flood::DeniedConnects
            | Flood::OneByteWriters => {
                let (read, mut write) = split(tls);
                write.write_all(&transport.begin()).await?;
                tokio::select! {
                    ended = discard(read) => ended,
                    ended = self.write_on(write, transport) => ended,
                }
            }
        }
    }

    /// Sends what the other side should refuse, and waits a moment for that.
    async fn send_all(
        &self,
        mut tls: tokio_rustls::client::TlsStream<TcpStream>,
        bytes: &[u8],
    ) -> io::Result<()> {
        tls.write_all(bytes).await?;
        self.counts.add_step();
        discard_briefly(tls).await
    }

    /// Writes on a tunnel that has begun, a step at a time.
    async fn write_on(
        &self,
        mut to: impl AsyncWrite + Unpin,
        transport: Transport,
    ) -> io::Result<()> {
        if self.flood == Flood::Tunnels {
            return pending().await;
        }
        let is_bytes = self.flood == Flood::OneByteWriters;
        if is_bytes {
            to.write_all(&transport.open(1, self.to)).await?;
        }
        for step in 1.. {
            let bytes = if is_bytes {
                transport.data(1, b"x")
            } else {
                let mut bytes = transport.open(step, self.to);
                if let Some(old @ 1..) = step.checked_sub(STREAMS) {
                    bytes.extend(transport.reset(old));
                }
                bytes
            };
            to.write_all(&bytes).await?;
            to.flush().await?;
            self.counts.add_step();
            sleep(self.pace.step).await;
        }
        Ok(())
    }
}
