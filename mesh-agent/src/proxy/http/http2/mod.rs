//! HTTP/2 with clients and servers: each request is a task of its own, and nothing is kept beyond what a connection
//! was promised.
//!
//! The frames are those of the `h2` crate. Bytes that have come and are not read are looked after by
//! [`crate::io::unread`], which hyper leaves no place for.

pub mod client;
pub mod sending;
pub mod server;
#[cfg(test)]
mod tests;

use std::error::Error as StdError;

use h2::Reason;
use hyper::HeaderMap;
use hyper::header::{CONNECTION, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};

use crate::io::unread::Slices;
use crate::proxy::http::body::BodyError;
use crate::proxy::http::fields;

/// Slices of what was read that are kept as they are: frames of nearly the largest length, for which a
/// buffer of about the same length was made. All others are copied.
const SLICES: Slices = Slices {
    waiting: LONG_BYTES,
    passed: LONG_BYTES,
    // As long as a frame, so that no piece outlives its being passed on by much.
    piece: 16 * 1024,
};

/// The least length of such a frame; the largest is 16 KiB (RFC 9113, section 4.2).
const LONG_BYTES: usize = 15 * 1024;

/// Fields that no message of HTTP/2 has (RFC 9113, section 8.2.2).
const OF_HTTP1: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Takes off an answer what is of HTTP/1.1, and `te`, which no answer has.
fn strip_answer(headers: &mut HeaderMap) {
    strip(headers);
    headers.remove(TE);
}

/// Takes off a request what is of HTTP/1.1, and any `te` but the one that HTTP/2 allows.
fn strip_request(headers: &mut HeaderMap) {
    strip(headers);
    if headers.get(TE).is_some_and(|value| value != "trailers") {
        headers.remove(TE);
    }
}

fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        // It may name others.
        fields::strip(headers);
    }
    for name in OF_HTTP1 {
        headers.remove(name);
    }
}

/// The reason for which a stream is reset: that for which another was, if `error` comes of it.
fn reason(error: &(dyn StdError + 'static)) -> Reason {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().unwrap_or(Reason::INTERNAL_ERROR);
        }
        next = error.source();
    }
    Reason::INTERNAL_ERROR
}

/// The error of a connection, or that of its socket.
fn cause(error: h2::Error) -> BodyError {
    if error.get_io().is_none() {
        return error.into();
    }
    error.into_io().map_or_else(|| "the socket has failed".into(), Into::into)
}
