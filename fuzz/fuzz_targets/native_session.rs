//! A session of either side, whose peer sends anything and whose application does anything that it
//! may: the limits hold, and answers are no longer than what they answer.
//!
//! The input is the side, how much windows may grow, and steps.
#![no_main]

use std::collections::HashMap;

use bytes::{Buf as _, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use mesh_agent::native::frame::{self, Decoder, Frame, HEADER_BYTES, Hello, MAX_DATA_BYTES};
use mesh_agent::native::session::{Event, Limits, Session, Side};
use mesh_fuzz::Script;

fuzz_target!(|input: &[u8]| {
    let _end: Option<()> = run(Script::new(input));
});

/// `None` at the end of the script, or when the peer broke the protocol.
fn run(mut script: Script<'_>) -> Option<()> {
    let side = if script.byte()? % 2 == 0 { Side::Client } else { Side::Server };
    let mut victim = Victim::new(side, script.size()?);
    loop {
        victim.step(&mut script)?;
        victim.check();
    }
}

/// A session, what its peer may know of it, and what its application has.
struct Victim {
    side: Side,
    growth: usize,
    session: Session,
    /// Its peer's decoder.
    decoder: Decoder,
    /// Bytes that have come and were not read yet.
    input: BytesMut,
    /// The window of a new stream, as the hello says.
    window: usize,
    /// By stream: bytes that were allowed beyond the window, that came, and that wait.
    streams: HashMap<u32, Stream>,
    /// Bytes that came and that were sent since the last check.
    moved: usize,
}

#[derive(Default)]
struct Stream {
    credit: usize,
    got: usize,
    unread: usize,
}

impl Victim {
    fn new(side: Side, growth: usize) -> Self {
        let limits = Limits { streams: 0, window: 0, growth: growth as u32 };
        let mut victim = Self {
            side,
            growth,
            session: Session::new(side, limits),
            decoder: Decoder::default(),
            input: BytesMut::new(),
            window: 0,
            streams: HashMap::new(),
            moved: 0,
        };
        victim.check();
        assert!(victim.window >= Hello::LEAST.window as usize, "there was no hello");
        victim
    }

    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        let session = &mut self.session;
        match script.byte()? % 12 {
            0 | 1 => {
                let count = script.byte()?;
                self.receive(script.bytes(count))?;
            }
            2 => {
                let (stream, size) = (script.stream()?, script.size()?.clamp(1, MAX_DATA_BYTES));
                let mut bytes = BytesMut::new();
                frame::put_data(&mut bytes, stream, size);
                bytes.resize(HEADER_BYTES + size, 0);
                self.receive(&bytes)?;
            }
            3 => {
                let (had_room, stream) = (session.has_room(), session.open(mesh_fuzz::open()));
                assert_eq!(stream.is_some(), had_room && self.side == Side::Client);
            }
            4 if self.side == Side::Server => {
                let _over: Result<_, _> = session.accept(script.stream()?);
            }
            5 => {
                let (stream, size) = (script.stream()?, script.size()?);
                let mut data = Bytes::from(vec![0; size]);
                let sent = session.send(stream, &mut data).unwrap_or(0);
                assert_eq!(sent + data.len(), size);
                self.moved += sent + HEADER_BYTES * sent.div_ceil(MAX_DATA_BYTES);
            }
            6 => {
                let _over: Result<_, _> = session.end(script.stream()?);
            }
            7 => {
                let stream = script.stream()?;
                session.reset(stream, script.byte()?.into());
                self.forget(stream);
            }
            8 => {
                let (stream, most) = (script.stream()?, script.size()?);
                if let Some(known) = self.streams.get_mut(&stream) {
                    let part = most.min(known.unread);
                    known.unread -= part;
                    session.taken(stream, part);
                }
            }
            9 => session.ping(script.byte()?.into()),
            10 => session.go_away(script.byte()?.into()),
            11 => {
                let stream = script.stream()?;
                session.give_up(stream);
                self.forget(stream);
            }
            _ => {}
        }
        Some(())
    }

    fn receive(&mut self, bytes: &[u8]) -> Option<()> {
        self.moved += bytes.len();
        self.input.extend_from_slice(bytes);
        let (streams, window) = (&mut self.streams, self.window);
        let result = self.session.receive(&mut self.input, |event| match event {
            Event::Data(number, data) => {
                let stream = streams.entry(number).or_default();
                stream.got += data.len();
                stream.unread += data.len();
                let most = window + stream.credit;
                assert!(stream.got <= most, "stream {number}: {} of {most} bytes", stream.got);
            }
            Event::Reset(number, _) => {
                streams.entry(number).or_default().unread = 0;
            }
            _ => {}
        });
        if result.is_err() {
            // Frames before it count.
            self.check();
        }
        result.ok()
    }

    /// The application wants nothing more of a stream.
    fn forget(&mut self, stream: u32) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.unread = 0;
        }
    }

    fn check(&mut self) {
        let session = &mut self.session;
        let live = session.streams();
        let most = match self.side {
            Side::Client => session.most_streams(),
            Side::Server => session.allowed_streams(),
        };
        assert!(live <= most as usize, "{live} streams of {most}");
        let unread: usize = self.streams.values().map(|stream| stream.unread).sum();
        let most = live * self.window + self.growth;
        assert!(self.window == 0 || unread <= most, "{unread} of {most} bytes wait");
        // Each step writes two frames at most besides its answers, and part of what is answered may
        // have come before.
        let (waiting, most) = (session.waiting(), self.moved + 64);
        assert!(waiting <= most, "{waiting} bytes written for {most}");
        self.moved = 0;
        let mut written = BytesMut::from(session.output().copy_to_bytes(waiting).as_ref());
        while let Some(frame) = self.decoder.next(&mut written).expect("we speak the protocol") {
            match frame {
                Frame::Hello(hello) => self.window = hello.window as usize,
                Frame::Credit(stream, bytes) => {
                    self.streams.entry(stream).or_default().credit += bytes as usize;
                }
                _ => {}
            }
        }
        assert!(written.is_empty(), "a frame was not written whole");
    }
}
