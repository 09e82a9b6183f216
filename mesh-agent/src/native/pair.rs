//! Two sessions that keep the protocol, joined by two pipes that deliver when and as they like,
//! against a simple model: nothing is a violation, and everything arrives once, whole and in order.
//!
//! For tests and fuzz targets alone. They choose the steps, the model says what must come of each.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::LazyLock;

use bytes::{Buf, Bytes, BytesMut};

use crate::native::frame::{Hello, Open, code};
use crate::native::inbox::{Inbox, Parts};
use crate::native::session::{Event, Limits, MAX_WINDOW_BYTES, Session, Side};

/// The number of the side that opens streams.
pub const CLIENT: usize = 0;

/// The number of the side that accepts them.
pub const SERVER: usize = 1;

/// The most that a stream may have to send at once. The pattern is twice as large, so that each
/// part of it is one slice.
pub const PERIOD: usize = 256 * 1024;

/// Bytes that show when something is lost, doubled or in another place.
static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let mut state = 1_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_be_bytes()
    };
    let once: Vec<u8> = std::iter::repeat_with(&mut next).flatten().take(PERIOD).collect();
    [once.as_slice(), &once].concat().into()
});

/// The bytes that a side sends on a stream, from the position on.
fn pattern(side: usize, stream: u32, position: usize, length: usize) -> Bytes {
    let start = (position + size(stream) * 7_919 + side * 131) % PERIOD;
    PATTERN.slice(start..start + length)
}

fn open() -> Open {
    let destination = ([10, 0, 0, 2], 80).into();
    Open { destination, client: None, hostname: None, trace: None }
}

/// The knowledge of one side's application about a stream.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(super) struct Half {
    accepted: bool,
    /// Bytes that wait for credit.
    pending: usize,
    /// The last try could not send all, and nothing was heard since.
    pub(super) blocked: bool,
    pub(super) sent: usize,
    sent_end: bool,
    pub(super) got: usize,
    /// Of these, how many the application has not read; where they are; and those of them that it
    /// has in hand.
    pub(super) unread: usize,
    inbox: Inbox,
    parts: Parts,
    got_end: bool,
    /// It was reset here, with the code.
    reset: Option<u32>,
    /// It was reset by the peer.
    was_reset: bool,
    /// The peer had ended it before: what came is there to be read.
    was_complete: bool,
}

impl Half {
    fn is_over(&self) -> bool {
        let is_cut = self.reset.is_some() || (self.was_reset && !self.was_complete);
        is_cut || (self.sent_end && self.got_end && self.unread == 0)
    }

    fn is_reset(&self) -> bool {
        self.reset.is_some() || self.was_reset
    }
}

/// A session, its application, and what is under way to it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(super) struct End {
    side: usize,
    pub(super) session: Session,
    pub(super) limits: Limits,
    input: BytesMut,
    /// Incoming bytes are held up.
    held: bool,
    pub(super) halves: BTreeMap<u32, Half>,
    pings: VecDeque<u64>,
    /// It takes no more streams.
    went: bool,
    /// It knows that its peer does not.
    gone: bool,
    /// It had as many streams as it takes.
    was_full: bool,
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl End {
    fn new(side: usize, limits: Limits) -> Self {
        Self {
            side,
            session: Session::new([Side::Client, Side::Server][side], limits),
            limits,
            input: BytesMut::new(),
            held: false,
            halves: BTreeMap::new(),
            pings: VecDeque::new(),
            went: false,
            gone: false,
            was_full: false,
        }
    }

    fn live(&self) -> usize {
        self.halves.values().filter(|half| !half.is_over()).count()
    }

    fn half(&mut self, stream: u32) -> &mut Half {
        self.halves.get_mut(&stream).expect("invariant: only streams that there are, are picked")
    }

    fn check(&self) {
        assert_eq!(self.session.streams(), self.live());
        let Limits { streams, window, growth } = self.limits;
        let most = window.max(MAX_WINDOW_BYTES.min(window.saturating_add(growth)));
        let mut all = 0;
        for (stream, half) in self.halves.iter().filter(|(_, half)| !half.is_over()) {
            assert!(half.unread <= size(most), "stream {stream}: {} unread", half.unread);
            all += half.unread;
        }
        let live = self.live();
        assert!(all <= live * size(window) + size(growth), "{all} unread of {live} streams");
        assert!(self.side == CLIENT || live <= size(streams));
    }
}

/// Both sides.
#[derive(Debug)]
pub struct Pair {
    pub(super) ends: [End; 2],
}

impl Pair {
    /// Nothing has been said yet. A value below [`Hello::LEAST`] is that.
    pub fn new(client: Limits, server: Limits) -> Self {
        Self { ends: [End::new(CLIENT, client), End::new(SERVER, server)] }
    }

    /// A stream among those that a side's application has ever known, if there are any.
    pub fn pick(&self, side: usize, at: usize) -> Option<u32> {
        let halves = &self.ends[side].halves;
        halves.keys().nth(at % halves.len().max(1)).copied()
    }

    /// The client opens a stream, if it may.
    pub fn open(&mut self) {
        let [client, server] = &mut self.ends;
        let greeted = client.session.is_greeted();
        let most = if greeted { server.limits.streams } else { Hello::LEAST.streams };
        let expect = !client.went && !client.gone && client.live() < size(most);
        assert_eq!(client.session.has_room(), expect);
        let stream = client.session.open(open());
        assert_eq!(stream.is_some(), expect);
        if let Some(stream) = stream {
            assert!(client.halves.insert(stream, Half::default()).is_none());
        }
    }

    /// The server accepts a stream that it knows, once.
    pub fn accept(&mut self, stream: u32) {
        let server = &mut self.ends[SERVER];
        if !server.half(stream).accepted {
            let result = server.session.accept(stream);
            let half = server.half(stream);
            assert_eq!(result.is_err(), half.is_over());
            half.accepted = true;
        }
    }

    /// The application has `bytes` to send, at most [`PERIOD`] and unless others wait; what may be
    /// sent of what waits is sent.
    pub fn send(&mut self, side: usize, stream: u32, bytes: usize) {
        let half = self.ends[side].half(stream);
        if half.pending == 0 && !half.sent_end {
            half.pending = bytes.min(PERIOD);
        }
        self.send_pending(side, stream);
    }

    fn send_pending(&mut self, side: usize, stream: u32) {
        let end = &mut self.ends[side];
        let half = end.half(stream);
        if side == SERVER && !half.accepted {
            return;
        }
        let mut data = pattern(side, stream, half.sent, half.pending);
        let result = end.session.send(stream, &mut data);
        let half = end.half(stream);
        assert_eq!(result.is_err(), half.is_over() || half.sent_end);
        let Ok(sent) = result else { return };
        assert_eq!(data.len(), half.pending - sent);
        assert!(sent == 0 || !half.blocked, "nobody said that there was room");
        half.pending -= sent;
        half.sent += sent;
        half.blocked = half.pending > 0;
    }

    /// All that may be sent of what waits is sent, on all streams of a side.
    pub fn retry(&mut self, side: usize) {
        let streams: Vec<u32> = self.ends[side].halves.keys().copied().collect();
        for stream in streams {
            self.send_pending(side, stream);
        }
    }

    /// The application reads at most `most` bytes: first of what it has in hand.
    pub fn read(&mut self, side: usize, stream: u32, most: usize) {
        let end = &mut self.ends[side];
        let half = end.half(stream);
        let mut read = 0;
        while read < most && half.unread > 0 {
            if !half.parts.has_remaining() {
                half.parts = half.inbox.take();
            }
            let data = write(&mut half.parts, PERIOD.min(most - read));
            assert!(data == pattern(1 - side, stream, half.got - half.unread, data.len()));
            assert!(!data.is_empty(), "what is unread is nowhere");
            half.unread -= data.len();
            read += data.len();
        }
        end.session.taken(stream, read);
    }

    /// The application sends nothing more on a stream.
    pub fn end(&mut self, side: usize, stream: u32) {
        let end = &mut self.ends[side];
        if side == SERVER && !end.half(stream).accepted {
            return;
        }
        let ended = end.session.end(stream);
        let half = end.half(stream);
        assert_eq!(ended.is_err(), half.is_over() || half.sent_end);
        half.sent_end = true;
        half.pending = 0;
    }

    /// The application resets a stream.
    pub fn reset(&mut self, side: usize, stream: u32, code: u32) {
        let end = &mut self.ends[side];
        end.session.reset(stream, code);
        let half = end.half(stream);
        if !half.is_over() {
            half.reset = Some(code);
        }
    }

    /// A side asks whether its peer is there.
    pub fn ping(&mut self, side: usize, number: u64) {
        let end = &mut self.ends[side];
        end.pings.push_back(number);
        end.session.ping(number);
    }

    /// A side takes no more streams.
    pub fn go_away(&mut self, side: usize) {
        let end = &mut self.ends[side];
        end.went = true;
        end.session.go_away(code::NONE);
    }

    /// Nothing arrives at a side, or something does again.
    pub fn hold(&mut self, side: usize, held: bool) {
        self.ends[side].held = held;
    }

    /// Whether both sides keep to their limits.
    pub fn check(&self) {
        self.ends.iter().for_each(End::check);
    }

    /// Lets at most `most` bytes of what a side is sent arrive; says whether there were any.
    pub fn deliver(&mut self, side: usize, most: usize) -> bool {
        if self.ends[side].held {
            return false;
        }
        let part = write(self.ends[1 - side].session.output(), most);
        let end = &mut self.ends[side];
        end.input.extend_from_slice(&part);
        let mut events = Vec::new();
        let result = end.session.receive(&mut end.input, |event| events.push(event));
        assert_eq!(result, Ok(()), "side {side} is sent what it must not be");
        for event in events {
            self.happened(side, event);
        }
        !part.is_empty()
    }

    fn happened(&mut self, side: usize, event: Event) {
        let [client, server] = &mut self.ends;
        let (end, peer) = if side == CLIENT { (client, server) } else { (server, client) };
        match event {
            Event::Open(stream, asked) => {
                assert_eq!(asked, open());
                assert!(side == SERVER && !end.went);
                assert!(peer.halves.contains_key(&stream));
                assert!(end.halves.insert(stream, Half::default()).is_none());
                end.was_full |= end.live() >= size(end.limits.streams);
            }
            Event::Accepted(stream) => {
                let half = end.half(stream);
                assert!(side == CLIENT && !half.accepted && !half.is_over());
                assert!(peer.halves[&stream].accepted);
                half.accepted = true;
            }
            Event::Data(stream, data) => {
                let half = end.half(stream);
                assert!(!half.is_over() && !half.got_end, "stream {stream} has ended");
                assert!(side == SERVER || half.accepted);
                assert!(data == pattern(1 - side, stream, half.got, data.len()));
                half.got += data.len();
                half.unread += data.len();
                half.inbox.push(data);
            }
            Event::Ended(stream) => {
                let half = end.half(stream);
                assert!(!half.is_over() && !half.got_end);
                let theirs = &peer.halves[&stream];
                assert!(theirs.sent_end && theirs.sent == half.got);
                half.got_end = true;
            }
            Event::Reset(stream, code) => {
                let half = end.half(stream);
                assert!(!half.is_over());
                assert!(!(half.sent_end && half.got_end), "both have ended: nothing is to be lost");
                let expect = match peer.halves.get(&stream) {
                    Some(theirs) => theirs.reset,
                    None => (peer.went || peer.was_full).then_some(code::NOT_TAKEN),
                };
                assert_eq!(expect, Some(code));
                half.was_reset = true;
                half.was_complete = half.got_end;
                // Our direction is over with it.
                half.sent_end |= half.got_end;
            }
            Event::Credit(stream) => {
                let half = end.half(stream);
                assert!(!half.is_over());
                half.blocked = false;
            }
            Event::GoAway(_) => {
                assert!(peer.went && !end.gone);
                end.gone = true;
            }
            Event::Pong(number) => assert_eq!(end.pings.pop_front(), Some(number)),
        }
    }

    /// Everything is accepted, sent as far as the other side has said that it may be, read and
    /// ended, until nothing happens any more. Then both sides know the same.
    pub fn drain(&mut self) {
        for end in &mut self.ends {
            end.held = false;
        }
        loop {
            let mut happened = false;
            for side in [CLIENT, SERVER] {
                happened |= self.deliver(side, usize::MAX);
                let streams: Vec<u32> = self.ends[side].halves.keys().copied().collect();
                for stream in streams {
                    if side == SERVER {
                        self.accept(stream);
                    }
                    self.read(side, stream, usize::MAX);
                    if !self.ends[side].half(stream).blocked {
                        self.send_pending(side, stream);
                    }
                    let half = self.ends[side].half(stream);
                    if half.pending == 0 && !half.sent_end {
                        self.end(side, stream);
                    }
                }
            }
            self.check();
            if !happened && self.ends.iter().all(|end| end.session.waiting() == 0) {
                break;
            }
        }
        for end in &self.ends {
            assert_eq!(end.session.streams(), 0);
            assert!(end.pings.is_empty() && end.input.is_empty());
        }
        // Of a stream that neither side has reset.
        let [client, server] = &mut self.ends;
        for (stream, half) in &server.halves {
            let theirs = client.half(*stream);
            if !half.is_reset() && !theirs.is_reset() {
                assert_eq!((half.got, theirs.got), (theirs.sent, half.sent));
                assert_eq!((half.unread, theirs.unread), (0, 0));
            }
        }
    }
}

/// Takes at most `most` bytes from where they lie, as vectored writes do.
fn write(from: &mut impl Buf, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < most && from.has_remaining() {
        let before = bytes.len();
        let mut slices = [IoSlice::new(&[]); 64];
        let count = from.chunks_vectored(&mut slices);
        for slice in &slices[..count] {
            bytes.extend_from_slice(&slice[..slice.len().min(most - bytes.len())]);
        }
        from.advance(bytes.len() - before);
    }
    bytes
}
