//! Any bytes to the decoder of frames: how they are cut makes no difference, and what comes out is
//! written as something that is read as the same.
//!
//! The input is two sizes, in which the rest is cut in turn.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use mesh_agent::native::frame::{self, Decoder, Frame, HEADER_BYTES, MAX_CONTROL_BYTES, Violation};

fuzz_target!(|input: &[u8]| {
    let [first, second, bytes @ ..] = input else { return };
    let whole = read(bytes, &[usize::MAX]);
    for cuts in [[1, 1], [usize::from(*first), usize::from(*second)]] {
        assert_eq!(read(bytes, &cuts), whole, "cut at {cuts:?}");
    }
    let mut written = BytesMut::new();
    for frame in &whole.frames {
        for part in in_frames(frame) {
            let start = written.len();
            frame::put(&mut written, &part);
            let alone = read(&written[start..], &[usize::MAX]);
            assert_eq!((alone.frames, alone.end), (vec![part], Ok(0)));
        }
    }
    let again = read(&written, &[usize::from(*first), usize::from(*second)]);
    assert_eq!((again.frames, again.end), (whole.frames, Ok(0)));
});

/// A decoder's reading of some bytes.
#[derive(Debug, PartialEq)]
struct Reading {
    /// The frames; data of one stream that follows each other is one.
    frames: Vec<Frame>,
    /// How many bytes it left, or why it stopped.
    end: Result<usize, Violation>,
}

fn read(bytes: &[u8], cuts: &[usize]) -> Reading {
    let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
    let (mut frames, mut rest) = (Vec::new(), bytes);
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let cut = cuts.next().copied().unwrap_or(1).clamp(1, rest.len());
        let (now, later) = rest.split_at(cut);
        input.extend_from_slice(now);
        rest = later;
        loop {
            match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(frame)) => add(&mut frames, frame),
                Err(violation) => return Reading { frames, end: Err(violation) },
            }
        }
        assert!(input.len() < HEADER_BYTES + MAX_CONTROL_BYTES, "{} bytes wait", input.len());
    }
    Reading { frames, end: Ok(input.len()) }
}

fn add(frames: &mut Vec<Frame>, frame: Frame) {
    match (frames.last_mut(), frame) {
        (_, Frame::Data(stream, part)) if part.is_empty() => panic!("no data of stream {stream}"),
        (Some(Frame::Data(stream, whole)), Frame::Data(same, part)) if *stream == same => {
            *whole = [whole.as_ref(), &part].concat().into();
        }
        (_, frame) => frames.push(frame),
    }
}

/// A frame as it can be written: data in as many as it needs.
fn in_frames(frame: &Frame) -> Vec<Frame> {
    let Frame::Data(stream, data) = frame else { return vec![frame.clone()] };
    let parts = data.chunks(frame::MAX_DATA_BYTES);
    parts.map(|part| Frame::Data(*stream, data.slice_ref(part))).collect()
}
