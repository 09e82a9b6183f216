//! The laboratory's own server and client of HTTP, without a mesh.

use std::time::{Duration, Instant};

use mesh_tests::http::{self, Answer, Ask, Load, SERVED_BY, Tally, Web};
use mesh_tests::lab::Lab;
use mesh_tests::pod::Pod;

/// A client and a server, which listens on two ports.
fn served() -> (Lab, Pod, Pod, Web) {
    let lab = Lab::new().unwrap();
    let node = lab.node("a").unwrap();
    let (client, server) = (node.pod("client").unwrap(), node.pod("server").unwrap());
    let web = Web::start(&server, "v1", &[8080, 8081]).unwrap();
    (lab, client, server, web)
}

/// Asks a server on one node from a pod of it, without agents.
fn asked(asks: &[Ask]) -> (Vec<Answer>, Vec<http::Seen>) {
    let (_lab, client, server, web) = served();
    let answers = http::ask(&client, server.at(8081), asks).unwrap();
    (answers, web.finish().unwrap())
}

#[test]
fn the_server_says_what_it_was_asked_in_either_version() {
    let ask = Ask::post("/a?b=c", "hello").header("X-Some-Name", "1").header("x-other", "2");
    let (answers, seen) = asked(&[ask.clone(), ask.http2().host("else")]);
    for (n, (answer, seen)) in answers.iter().zip(&seen).enumerate() {
        assert_eq!((answer.ask, answer.status, &answer.error), (n, 200, &None));
        assert_eq!(answer.server(), Some("v1"));
        assert_eq!(&answer.seen().unwrap(), seen);
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/a?b=c"));
        assert_eq!((seen.body.as_str(), seen.server.as_str()), ("hello", "v1"));
    }
    assert_eq!([&seen[0].version, &seen[1].version], ["HTTP/1.1", "HTTP/2"]);
    assert_eq!(
        [&seen[0].authority, &seen[1].authority].map(|a| a.as_deref()),
        [Some("echo"), Some("else")]
    );
    let names: Vec<_> = seen[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Host", "X-Some-Name", "x-other", "Content-Length"]);
    assert!(answers[0].headers.iter().any(|(name, _)| name == SERVED_BY));
}

#[test]
fn connections_are_kept_unless_told_otherwise() {
    for ask in [Ask::get("/"), Ask::get("/").http2()] {
        let (answers, seen) = asked(&[ask.clone().times(5, 1), ask.times(5, 1).fresh()]);
        assert_eq!(Tally::of(&answers).servers["v1"], 10);
        let places: Vec<_> = seen.iter().map(|seen| (seen.connection, seen.request)).collect();
        let kept = (0..5).map(|request| (0, request));
        assert_eq!(
            places,
            kept.chain((1..6).map(|connection| (connection, 0))).collect::<Vec<_>>()
        );
    }
}

#[test]
fn trailers_and_chunks_go_both_ways() {
    let ask = Ask::post("/trailers", "hello").trailer("X-Check", "5");
    let (answers, seen) = asked(&[ask.clone(), ask.http2()]);
    for (answer, seen) in answers.iter().zip(seen) {
        assert_eq!(answer.error, None);
        assert_eq!(http::field(&answer.trailers, "x-sum").unwrap(), answer.length.to_string());
        assert_eq!(
            (http::field(&seen.trailers, "x-check"), seen.body.as_str()),
            (Some("5"), "hello")
        );
    }
}

#[test]
fn statuses_failures_and_times_are_as_asked() {
    let asks = [
        Ask::get("/status/204"),
        Ask::get("/fail?times=1&key=a&status=502").times(2, 1),
        Ask::get("/slow?ms=60000").timeout_ms(50),
        Ask::get("/close"),
        Ask::get("/bytes?n=100000"),
        Ask { method: "HEAD".to_owned(), ..Ask::get("/") },
    ];
    let (answers, _seen) = asked(&asks);
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [204, 502, 200, 0, 0, 200, 200]);
    let errors: Vec<_> = answers.iter().filter_map(|answer| answer.error.as_deref()).collect();
    assert_eq!(errors, ["timeout", "unexpected end"]);
    assert_eq!((answers[5].length, answers[6].length), (100_000, 0));
}

#[test]
fn an_upgrade_is_an_echo() {
    let (answers, seen) = asked(&[Ask::get("/chat").upgrade("websocket", "anything at all")]);
    assert_eq!((answers[0].status, answers[0].error.as_deref()), (101, None));
    assert_eq!(answers[0].echoed.as_deref(), Some("anything at all"));
    assert_eq!(seen.len(), 1);
}

#[test]
fn calls_of_grpc_are_answered_at_once_or_in_step() {
    let stream = Ask::grpc("/lab.Echo/Stream", "").in_step(&["one", "two", "three"]);
    let (answers, seen) = asked(&[Ask::grpc("/lab.Echo/Say", "hello").header("x-a", "b"), stream]);
    for answer in &answers {
        assert_eq!((answer.grpc_status(), &answer.error), (Some("0"), &None), "{answer:?}");
    }
    let said = answers[0].seen().unwrap();
    assert_eq!((said.body.as_str(), http::field(&said.headers, "x-a")), ("hello", Some("b")));
    assert_eq!(answers[1].messages, ["one", "two", "three"]);
    assert_eq!(seen[1].body, "one\ntwo\nthree");
}

#[test]
fn raw_bytes_are_sent_as_they_are() {
    let (answers, _seen) = asked(&[
        Ask::raw("GET /one HTTP/1.1\r\n\r\nGET /two HTTP/1.1\r\nconnection: close\r\n\r\n"),
        Ask::raw("GET / HTTP/1.1\n\n"),
    ]);
    assert_eq!(answers[0].body.matches("HTTP/1.1 200 ").count(), 2, "{answers:?}");
    assert_eq!((answers[1].status, answers[1].length), (0, 0), "{answers:?}");
}

/// Which request of a load it is.
fn number(seen: &http::Seen) -> u64 {
    seen.path.strip_prefix('/').unwrap().parse().unwrap()
}

#[test]
fn a_load_with_a_rate_is_never_ahead_of_it() {
    let (_lab, client, server, web) = served();
    let start = Instant::now();
    let ask = Ask::get("/{n}").times(1, 4).rate(100);
    let load = Load::start(&client, server.at(8080), &ask).unwrap();
    let mut numbers: Vec<u64> = (0..50).map(|_| number(&web.seen().unwrap())).collect();
    // The first is due at once, and each of the others 10 ms after the one before it.
    assert!(start.elapsed() >= Duration::from_millis(490), "{:?}", start.elapsed());
    let rest = load.stop().unwrap();
    assert_eq!((rest.failed(), rest.errors.len()), (0, 0), "{rest:?}");
    assert!(rest.p50_us > 0 && rest.p99_us >= rest.p50_us, "{rest:?}");
    numbers.extend(web.finish().unwrap().iter().map(number));
    numbers.sort_unstable();
    assert_eq!(numbers, (0..rest.requests).collect::<Vec<_>>());
}

#[test]
fn a_load_goes_on_until_it_is_stopped() {
    let (_lab, client, server, _web) = served();
    let mut load = Load::start(&client, server.at(8080), &Ask::get("/").times(1, 4)).unwrap();
    let mut marks = 0;
    while marks < 3 {
        marks += u32::from(load.mark().unwrap().requests > 0);
    }
    let rest = load.stop().unwrap();
    assert_eq!(rest.errors.len(), 0, "{rest:?}");
}
