//! Tunnels that are held open, of both transports, written by hand: what a peer may do that no
//! library would.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

use crate::netns::Netns;
use crate::peers::{Caller, HBONE_PORT};
use crate::process::DEADLINE;

/// How long a server may say nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// The transport of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP/2 `CONNECT`.
    Hbone,
    /// The agents' own (docs/transport.md).
    Native,
}

/// A tunnel that stays open until it is dropped.
#[derive(Debug)]
pub struct Tunnel {
    tls: StreamOwned<ClientConnection, TcpStream>,
    transport: Transport,
    read: Vec<u8>,
    opened: u32,
    /// Records that wait for [`Self::burst`].
    stacked: Vec<u8>,
}

/// The results of streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Those that the server took.
    pub accepted: usize,
    /// Those that it did not.
    pub refused: usize,
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    payload: Vec<u8>,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Hbone, Self::Native];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hbone => "HBONE",
            Self::Native => "the native transport",
        }
    }

    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Hbone => b"h2",
            Self::Native => b"nodemesh/1",
        }
    }

    /// The first bytes of a client: that it takes as much as it can.
    fn greeting(self) -> Vec<u8> {
        match self {
            // RFC 9113, section 3.4, and an empty SETTINGS.
            Self::Hbone => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
            // HELLO: streams 1024, window 1 MiB.
            Self::Native => {
                let fields = [1, 4, 0, 0, 4, 0, 2, 4, 0, 16, 0, 0];
                self.frame(0x81, 0, 0, &fields)
            }
        }
    }

    fn frame(self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.push(kind);
        if self == Self::Hbone {
            frame.push(flags);
        }
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }
}

impl Tunnel {
    /// Opens one, and waits until the server has said something inside: one that is refused says
    /// nothing after the handshake.
    ///
    /// # Errors
    ///
    /// The server refused.
    pub fn open(caller: &Caller, from: &Netns, to: IpAddr, transport: Transport) -> Result<Self> {
        let mut tunnel = Self::shake(caller, from, to, transport)?;
        tunnel.say(&transport.greeting())?;
        tunnel.hear()?;
        Ok(tunnel)
    }

    /// Begins one that says nothing inside.
    ///
    /// # Errors
    ///
    /// The server refused in the handshake.
    pub fn shake(caller: &Caller, from: &Netns, to: IpAddr, transport: Transport) -> Result<Self> {
        let mut stream = from.run(|| TcpStream::connect((to, HBONE_PORT)))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let config = Arc::clone(&caller.clone().alpn(&[transport.alpn()]).0);
        let mut session = ClientConnection::new(config, ServerName::from(to))?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Self {
            tls: StreamOwned::new(session, stream),
            transport,
            read: Vec::new(),
            opened: 0,
            stacked: Vec::new(),
        })
    }

    /// Asks for `count` streams to `to`, and waits for what becomes of each.
    ///
    /// # Errors
    ///
    /// The tunnel ended.
    pub fn ask(&mut self, to: SocketAddr, count: usize) -> Result<Streams> {
        self.begin(to, count)?;
        let mut streams = Streams::default();
        while streams.accepted + streams.refused < count {
            let frame = self.next()?;
            match self.answer(&frame)? {
                Some(true) => streams.accepted += 1,
                Some(false) => streams.refused += 1,
                None => {}
            }
        }
        Ok(streams)
    }

    /// Asks for `count` streams to `to`, and waits for nothing.
    ///
    /// # Errors
    ///
    /// The tunnel ended.
    pub fn begin(&mut self, to: SocketAddr, count: usize) -> Result<()> {
        let mut frames = Vec::new();
        for _ in 0..count {
            self.opened += 1;
            frames.extend(self.request(to)?);
        }
        self.say(&frames)
    }

    fn request(&self, to: SocketAddr) -> Result<Vec<u8>> {
        let transport = self.transport;
        Ok(match transport {
            Transport::Hbone => {
                // RFC 7541, section 6.2.2: literals without indexing, named by the static table.
                let mut block = b"\x02\x07CONNECT\x01".to_vec();
                let authority = to.to_string();
                block.push(u8::try_from(authority.len())?);
                block.extend_from_slice(authority.as_bytes());
                transport.frame(1, 4, 2 * self.opened - 1, &block)
            }
            Transport::Native => {
                let mut field = vec![0x81];
                match to.ip() {
                    IpAddr::V4(address) => {
                        field.push(6);
                        field.extend_from_slice(&address.octets());
                    }
                    IpAddr::V6(address) => {
                        field.push(18);
                        field.extend_from_slice(&address.octets());
                    }
                }
                field.extend_from_slice(&to.port().to_be_bytes());
                transport.frame(0x82, 0, self.opened, &field)
            }
        })
    }

    /// Whether a frame takes a stream, or refuses it; keeps the tunnel alive.
    fn answer(&mut self, frame: &Frame) -> Result<Option<bool>> {
        match (self.transport, frame.kind) {
            // The answer's head: `:status: 200` is the eighth of the static table.
            (Transport::Hbone, 1) => return Ok(Some(frame.payload.first() == Some(&0x88))),
            (Transport::Hbone, 7) | (Transport::Native, 0x8a) => {
                bail!("the tunnel ends: {frame:?}")
            }
            (Transport::Native, 0x83) => return Ok(Some(true)),
            (Transport::Native, 0x86) => return Ok(Some(false)),
            (Transport::Hbone, 6) => {
                let pong = self.transport.frame(6, 1, 0, &frame.payload);
                self.say(&pong)?;
            }
            (Transport::Native, 0x08) => {
                let pong = self.transport.frame(0x09, 0, 0, &frame.payload);
                self.say(&pong)?;
            }
            _ => {}
        }
        Ok(None)
    }

    /// Asks for `count` streams to `to` and takes them back at once, and reads what has come until
    /// then.
    ///
    /// # Errors
    ///
    /// The tunnel ended.
    pub fn take_back(&mut self, to: SocketAddr, count: usize) -> Result<()> {
        let mut frames = Vec::new();
        for _ in 0..count {
            self.opened += 1;
            frames.extend(self.request(to)?);
            frames.extend(match self.transport {
                Transport::Hbone => self.transport.frame(3, 0, 2 * self.opened - 1, &[0, 0, 0, 8]),
                Transport::Native => self.transport.frame(0x86, 0, self.opened, &[0, 0, 0, 1]),
            });
        }
        self.say(&frames)?;
        self.tls.sock.set_nonblocking(true)?;
        let read = loop {
            match self.tls.read(&mut [0; 16 << 10]) {
                Ok(0) => break Err(anyhow::anyhow!("the tunnel has ended")),
                Ok(_count) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.tls.sock.set_nonblocking(false)?;
        read
    }

    /// Sends bytes as they are, as far as the server takes them.
    pub fn send(&mut self, bytes: &[u8]) {
        // It may have ended the tunnel before it has all of them.
        drop(self.say(bytes));
    }

    /// Makes a record of `bytes`, after so many key updates, for [`Self::burst`].
    ///
    /// # Errors
    ///
    /// TLS is over.
    pub fn stack(&mut self, key_updates: usize, bytes: &[u8]) -> Result<()> {
        for _ in 0..key_updates {
            self.tls.conn.refresh_traffic_keys()?;
        }
        self.tls.conn.writer().write_all(bytes)?;
        while self.tls.conn.wants_write() {
            self.tls.conn.write_tls(&mut self.stacked)?;
        }
        Ok(())
    }

    /// Sends the records that were made, as far as the server takes them.
    pub fn burst(&mut self) {
        // It may have ended the tunnel before it has all of them.
        drop(self.tls.sock.write_all(&std::mem::take(&mut self.stacked)));
    }

    /// Waits until the server has ended the tunnel, and answers its pings until then.
    ///
    /// # Errors
    ///
    /// It goes on after [`DEADLINE`].
    pub fn ended(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            ensure!(begun.elapsed() < DEADLINE, "the tunnel goes on");
            match self.next() {
                // A server that goes away says so before it ends.
                Ok(frame) => drop(self.answer(&frame)),
                Err(error) => match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                    Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Err(error),
                    _ => return Ok(()),
                },
            }
        }
    }

    fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.tls.write_all(bytes).context("the tunnel takes nothing")?;
        self.tls.flush().context("the tunnel takes nothing")
    }

    fn hear(&mut self) -> Result<()> {
        let mut bytes = [0; 16 << 10];
        let count = self.tls.read(&mut bytes).context("the tunnel is not served")?;
        ensure!(count > 0, "the tunnel has ended");
        self.read.extend_from_slice(bytes.get(..count).unwrap_or_default());
        Ok(())
    }

    fn next(&mut self) -> Result<Frame> {
        let (header, kind) = match self.transport {
            Transport::Hbone => (9, 3),
            Transport::Native => (8, 3),
        };
        loop {
            if let [a, b, c, ..] = self.read.as_slice() {
                let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c]))?;
                if self.read.len() >= header + length {
                    let rest = self.read.split_off(header + length);
                    let frame = std::mem::replace(&mut self.read, rest);
                    let kind = frame.get(kind).copied().context("a header")?;
                    return Ok(Frame { kind, payload: frame[header..].to_vec() });
                }
            }
            self.hear()?;
        }
    }
}
