//! Input that two implementations may read in two ways (RFC 9112, section 11.2), or that is too much.

use mesh_tests::expect::eventually;
use mesh_tests::http::{Ask, field};
use mesh_tests::process::DEADLINE;

use super::suite::{NAMESPACE, Suite, To, route};

/// Checks that a request is refused: 4xx, or the connection ends without an answer.
#[track_caller]
fn refused(suite: &Suite, name: &str, bytes: &str) {
    let answer = suite.ask(To::Echo.at(80), &Ask::raw(bytes).timeout_ms(10_000));
    let closed = matches!(answer.error.as_deref(), None | Some("ECONNRESET" | "EPIPE"));
    let is_refused = closed && matches!(answer.status, 0 | 400..=499);
    assert!(is_refused && answer.server().is_none(), "{name}: {answer:?}");
}

/// Checks that each of `cases` is refused, that no server has seen anything of it, and that the agent
/// serves as before.
#[track_caller]
fn check(cases: &[(&str, String)]) {
    let suite = Suite::start(&[route("  - backendRefs: [{name: echo-v1, port: 8080}]")]);
    for (name, bytes) in cases {
        refused(&suite, name, bytes);
    }
    let answer = suite.ask(To::Echo.at(80), &Ask::get("/still").header("X-A", "b"));
    assert_eq!((answer.status, answer.error), (200, None));
    let seen = suite.servers[0].seen().unwrap();
    assert_eq!((seen.path.as_str(), field(&seen.headers, "x-a")), ("/still", Some("b")));
    // A connection is counted when it has ended, which its client may know first.
    let all = f64::from(u32::try_from(cases.len()).unwrap());
    let counted = || {
        let metrics = suite.a.metrics().unwrap();
        let malformed = [("answered_by", "malformed")];
        (metrics.sum("mesh_http_requests_total", &malformed) >= all).then_some(())
    };
    eventually("what is malformed to be counted", DEADLINE, counted).unwrap();
}

/// The rest of a request for `/`, with a request in its body.
fn smuggling(fields: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: echo\r\n{fields}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    )
}

/// Checks that each of `cases` is one request for `path`, whatever else is in its bytes: what goes on
/// to the server is written anew, with one way to read it.
#[track_caller]
fn check_one(path: &str, cases: &[(&str, String)]) {
    let suite = Suite::start(&[route("  - backendRefs: [{name: echo-v1, port: 8080}]")]);
    for (name, bytes) in cases {
        let answer = suite.ask(To::Echo.at(80), &Ask::raw(bytes).timeout_ms(10_000));
        let seen = suite.servers[0].seen().unwrap();
        assert_eq!(seen.path, path, "{name}: {answer:?}");
        assert_eq!(field(&seen.headers, "content-length"), None, "{name}");
    }
    let answer = suite.ask(To::Echo.at(80), &Ask::get("/still"));
    assert_eq!((answer.status, answer.error), (200, None));
    assert_eq!(suite.servers[0].seen().unwrap().path, "/still");
}

#[test]
fn a_length_beside_chunks_is_left_out() {
    // RFC 9112, section 6.3: chunks count, and the length must not go on.
    let both = "Content-Length: 6\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n";
    let other = "Transfer-Encoding: chunked\r\nContent-Length: 6\r\nConnection: close\r\n";
    check_one(
        "/",
        &[("a length, then chunks", smuggling(both)), ("chunks, then a length", smuggling(other))],
    );
}

#[test]
fn two_lengths_are_refused() {
    check(&[
        ("two lengths", smuggling("Content-Length: 5\r\nContent-Length: 6\r\n")),
        ("no number", smuggling("Content-Length: +5\r\n")),
        ("another coding", smuggling("Transfer-Encoding: xchunked\r\n")),
        ("chunked, but not last", smuggling("Transfer-Encoding: chunked, gzip\r\n")),
    ]);
}

#[test]
fn bare_line_feeds_do_not_go_on() {
    // RFC 9112, section 2.2: they may be taken for the end of a line.
    let all = "GET /bare HTTP/1.1\nHost: echo\nConnection: close\n\n";
    let one = "GET /bare HTTP/1.1\r\nHost: echo\nX-A: b\r\nConnection: close\r\n\r\n";
    check_one("/bare", &[("bare line feeds", all.to_owned()), ("one of them", one.to_owned())]);
}

#[test]
fn a_bare_carriage_return_is_refused() {
    let bytes = "GET /bare HTTP/1.1\r\nHost: echo\r\nX-A: b\rX-C: d\r\nConnection: close\r\n\r\n";
    check(&[("a bare carriage return", bytes.to_owned())]);
}

#[test]
fn fields_that_are_none_are_refused() {
    let with = |field: &str| {
        format!("GET / HTTP/1.1\r\nHost: echo\r\n{field}\r\nConnection: close\r\n\r\n")
    };
    check(&[
        ("folded", with("X-A: b\r\n  c")),
        ("a space before the colon", with("X-A : b")),
        ("no name", with(": b")),
        ("a null byte", with("X-A: b\0c")),
    ]);
}

#[test]
fn too_much_is_refused() {
    let with = |field: &str| {
        format!("GET / HTTP/1.1\r\nHost: echo\r\n{field}\r\nConnection: close\r\n\r\n")
    };
    let many: Vec<_> = (0..2_000).map(|n| format!("X-{n}: {n}")).collect();
    check(&[
        ("a long field", with(&format!("X-A: {}", "a".repeat(100_000)))),
        ("many fields", with(&many.join("\r\n"))),
        ("a long path", format!("GET /{} HTTP/1.1\r\nHost: echo\r\n\r\n", "a".repeat(100_000))),
    ]);
}

#[test]
fn a_request_that_names_no_host_is_redirected_to_the_service() {
    let suite = Suite::start(&[route(
        "
  - filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /x}}}]",
    )]);
    for host in ["", ":80"] {
        let answer = suite.ask(To::Echo.at(80), &Ask::get("/").host(host));
        let service = format!("http://echo.{NAMESPACE}.svc.cluster.local/x");
        assert_eq!((answer.status, answer.header("location")), (302, Some(&*service)), "{host:?}");
    }
}
