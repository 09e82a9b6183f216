//! A peer that sends anything.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::native::frame::MAX_DATA_BYTES;

/// How many streams a client has open when it begins.
const STREAMS: u32 = 3;

/// The action on frames of a peer.
#[derive(Clone, Debug)]
enum Answer {
    Accept(u32),
    Send(u32, usize),
    Taken(u32),
    End(u32),
    Reset(u32),
    Ping,
    GoAway,
}

fn any_stream() -> impl Strategy<Value = u32> {
    prop_oneof![300 => 1..=STREAMS, 2 => 5..80_u32, 1 => any::<u32>()]
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let stream = || 1..=STREAMS;
    prop_oneof![
        4 => stream().prop_map(Answer::Accept),
        4 => (stream(), 0..100_000_usize).prop_map(|(stream, size)| Answer::Send(stream, size)),
        4 => stream().prop_map(Answer::Taken),
        1 => stream().prop_map(Answer::End),
        1 => stream().prop_map(Answer::Reset),
        1 => Just(Answer::Ping),
        1 => Just(Answer::GoAway),
    ]
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let stream = any_stream;
    let length = prop_oneof![4 => 1..1_000_usize, 1 => 1..MAX_DATA_BYTES];
    prop_oneof![
        1 => (Hello::LEAST.streams..100, Hello::LEAST.window..1 << 31)
            .prop_map(|(streams, window)| Frame::Hello(Hello { streams, window })),
        1 => stream().prop_map(|stream| Frame::Open(stream, open())),
        1 => stream().prop_map(Frame::Accept),
        40 => (stream(), length)
            .prop_map(|(stream, length)| Frame::Data(stream, Bytes::from(vec![0; length]))),
        5 => stream().prop_map(Frame::End),
        1 => Just(Frame::Skipped(0x10)),
        5 => (stream(), any::<u32>()).prop_map(|(stream, code)| Frame::Reset(stream, code)),
        20 => (stream(), 0..100_000_u32).prop_map(|(stream, more)| Frame::Credit(stream, more)),
        1 => (stream(), any::<u32>()).prop_map(|(stream, more)| Frame::Credit(stream, more)),
        10 => any::<u64>().prop_map(Frame::Ping),
        1 => Just(Frame::Pong(0)),
        5 => any::<u32>().prop_map(|last| Frame::GoAway(last, code::NONE)),
    ]
}

/// A run of frames to a side, valid on the whole, of which some come twice, in another order or not
/// at all.
fn any_run(side: Side) -> impl Strategy<Value = Vec<Frame>> {
    let changes = prop::collection::vec((any::<Index>(), any::<Index>(), 0..3_u8), 0..4);
    let rest = prop::collection::vec(any_frame(), 0..80);
    (1..120_u32, rest, changes).prop_map(move |(streams, rest, changes)| {
        let mut frames = vec![Frame::Hello(Hello::LEAST)];
        match side {
            Side::Server => frames.extend((1..=streams).map(|stream| Frame::Open(stream, open()))),
            Side::Client => frames.extend((1..=STREAMS).map(Frame::Accept)),
        }
        frames.extend(rest);
        for (from, to, change) in changes {
            let (from, to) = (from.index(frames.len()), to.index(frames.len()));
            match change {
                0 => frames.swap(from, to),
                1 => frames.insert(to, frames[from].clone()),
                _ if frames.len() > 1 => drop(frames.remove(from)),
                _ => {}
            }
        }
        frames
    })
}

/// A session of ours with streams that are open, and how much its peer has sent that was not read.
struct Victim {
    session: Session,
    unread: HashMap<u32, usize>,
    received: usize,
    sent: usize,
}

impl Victim {
    fn new(side: Side) -> Self {
        let mut session = Session::new(side, LIMITS);
        let sent = session.waiting() + 3 * 24;
        (0..STREAMS).all(|_| session.open(open()).is_some());
        Self { session, unread: HashMap::new(), received: 0, sent }
    }

    fn receive(&mut self, part: &[u8]) -> Result<(), Violation> {
        let mut input = BytesMut::from(part);
        self.received += part.len();
        let unread = &mut self.unread;
        self.session.receive(&mut input, |event| match event {
            Event::Data(stream, data) => *unread.entry(stream).or_default() += data.len(),
            Event::Reset(stream, _) => drop(unread.remove(&stream)),
            _ => {}
        })
    }

    fn answer(&mut self, answer: &Answer) {
        match *answer {
            Answer::Accept(stream) if self.session.side == Side::Server => {
                let _over: Result<(), Over> = self.session.accept(stream);
            }
            Answer::Accept(_) => {}
            Answer::Send(stream, size) => {
                self.sent += self.session.send(stream, &mut vec![0; size].into()).unwrap_or(0);
            }
            Answer::Taken(stream) => {
                self.session.taken(stream, self.unread.remove(&stream).unwrap_or(0));
            }
            Answer::End(stream) => {
                let _over: Result<(), Over> = self.session.end(stream);
            }
            Answer::Reset(stream) => {
                self.session.reset(stream, code::CANCEL);
                self.unread.remove(&stream);
            }
            Answer::Ping => self.session.ping(0),
            Answer::GoAway => self.session.go_away(code::NONE),
        }
        // Any action needs at most two headers, and a frame of data one for 64 KiB.
        self.sent += 64;
    }

    /// After any frames: as many streams as may be, as many bytes, and answers that are not longer
    /// than what is answered.
    fn check(&self) {
        let Limits { streams, window, growth } = LIMITS;
        let [streams, window, growth] =
            [streams, window, growth].map(|n| usize::try_from(n).unwrap());
        let live = self.session.streams();
        assert!(live <= streams);
        assert!(self.unread.values().sum::<usize>() <= live * window + growth);
        let most = self.received + self.sent;
        assert!(self.session.waiting() <= most, "{} of {most} wait", self.session.waiting());
    }

    /// Takes bytes, with answers in between. A violation ends it.
    fn run(mut self, bytes: &[u8], cuts: &[usize], answers: &[Answer]) {
        let (mut rest, mut cuts, mut answers) =
            (bytes, cuts.iter().cycle(), answers.iter().cycle());
        while !rest.is_empty() {
            let cut = cuts.next().copied().unwrap_or(1).clamp(1, rest.len());
            let (now, later) = rest.split_at(cut);
            rest = later;
            let result = self.receive(now);
            self.check();
            if result.is_err() {
                return;
            }
            if let Some(answer) = answers.next() {
                self.answer(answer);
            }
            self.check();
        }
    }
}

fn any_cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1_usize..30, 1_usize..50_000], 1..8)
}

fn any_answers() -> impl Strategy<Value = Vec<Answer>> {
    prop::collection::vec(any_answer(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_taken_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..3_000),
        is_greeted: bool,
        cuts in any_cuts(),
        answers in any_answers(),
    ) {
        let mut start = BytesMut::new();
        if is_greeted {
            frame::put(&mut start, &Frame::Hello(Hello::LEAST));
        }
        start.extend_from_slice(&bytes);
        Victim::new(Side::Client).run(&start, &cuts, &answers);
        Victim::new(Side::Server).run(&start, &cuts, &answers);
    }

    #[test]
    fn frames_in_any_order_are_taken_or_refused(
        to_client in any_run(Side::Client),
        to_server in any_run(Side::Server),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..3),
        cuts in any_cuts(),
        answers in any_answers(),
    ) {
        for (side, frames) in [(Side::Client, to_client), (Side::Server, to_server)] {
            let mut bytes = BytesMut::new();
            for frame in &frames {
                frame::put(&mut bytes, frame);
            }
            Victim::new(side).run(&bytes, &cuts, &answers);
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Victim::new(side).run(&bytes, &cuts, &answers);
        }
    }
}
