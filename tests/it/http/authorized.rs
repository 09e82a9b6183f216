//! Requests that the destination's policies judge, one by one.

use std::collections::BTreeSet;

use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::http::{self, Ask, field};
use mesh_tests::process::DEADLINE;
use serde_json::Value;

use super::suite::{GRPC, HTTP, NAMESPACE, PLAIN, Suite, To, policy, route};

/// Reading is allowed below `/status`, and calls of one service.
fn readers() -> String {
    let reading = "{operation: {methods: [GET, HEAD], paths: ['/status/*', /verbatim]}}";
    let calls = "{operation: {methods: [POST], paths: ['/lab.Echo/{*}']}}";
    policy("readers", "ALLOW", &format!("{{to: [{reading}, {calls}]}}"))
}

/// Nobody may say that it is evil.
fn no_evil() -> String {
    policy("no-evil", "DENY", "{when: [{key: 'request.headers[x-evil]', values: ['*']}]}")
}

/// Checks that a request meets 403, and learns nothing else.
#[track_caller]
fn denied(suite: &Suite, ask: &Ask, port: u16) {
    let answer = suite.ask(To::V1.at(port), ask);
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(answer.body, "nodemesh: access denied\n");
    let said = format!("{:?}", answer.headers);
    assert!(!said.contains("readers") && !said.contains("evil"), "{said}");
}

#[test]
fn requests_are_allowed_by_what_they_ask_for() {
    let suite = Suite::start(&[readers(), no_evil()]);
    for version in [|ask: Ask| ask, Ask::http2] {
        let answer = suite.ask(To::V1.at(80), &version(Ask::get("/status/201?a=b")));
        assert_eq!((answer.status, answer.server()), (201, Some("echo-v1")), "{answer:?}");
        for path in ["/", "/statu", "/status/../fail", "/status/%2e%2e/fail", "//status/200"] {
            denied(&suite, &version(Ask::get(path)), 80);
        }
        denied(&suite, &version(Ask::post("/status/200", "hello")), 80);
        denied(&suite, &version(Ask::get("/status/200").header("X-Evil", "a little")), 80);
    }
    // The second version has no policy.
    assert_eq!(suite.ask(To::V2.at(80), &Ask::post("/", "hello")).status, 200);
    let line = |line: &Value| line["policy"] == format!("{NAMESPACE}/no-evil");
    let line = suite.b.logged("the denial", line).unwrap();
    assert_eq!((&line["verdict"], &line["reporter"]), (&"deny".into(), &"destination".into()));
}

#[test]
fn denials_are_counted_where_they_are_made() {
    let suite = Suite::start(&[readers()]);
    denied(&suite, &Ask::get("/"), 80);
    suite.ask(To::V1.at(80), &Ask::get("/status/200"));
    let sum = |code: &str, flags: &str| {
        let labels = [
            ("reporter", "destination"),
            ("source_workload", "client"),
            ("destination_workload", "echo-v1"),
            ("response_code", code),
            ("response_flags", flags),
        ];
        suite.b.metrics().unwrap().sum("istio_requests_total", &labels)
    };
    let counted = || (sum("403", "UAEX") >= 1.0 && sum("200", "-") >= 1.0).then_some(());
    eventually("the requests to be counted", DEADLINE, counted).unwrap();
}

#[test]
fn calls_of_grpc_are_denied_in_their_own_terms() {
    let suite = Suite::start(&[readers()]);
    let ask = Ask::grpc("/lab.Other/Say", "hello");
    let answer = http::ask(&suite.client, suite.versions[0].at(GRPC), &[ask]).unwrap().remove(0);
    assert_eq!((answer.status, answer.grpc_status()), (200, Some("7")), "{answer:?}");
    let ask = Ask::grpc("/lab.Echo/Say", "hello");
    let answer = http::ask(&suite.client, suite.versions[0].at(GRPC), &[ask]).unwrap().remove(0);
    assert_eq!((answer.grpc_status(), answer.messages.len()), (Some("0"), 1), "{answer:?}");
}

#[test]
fn a_denial_leaves_the_connection_and_its_other_requests_alone() {
    let suite = Suite::start(&[readers()]);
    for version in [|ask: Ask| ask, Ask::http2] {
        let asks: Vec<_> =
            ["/status/200", "/", "/status/200"].map(|path| version(Ask::get(path))).into();
        let answers = suite.all(To::V1.at(80), &asks);
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [200, 403, 200]);
        let asks = [version(Ask::get("/status/200")).times(20, 1)];
        let answers = suite.all(To::V1.at(80), &asks);
        let seen = answers.iter().map(|answer| answer.seen().unwrap().connection);
        assert_eq!(seen.collect::<BTreeSet<_>>().len(), 1, "the application has one connection");
    }
}

#[test]
fn a_route_and_a_policy_meet() {
    let route = route("  - backendRefs: [{name: echo-v1, port: 8080}]");
    let suite = Suite::start(&[route, readers()]);
    assert_eq!(suite.ask(To::Echo.at(80), &Ask::get("/status/204")).status, 204);
    let answer = suite.ask(To::Echo.at(80), &Ask::get("/fail"));
    assert_eq!((answer.status, answer.body.as_str()), (403, "nodemesh: access denied\n"));
}

#[test]
fn what_is_allowed_is_as_it_was() {
    let everything = "{to: [{operation: {methods: ['*']}}]}";
    let suite = Suite::start(&[policy("all", "ALLOW", everything)]);
    let to = To::V1.at(80);
    let sent = [("X-CamelCase", "1"), ("x-lower", "2"), ("x-Twice", "a"), ("x-Twice", "b")];
    let answer = suite.ask(to, &Ask::post("/", "hello").headers(&sent));
    let seen = answer.seen().unwrap();
    let own = |name: &str| sent.iter().any(|(sent, _)| *sent == name);
    let got: Vec<_> = seen.headers.iter().filter(|(name, _)| own(name)).cloned().collect();
    assert_eq!(got, sent.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(seen.body, "hello");

    let ask = Ask::post("/trailers", "hello").trailer("X-Check", "5");
    for ask in [ask.clone().header("TE", "trailers").header("Trailer", "X-Check"), ask.http2()] {
        let seen = suite.ask(to, &ask).seen().unwrap();
        assert_eq!((seen.body.as_str(), field(&seen.trailers, "x-check")), ("hello", Some("5")));
    }
    let answer = suite.ask(to, &Ask::get("/").upgrade("websocket", "hello there"));
    assert_eq!((answer.status, answer.echoed.as_deref()), (101, Some("hello there")), "{answer:?}");
    assert_eq!(answer.header("connection"), Some("Upgrade"), "{answer:?}");
    // An application that ends the connection has its reasons, and the client sees as much.
    let answers = suite.all(to, &[Ask::get("/close"), Ask::get("/")]);
    assert!(answers[0].error.is_some(), "{answers:?}");
    assert_eq!(answers[1].status, 200, "{answers:?}");
}

#[test]
fn policies_hold_within_a_node_and_for_plaintext() {
    let suite = Suite::start(&[readers()]);
    let outside = suite.node.pod("outside").unwrap();
    for (pod, what) in [(&suite.versions[1], "same node"), (&outside, "plaintext")] {
        for version in [|ask: Ask| ask, Ask::http2] {
            let asks = ["/status/200", "/"].map(|path| version(Ask::get(path)));
            let answers = http::ask(pod, suite.versions[0].at(HTTP), &asks).unwrap();
            let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [200, 403], "{what}: {answers:?}");
        }
    }
}

#[test]
fn what_is_no_http_is_denied() {
    let suite = Suite::start(&[readers()]);
    let listen = format!("[::]:{PLAIN}");
    let _server = Server::start(&suite.versions[0], &["echo", "--listen", &listen]).unwrap();
    for pod in [&suite.client, &suite.versions[1]] {
        let client = Client::to(suite.versions[0].at(PLAIN)).arg("--send").arg("HELLO\u{1}there");
        let errors = client.run(pod).unwrap().totals.errors;
        assert!(errors.keys().any(|error| error.contains("ECONNRESET")), "{errors:?}");
    }
}

#[test]
fn a_changed_policy_holds_for_connections_that_are_open() {
    let suite = Suite::start(&[]);
    let ask = Ask::get("/status/200");
    let mut load = http::Load::start(&suite.client, To::V1.at(80), &ask).unwrap();
    assert_eq!(load.mark().unwrap().failed(), 0);
    // Bytes that nobody looked into can be allowed no longer; then requests are.
    suite.write(&[no_evil()]);
    let looked_at = |policy: &str| {
        let evil = ask.clone().header("x-evil", policy);
        eventually("the policy to be in force", DEADLINE, || {
            (suite.ask(To::V1.at(80), &evil).status == 403).then_some(())
        })
        .unwrap();
    };
    looked_at("first");
    // The connection that is open ends in its own time, and the next goes on.
    eventually("what is allowed to go on", DEADLINE, || {
        (load.mark().unwrap().failed() == 0).then_some(())
    })
    .unwrap();
    suite.write(&[policy("no-status", "DENY", "{to: [{operation: {paths: ['/status/*']}}]}")]);
    eventually("requests on open connections to be denied", DEADLINE, || {
        let tally = load.mark().unwrap();
        (tally.statuses.get(&403).copied().unwrap_or_default() == tally.requests).then_some(())
    })
    .unwrap();
    load.stop().unwrap();
}
