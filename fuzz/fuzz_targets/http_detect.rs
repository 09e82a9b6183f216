//! Any first bytes of a connection: what is known of them stays, however they come, and what a parser
//! takes for a request is taken for HTTP.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_agent::proxy::http::detect::{Guess, Version, guess};

/// The first bytes of a client of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is waited for.
const METHOD_BYTES: usize = 16;

fuzz_target!(|input: &[u8]| {
    let guesses = (0..=input.len()).map(|end| guess(&input[..end]));
    let whole = guesses.fold(Guess::Unsure, |before, now| {
        assert!(before == Guess::Unsure || now == before, "{before:?}, then {now:?}");
        now
    });
    assert!(whole != Guess::Unsure || input.len() < PREFACE.len());
    let is_preface = input.starts_with(PREFACE);
    assert_eq!(whole == Guess::Http(Version::Http2), is_preface);

    // An empty line is not waited for, which a server may read past (RFC 9112, section 2.2).
    if is_preface
        || PREFACE.starts_with(input)
        || input.starts_with(b"\r")
        || input.starts_with(b"\n")
    {
        return;
    }
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut fields);
    if request.parse(input).is_ok()
        && let Some(method) = request.method
        && method.len() <= METHOD_BYTES
        && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_')
    {
        assert_eq!(whole, Guess::Http(Version::Http1));
    }
});
