//! Floods of those without a certificate: strangers, and workloads by their own connections.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use super::frames::Transport;
use super::{Caller, Flood, discard, discard_briefly};

/// Bytes of one line of a head that does not end, and how many lines are sent: 256 KiB.
const LINE: usize = 4096;
const LINES: usize = 64;

/// Bytes that a slow reader sends at once: with 64 of them and a step of 5 ms 52 MB a second, until
/// they are held back, which is not a flood of bytes.
const PIECE: usize = 4096;

impl Caller {
    /// Attempt number `number`.
    pub(super) async fn attempt_without_certificate(&self, number: u64) -> io::Result<()> {
        match self.flood {
            Flood::Connections | Flood::Tunnels | Flood::DeniedConnects => {
                discard(TcpStream::connect(self.to).await?).await
            }
            Flood::Handshakes => {
                let connecting = self.handshaker.connect(self.tunnel, Transport::of(number));
                // A server tells a client without a certificate so only after the handshake.
                discard_briefly(Box::pin(connecting).await?).await
            }
            Flood::Streams => {
                let mut stream = TcpStream::connect(self.to).await?;
                stream.write_all(b"x").await?;
                stream.read(&mut [0]).await.map(drop)
            }
            Flood::SlowReaders => {
                let mut stream = connect_narrow(self.to).await?;
                loop {
                    stream.write_all(&[b'x'; PIECE]).await?;
                    self.counts.add_step();
                    sleep(self.pace.step).await;
                }
            }
            Flood::OneByteWriters => {
                let mut stream = TcpStream::connect(self.to).await?;
                stream.set_nodelay(true)?;
                loop {
                    stream.write_all(b"x").await?;
                    self.counts.add_step();
                    sleep(self.pace.step).await;
                }
            }
            Flood::HugeHeads => self.send_head().await,
            Flood::MalformedFrames => self.send_garbage(number).await,
        }
    }

    /// Sends a head that does not end, until the other side ends it.
    async fn send_head(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.to).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: target\r\n").await?;
        for line in 0..LINES {
            let mut text = format!("x-{line}: ").into_bytes();
            text.resize(LINE - 2, b'y');
            text.extend(b"\r\n");
            stream.write_all(&text).await?;
            self.counts.add_step();
        }
        discard_briefly(stream).await
    }

    /// Sends what neither TLS nor HTTP allows, to the port of each in turn.
    async fn send_garbage(&self, number: u64) -> io::Result<()> {
        let (to, bytes): (_, &[u8]) = match number % 6 {
            // A record of TLS of an unknown type, one that is too long, one of nothing.
            0 => (self.tunnel, &[0x63, 3, 3, 0, 4, 1, 2, 3, 4]),
            1 => (self.tunnel, &[22, 3, 1, 0xff, 0xff, 1]),
            2 => (self.tunnel, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            // Heads of requests that are none.
            3 => (self.to, b"GET\0/ HTTP/1.1\r\n\r\n"),
            4 => (self.to, b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: x\r\n\r\n"),
            _ => (self.to, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n"),
        };
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(bytes).await?;
        discard_briefly(stream).await
    }
}

/// Connects with the least room for what comes, so that the other side is held back soon.
async fn connect_narrow(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_recv_buffer_size(1)?;
    socket.connect(to).await
}
