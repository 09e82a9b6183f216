//! Fidelity: applications do not notice what is between them, but for what a route says.

use std::collections::BTreeSet;

use mesh_tests::http::{Ask, SERVED_BY, field};

use super::suite::{GRPC, Suite, To, grpc_route, route};

/// One rule, that changes nothing.
fn suite() -> Suite {
    Suite::start(&[route("  - backendRefs: [{name: echo-v1, port: 8080}]")])
}

#[test]
fn fields_keep_their_case_and_their_order() {
    let suite = suite();
    let sent = [
        ("X-CamelCase", "1"),
        ("x-lower", "2"),
        ("X-UPPER", "3"),
        ("Cookie", "a=b"),
        ("x-Twice", "first"),
        ("x-Twice", "second"),
    ];
    let answer = suite.ask(To::Echo.at(80), &Ask::get("/").headers(&sent));
    let seen = answer.seen().unwrap();
    let own = |name: &str| sent.iter().any(|(sent, _)| sent.eq_ignore_ascii_case(name));
    let got: Vec<_> = seen.headers.iter().filter(|(name, _)| own(name)).cloned().collect();
    assert_eq!(got, sent.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let back: Vec<_> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
    // As the application writes them, with those about the ways in which servers read a path.
    let readers = ["Tomcat", "Nginx", "Node", "FastAPI", "Express"];
    let read = ["By", "Behind", "By", "By", "By"].iter().zip(readers);
    let read: Vec<_> = read.map(|(how, server)| format!("X-Read-{how}-{server}")).collect();
    let first = [SERVED_BY, "Content-Type"].into_iter();
    let expect = first.chain(read.iter().map(String::as_str)).chain(["Content-Length"]);
    assert_eq!(back, expect.collect::<Vec<_>>());
}

#[test]
fn the_mesh_adds_no_field_and_removes_none() {
    let suite = suite();
    let ask = Ask::post("/a?b=c", "hello").header("Accept", "*/*").header("X-A", "b");
    let seen = suite.ask(To::Echo.at(80), &ask).seen().unwrap();
    let names: Vec<_> = seen.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
    assert_eq!(names, ["host", "accept", "x-a", "content-length"]);
    assert_eq!((seen.authority.as_deref(), seen.path.as_str()), (Some("echo"), "/a?b=c"));
    let seen = suite.ask(To::Echo.at(80), &ask.http2()).seen().unwrap();
    assert_eq!((seen.version.as_str(), seen.authority.as_deref()), ("HTTP/2", Some("echo")));
    assert_eq!((seen.path.as_str(), seen.body.as_str()), ("/a?b=c", "hello"));
}

#[test]
fn connections_are_kept_on_both_sides() {
    let suite = suite();
    for ask in [Ask::get("/"), Ask::get("/").http2()] {
        let answers = suite.all(To::Echo.at(80), &[ask.times(20, 1)]);
        let seen = answers.iter().map(|answer| answer.seen().unwrap().connection);
        assert_eq!(seen.collect::<BTreeSet<_>>().len(), 1);
        assert!(answers.iter().all(|answer| answer.error.is_none()));
    }
}

#[test]
fn requests_that_are_sent_at_once_are_answered_in_order() {
    let suite = suite();
    let ask = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: echo\r\n{more}\r\n");
    let close = "Connection: close\r\n";
    let all = [ask("/status/201", ""), ask("/status/202", ""), ask("/status/203", close)].concat();
    let answer = suite.ask(To::Echo.at(80), &Ask::raw(&all));
    assert_eq!(answer.error, None, "{answer:?}");
    let statuses = answer.body.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3));
    assert_eq!(statuses.collect::<Vec<_>>(), ["201", "202", "203"]);
}

#[test]
fn chunks_and_trailers_go_through() {
    let suite = suite();
    let ask = Ask::post("/trailers", "hello").trailer("X-Check", "5");
    let told = ask.clone().header("TE", "trailers").header("Trailer", "X-Check");
    for ask in [told, ask.http2()] {
        let answer = suite.ask(To::Echo.at(80), &ask);
        let seen = answer.seen().unwrap();
        assert_eq!(seen.body, "hello", "{seen:?}");
        assert_eq!(field(&seen.trailers, "x-check"), Some("5"), "{seen:?}");
        let sum = answer.length.to_string();
        assert_eq!(field(&answer.trailers, "x-sum"), Some(sum.as_str()), "{answer:?}");
    }
}

#[test]
fn large_bodies_go_both_ways() {
    let suite = suite();
    // One argument of a program is at most 128 KiB.
    let body = "x".repeat(100_000);
    for ask in
        [Ask::post("/bytes?n=20000000", &body), Ask::post("/bytes?n=20000000", &body).http2()]
    {
        let answer = suite.ask(To::Echo.at(80), &ask);
        assert_eq!((answer.status, answer.length, &answer.error), (200, 20_000_000, &None));
        assert_eq!(suite.servers[0].seen().unwrap().body, body);
    }
}

#[test]
fn answers_without_a_body_are_whole() {
    let suite = suite();
    let head = Ask { method: "HEAD".to_owned(), ..Ask::get("/bytes?n=77") };
    let answers =
        suite.all(To::Echo.at(80), &[head, Ask::get("/status/204"), Ask::get("/status/304")]);
    let seen: Vec<_> = answers.iter().map(|answer| (answer.status, answer.error.clone())).collect();
    assert_eq!(seen, [(200, None), (204, None), (304, None)]);
    assert_eq!(answers[0].header("content-length"), Some("77"));
}

#[test]
fn a_web_socket_goes_through() {
    let suite = suite();
    let answer = suite.ask(To::Echo.at(80), &Ask::get("/chat").upgrade("websocket", "any bytes"));
    assert_eq!(
        (answer.status, answer.echoed.as_deref(), answer.error),
        (101, Some("any bytes"), None)
    );
}

#[test]
fn calls_of_grpc_go_through() {
    let suite = Suite::start(&[grpc_route("  - backendRefs: [{name: echo-v1, port: 7070}]")]);
    let call = Ask::grpc("/lab.Echo/Say", "hello");
    let answer = suite.ask(To::Echo.at(GRPC), &call);
    assert_eq!((answer.grpc_status(), &answer.error), (Some("0"), &None), "{answer:?}");
    let seen = answer.seen().unwrap();
    assert_eq!((seen.body.as_str(), field(&seen.headers, "te")), ("hello", Some("trailers")));
    let stream = Ask::grpc("/lab.Echo/Stream", "").in_step(&["one", "two", "three"]);
    let answer = suite.ask(To::Echo.at(GRPC), &stream);
    assert_eq!((answer.grpc_status(), &answer.error), (Some("0"), &None), "{answer:?}");
    assert_eq!(answer.messages, ["one", "two", "three"]);
}
