//! Frames that cross a namespace: a capture of them, and questions about them.

mod frame;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::netns::Netns;

pub use self::stream::Stream;
pub use self::tls::records;

use self::frame::Payload;
use self::stream::Streams;

/// Frames that a link sent, and that are seen again where they arrive (`PACKET_OUTGOING`,
/// `linux/if_packet.h`).
const OUTGOING: u8 = 4;

/// The largest frame: 64 KiB of payload that the kernel did not cut into packets, and its headers.
const FRAME_BYTES: usize = (1 << 16) + 256;

/// The bytes that the kernel may queue for us while we are not running.
const QUEUE_BYTES: usize = 256 << 20;

/// The bytes that are kept; a capture that sees more fails.
const KEEP_BYTES: usize = 512 << 20;

/// How long no frame must have come for a stopped capture to be complete.
const QUIET_MS: i64 = 50;

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Wire>>>,
}

/// The captured frames.
#[derive(Debug, Default)]
pub struct Wire {
    /// Frames seen.
    pub frames: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// The bytes of TCP, one stream a direction of a connection.
    pub streams: Vec<Stream>,
    /// The frames that are neither TCP nor neighbor discovery, as they were on the wire.
    pub others: Vec<Vec<u8>>,
}

impl Capture {
    /// Captures what the links of `netns` receive: on a bridge, each frame once.
    ///
    /// # Errors
    ///
    /// The kernel refuses (`CAP_NET_RAW`).
    pub fn start(netns: &Netns) -> Result<Self> {
        let fd = netns.run(open)??;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || run(&fd, &stopped));
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the capture.
    ///
    /// # Errors
    ///
    /// More was seen than is kept, or reading failed.
    pub fn stop(mut self) -> Result<Wire> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a capture is stopped once")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Wire {
    /// Whether `marker` can be read anywhere.
    pub fn shows(&self, marker: &[u8]) -> bool {
        let streams = self.streams.iter().map(|stream| stream.bytes.as_slice());
        let mut all = streams.chain(self.others.iter().map(Vec::as_slice));
        all.any(|bytes| bytes.windows(marker.len()).any(|window| window == marker))
    }

    /// The streams with data to or from `port`.
    pub fn of_port(&self, port: u16) -> impl Iterator<Item = &Stream> {
        let mine = move |addr: &SocketAddr| addr.port() == port;
        let with_data = self.streams.iter().filter(|stream| !stream.bytes.is_empty());
        with_data.filter(move |stream| mine(&stream.from) || mine(&stream.to))
    }

    /// The streams with data that are neither to nor from `port`.
    pub fn beside_port(&self, port: u16) -> impl Iterator<Item = &Stream> {
        let with_data = self.streams.iter().filter(|stream| !stream.bytes.is_empty());
        with_data.filter(move |stream| stream.from.port() != port && stream.to.port() != port)
    }
}

fn open() -> Result<OwnedFd> {
    let kind = (AddressFamily::Packet, SockType::Raw);
    let fd = socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .context("cannot open a packet socket")?;
    setsockopt(&fd, sockopt::RcvBufForce, &QUEUE_BYTES).context("cannot make a large queue")?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(QUIET_MS))
        .context("cannot set a timeout")?;
    Ok(fd)
}

fn run(fd: &OwnedFd, stop: &AtomicBool) -> Result<Wire> {
    let mut wire = Wire::default();
    let mut streams = Streams::default();
    let mut buffer = vec![0; FRAME_BYTES];
    let mut kept = 0;
    let mut end = None;
    loop {
        if stop.load(Ordering::Relaxed) {
            // Traffic may never pause: what came before the stop is read by then.
            let end = end.get_or_insert_with(|| Instant::now() + Duration::from_secs(2));
            if Instant::now() > *end {
                break;
            }
        }
        let (length, link) = match recvfrom::<LinkAddr>(fd.as_fd().as_raw_fd(), &mut buffer) {
            Ok(received) => received,
            Err(Errno::EAGAIN) if stop.load(Ordering::Relaxed) => break,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(errno) => return Err(errno).context("cannot read captured frames"),
        };
        if link.is_some_and(|link| link.pkttype() == OUTGOING) {
            continue;
        }
        wire.frames += 1;
        wire.bytes += length as u64;
        match frame::parse(&buffer[..length]) {
            Payload::Tcp(segment) => {
                kept += segment.bytes.len();
                streams.add(&segment);
            }
            Payload::Other(bytes) => {
                kept += bytes.len();
                wire.others.push(bytes.to_vec());
            }
            Payload::Neighbors => {}
        }
        ensure!(kept <= KEEP_BYTES, "captured more than {} MiB", KEEP_BYTES >> 20);
    }
    wire.streams = streams.finish();
    Ok(wire)
}
