//! A connection of HTTP/2 whose frames, as they come, are a task's turn.
//!
//! h2 deals with every frame that is there before anybody else of the thread has a turn, and reads
//! thousands at once: of those that open requests, or change the windows of all streams, that takes
//! seconds, and a peer that opens many connections multiplies them. So h2 is given no more at once than
//! a turn has units for; the rest waits here, and is no more than what h2 had room for.

mod rules;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use self::rules::{Excess, Resets, Rules, Settings};
use crate::task::units;

/// The length of a frame's head (RFC 9113, section 4.1).
const HEAD_BYTES: usize = 9;

/// The length of what a client sends before its first frame (RFC 9113, section 3.4).
const PREFACE_BYTES: u32 = 24;

/// Types of frames (RFC 9113, section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const CONTINUATION: u8 = 9;
}

/// The bits of a stream's number.
const STREAM: u32 = 0x7fff_ffff;

/// The flag of SETTINGS that acknowledges the other's.
const ACK: u8 = 1;

/// Units of a head, whatever its length: 16 of the 128 of a turn begin as many requests or streams,
/// each of which has a task of its own.
const HEAD_UNITS: usize = 8;

/// How much of a head one more unit is for: of fields that are a byte each, some 2 µs are spent on it.
const UNIT_BYTES: usize = 64;

/// Units of SETTINGS: each may change the windows of all streams, of which there are a hundred or more.
const SETTINGS_UNITS: usize = 8;

/// The bytes for h2 after too much of something, so that it says goodbye: DATA of the connection, which is
/// a connection error of type `PROTOCOL_ERROR` wherever it comes (RFC 9113, section 6.1).
const FAREWELL: [u8; HEAD_BYTES] = [0; HEAD_BYTES];

/// How much is read at once while the head of a frame is not there as a whole.
const READ_BYTES: usize = 8 << 10;

/// A connection of which h2 is given what a turn has room for.
#[derive(Debug)]
pub struct Paced<Io> {
    io: Io,
    frames: Frames,
    rules: Rules,
    /// Bytes that were read, and are for another turn, or are the beginning of a head.
    held: BytesMut,
    /// As much of it as may be given.
    cleared: usize,
    /// It was too much of something: nothing more is read.
    is_over: bool,
}

impl<Io> Paced<Io> {
    /// Of a server, whose client sends the preface first.
    pub fn of_client(io: Io) -> Self {
        Self::after(io, PREFACE_BYTES)
    }

    /// Of a client, whose server sends frames from the beginning on.
    pub fn of_server(io: Io) -> Self {
        Self::after(io, 0)
    }

    /// The same, of a client that may not take most of its requests back.
    #[must_use]
    pub fn bounding_resets(mut self) -> Self {
        self.rules.resets = Some(Resets::new(Instant::now()));
        self
    }

    fn after(io: Io, preface: u32) -> Self {
        let rules = Rules { settings: Settings::new(Instant::now()), resets: None };
        let frames = Frames { before: preface };
        Self { io, frames, rules, held: BytesMut::new(), cleared: 0, is_over: false }
    }
}

/// Where in the frames of a connection one is.
#[derive(Debug)]
struct Frames {
    /// Bytes that come before the next head.
    before: u32,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frames {
    /// Goes on to the end of the next head, and takes off what is before it; `None`: of that head not all
    /// is there, and it is what is left.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let past = usize::try_from(self.before).unwrap_or(usize::MAX).min(bytes.len());
        self.before -= u32::try_from(past).unwrap_or(self.before);
        *bytes = bytes.get(past..).unwrap_or_default();
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        *bytes = rest;
        let [high, middle, low, kind, flags, stream @ ..] = *head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.before = length;
        Some(Head { length, kind, flags, stream: u32::from_be_bytes(stream) & STREAM })
    }
}

impl Head {
    fn units(self) -> usize {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        match self.kind {
            kind::HEADERS | kind::PUSH_PROMISE => HEAD_UNITS + length / UNIT_BYTES,
            kind::CONTINUATION => 1 + length / UNIT_BYTES,
            kind::SETTINGS => SETTINGS_UNITS,
            _ => 1,
        }
    }
}

/// How many of `bytes` this turn has room for, to the end of a head or of what there is of a frame.
fn room(
    (frames, rules): (&mut Frames, &mut Rules),
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> (usize, Result<(), Excess>) {
    let mut rest = bytes;
    while let Some(head) = frames.next(&mut rest) {
        if let Err(excess) = rules.check(head) {
            // Without the head: what was before it is given.
            return (bytes.len() - rest.len() - HEAD_BYTES, Err(excess));
        }
        units::spend(cx, head.units());
        let is_last = usize::try_from(head.length).is_ok_and(|length| length > rest.len());
        // Of the next one nothing is there that h2 could deal with.
        let is_light = head.kind == kind::DATA && is_last;
        if !is_light && !coop::has_budget_remaining() {
            break;
        }
    }
    (bytes.len() - rest.len(), Ok(()))
}

impl<Io> Paced<Io> {
    /// The part of the bytes there that may be given; the rest is for later.
    fn clear(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        let (given, excess) = room((&mut self.frames, &mut self.rules), cx, bytes);
        if let Err(excess) = excess {
            tracing::debug!(%excess, "a peer's connection is ended");
            self.is_over = true;
        }
        given
    }

    /// Gives h2 nothing more than [`FAREWELL`] after what is held.
    fn say_farewell(&mut self) {
        self.held.extend_from_slice(&FAREWELL);
        self.cleared = self.held.len();
    }
}

impl<Io: AsyncRead + Unpin> Paced<Io> {
    /// Makes sure that something is held that may be given; false: nothing more comes.
    fn poll_cleared(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.cleared == 0 {
            if self.is_over {
                return Poll::Ready(Ok(false));
            }
            ready!(coop::poll_proceed(cx)).made_progress();
            let held = std::mem::take(&mut self.held);
            self.cleared = self.clear(cx, &held);
            self.held = held;
            if self.is_over {
                self.held.truncate(self.cleared);
                self.say_farewell();
            } else if self.cleared == 0 {
                self.held.reserve(READ_BYTES);
                if ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.held))? == 0 {
                    // The part of a head that is there says that it was cut.
                    self.is_over = true;
                    self.cleared = self.held.len();
                }
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Paced<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.held.is_empty() && !this.is_over {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
            let read = buffer.filled().get(before..).unwrap_or_default();
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let given = this.clear(cx, read);
            if this.is_over {
                this.say_farewell();
            } else {
                this.held.extend_from_slice(read.get(given..).unwrap_or_default());
            }
            buffer.set_filled(before + given);
            if given > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        if ready!(this.poll_cleared(cx))? {
            let part = this.cleared.min(buffer.remaining());
            buffer.put_slice(this.held.get(..part).unwrap_or_default());
            this.held.advance(part);
            this.cleared -= part;
            if this.held.is_empty() {
                // Connections that rest keep nothing.
                this.held = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Paced<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
