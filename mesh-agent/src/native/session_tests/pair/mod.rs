//! Two sessions, joined by two pipes that deliver when and as they like, against a simple model.

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;

use super::*;

mod steps;

/// As large as what a stream may have to send at once, twice, so that each part of it is one slice.
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
    let start = (position + usize::try_from(stream).unwrap() * 7_919 + side * 131) % PERIOD;
    PATTERN.slice(start..start + length)
}

/// Whether a stream continues one of another tunnel.
fn goes_on(stream: u32) -> bool {
    stream.is_multiple_of(2)
}

fn continued(stream: u32) -> Continued {
    Continued { tunnel: Name([7; 16]), stream }
}

fn asked(stream: u32) -> Event {
    if goes_on(stream) {
        Event::Continue(stream, continued(stream))
    } else {
        Event::Open(stream, open())
    }
}

/// Whether the last that a side says on a stream is that it goes on elsewhere.
fn is_moved(side: usize, stream: u32) -> bool {
    (size(stream) + side).is_multiple_of(3)
}

/// The number of a side in the arrays below.
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// What one side's application knows of a stream.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Half {
    accepted: bool,
    /// Bytes that wait for credit.
    pending: usize,
    /// The last try could not send all, and nothing was heard since.
    blocked: bool,
    sent: usize,
    sent_end: bool,
    got: usize,
    unread: usize,
    got_end: bool,
    /// It was reset here, with the code.
    reset: Option<u32>,
    /// It was reset by the peer.
    was_reset: bool,
}

impl Half {
    fn is_over(&self) -> bool {
        let ended = self.sent_end && self.got_end && self.unread == 0;
        ended || self.reset.is_some() || self.was_reset
    }
}

/// A session, its application, and what is under way to it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct End {
    session: Session,
    limits: Limits,
    input: BytesMut,
    /// What comes is held up.
    held: bool,
    halves: BTreeMap<u32, Half>,
    pings: VecDeque<u64>,
    /// It takes no more streams.
    went: bool,
    /// It knows that its peer does not.
    gone: bool,
    /// It had as many streams as it takes.
    was_full: bool,
    greeted: bool,
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap()
}

impl End {
    fn new(side: Side, limits: Limits) -> Self {
        Self {
            session: Session::new(side, limits),
            limits,
            input: BytesMut::new(),
            held: false,
            halves: BTreeMap::new(),
            pings: VecDeque::new(),
            went: false,
            gone: false,
            was_full: false,
            greeted: false,
        }
    }

    fn live(&self) -> usize {
        self.halves.values().filter(|half| !half.is_over()).count()
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
        assert!(self.session.side == Side::Client || live <= size(streams));
    }
}

/// Both sides.
struct Pair {
    ends: [End; 2],
}

impl Pair {
    fn new(client: Limits, server: Limits) -> Self {
        Self { ends: [End::new(Side::Client, client), End::new(Side::Server, server)] }
    }

    fn open(&mut self) {
        let streams = self.ends[SERVER].limits.streams;
        let client = &mut self.ends[CLIENT];
        let most = if client.greeted { streams } else { Hello::LEAST.streams };
        let expect = !client.went && !client.gone && client.live() < size(most);
        assert_eq!(client.session.has_room(), expect);
        let stream = match client.session.last + 1 {
            stream if goes_on(stream) => client.session.go_on(continued(stream)),
            _ => client.session.open(open()),
        };
        assert_eq!(stream.is_some(), expect);
        if let Some(stream) = stream {
            assert!(client.halves.insert(stream, Half::default()).is_none());
        }
    }

    fn accept(&mut self, stream: u32) {
        let server = &mut self.ends[SERVER];
        let half = server.halves.get_mut(&stream).unwrap();
        if !half.accepted {
            assert_eq!(server.session.accept(stream).is_err(), half.is_over());
            half.accepted = true;
        }
    }

    /// Sends what waits.
    fn send(&mut self, side: usize, stream: u32) {
        let end = &mut self.ends[side];
        let half = end.halves.get_mut(&stream).unwrap();
        if side == SERVER && !half.accepted {
            return;
        }
        let mut data = pattern(side, stream, half.sent, half.pending);
        let result = end.session.send(stream, &mut data);
        assert_eq!(result.is_err(), half.is_over() || half.sent_end);
        let Ok(sent) = result else { return };
        assert_eq!(data.len(), half.pending - sent);
        assert!(sent == 0 || !half.blocked, "nobody said that there was room");
        half.pending -= sent;
        half.sent += sent;
        half.blocked = half.pending > 0;
    }

    fn taken(&mut self, side: usize, stream: u32, most: usize) {
        let end = &mut self.ends[side];
        let half = end.halves.get_mut(&stream).unwrap();
        let part = most.min(half.unread);
        half.unread -= part;
        end.session.taken(stream, part);
    }

    fn end(&mut self, side: usize, stream: u32) {
        let end = &mut self.ends[side];
        let half = end.halves.get_mut(&stream).unwrap();
        if side == CLIENT || half.accepted {
            let ended = if is_moved(side, stream) {
                end.session.moved(stream)
            } else {
                end.session.end(stream)
            };
            assert_eq!(ended.is_err(), half.is_over() || half.sent_end);
            half.sent_end = true;
            half.pending = 0;
        }
    }

    fn reset(&mut self, side: usize, stream: u32, code: u32) {
        let end = &mut self.ends[side];
        end.session.reset(stream, code);
        let half = end.halves.get_mut(&stream).unwrap();
        if !half.is_over() {
            half.reset = Some(code);
        }
    }

    /// Lets some of what `side`'s peer has sent arrive; says whether there was any.
    fn deliver(&mut self, side: usize, most: usize) -> bool {
        let sender = &mut self.ends[1 - side].session;
        let part = sender.waiting().min(most);
        if part == 0 || self.ends[side].held {
            return false;
        }
        let part = self.ends[1 - side].session.output().copy_to_bytes(part);
        let end = &mut self.ends[side];
        end.input.extend_from_slice(&part);
        let mut events = Vec::new();
        end.session.receive(&mut end.input, |event| events.push(event)).unwrap();
        end.greeted = end.session.theirs.is_some();
        for event in events {
            self.happened(side, event);
        }
        true
    }

    fn happened(&mut self, side: usize, event: Event) {
        let [client, server] = &mut self.ends;
        let (end, peer) = if side == CLIENT { (client, server) } else { (server, client) };
        match event.clone() {
            Event::Open(stream, _) | Event::Continue(stream, _) => {
                assert_eq!(event, asked(stream));
                assert!(side == SERVER && !end.went);
                assert!(peer.halves.contains_key(&stream));
                assert!(end.halves.insert(stream, Half::default()).is_none());
                end.was_full |= end.live() >= size(end.limits.streams);
            }
            Event::Accepted(stream) => {
                let half = end.halves.get_mut(&stream).unwrap();
                assert!(side == CLIENT && !half.accepted && !half.is_over());
                assert!(peer.halves[&stream].accepted);
                half.accepted = true;
            }
            Event::Data(stream, data) => {
                let half = end.halves.get_mut(&stream).unwrap();
                assert!(!half.is_over() && !half.got_end, "stream {stream} has ended");
                assert!(side == SERVER || half.accepted);
                assert!(data == pattern(1 - side, stream, half.got, data.len()));
                half.got += data.len();
                half.unread += data.len();
            }
            Event::Ended(stream) | Event::Moved(stream) => {
                assert_eq!(is_moved(1 - side, stream), event == Event::Moved(stream));
                let half = end.halves.get_mut(&stream).unwrap();
                assert!(!half.is_over() && !half.got_end);
                let theirs = &peer.halves[&stream];
                assert!(theirs.sent_end && theirs.sent == half.got);
                half.got_end = true;
            }
            Event::Reset(stream, code) => {
                let half = end.halves.get_mut(&stream).unwrap();
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
                let half = end.halves.get_mut(&stream).unwrap();
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

    fn retry(&mut self, side: usize) {
        let streams: Vec<u32> = self.ends[side].halves.keys().copied().collect();
        for stream in streams {
            self.send(side, stream);
        }
    }

    /// Everything is accepted, sent as far as the other side has said that it may be, read and
    /// ended, until nothing happens any more.
    fn drain(&mut self) {
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
                    self.taken(side, stream, usize::MAX);
                    if !self.ends[side].halves[&stream].blocked {
                        self.send(side, stream);
                    }
                    let half = &self.ends[side].halves[&stream];
                    if half.pending == 0 && !half.sent_end {
                        self.end(side, stream);
                    }
                }
            }
            self.ends.iter().for_each(End::check);
            if !happened && self.ends.iter().all(|end| end.session.waiting() == 0) {
                break;
            }
        }
        for end in &self.ends {
            assert_eq!(end.session.streams(), 0);
            assert_eq!(end.session.growth, end.limits.growth, "growth was not given back");
            assert!(end.pings.is_empty() && end.input.is_empty());
        }
        // Both know of the same streams the same, if neither side has reset them.
        for (stream, half) in &self.ends[SERVER].halves {
            let theirs = &self.ends[CLIENT].halves[stream];
            let is_reset = |half: &Half| half.reset.is_some() || half.was_reset;
            if !is_reset(half) && !is_reset(theirs) {
                assert_eq!((half.got, theirs.got), (theirs.sent, half.sent));
            }
        }
    }
}

/// One stream's data is not read, on both sides; all others send a megabyte each way.
#[track_caller]
fn check_stopped_reader(limits: Limits) {
    let mut pair = Pair::new(limits, limits);
    (0..limits.streams).for_each(|_| pair.open());
    pair.deliver(SERVER, usize::MAX);
    (1..=limits.streams).for_each(|stream| pair.accept(stream));
    // The first stream's windows grow as far as they can before its readers stop.
    let mut rounds = [0, 0];
    for stream in 1..=limits.streams {
        for side in [CLIENT, SERVER] {
            while pair.ends[side].halves[&stream].sent < 1 << 20 && rounds[side] < 10_000 {
                rounds[side] += 1;
                pair.ends[side].halves.get_mut(&stream).unwrap().pending = 100_000;
                pair.send(side, stream);
                pair.deliver(1 - side, usize::MAX);
                pair.taken(1 - side, stream, usize::MAX);
                pair.deliver(side, usize::MAX);
            }
        }
        if stream == 1 {
            for side in [CLIENT, SERVER] {
                pair.ends[side].halves.get_mut(&stream).unwrap().pending = PERIOD;
                while !pair.ends[side].halves[&stream].blocked {
                    pair.send(side, stream);
                    pair.deliver(1 - side, usize::MAX);
                    pair.ends[side].halves.get_mut(&stream).unwrap().pending = PERIOD;
                }
            }
        }
    }
    for end in &pair.ends {
        end.check();
        let (stopped, others) =
            end.halves.iter().partition::<Vec<_>, _>(|(stream, _)| **stream == 1);
        assert!(stopped.iter().all(|(_, half)| half.blocked && half.unread >= size(limits.window)));
        assert!(others.iter().all(|(_, half)| half.sent >= 1 << 20 && half.got >= 1 << 20));
    }
    pair.drain();
}

#[test]
fn a_stopped_reader_does_not_hold_up_the_others() {
    check_stopped_reader(Limits { streams: 64, window: 1 << 16, growth: 0 });
    // All growth is the stopped stream's.
    check_stopped_reader(Limits { streams: 64, window: 1 << 16, growth: 15 << 16 });
}
