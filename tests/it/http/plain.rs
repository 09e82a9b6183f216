//! Answers of every kind to plain requests, byte by byte.

use mesh_tests::http::Ask;

use super::suite::{Suite, To, route};

/// One rule, that changes nothing, and one backend.
fn suite() -> Suite {
    Suite::start(&[route("  - backendRefs: [{name: echo-v1, port: 8080}]")])
}

/// A request that is answered with `answer`, byte by byte; `end`: and the server's connection ends.
fn verbatim(method: &str, answer: &str, end: bool) -> String {
    let (query, length) = (if end { "?end" } else { "" }, answer.len());
    format!(
        "{method} /verbatim{query} HTTP/1.1\r\nHost: echo\r\nContent-Length: {length}\r\n\r\n{answer}"
    )
}

/// A request after which there is no other.
const LAST: &str = "GET /status/299 HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n";

/// The bytes for a client that asks for `answer` and then for the last one: all of it, and whether the
/// connection ended in order.
fn got(suite: &Suite, method: &str, answer: &str, end: bool) -> (String, bool) {
    let asked = [verbatim(method, answer, end), LAST.to_owned()].concat();
    let got = suite.ask(To::Echo.at(80), &Ask::raw(&asked));
    (got.body, got.error.is_none())
}

/// Checks that `answer` arrives as `expect`, and the next request is answered.
#[track_caller]
fn passes(suite: &Suite, (method, answer, end): (&str, &str, bool), expect: &str) {
    let (got, in_order) = got(suite, method, answer, end);
    let rest = got.strip_prefix(expect);
    let is_last = rest.is_some_and(|rest| rest.starts_with("HTTP/1.1 299 "));
    assert!(is_last && in_order, "{answer:?} came as {got:?}");
}

#[test]
fn answers_go_on_as_they_are() {
    let suite = suite();
    let same = |method: &str, answer: &str| passes(&suite, (method, answer, false), answer);
    same("POST", "HTTP/1.1 200 Fine By Me\r\nX-A: b\r\ncontent-LENGTH: 3\r\nx-a:  c \r\n\r\nabc");
    same("POST", "HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n");
    same(
        "POST",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0\r\nX-T: u\r\n\r\n",
    );
    same(
        "POST",
        "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
    );
    same("POST", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n");
    same("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
    same("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
}

#[test]
fn answers_are_not_announced_without_end() {
    let suite = suite();
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.";
    let announced = |times| hint.repeat(times) + answer;
    passes(&suite, ("POST", &announced(16), false), &announced(16));
    let (got, in_order) = got(&suite, "POST", &announced(17), false);
    assert_eq!((got, in_order), (hint.repeat(16), false));
}

#[test]
fn what_is_about_the_servers_connection_does_not() {
    let suite = suite();
    let check = |answer: &str, end: bool, expect: &str| {
        passes(&suite, ("POST", answer, end), expect);
    };
    let plain = "HTTP/1.1 200 OK\r\nX-A: b\r\ncontent-length: 3\r\n\r\nabc";
    let hops = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nX-A: b\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\ncontent-length: 3\r\n\r\nabc";
    check(hops, false, plain);
    check(
        "HTTP/1.1 200 OK\r\nX-A: b\r\ncontent-length: 3\r\nConnection: close\r\n\r\nabc",
        true,
        plain,
    );
    check("HTTP/1.0 200 OK\r\nX-A: b\r\ncontent-length: 3\r\n\r\nabc", true, plain);
    check("HTTP/1.1 200 OK\nX-A: b\ncontent-length: 3\n\nabc", false, plain);
    // An answer that nobody has asked for goes to nobody.
    check(&format!("{plain}HTTP/1.1 200 Mine\r\n\r\n"), false, plain);
}

#[test]
fn an_answer_that_ends_with_the_connection_ends_the_clients() {
    let suite = suite();
    let (got, in_order) = got(&suite, "POST", "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\nabc", true);
    assert_eq!(got, "HTTP/1.1 200 OK\r\nX-A: b\r\nconnection: close\r\n\r\nabc");
    assert!(in_order);
}

#[test]
fn what_is_no_answer_is_a_bad_gateway() {
    let suite = suite();
    let check = |answer: &str| {
        let (got, in_order) = got(&suite, "POST", answer, true);
        let is_ours =
            got.starts_with("HTTP/1.1 502 ") && got.contains("\r\nproxy-status: nodemesh;");
        assert!(is_ours && got.contains("HTTP/1.1 299 ") && in_order, "{answer:?} came as {got:?}");
    };
    check("");
    check("HTTP/1.1 200 OK\r\n");
    check("SSH-2.0-OpenSSH\r\n");
    check("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab");
    check("HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 0\r\n\r\n");
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n");
    check("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
}

#[test]
fn an_answer_that_is_cut_off_is_never_taken_for_a_whole_one() {
    let suite = suite();
    let check = |answer: &str| {
        let (got, in_order) = got(&suite, "POST", answer, true);
        assert!(!in_order && !got.contains("299"), "{answer:?} came as {got:?}");
    };
    check("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc");
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
}

#[test]
fn a_server_that_closes_what_waits_is_connected_to_again() {
    let suite = suite();
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.";
    // Of a method that may be repeated: the end may come when the next request is on its way.
    let asked = verbatim("PUT", answer, true).repeat(20) + LAST;
    let got = suite.ask(To::Echo.at(80), &Ask::raw(&asked));
    assert!(got.body.starts_with(&answer.repeat(20)) && got.error.is_none(), "{got:?}");
}

#[test]
fn what_is_not_plain_may_follow() {
    let suite = suite();
    let plain = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: echo\r\n\r\n");
    let chunked = "POST /status/202 HTTP/1.1\r\nHost: echo\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    let asked = [&plain("/status/201"), chunked, &plain("/status/203"), LAST].concat();
    let got = suite.ask(To::Echo.at(80), &Ask::raw(&asked));
    let statuses = got.body.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3));
    assert_eq!(statuses.collect::<Vec<_>>(), ["201", "202", "203", "299"]);
    assert_eq!(got.error, None);
}
