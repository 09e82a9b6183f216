//! Frames: what is written on a tunnel, byte by byte. Pure: from and to bytes.
//!
//! `docs/transport.md` is the specification. All numbers are big-endian.
#![deny(clippy::indexing_slicing)]

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::model::trace::Trace;

/// Length (3), type (1), stream (4).
pub const HEADER_BYTES: usize = 8;

/// The longest payload of a [`Data`](Frame::Data) frame: four TLS records of 2^14 bytes (RFC 8446,
/// section 5.1). Longer ones would make the other streams wait.
pub const MAX_DATA_BYTES: usize = 64 * 1024;

/// The longest payload of any other frame, known or not.
pub const MAX_CONTROL_BYTES: usize = 1024;

/// Set in the type of a frame that must not be skipped by those who do not know it; and likewise in
/// the number of a field.
const CRITICAL: u8 = 0x80;

const HELLO: u8 = 0x81;
const OPEN: u8 = 0x82;
const ACCEPT: u8 = 0x83;
const DATA: u8 = 0x84;
const END: u8 = 0x85;
const RESET: u8 = 0x86;
const CREDIT: u8 = 0x87;
const PING: u8 = 0x08;
/// The type of a [`Frame::Pong`].
pub const PONG: u8 = 0x09;
const GO_AWAY: u8 = 0x8a;

/// Fields of [`Frame::Open`].
const DESTINATION: u8 = 0x81;
const CLIENT: u8 = 0x02;
const HOSTNAME: u8 = 0x03;
const TRACE: u8 = 0x04;

/// Fields of [`Frame::Hello`].
const STREAMS: u8 = 0x01;
const WINDOW: u8 = 0x02;

/// One frame. Numbers of streams are 1 and more; 0 is the tunnel itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first frame of each side.
    Hello(Hello),
    /// The client asks for a connection to an application.
    Open(u32, Open),
    /// The server has connected to it.
    Accept(u32),
    /// Bytes of the application's: a frame's payload, or a part of it that has come.
    Data(u32, Bytes),
    /// No more bytes from this side.
    End(u32),
    /// Neither side sends any more on this stream; one of the [`code`]s says why.
    Reset(u32, u32),
    /// So many more bytes may be sent on this stream.
    Credit(u32, u32),
    /// Asks for a [`Frame::Pong`] with the same number.
    Ping(u64),
    /// Answers a [`Frame::Ping`].
    Pong(u64),
    /// Its sender takes no streams after the given one, and closes when the last has ended.
    GoAway(u32, u32),
    /// A frame of an unknown type, which may be skipped. Its payload follows and is dropped.
    Skipped(u8),
}

/// Why a stream was reset, or a tunnel ends. Codes from 100 on are statuses of HTTP, with the
/// meaning that they have as an answer to HBONE's `CONNECT`.
pub mod code {
    /// The sender is being stopped, or needs the tunnel no more.
    pub const NONE: u32 = 0;
    /// The application's connection was reset.
    pub const CANCEL: u32 = 1;
    /// The stream was not looked at: it may be tried on another tunnel.
    pub const NOT_TAKEN: u32 = 2;
    /// The peer broke the protocol.
    pub const PROTOCOL: u32 = 3;
    /// More is unread than the peer may leave: Service Unavailable (RFC 9110, section 15.6.4).
    pub const UNAVAILABLE: u32 = 503;
}

/// The announcement of each side. A value that it leaves out is the least that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// How many streams the peer may have open at once.
    pub streams: u32,
    /// How many bytes the peer may send on a new stream before it is given more.
    pub window: u32,
}

/// The purpose of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Where the application listens.
    pub destination: SocketAddr,
    /// The client's real address.
    pub client: Option<SocketAddr>,
    /// The service that the client asked for, for the peer's log. UTF-8, at most 255 bytes.
    pub hostname: Option<String>,
    /// The trace that the connection belongs to.
    pub trace: Option<Trace>,
}

impl Hello {
    /// The values until a peer has said otherwise, and the least that it may say.
    pub const LEAST: Self = Self { streams: 64, window: 64 * 1024 };
}

/// A breach of the protocol by a peer. The tunnel ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A frame is longer than its type may be.
    #[error("a frame of type {0:#x} has {1} bytes")]
    TooLong(u8, usize),
    /// A frame that must not be skipped has a type that we do not know.
    #[error("the type {0:#x} of a frame is not known, and it must not be skipped")]
    Unknown(u8),
    /// A payload does not have the form of its type.
    #[error("a frame of type {0:#x} is malformed")]
    Malformed(u8),
    /// The first frame is not a hello, or a later one is.
    #[error("a hello is missing, or there are two")]
    Hello,
    /// A frame for a stream that there was not yet, or that only the other side may open.
    #[error("stream {0} is not open")]
    NotOpen(u32),
    /// A frame that this stream cannot have any more, or not yet.
    #[error("stream {0} has ended or is not answered")]
    Order(u32),
    /// More bytes than were allowed, or an allowance beyond 2^31 - 1.
    #[error("stream {0} exceeds its window")]
    Window(u32),
    /// A number without meaning: of an answer that nobody asked for, say.
    #[error("a frame of type {0:#x} was not expected")]
    Unexpected(u8),
}

/// Where the decoder is in what has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before a header.
    #[default]
    Header,
    /// In a data frame of the stream: so many bytes are to come.
    Data(u32, usize),
    /// In a frame that is not known: so many bytes are to come.
    Skip(usize),
}

/// Takes frames off what has come, however it was cut.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
}

impl Decoder {
    /// The next frame, or the part of a data frame that is there. `None`: more must come.
    ///
    /// # Errors
    ///
    /// The bytes are not the protocol.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Violation> {
        loop {
            match self.state {
                State::Header => match self.header(input)? {
                    Some(frame) => return Ok(Some(frame)),
                    None if self.state == State::Header => return Ok(None),
                    None => {}
                },
                State::Skip(0) => self.state = State::Header,
                State::Data(stream, left) if !input.is_empty() => {
                    let part = input.split_to(left.min(input.len())).freeze();
                    self.state = match left - part.len() {
                        0 => State::Header,
                        left => State::Data(stream, left),
                    };
                    return Ok(Some(Frame::Data(stream, part)));
                }
                State::Skip(left) if !input.is_empty() => {
                    let part = left.min(input.len());
                    input.advance(part);
                    self.state = State::Skip(left - part);
                }
                State::Data(..) | State::Skip(_) => return Ok(None),
            }
        }
    }

    /// Reads a header, and the payload of all but data. `None` with the state unchanged: more must
    /// come.
    fn header(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Violation> {
        let Some(header) = input.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [l0, l1, l2, kind, s0, s1, s2, s3] = *header;
        let length = usize::try_from(u32::from_be_bytes([0, l0, l1, l2])).unwrap_or(usize::MAX);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let most = if kind == DATA { MAX_DATA_BYTES } else { MAX_CONTROL_BYTES };
        if length > most {
            return Err(Violation::TooLong(kind, length));
        }
        if kind == DATA {
            if length == 0 || stream == 0 {
                return Err(Violation::Malformed(kind));
            }
            input.advance(HEADER_BYTES);
            self.state = State::Data(stream, length);
            return Ok(None);
        }
        if !is_known(kind) {
            if kind & CRITICAL != 0 {
                return Err(Violation::Unknown(kind));
            }
            input.advance(HEADER_BYTES);
            self.state = State::Skip(length);
            return Ok(Some(Frame::Skipped(kind)));
        }
        if input.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        input.advance(HEADER_BYTES);
        let payload = input.split_to(length).freeze();
        control(kind, stream, payload).ok_or(Violation::Malformed(kind)).map(Some)
    }
}

const fn is_known(kind: u8) -> bool {
    matches!(kind, HELLO | OPEN | ACCEPT | DATA | END | RESET | CREDIT | PING | PONG | GO_AWAY)
}

/// Reads a frame that is not data.
fn control(kind: u8, stream: u32, mut payload: Bytes) -> Option<Frame> {
    let of_tunnel = matches!(kind, HELLO | PING | PONG | GO_AWAY);
    if of_tunnel != (stream == 0) {
        return None;
    }
    let frame = match kind {
        HELLO => Frame::Hello(hello(&mut payload)?),
        OPEN => Frame::Open(stream, open(&mut payload)?),
        ACCEPT => Frame::Accept(stream),
        END => Frame::End(stream),
        RESET => Frame::Reset(stream, payload.try_get_u32().ok()?),
        CREDIT => Frame::Credit(stream, payload.try_get_u32().ok()?),
        PING => Frame::Ping(payload.try_get_u64().ok()?),
        PONG => Frame::Pong(payload.try_get_u64().ok()?),
        GO_AWAY => Frame::GoAway(payload.try_get_u32().ok()?, payload.try_get_u32().ok()?),
        _ => return None,
    };
    // Fields that a later version adds at the end of these are ignored.
    Some(frame)
}

/// Takes one field off: its number and its value.
fn field(payload: &mut Bytes) -> Option<(u8, Bytes)> {
    let number = payload.try_get_u8().ok()?;
    let length = usize::from(payload.try_get_u8().ok()?);
    (length <= payload.len()).then(|| (number, payload.split_to(length)))
}

fn hello(payload: &mut Bytes) -> Option<Hello> {
    let mut hello = Hello::LEAST;
    while !payload.is_empty() {
        match field(payload)? {
            (STREAMS, mut value) => hello.streams = value.try_get_u32().ok()?,
            (WINDOW, mut value) => hello.window = value.try_get_u32().ok()?,
            (other, _) if other & CRITICAL != 0 => return None,
            _ => {}
        }
    }
    let least = Hello::LEAST;
    let valid = hello.streams >= least.streams
        && (least.window..=i32::MAX.cast_unsigned()).contains(&hello.window);
    valid.then_some(hello)
}

fn open(payload: &mut Bytes) -> Option<Open> {
    let (mut destination, mut client, mut hostname, mut trace) = (None, None, None, None);
    while !payload.is_empty() {
        match field(payload)? {
            (DESTINATION, value) => destination = Some(address(value)?),
            (CLIENT, value) => client = Some(address(value)?),
            // A trace that cannot be is as none: it is for logs.
            (TRACE, value) => trace = Trace::new(value.as_ref().try_into().ok()?),
            (HOSTNAME, value) => hostname = Some(str::from_utf8(&value).ok()?.to_owned()),
            (other, _) if other & CRITICAL != 0 => return None,
            _ => {}
        }
    }
    Some(Open { destination: destination?, client, hostname, trace })
}

/// An address: 4 or 16 bytes, and 2 for the port.
fn address(mut value: Bytes) -> Option<SocketAddr> {
    let ip = match value.len() {
        6 => IpAddr::from(value.try_get_u32().ok()?.to_be_bytes()),
        18 => IpAddr::from(value.try_get_u128().ok()?.to_be_bytes()),
        _ => return None,
    };
    Some(SocketAddr::new(ip, value.try_get_u16().ok()?))
}

/// Writes the header of a data frame, whose payload follows. At most [`MAX_DATA_BYTES`].
pub fn put_data(out: &mut BytesMut, stream: u32, length: usize) {
    put_header(out, DATA, stream, length);
}

/// Writes a frame; of data, header and payload.
pub fn put(out: &mut BytesMut, frame: &Frame) {
    match frame {
        Frame::Hello(hello) => {
            put_header(out, HELLO, 0, 12);
            put_number(out, STREAMS, hello.streams);
            put_number(out, WINDOW, hello.window);
        }
        Frame::Open(stream, open) => {
            let mut payload = BytesMut::with_capacity(64);
            put_address(&mut payload, DESTINATION, open.destination);
            if let Some(client) = open.client {
                put_address(&mut payload, CLIENT, client);
            }
            // It is for the log: too long a name is left out rather than a connection.
            if let Some(name) = &open.hostname
                && let Ok(length) = u8::try_from(name.len())
            {
                payload.put_u8(HOSTNAME);
                payload.put_u8(length);
                payload.put_slice(name.as_bytes());
            }
            if let Some(trace) = &open.trace {
                payload.put_u8(TRACE);
                payload.put_u8(25);
                payload.put_slice(trace.bytes());
            }
            put_header(out, OPEN, *stream, payload.len());
            out.put_slice(&payload);
        }
        Frame::Accept(stream) => put_header(out, ACCEPT, *stream, 0),
        Frame::Data(stream, data) => {
            put_header(out, DATA, *stream, data.len());
            out.put_slice(data);
        }
        Frame::End(stream) => put_header(out, END, *stream, 0),
        Frame::Reset(stream, code) => {
            put_header(out, RESET, *stream, 4);
            out.put_u32(*code);
        }
        Frame::Credit(stream, bytes) => {
            put_header(out, CREDIT, *stream, 4);
            out.put_u32(*bytes);
        }
        Frame::Ping(number) => {
            put_header(out, PING, 0, 8);
            out.put_u64(*number);
        }
        Frame::Pong(number) => {
            put_header(out, PONG, 0, 8);
            out.put_u64(*number);
        }
        Frame::GoAway(last, code) => {
            put_header(out, GO_AWAY, 0, 8);
            out.put_u32(*last);
            out.put_u32(*code);
        }
        Frame::Skipped(kind) => put_header(out, *kind, 0, 0),
    }
}

fn put_header(out: &mut BytesMut, kind: u8, stream: u32, length: usize) {
    debug_assert!(length <= MAX_DATA_BYTES, "a frame of {length} bytes");
    out.put_uint(u64::try_from(length).unwrap_or(u64::MAX), 3);
    out.put_u8(kind);
    out.put_u32(stream);
}

fn put_number(out: &mut BytesMut, field: u8, number: u32) {
    out.put_u8(field);
    out.put_u8(4);
    out.put_u32(number);
}

fn put_address(out: &mut BytesMut, field: u8, address: SocketAddr) {
    out.put_u8(field);
    match address.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(18);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(address.port());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_open() -> impl Strategy<Value = Open> {
        let address = || (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from);
        let trace = (1_u8.., any::<u8>()).prop_map(|(first, flags)| {
            let mut bytes = [first; Trace::BYTES];
            bytes[24] = flags;
            Trace::new(bytes).unwrap()
        });
        let optional = (prop::option::of("[a-z.]{1,40}"), prop::option::of(trace));
        (address(), prop::option::of(address()), optional).prop_map(
            |(destination, client, (hostname, trace))| Open {
                destination,
                client,
                hostname,
                trace,
            },
        )
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let stream = || 1_u32..;
        prop_oneof![
            (Hello::LEAST.streams.., Hello::LEAST.window..1 << 31)
                .prop_map(|(streams, window)| Frame::Hello(Hello { streams, window })),
            (stream(), any_open()).prop_map(|(stream, open)| Frame::Open(stream, open)),
            stream().prop_map(Frame::Accept),
            (stream(), prop::collection::vec(any::<u8>(), 1..5_000))
                .prop_map(|(stream, data)| Frame::Data(stream, data.into())),
            stream().prop_map(Frame::End),
            (stream(), any::<u32>()).prop_map(|(stream, code)| Frame::Reset(stream, code)),
            (stream(), any::<u32>()).prop_map(|(stream, bytes)| Frame::Credit(stream, bytes)),
            any::<u64>().prop_map(Frame::Ping),
            any::<u64>().prop_map(Frame::Pong),
            (any::<u32>(), any::<u32>()).prop_map(|(last, code)| Frame::GoAway(last, code)),
            Just(Frame::Skipped(0x7f)),
        ]
    }

    /// Reads all frames, with the input cut as given; parts of data frames are put together.
    fn read(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, Violation> {
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
        let mut frames: Vec<Frame> = Vec::new();
        let mut is_part = false;
        let mut rest = bytes;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let cut = cuts.next().copied().unwrap_or(1).clamp(1, rest.len());
            let (now, later) = rest.split_at(cut);
            input.extend_from_slice(now);
            rest = later;
            while let Some(frame) = decoder.next(&mut input)? {
                match (frames.last_mut(), frame) {
                    (Some(Frame::Data(_, whole)), Frame::Data(_, part)) if is_part => {
                        *whole = [whole.as_ref(), part.as_ref()].concat().into();
                    }
                    (_, frame) => frames.push(frame),
                }
                is_part = matches!(decoder.state, State::Data(..));
            }
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            frames in prop::collection::vec(any_frame(), 1..20),
            cuts in prop::collection::vec(1_usize..3_000, 1..20),
        ) {
            let mut bytes = BytesMut::new();
            for frame in &frames {
                put(&mut bytes, frame);
            }
            prop_assert_eq!(read(&bytes, &cuts).unwrap(), frames);
        }

        #[test]
        fn any_bytes_are_read_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..3_000),
            cuts in prop::collection::vec(1_usize..500, 1..20),
        ) {
            let _any: Result<Vec<Frame>, Violation> = read(&bytes, &cuts);
        }

        #[test]
        fn what_was_changed_on_the_way_is_read_without_panic(
            frames in prop::collection::vec(any_frame(), 1..10),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
        ) {
            let mut bytes = BytesMut::new();
            for frame in &frames {
                put(&mut bytes, frame);
            }
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes.as_mut()[at] = byte;
            }
            let _any: Result<Vec<Frame>, Violation> = read(&bytes, &[usize::MAX]);
        }
    }

    /// The bytes of the examples in `docs/transport.md`.
    #[test]
    fn the_bytes_are_those_of_the_document() {
        let mut out = BytesMut::new();
        put(&mut out, &Frame::Hello(Hello { streams: 1_000, window: 1 << 16 }));
        assert_eq!(
            out.as_ref(),
            b"\x00\x00\x0c\x81\x00\x00\x00\x00\x01\x04\x00\x00\x03\xe8\x02\x04\x00\x01\x00\x00"
        );
        out.clear();
        let destination = "10.0.0.2:80".parse().unwrap();
        put(
            &mut out,
            &Frame::Open(1, Open { destination, client: None, hostname: None, trace: None }),
        );
        assert_eq!(
            out.as_ref(),
            b"\x00\x00\x08\x82\x00\x00\x00\x01\x81\x06\x0a\x00\x00\x02\x00\x50"
        );
        out.clear();
        put(&mut out, &Frame::Data(1, Bytes::from_static(b"hello")));
        assert_eq!(out.as_ref(), b"\x00\x00\x05\x84\x00\x00\x00\x01hello");
        out.clear();
        put(&mut out, &Frame::Reset(1, code::CANCEL));
        assert_eq!(out.as_ref(), b"\x00\x00\x04\x86\x00\x00\x00\x01\x00\x00\x00\x01");
    }

    #[track_caller]
    fn check(bytes: &[u8], expect: Result<&[Frame], Violation>) {
        assert_eq!(read(bytes, &[usize::MAX]), expect.map(<[Frame]>::to_vec));
        assert_eq!(read(bytes, &[1]), expect.map(<[Frame]>::to_vec));
    }

    #[test]
    fn unknown_frames_are_skipped_unless_they_say_otherwise() {
        let known = b"\0\0\0\x85\0\0\0\x07";
        let end = [Frame::Skipped(0x7f), Frame::End(7)];
        check(&[b"\0\0\x03\x7f\0\0\0\x07abc".as_slice(), known].concat(), Ok(&end));
        check(&[b"\0\0\0\x7f\0\0\0\0".as_slice(), known].concat(), Ok(&end));
        check(
            &[b"\0\0\x03\xff\0\0\0\x07abc".as_slice(), known].concat(),
            Err(Violation::Unknown(0xff)),
        );
        check(b"\0\x04\x01\x7f\0\0\0\x07", Err(Violation::TooLong(0x7f, 1_025)));
    }

    #[test]
    fn unknown_fields_are_skipped_unless_they_say_otherwise() {
        let open = |field: u8| {
            let fields = [b"\x81\x06\x0a\0\0\x02\0\x50".as_slice(), &[field, 2, 9, 9]].concat();
            [b"\0\0\x0c\x82\0\0\0\x01".as_slice(), &fields].concat()
        };
        let destination = "10.0.0.2:80".parse().unwrap();
        let plain = Open { destination, client: None, hostname: None, trace: None };
        check(&open(0x7f), Ok(&[Frame::Open(1, plain)]));
        check(&open(0xff), Err(Violation::Malformed(OPEN)));
    }

    #[test]
    fn what_has_another_form_than_its_type_is_refused() {
        // Data without a stream, and empty data.
        check(b"\0\0\x01\x84\0\0\0\0x", Err(Violation::Malformed(DATA)));
        check(b"\0\0\0\x84\0\0\0\x01", Err(Violation::Malformed(DATA)));
        check(b"\x01\0\x01\x84\0\0\0\x01", Err(Violation::TooLong(DATA, 65_537)));
        // A reset without a code, a ping on a stream, an open without a destination.
        check(b"\0\0\x02\x86\0\0\0\x01\0\0", Err(Violation::Malformed(RESET)));
        check(b"\0\0\x08\x08\0\0\0\x01\0\0\0\0\0\0\0\0", Err(Violation::Malformed(PING)));
        check(b"\0\0\0\x82\0\0\0\x01", Err(Violation::Malformed(OPEN)));
        // A window that is too small.
        check(b"\0\0\x06\x81\0\0\0\0\x02\x04\0\0\0\x01", Err(Violation::Malformed(HELLO)));
    }
}
