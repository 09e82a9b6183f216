//! Any bytes as the answer to a plain request: what is passed on as a whole answer, hyper reads as the
//! same one.
//!
//! The first byte says whether the request was for a head alone.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use mesh_agent::proxy::http::plain::chunks::Chunks;
use mesh_agent::proxy::http::plain::head::{Answer, Framing, answer, tidied};
use mesh_fuzz::hyper::answered;

fuzz_target!(|input: &[u8]| {
    let Some((first, input)) = input.split_first() else { return };
    let is_for_head = first & 1 == 1;
    let Some((head, body)) = last_head(input, is_for_head) else { return };
    let Some(body) = whole(head.framing, body) else { return };
    let method = if is_for_head { Method::HEAD } else { Method::GET };
    let (status, headers, theirs) = answered(input, method).expect("hyper knows no such answer");
    assert_eq!(status, head.status);
    assert_eq!(theirs.as_deref(), Some(body.as_slice()), "the body, of {headers:?}");
});

/// The head of the answer that is no announcement, and what comes after it.
fn last_head(input: &[u8], is_for_head: bool) -> Option<(Answer, Vec<u8>)> {
    let mut rest = input.to_vec();
    loop {
        let mut head = answer(&rest, is_for_head).ok()??;
        if head.is_sloppy {
            let tidy = tidied(&rest[..head.length]);
            rest.splice(..head.length, tidy);
            head = answer(&rest, is_for_head).expect("tidied").expect("whole");
            assert!(!head.is_sloppy);
        }
        rest.drain(..head.length);
        if !head.status.is_informational() {
            return Some((head, rest));
        }
    }
}

/// The body, if it is whole.
fn whole(framing: Framing, input: Vec<u8>) -> Option<Vec<u8>> {
    match framing {
        Framing::Length(length) => Some(input.get(..usize::try_from(length).ok()?)?.to_vec()),
        Framing::Close => Some(input),
        Framing::Chunked => {
            let mut chunks = Chunks::default();
            let taken = chunks.take(&input).ok()?;
            chunks.is_done().then(|| data(&input[..taken]))
        }
    }
}

/// The data of chunks that are right.
fn data(mut input: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let end = input.iter().position(|byte| *byte == b'\n').expect("a line");
        let (line, rest) = input.split_at(end + 1);
        let digits = line.split(|byte| !byte.is_ascii_hexdigit()).next().expect("one part");
        let digits = str::from_utf8(digits).expect("digits");
        let size = usize::from_str_radix(digits, 16).expect("a size");
        if size == 0 {
            return all;
        }
        all.extend_from_slice(&rest[..size]);
        input = &rest[size + 2..];
    }
}
