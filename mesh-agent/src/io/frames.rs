//! A connection of HTTP/2 whose frames, as they come, are a task's turn.
//!
//! h2 deals with every frame that is there before anybody else of the thread has a turn, and reads
//! thousands at once: of those that open requests, or change the windows of all streams, that takes
//! seconds, and a peer that opens many connections multiplies them. So h2 is given no more at once than
//! a turn has units for; the rest waits here, and is no more than what h2 had room for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;
use tokio::time::{Duration, Instant};
use tokio_util::io::poll_read_buf;

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

/// The flag of SETTINGS that acknowledges the other's.
const ACK: u8 = 1;

/// Units of a head, whatever its length: 16 of the 128 of a turn begin as many requests or streams,
/// each of which has a task of its own.
const HEAD_UNITS: usize = 8;

/// How much of a head one more unit is for: of fields that are a byte each, some 2 µs are spent on it.
const UNIT_BYTES: usize = 64;

/// Units of SETTINGS: each may change the windows of all streams, of which there are a hundred or more.
const SETTINGS_UNITS: usize = 8;

/// How many SETTINGS may come at once. gRPC's libraries change their window after some round trips, ten
/// times a second at the most.
const SETTINGS_BURST: u64 = 64;

/// Time in which one more may come.
const SETTINGS_EACH: Duration = Duration::from_millis(100);

/// How many requests a client may take back in [`RESETS_TIME`], if they are more than half of those that
/// it has sent (CVE-2023-44487; Envoy's `premature_reset_total_stream_count` is as many).
const RESETS_BURST: u32 = 500;

/// The time in which they are counted.
const RESETS_TIME: Duration = Duration::from_secs(1);

/// What h2 is given after too much of something, so that it says goodbye: DATA of the connection, which is
/// a connection error of type `PROTOCOL_ERROR` wherever it comes (RFC 9113, section 6.1).
const FAREWELL: [u8; HEAD_BYTES] = [0; HEAD_BYTES];

/// How much is read at once while the head of a frame is not there as a whole.
const READ_BYTES: usize = 8 << 10;

/// More has come of something than any peer has use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Excess {
    #[error("SETTINGS of HTTP/2 come again and again")]
    Settings,
    #[error("requests of HTTP/2 are sent and taken back again and again")]
    Resets,
}

/// A connection of which h2 is given what a turn has room for.
#[derive(Debug)]
pub struct Paced<Io> {
    io: Io,
    frames: Frames,
    rules: Rules,
    /// What was read, and is for another turn, or is the beginning of a head.
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
        self.rules.resets = Some(Resets { requests: 0, taken_back: 0, since: Instant::now() });
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
        let [high, middle, low, kind, flags, ..] = *head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.before = length;
        Some(Head { length, kind, flags })
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

/// How many SETTINGS may still come.
#[derive(Debug)]
struct Settings {
    left: u64,
    /// Until when time has bought something.
    since: Instant,
}

impl Settings {
    const fn new(now: Instant) -> Self {
        Self { left: SETTINGS_BURST, since: now }
    }

    fn take(&mut self, now: Instant) -> Result<(), Excess> {
        let passed = now.saturating_duration_since(self.since).as_millis();
        let bought = u32::try_from(passed / SETTINGS_EACH.as_millis()).unwrap_or(u32::MAX);
        self.since += SETTINGS_EACH * bought;
        self.left = SETTINGS_BURST.min(self.left + u64::from(bought));
        self.left = self.left.checked_sub(1).ok_or(Excess::Settings)?;
        Ok(())
    }
}

/// What a client has taken back of what it has asked for, in a time.
#[derive(Debug)]
struct Resets {
    requests: u32,
    taken_back: u32,
    since: Instant,
}

impl Resets {
    fn count(&mut self, kind: u8, now: Instant) -> Result<(), Excess> {
        if now.saturating_duration_since(self.since) >= RESETS_TIME {
            *self = Self { requests: 0, taken_back: 0, since: now };
        }
        match kind {
            kind::HEADERS => self.requests = self.requests.saturating_add(1),
            _ => self.taken_back = self.taken_back.saturating_add(1),
        }
        let is_most = self.taken_back > self.requests / 2;
        if self.taken_back > RESETS_BURST && is_most { Err(Excess::Resets) } else { Ok(()) }
    }
}

/// What may not come too often.
#[derive(Debug)]
struct Rules {
    settings: Settings,
    /// `None`: a tunnel, whose applications reset connections as they like.
    resets: Option<Resets>,
}

impl Rules {
    fn check(&mut self, head: Head) -> Result<(), Excess> {
        match (head.kind, &mut self.resets) {
            (kind::SETTINGS, _) if head.flags & ACK == 0 => self.settings.take(Instant::now()),
            (kind::HEADERS | kind::RST_STREAM, Some(resets)) => {
                resets.count(head.kind, Instant::now())
            }
            _ => Ok(()),
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
    /// What may be given of what is there; the rest is for later.
    fn clear(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        let (given, excess) = room((&mut self.frames, &mut self.rules), cx, bytes);
        if let Err(excess) = excess {
            tracing::debug!(%excess, "a peer's connection is ended");
            self.is_over = true;
        }
        given
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
                self.held.extend_from_slice(&FAREWELL);
                self.cleared = self.held.len();
            } else if self.cleared == 0 {
                self.held.reserve(READ_BYTES);
                if ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.held))? == 0 {
                    // What is there of a head says that it was cut.
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
                this.held.extend_from_slice(&FAREWELL);
                this.cleared = this.held.len();
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
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// A connection that gives pieces as they are, and then ends.
    struct Pieces(Vec<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            ready!(coop::poll_proceed(cx)).made_progress();
            if let Some(piece) = self.0.first_mut() {
                let part = piece.len().min(buffer.remaining());
                buffer.put_slice(&piece[..part]);
                piece.drain(..part);
                if piece.is_empty() {
                    self.0.remove(0);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let head = u32::try_from(length).unwrap().to_be_bytes();
        [&head[1..], &[kind, flags, 0, 0, 0, 1], &vec![7; length]].concat()
    }

    /// What one turn of a task reads, with the room that h2 has.
    async fn turn(paced: &mut Paced<Pieces>) -> io::Result<Vec<u8>> {
        let mut got = Vec::new();
        tokio::task::yield_now().await;
        poll_fn(|_cx| {
            loop {
                let mut bytes = [0; 8 << 10];
                let mut buffer = ReadBuf::new(&mut bytes);
                // Nobody waits: the next turn is asked for.
                match Pin::new(&mut *paced)
                    .poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer)
                {
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => break,
                    Poll::Ready(Ok(())) => got.extend_from_slice(buffer.filled()),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        Ok(got)
    }

    /// How many such frames a turn is given of many.
    async fn given(frame: &[u8]) -> usize {
        let all = frame.repeat(2_000);
        let mut paced = Paced::of_server(Pieces(vec![all]));
        turn(&mut paced).await.unwrap().len().div_ceil(frame.len())
    }

    #[tokio::test]
    async fn a_turn_has_room_for_so_many_frames() {
        let heads = given(&frame(kind::HEADERS, 4, 5)).await;
        assert!((10..=20).contains(&heads), "{heads}");
        // 5,000 fields of one byte.
        let heads = given(&frame(kind::HEADERS, 4, 5_000)).await;
        assert!(heads <= 3, "{heads}");
        let acks = given(&frame(kind::SETTINGS, ACK, 0)).await;
        assert!((10..=20).contains(&acks), "{acks}");
        for light in [frame(kind::DATA, 0, 1), frame(8, 0, 4), frame(3, 0, 4), frame(0xf0, 0, 0)] {
            let count = given(&light).await;
            assert!((100..=160).contains(&count), "{count}");
        }
    }

    #[test]
    fn settings_are_bounded_by_time() {
        let mut now = Instant::now();
        let mut settings = Settings::new(now);
        let most = |settings: &mut Settings, now| {
            std::iter::repeat_with(|| settings.take(now)).take_while(Result::is_ok).count()
        };
        assert_eq!(most(&mut settings, now), 64);
        now += SETTINGS_EACH * 3;
        assert_eq!(most(&mut settings, now), 3);
        now += Duration::from_hours(100);
        assert_eq!(most(&mut settings, now), 64);
    }

    #[tokio::test]
    async fn too_many_settings_end_the_connection() {
        let one = frame(kind::SETTINGS, 0, 6);
        let more = one.repeat(100);
        for cut in [1, 7, 1_000, 1_501] {
            let pieces = more.chunks(cut).map(<[u8]>::to_vec).collect();
            let mut paced = Paced::of_server(Pieces(pieces));
            let mut got = Vec::new();
            while !paced.is_over || !paced.held.is_empty() {
                got.extend(turn(&mut paced).await.unwrap());
            }
            assert_eq!(got, [one.repeat(64), FAREWELL.to_vec()].concat(), "{cut}");
            assert!(turn(&mut paced).await.unwrap().is_empty(), "nothing more is read");
        }
    }

    #[test]
    fn most_requests_may_not_be_taken_back() {
        let start = Instant::now();
        // So many are asked for and taken back each time; when that is too much.
        let check = |asked: u32, taken_back: u32, each: Duration, expect: Option<u32>| {
            let mut resets = Resets { requests: 0, taken_back: 0, since: start };
            let mut now = start;
            let round = |_: &u32| {
                now += each;
                let all = (0..asked).map(|_| kind::HEADERS);
                let all = all.chain((0..taken_back).map(|_| kind::RST_STREAM));
                all.map(|kind| resets.count(kind, now)).any(|counted| counted.is_err())
            };
            assert_eq!((1..=2_000).find(round), expect, "{asked} {taken_back}");
        };
        check(1, 1, Duration::ZERO, Some(501));
        check(2, 1, Duration::ZERO, None);
        check(1, 1, Duration::from_millis(3), None);
        check(100, 100, Duration::from_millis(100), Some(6));
    }

    proptest! {
        /// Whatever the frames are and however they are cut: all bytes come, in order, and no turn has
        /// more than its frames.
        #[test]
        fn nothing_is_lost(
            frames in prop::collection::vec((any::<u8>(), 0_usize..3_000), 1..200),
            cut in 1_usize..20_000,
        ) {
            let is_settings = |kind: &u8| *kind == kind::SETTINGS;
            let mut all = vec![1; 24];
            for (kind, length) in &frames {
                all.extend(frame(*kind, u8::from(is_settings(kind)), *length));
            }
            let pieces = all.chunks(cut).map(<[u8]>::to_vec).collect();
            let mut paced = Paced::of_client(Pieces(pieces));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let got = runtime.unwrap().block_on(async move {
                let mut got = Vec::new();
                loop {
                    got.extend(turn(&mut paced).await.unwrap());
                    if paced.io.0.is_empty() && paced.held.is_empty() {
                        return got;
                    }
                }
            });
            prop_assert_eq!(got, all);
        }
    }
}
