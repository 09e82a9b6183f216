//! Two sessions that speak to each other, sessions with a hostile peer, and the rules one by one.

use super::*;
use crate::native::frame;

mod hostile;
mod pair;
mod rules;

const LIMITS: Limits = Limits { streams: 100, window: 64 * 1024, growth: 1 << 20 };

fn open() -> Open {
    Open { destination: "10.0.0.2:80".parse().unwrap(), client: None, hostname: None, trace: None }
}

/// Moves what waits at `from` to `to`; returns what it means there.
fn carry(from: &mut Session, to: &mut Session) -> Vec<Event> {
    let mut bytes = BytesMut::new();
    let waiting = from.waiting();
    bytes.extend_from_slice(&from.output().copy_to_bytes(waiting));
    let mut events = Vec::new();
    to.receive(&mut bytes, |event| events.push(event)).unwrap();
    events
}

#[test]
fn a_stream_from_open_to_end() {
    let mut client = Session::new(Side::Client, LIMITS);
    let mut server = Session::new(Side::Server, LIMITS);
    let stream = client.open(open()).unwrap();
    assert_eq!(carry(&mut client, &mut server), [Event::Open(1, open())]);
    server.accept(stream).unwrap();
    assert_eq!(carry(&mut server, &mut client), [Event::Accepted(1)]);
    let mut data = Bytes::from_static(b"question");
    assert_eq!(client.send(stream, &mut data), Ok(8));
    client.end(stream).unwrap();
    let question = [Event::Data(1, Bytes::from_static(b"question")), Event::Ended(1)];
    assert_eq!(carry(&mut client, &mut server), question);
    server.taken(stream, 8);
    server.end(stream).unwrap();
    assert_eq!(carry(&mut server, &mut client), [Event::Ended(1)]);
    assert_eq!((client.streams(), server.streams()), (0, 0));
}
