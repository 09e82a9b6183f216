//! Client errors that no request comes of.

use std::error::Error as StdError;
use std::io;

use h2::Reason;
use hyper::StatusCode;

/// The word for breaches of HTTP.
const MALFORMED: &str = "malformed";

/// The word for heads that take too long to come.
const SLOW: &str = "slow";

/// The failure of a client's connection, if that is the client's fault: the status that hyper has
/// answered with, or would have, and the word used in the metrics. HTTP/2 has no status for it: 400.
pub fn of(error: &(dyn StdError + 'static)) -> Option<(u16, &'static str)> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some((status, reason)) = one(error) {
            return Some((status.as_u16(), reason));
        }
        cause = error.source();
    }
    None
}

fn one(error: &(dyn StdError + 'static)) -> Option<(StatusCode, &'static str)> {
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        // An error that the client has said itself, as when it leaves, is none.
        let is_broken = error.is_library() && error.reason() != Some(Reason::NO_ERROR);
        return is_broken.then_some((StatusCode::BAD_REQUEST, MALFORMED));
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        let is_slow = error.kind() == io::ErrorKind::TimedOut;
        return is_slow.then_some((StatusCode::REQUEST_TIMEOUT, SLOW));
    }
    let error = error.downcast_ref::<hyper::Error>()?;
    if error.is_parse_too_large() {
        Some((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, MALFORMED))
    } else if error.is_parse() {
        Some((StatusCode::BAD_REQUEST, MALFORMED))
    } else if error.is_timeout() {
        Some((StatusCode::REQUEST_TIMEOUT, SLOW))
    } else {
        None
    }
}
