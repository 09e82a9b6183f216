//! Answers of a server, by the path.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mesh_tests::http::{Fields, SERVED_BY, Seen};

use super::reading;

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    /// After which it is sent.
    pub after: Duration,
    pub status: u16,
    pub headers: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// The connection is closed instead.
    pub is_none: bool,
    /// The body is all that is sent; `Some(true)`: and the connection is closed after it.
    pub verbatim: Option<bool>,
}

/// How often each key of `/fail` was asked for.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<BTreeMap<String, u64>>);

/// The answer:
///
/// - `/status/N`: that status
/// - `/slow?ms=N`: after a time
/// - `/fail?times=N&key=K&status=S`: that status, N times for each key
/// - `/bytes?n=N`: so many bytes
/// - `/trailers`: a trailer as well
/// - `/close`: nothing
/// - `/verbatim`: the request's body, and nothing else; `/verbatim?end`: and the connection ends
/// - `/switch/P`, of HTTP/1.1: 101 to the protocol `P`, whatever was asked for (`serve_http1`)
/// - all others: 200 with what was seen
///
/// # Errors
///
/// A number in the path is none.
pub(super) fn reply(seen: &Seen, failures: &Failures) -> Result<Reply> {
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
    };
    let number = |name: &str| value(name).with_context(|| format!("{path} needs {name}"));
    let mut reply = Reply {
        after: Duration::ZERO,
        status: 200,
        headers: vec![
            (SERVED_BY.to_owned(), seen.server.clone()),
            ("Content-Type".to_owned(), "application/json".to_owned()),
        ],
        body: serde_json::to_vec(seen).context("what was seen is valid JSON")?,
        trailers: Vec::new(),
        is_none: path == "/close",
        verbatim: None,
    };
    reply.headers.extend(reading::fields(path));
    if let Some(status) = path.strip_prefix("/status/") {
        reply.status = status.parse().context("reading a status")?;
    }
    match path {
        "/slow" => reply.after = Duration::from_millis(number("ms")?.parse()?),
        "/bytes" => reply.body = b"0123456789".repeat(number("n")?.parse::<usize>()?.div_ceil(10)),
        "/trailers" => {
            reply.headers.push(("Trailer".to_owned(), "X-Sum".to_owned()));
            reply.trailers.push(("X-Sum".to_owned(), reply.body.len().to_string()));
        }
        "/fail" => {
            let times: u64 = number("times")?.parse()?;
            let mut failures = failures.0.lock().unwrap_or_else(PoisonError::into_inner);
            let failed = failures.entry(value("key").unwrap_or_default().to_owned()).or_default();
            if *failed < times {
                *failed += 1;
                reply.status = value("status").unwrap_or("503").parse()?;
            }
        }
        "/verbatim" => {
            reply.body = seen.body.clone().into_bytes();
            reply.verbatim = Some(query == "end");
        }
        _ => {}
    }
    if path == "/bytes" {
        reply.body.truncate(number("n")?.parse()?);
    }
    if matches!(reply.status, 100..=199 | 204 | 304) {
        reply.body.clear();
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, failures: &Failures, expect: u16) -> Reply {
        let seen = Seen { path: path.to_owned(), ..Seen::default() };
        let reply = reply(&seen, failures).unwrap();
        assert_eq!(reply.status, expect, "{path}");
        reply
    }

    #[test]
    fn the_path_says_what_is_answered() {
        let failures = Failures::default();
        check("/anything?a=b", &failures, 200);
        check("/status/418", &failures, 418);
        assert!(check("/status/204", &failures, 204).body.is_empty());
        assert_eq!(check("/bytes?n=12", &failures, 200).body, b"012345678901");
        assert_eq!(check("/slow?ms=5", &failures, 200).after, Duration::from_millis(5));
        for (key, expect) in
            [("a", 503), ("b", 503), ("a", 503), ("a", 200), ("b", 503), ("b", 200)]
        {
            check(&format!("/fail?times=2&key={key}"), &failures, expect);
        }
        check("/fail?times=1&key=c&status=500", &failures, 500);
    }
}
