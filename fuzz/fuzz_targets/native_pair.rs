//! Two sessions that keep the protocol, joined by pipes that deliver when and as they like, against
//! a simple model: nothing is a violation, and everything arrives once, whole and in order.
//!
//! The input is both sides' limits and steps. The tests of `session.rs` do the same with random
//! steps; here coverage chooses them.
#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;

use bytes::{Buf as _, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use mesh_agent::native::frame::{Hello, Open, code};
use mesh_agent::native::inbox::{Inbox, Parts};
use mesh_agent::native::session::{Event, Limits, MAX_WINDOW_BYTES, Session, Side};
use mesh_fuzz::Script;

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    if let Some(mut pair) = Pair::new(&mut script) {
        while pair.step(&mut script).is_some() {
            pair.ends.iter().for_each(End::check);
        }
        pair.drain();
    }
});

/// The number of a side in the arrays below.
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// What each stream is opened for.
static OPEN: LazyLock<Open> = LazyLock::new(mesh_fuzz::open);

/// As large as the most that a stream may have to send at once, twice.
const PERIOD: usize = 256 * 1024;

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

/// What a side sends on a stream, from the position on.
fn pattern(side: usize, stream: u32, position: usize, length: usize) -> Bytes {
    let start = (position + stream as usize * 7_919 + side * 131) % PERIOD;
    PATTERN.slice(start..start + length)
}

/// What one side's application knows of a stream.
#[derive(Default)]
struct Half {
    accepted: bool,
    /// Bytes that wait for credit.
    pending: usize,
    /// The last try could not send all, and nothing was heard since.
    blocked: bool,
    sent: usize,
    sent_end: bool,
    got: usize,
    /// Of these, how many the application has not read; where they are; and those of them that it
    /// has in hand.
    unread: usize,
    inbox: Inbox,
    parts: Parts,
    got_end: bool,
    /// It was reset here, with the code.
    reset: Option<u32>,
    /// It was reset by the peer.
    was_reset: bool,
}

impl Half {
    fn is_over(&self) -> bool {
        self.is_reset() || (self.sent_end && self.got_end && self.unread == 0)
    }

    fn is_reset(&self) -> bool {
        self.reset.is_some() || self.was_reset
    }
}

/// A session, its application, and what is under way to it.
struct End {
    side: usize,
    session: Session,
    limits: Limits,
    input: BytesMut,
    halves: BTreeMap<u32, Half>,
    pings: VecDeque<u64>,
    /// It takes no more streams.
    went: bool,
    /// It knows that its peer does not.
    gone: bool,
    /// It had as many streams as it takes.
    was_full: bool,
}

impl End {
    fn new(side: usize, script: &mut Script<'_>) -> Option<Self> {
        let window = Hello::LEAST.window + script.size()? as u32;
        let growth = 8 * script.size()? as u32;
        let limits = Limits { streams: Hello::LEAST.streams, window, growth };
        Some(Self {
            side,
            session: Session::new([Side::Client, Side::Server][side], limits),
            limits,
            input: BytesMut::new(),
            halves: BTreeMap::new(),
            pings: VecDeque::new(),
            went: false,
            gone: false,
            was_full: false,
        })
    }

    fn live(&self) -> usize {
        self.halves.values().filter(|half| !half.is_over()).count()
    }

    fn check(&self) {
        let live = self.live();
        assert_eq!(self.session.streams(), live);
        let Limits { streams, window, growth } = self.limits;
        let most = window.max(MAX_WINDOW_BYTES.min(window + growth)) as usize;
        let mut all = 0;
        for (stream, half) in self.halves.iter().filter(|(_, half)| !half.is_over()) {
            assert!(half.unread <= most, "stream {stream}: {} unread", half.unread);
            all += half.unread;
        }
        let most = live * window as usize + growth as usize;
        assert!(all <= most, "{all} unread of {live} streams");
        assert!(self.side == CLIENT || live <= streams as usize);
    }

    /// A stream among those that the application still thinks of.
    fn pick(&self, script: &mut Script<'_>) -> Option<u32> {
        let at = usize::from(script.byte()?) % self.halves.len().max(1);
        self.halves.keys().nth(at).copied()
    }

    fn half(&mut self, stream: u32) -> &mut Half {
        self.halves.get_mut(&stream).expect("the stream is known")
    }

    /// Sends what waits.
    fn send(&mut self, stream: u32) {
        let side = self.side;
        let half = self.halves.get_mut(&stream).expect("the stream is known");
        if side == SERVER && !half.accepted {
            return;
        }
        let mut data = pattern(side, stream, half.sent, half.pending);
        let result = self.session.send(stream, &mut data);
        assert_eq!(result.is_err(), half.is_over() || half.sent_end);
        let Ok(sent) = result else { return };
        assert_eq!(data.len(), half.pending - sent);
        assert!(sent == 0 || !half.blocked, "nobody said that there was room");
        half.pending -= sent;
        half.sent += sent;
        half.blocked = half.pending > 0;
    }

    /// The application reads of what it has in hand, and at most `most` bytes.
    fn read(&mut self, stream: u32, most: usize) {
        let side = self.side;
        let half = self.half(stream);
        if !half.parts.has_remaining() {
            half.parts = half.inbox.take();
        }
        let read = half.got - half.unread;
        let data = mesh_fuzz::write(&mut half.parts, most.min(PERIOD));
        assert!(data == pattern(1 - side, stream, read, data.len()));
        half.unread -= data.len();
        self.session.taken(stream, data.len());
    }

    fn end(&mut self, stream: u32) {
        let result = self.session.end(stream);
        let half = self.half(stream);
        assert_eq!(result.is_err(), half.is_over() || half.sent_end);
        half.sent_end = true;
        half.pending = 0;
    }

    fn reset(&mut self, stream: u32, code: u32) {
        self.session.reset(stream, code);
        let half = self.half(stream);
        if !half.is_over() {
            half.reset = Some(code);
        }
    }

    fn accept(&mut self, stream: u32) {
        if self.side == SERVER && !self.half(stream).accepted {
            let result = self.session.accept(stream);
            let half = self.half(stream);
            assert_eq!(result.is_err(), half.is_over());
            half.accepted = true;
        }
    }
}

/// Both sides.
struct Pair {
    ends: [End; 2],
}

impl Pair {
    fn new(script: &mut Script<'_>) -> Option<Self> {
        Some(Self { ends: [End::new(CLIENT, script)?, End::new(SERVER, script)?] })
    }

    /// The next step of the script.
    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        let byte = script.byte()?;
        let side = usize::from(byte & 1);
        let end = &mut self.ends[side];
        match (byte >> 1) % 12 {
            0 => (0..script.byte()? % 70).for_each(|_| self.open()),
            1 => end.accept(end.pick(script)?),
            2 | 3 => {
                let (stream, size) = (end.pick(script)?, script.size()?);
                let half = end.half(stream);
                if half.pending == 0 && !half.sent_end {
                    half.pending = size;
                }
                end.send(stream);
            }
            4 => {
                let streams: Vec<u32> = end.halves.keys().copied().collect();
                streams.into_iter().for_each(|stream| end.send(stream));
            }
            5 => {
                let (stream, most) = (end.pick(script)?, script.size()?);
                end.read(stream, most);
            }
            6 => {
                let stream = end.pick(script)?;
                if side == CLIENT || end.half(stream).accepted {
                    end.end(stream);
                }
            }
            7 => {
                let stream = end.pick(script)?;
                end.reset(stream, script.byte()?.into());
            }
            8 => {
                let number = script.byte()?.into();
                end.pings.push_back(number);
                end.session.ping(number);
            }
            9 => {
                end.went = true;
                end.session.go_away(code::NONE);
            }
            _ => {
                let most = script.size()?;
                self.deliver(side, most);
            }
        }
        Some(())
    }

    fn open(&mut self) {
        let [client, server] = &mut self.ends;
        let limits = if client.session.is_greeted() { server.limits.streams } else { 64 };
        let expect = !client.went && !client.gone && client.live() < limits as usize;
        assert_eq!(client.session.has_room(), expect);
        let stream = client.session.open(OPEN.clone());
        assert_eq!(stream.is_some(), expect);
        if let Some(stream) = stream {
            assert!(client.halves.insert(stream, Half::default()).is_none());
        }
    }

    /// Lets some of what `side`'s peer has sent arrive; says whether there was any.
    fn deliver(&mut self, side: usize, most: usize) -> bool {
        let part = mesh_fuzz::write(self.ends[1 - side].session.output(), most);
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
                assert!(side == SERVER && !end.went && asked == *OPEN);
                assert!(peer.halves.contains_key(&stream));
                assert!(end.halves.insert(stream, Half::default()).is_none());
                end.was_full |= end.live() >= end.limits.streams as usize;
            }
            Event::Accepted(stream) => {
                let half = end.half(stream);
                assert!(side == CLIENT && !half.accepted && !half.is_over());
                assert!(peer.half(stream).accepted);
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
                let (half, theirs) = (end.half(stream), peer.half(stream));
                assert!(!half.is_over() && !half.got_end);
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
            #[allow(unreachable_patterns, reason = "a new event is none of what is modeled here")]
            _ => {}
        }
    }

    /// Everything is accepted, sent as far as the other side has said that it may be, read and
    /// ended, until nothing happens any more.
    fn drain(&mut self) {
        loop {
            let mut happened = false;
            for side in [CLIENT, SERVER] {
                happened |= self.deliver(side, usize::MAX);
                let end = &mut self.ends[side];
                let streams: Vec<u32> = end.halves.keys().copied().collect();
                for stream in streams {
                    end.accept(stream);
                    while !end.half(stream).is_over() && end.half(stream).unread > 0 {
                        end.read(stream, usize::MAX);
                    }
                    if !end.half(stream).blocked {
                        end.send(stream);
                    }
                    let half = end.half(stream);
                    if half.pending == 0 && !half.sent_end {
                        end.end(stream);
                    }
                }
                end.check();
            }
            if !happened && self.ends.iter().all(|end| end.session.waiting() == 0) {
                break;
            }
        }
        let [client, server] = &mut self.ends;
        for end in [&*client, &*server] {
            assert_eq!(end.session.streams(), 0);
            assert!(end.pings.is_empty() && end.input.is_empty());
        }
        // Both know the same of a stream that neither side has reset.
        for (stream, half) in &server.halves {
            let theirs = client.half(*stream);
            if !half.is_reset() && !theirs.is_reset() {
                assert_eq!((half.got, theirs.got), (theirs.sent, half.sent));
                assert_eq!((half.unread, theirs.unread), (0, 0));
            }
        }
    }
}
