//! Each rule of the state machine, and each way to break the protocol.

use super::*;

const HELLO: Frame = Frame::Hello(Hello::LEAST);

fn bytes(frames: &[Frame]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame::put(&mut bytes, frame);
    }
    bytes
}

fn receive(session: &mut Session, mut input: BytesMut) -> Result<Vec<Event>, Violation> {
    let mut events = Vec::new();
    session.receive(&mut input, |event| events.push(event)).map(|()| events)
}

/// The frames that a session writes.
fn written(session: &mut Session) -> Vec<Frame> {
    let waiting = session.waiting();
    let (mut bytes, mut decoder) = (BytesMut::new(), Decoder::default());
    bytes.extend_from_slice(&session.output().copy_to_bytes(waiting));
    std::iter::from_fn(|| decoder.next(&mut bytes).unwrap()).collect()
}

fn data(stream: u32, length: usize) -> Frame {
    Frame::Data(stream, Bytes::from(vec![b'x'; length]))
}

/// A server that the client has asked for the streams 1 and 2, of which it has accepted the first.
fn server() -> Session {
    let mut server = Session::new(Side::Server, LIMITS);
    let asked = bytes(&[HELLO, Frame::Open(1, open()), Frame::Open(2, open())]);
    assert_eq!(receive(&mut server, asked).unwrap().len(), 2);
    server.accept(1).unwrap();
    written(&mut server);
    server
}

/// A client that has asked for the streams 1 and 2, of which the server has accepted the first.
fn client() -> Session {
    let mut client = Session::new(Side::Client, LIMITS);
    assert_eq!((client.open(open()), client.open(open())), (Some(1), Some(2)));
    let answer = bytes(&[HELLO, Frame::Accept(1)]);
    assert_eq!(receive(&mut client, answer), Ok(vec![Event::Accepted(1)]));
    written(&mut client);
    client
}

/// The effect of frames on a session.
#[track_caller]
fn check(mut session: Session, frames: &[Frame], expect: Result<&[Event], Violation>) {
    assert_eq!(receive(&mut session, bytes(frames)), expect.map(<[Event]>::to_vec));
}

#[test]
fn the_first_frame_of_each_side_is_a_hello_and_no_other_is() {
    for side in [Side::Client, Side::Server] {
        let new = || Session::new(side, LIMITS);
        check(new(), &[HELLO], Ok(&[]));
        check(new(), &[HELLO, HELLO], Err(Violation::Hello));
        check(new(), &[Frame::Ping(1), HELLO], Err(Violation::Hello));
        check(new(), &[Frame::Open(1, open())], Err(Violation::Hello));
        assert_eq!(
            written(&mut new()),
            [Frame::Hello(Hello { streams: LIMITS.streams, window: LIMITS.window })]
        );
    }
}

#[test]
fn frames_that_cannot_be_read_are_violations() {
    let raw = |bytes: &[u8]| receive(&mut server(), bytes.into());
    assert_eq!(raw(b"\0\x04\x01\x08\0\0\0\0"), Err(Violation::TooLong(0x08, 1_025)));
    assert_eq!(raw(b"\0\0\0\xff\0\0\0\0"), Err(Violation::Unknown(0xff)));
    assert_eq!(raw(b"\0\0\0\x7f\0\0\0\0"), Ok(vec![]));
    assert_eq!(raw(b"\0\0\x02\x86\0\0\0\x01\0\0"), Err(Violation::Malformed(0x86)));
}

#[test]
fn streams_are_opened_one_after_the_other_and_only_by_the_client() {
    check(server(), &[Frame::Open(3, open())], Ok(&[Event::Open(3, open())]));
    check(server(), &[Frame::Open(4, open())], Err(Violation::NotOpen(4)));
    check(server(), &[Frame::Open(2, open())], Err(Violation::NotOpen(2)));
    check(client(), &[Frame::Open(3, open())], Err(Violation::NotOpen(3)));
    check(client(), &[Frame::Open(1, open())], Err(Violation::NotOpen(1)));
    assert_eq!(server().open(open()), None);
}

#[test]
fn nothing_comes_for_a_stream_that_there_was_not_yet() {
    for session in [client, server] {
        for frame in [
            Frame::Accept(3),
            data(3, 1),
            Frame::End(3),
            Frame::Reset(3, code::CANCEL),
            Frame::Credit(3, 1),
        ] {
            check(session(), &[frame], Err(Violation::NotOpen(3)));
        }
    }
}

#[test]
fn a_client_is_answered_before_anything_else() {
    check(client(), &[data(1, 1)], Ok(&[Event::Data(1, Bytes::from_static(b"x"))]));
    check(client(), &[Frame::End(1)], Ok(&[Event::Ended(1)]));
    check(client(), &[data(2, 1)], Err(Violation::Order(2)));
    check(client(), &[Frame::End(2)], Err(Violation::Order(2)));
    check(client(), &[Frame::Reset(2, 503)], Ok(&[Event::Reset(2, 503)]));
    // It may send before that, and is given more.
    check(client(), &[Frame::Credit(2, 1)], Ok(&[Event::Credit(2)]));
    check(server(), &[data(2, 1)], Ok(&[Event::Data(2, Bytes::from_static(b"x"))]));
    check(server(), &[Frame::End(2)], Ok(&[Event::Ended(2)]));
}

#[test]
fn a_stream_is_accepted_once_and_by_the_server() {
    check(client(), &[Frame::Accept(2)], Ok(&[Event::Accepted(2)]));
    check(client(), &[Frame::Accept(1)], Err(Violation::Order(1)));
    check(server(), &[Frame::Accept(2)], Err(Violation::Order(2)));
}

#[test]
fn nothing_comes_after_an_end() {
    for session in [client, server] {
        check(session(), &[Frame::End(1), data(1, 1)], Err(Violation::Order(1)));
        check(session(), &[Frame::End(1), Frame::End(1)], Err(Violation::Order(1)));
        // A frame about the other direction does.
        let rest = [Frame::End(1), Frame::Credit(1, 1), Frame::Reset(1, 0)];
        check(session(), &rest, Ok(&[Event::Ended(1), Event::Credit(1), Event::Reset(1, 0)]));
    }
}

#[test]
fn no_more_comes_than_was_allowed() {
    for session in [client, server] {
        let window = usize::try_from(LIMITS.window).unwrap();
        let mut full = session();
        assert_eq!(receive(&mut full, bytes(&[data(1, window)])).unwrap().len(), 1);
        full.taken(1, window / 2 - 1);
        assert_eq!(written(&mut full), []);
        check(full, &[data(1, 1)], Err(Violation::Window(1)));
        // Each stream has its own, and a frame may be too long in the middle.
        check(session(), &[data(1, 1), data(1, window)], Err(Violation::Window(1)));
    }
}

#[test]
fn half_a_window_is_given_back_at_once_and_doubles_it() {
    let half = LIMITS.window / 2;
    for (growth, credit) in [(0, half), (1 << 20, half + LIMITS.window)] {
        let mut server = Session { growth, ..server() };
        let window = usize::try_from(LIMITS.window).unwrap();
        receive(&mut server, bytes(&[data(1, window)])).unwrap();
        server.taken(1, window / 2);
        assert_eq!(written(&mut server), [Frame::Credit(1, credit)]);
        let credit = usize::try_from(credit).unwrap();
        assert_eq!(receive(&mut server, bytes(&[data(1, 1)])).unwrap().len(), 1);
        check(server, &[data(1, credit.min(1 << 16)), data(1, 1 << 16)], Err(Violation::Window(1)));
    }
}

#[test]
fn no_window_grows_beyond_the_largest() {
    for window in [1 << 16, 700_000, MAX_WINDOW_BYTES, 3 * MAX_WINDOW_BYTES] {
        let limits = Limits { streams: 64, window, growth: 1 << 30 };
        let mut server = Session::new(Side::Server, limits);
        receive(&mut server, bytes(&[HELLO, Frame::Open(1, open())])).unwrap();
        for _ in 0..2_000 {
            receive(&mut server, bytes(&[data(1, 1 << 14)])).unwrap();
            server.taken(1, 1 << 14);
        }
        assert!(server.flows[&1].window <= window.max(MAX_WINDOW_BYTES));
        assert!(server.flows[&1].window > window.max(MAX_WINDOW_BYTES) / 2);
        server.reset(1, code::CANCEL);
        assert_eq!(server.growth, limits.growth);
    }
}

#[test]
fn credit_has_an_end() {
    for session in [client, server] {
        let rest = MAX_CREDIT - Hello::LEAST.window;
        check(session(), &[Frame::Credit(1, rest)], Ok(&[Event::Credit(1)]));
        check(session(), &[Frame::Credit(1, rest + 1)], Err(Violation::Window(1)));
        check(session(), &[Frame::Credit(1, u32::MAX)], Err(Violation::Window(1)));
        let twice = [Frame::Credit(1, rest), Frame::Credit(1, 1)];
        check(session(), &twice, Err(Violation::Window(1)));
    }
}

#[test]
fn what_comes_for_a_stream_that_is_over_is_ignored() {
    let late =
        [data(1, 1), Frame::End(1), Frame::Credit(1, u32::MAX), Frame::Reset(1, code::CANCEL)];
    for session in [client, server] {
        let mut reset = session();
        reset.reset(1, code::CANCEL);
        check(reset, &late, Ok(&[]));
        let mut was_reset = session();
        receive(&mut was_reset, bytes(&[Frame::Reset(1, 0)])).unwrap();
        assert_eq!((was_reset.streams(), was_reset.end(1)), (1, Err(Over)));
        assert_eq!(was_reset.send(1, &mut Bytes::from_static(b"x")), Err(Over));
        check(was_reset, &late, Ok(&[]));
        let mut ended = session();
        ended.end(1).unwrap();
        receive(&mut ended, bytes(&[Frame::End(1)])).unwrap();
        check(ended, &late, Ok(&[]));
    }
    let mut client = client();
    client.reset(2, code::CANCEL);
    check(client, &[Frame::Accept(2)], Ok(&[]));
}

#[test]
fn what_ends_a_stream_here_is_written_once() {
    let mut server = server();
    server.end(1).unwrap();
    assert_eq!((server.end(1), server.accept(3)), (Err(Over), Err(Over)));
    server.reset(2, 403);
    server.reset(2, 403);
    assert_eq!(written(&mut server), [Frame::End(1), Frame::Reset(2, 403)]);
    assert_eq!(server.accept(2), Err(Over));
}

#[test]
fn a_stream_keeps_its_room_until_all_of_it_was_taken() {
    for is_taken in [true, false] {
        let mut server = server();
        receive(&mut server, bytes(&[data(1, 10), Frame::End(1)])).unwrap();
        server.end(1).unwrap();
        written(&mut server);
        server.taken(1, 9);
        assert_eq!(server.streams(), 2);
        // The peer does not read what we have sent, and that is all.
        assert_eq!(receive(&mut server, bytes(&[Frame::Reset(1, 0)])), Ok(vec![]));
        if is_taken {
            server.taken(1, 1);
        } else {
            server.reset(1, code::CANCEL);
        }
        assert_eq!(server.streams(), 1);
        // It has ended for the peer; nothing is said of it any more.
        assert_eq!(written(&mut server), []);
    }
}

#[test]
fn a_client_beyond_the_limit_is_told_to_try_elsewhere() {
    let mut server = Session::new(Side::Server, Limits { streams: 64, ..LIMITS });
    let asked: Vec<Frame> = (1..=65).map(|stream| Frame::Open(stream, open())).collect();
    let events = receive(&mut server, bytes(&[[HELLO].as_slice(), &asked].concat())).unwrap();
    assert_eq!((events.len(), server.streams()), (64, 64));
    assert_eq!(written(&mut server)[1..], [Frame::Reset(65, code::NOT_TAKEN)]);
    // One ends, the next has room.
    server.reset(7, code::CANCEL);
    check(server, &[data(65, 1), Frame::Open(66, open())], Ok(&[Event::Open(66, open())]));
}

#[test]
fn a_client_opens_no_more_than_it_may() {
    let mut client = Session::new(Side::Client, LIMITS);
    assert_eq!((1..=65).filter_map(|_| client.open(open())).last(), Some(64));
    let hello = Frame::Hello(Hello { streams: 66, ..Hello::LEAST });
    receive(&mut client, bytes(&[hello])).unwrap();
    assert_eq!((client.open(open()), client.open(open())), (Some(65), Some(66)));
    assert!(!client.has_room());
    client.reset(1, code::CANCEL);
    assert_eq!(client.open(open()), Some(67));
}

#[test]
fn who_goes_away_ends_what_there_is_and_takes_no_more() {
    let mut server = server();
    server.go_away(code::NONE);
    server.go_away(code::PROTOCOL);
    let late = bytes(&[Frame::Open(3, open()), data(3, 1), data(2, 1)]);
    let data = Event::Data(2, Bytes::from_static(b"x"));
    assert_eq!(receive(&mut server, late), Ok(vec![data]));
    assert_eq!(
        written(&mut server),
        [Frame::GoAway(2, code::NONE), Frame::Reset(3, code::NOT_TAKEN)]
    );
    assert_eq!(server.accept(2), Ok(()));
    let mut client = client();
    let away = bytes(&[Frame::GoAway(2, code::NONE)]);
    assert_eq!(receive(&mut client, away), Ok(vec![Event::GoAway(2)]));
    assert_eq!((client.open(open()), client.streams()), (None, 2));
    assert_eq!(client.end(1), Ok(()));
}

#[test]
fn a_hello_raises_the_credit_of_streams_that_are_open() {
    for (window, credit) in [(1 << 16, 0), (100_000, 34_464)] {
        let mut client = Session::new(Side::Client, LIMITS);
        let stream = client.open(open()).unwrap();
        let mut data = Bytes::from(vec![0; 200_000]);
        assert_eq!(client.send(stream, &mut data), Ok(1 << 16));
        assert_eq!(client.send(stream, &mut data), Ok(0));
        let hello = Frame::Hello(Hello { window, ..Hello::LEAST });
        let expect: &[Event] = if credit > 0 { &[Event::Credit(stream)] } else { &[] };
        assert_eq!(receive(&mut client, bytes(&[hello])).as_deref(), Ok(expect));
        assert_eq!(client.send(stream, &mut data), Ok(credit));
        // Those that are opened later have as much.
        let (next, all) = (client.open(open()).unwrap(), (1 << 16) + credit);
        assert_eq!(client.send(next, &mut Bytes::from(vec![0; 200_000])), Ok(all));
    }
}

#[test]
fn limits_below_the_least_are_raised_to_it() {
    let limits = Limits { streams: 1, window: 1, growth: 0 };
    let mut server = Session::new(Side::Server, limits);
    let mut client = Session::new(Side::Client, LIMITS);
    assert_eq!(carry(&mut server, &mut client), []);
    client.open(open()).unwrap();
    assert_eq!(client.send(1, &mut Bytes::from(vec![0; 1 << 16])), Ok(1 << 16));
    assert!(!carry(&mut client, &mut server).is_empty());
}

#[test]
fn pings_are_answered_and_nothing_else_is() {
    let mut server = server();
    assert_eq!(receive(&mut server, bytes(&[Frame::Ping(7), Frame::Ping(7)])), Ok(vec![]));
    assert_eq!(written(&mut server), [Frame::Pong(7), Frame::Pong(7)]);
    server.ping(1);
    server.ping(2);
    assert_eq!(receive(&mut server, bytes(&[Frame::Pong(1)])), Ok(vec![Event::Pong(1)]));
    check(server, &[Frame::Pong(3)], Err(Violation::Unexpected(0x09)));
    check(client(), &[Frame::Pong(0)], Err(Violation::Unexpected(0x09)));
}

#[test]
fn a_reset_after_an_end_leaves_what_came() {
    let mut client = client();
    let events = receive(&mut client, bytes(&[data(1, 100), Frame::End(1), Frame::Reset(1, 1)]));
    let came = Event::Data(1, Bytes::from(vec![b'x'; 100]));
    assert_eq!(events, Ok(vec![came, Event::Ended(1), Event::Reset(1, code::CANCEL)]));
    // Nobody reads what we would send; what came keeps its window until it was read.
    assert_eq!(client.send(1, &mut Bytes::from_static(b"x")), Err(Over));
    assert_eq!(client.end(1), Err(Over));
    assert_eq!(client.streams(), 2);
    client.taken(1, 100);
    assert_eq!(client.streams(), 1);
    assert!(written(&mut client).is_empty());
}

#[test]
fn unknown_frames_come_after_the_hello() {
    for side in [Side::Client, Side::Server] {
        let new = || Session::new(side, LIMITS);
        check(new(), &[Frame::Skipped(0x10), HELLO], Err(Violation::Hello));
        check(new(), &[HELLO, Frame::Skipped(0x10)], Ok(&[]));
    }
}
