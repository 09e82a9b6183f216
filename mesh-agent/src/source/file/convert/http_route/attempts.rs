//! How long a request may take, and how often it is tried.

use http::StatusCode;

use crate::model::http::{Retry, Timeouts};

use super::super::super::schema;
use super::super::Problems;
use super::value;

/// How often a request is tried again if `attempts` is left out, which the Gateway API leaves to us.
const DEFAULT_ATTEMPTS: u32 = 1;

/// The most retries of one request: with each, a backend that is down gets that much more to do.
const MAX_ATTEMPTS: u32 = 100;

/// The most codes of a retry: all from 400 to 599.
const MAX_CODES: usize = 200;

/// The timeouts at `path` (GEP-1742).
pub(super) fn timeouts(
    path: &str,
    written: &schema::Timeouts,
    problems: &mut Problems,
) -> Timeouts {
    let mut read = |field: &str, written: Option<&String>| {
        value::duration(&format!("{path}.{field}"), written?, problems)
    };
    let request = read("request", written.request.as_ref());
    let backend = read("backendRequest", written.backend_request.as_ref());
    if let (Some(request), Some(backend)) = (request, backend)
        && !request.is_zero()
        && backend > request
    {
        let message = "one attempt may take longer than the request with all its attempts; write \
                       at most what `request` says";
        problems.invalid(format!("{path}.backendRequest"), message);
    }
    Timeouts { request, backend }
}

/// The rule for further attempts, at `path` (GEP-1731).
pub(super) fn retry(path: &str, written: &schema::Retry, problems: &mut Problems) -> Retry {
    let path_of_codes = format!("{path}.codes");
    let written_codes =
        value::at_most(MAX_CODES, &written.codes, &path_of_codes, "codes", problems);
    let mut codes = Vec::with_capacity(written_codes.len());
    for (i, code) in written_codes.iter().enumerate() {
        let known = u16::try_from(*code).ok().filter(|code| (400..=599).contains(code));
        match known.and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(code) if codes.contains(&code) => {}
            Some(code) => codes.push(code),
            None => {
                let message =
                    format!("{code} is not the status of an error; write a number from 400 to 599");
                problems.invalid(format!("{path_of_codes}[{i}]"), message);
            }
        }
    }
    let attempts = written.attempts.map_or(Some(DEFAULT_ATTEMPTS), |attempts| {
        u32::try_from(attempts).ok().filter(|attempts| (1..=MAX_ATTEMPTS).contains(attempts))
    });
    if attempts.is_none() {
        let message = format!("write a number of attempts from 1 to {MAX_ATTEMPTS}");
        problems.invalid(format!("{path}.attempts"), message);
    }
    let backoff = written.backoff.as_ref();
    let backoff =
        backoff.and_then(|text| value::duration(&format!("{path}.backoff"), text, problems));
    Retry { codes, attempts: attempts.unwrap_or(DEFAULT_ATTEMPTS), backoff }
}
