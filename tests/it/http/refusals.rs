//! Answers of the mesh itself: no rule, no such backend, no endpoint.

use std::collections::BTreeSet;

use mesh_tests::http::{Ask, Tally};
use mesh_tests::script;

use super::suite::{GRPC, Suite, To, grpc_route, route};

/// Requests of a test of shares.
const COUNT: u64 = 400;

#[test]
fn a_request_that_no_rule_is_for_is_not_found() {
    let suite = Suite::start(&[route(
        "
  - matches: [{path: {type: Exact, value: /there}}]
    backendRefs: [{name: echo-v1, port: 8080}]",
    )]);
    for ask in [Ask::get("/there"), Ask::get("/elsewhere")] {
        let expect = if ask.path == "/there" { 200 } else { 404 };
        for ask in [ask.clone(), ask.http2()] {
            assert_eq!(suite.ask(To::Echo.at(80), &ask).status, expect, "{ask:?}");
        }
    }
}

#[test]
fn a_call_that_no_rule_is_for_is_unimplemented() {
    let suite = Suite::start(&[grpc_route(
        "
  - matches: [{method: {service: lab.Echo, method: Say}}]
    backendRefs: [{name: echo-v1, port: 7070}]",
    )]);
    for (path, expect) in [("/lab.Echo/Say", "0"), ("/lab.Echo/Shout", "12"), ("/a.B/Say", "12")] {
        let answer = suite.ask(To::Echo.at(GRPC), &Ask::grpc(path, "hello"));
        assert_eq!((answer.status, answer.grpc_status()), (200, Some(expect)), "{path}");
    }
}

/// Checks that `expect` is the status of half of the requests, and 200 of the rest.
#[track_caller]
fn half(tally: &Tally, expect: u16) {
    let statuses: BTreeSet<_> = tally.statuses.keys().copied().collect();
    assert_eq!(statuses, BTreeSet::from([200, expect]), "{tally:?}");
    // Five standard deviations of 400 halves are 50.
    assert!(tally.statuses[&expect].abs_diff(COUNT / 2) <= 50, "{tally:?}");
    assert_eq!(tally.errors.len(), 0, "{tally:?}");
}

#[test]
fn the_share_of_a_backend_that_does_not_exist_is_an_error_of_the_server() {
    let suite = Suite::start(&[route(
        "
  - backendRefs: [{name: echo-v1, port: 8080}, {name: missing, port: 8080}]",
    )]);
    half(&suite.tally(To::Echo.at(80), &Ask::get("/").times(COUNT, 8)), 500);
}

#[test]
fn the_share_of_a_backend_without_endpoints_is_unavailable() {
    let suite = Suite::start(&[route(
        "
  - backendRefs: [{name: echo-v1, port: 8080}, {name: empty, port: 8080}]",
    )]);
    half(&suite.tally(To::Echo.at(80), &Ask::get("/").times(COUNT, 8)), 503);
}

#[test]
fn a_rule_without_backends_is_an_error_of_the_server() {
    let suite = Suite::start(&[route(
        "
  - matches: [{path: {type: PathPrefix, value: /}}]",
    )]);
    let answer = suite.ask(To::Echo.at(80), &Ask::get("/"));
    assert_eq!((answer.status, answer.server()), (500, None));
}

#[test]
fn a_backend_that_breaks_the_connection_is_a_bad_gateway() {
    let suite = Suite::start(&[route("  - backendRefs: [{name: echo-v1, port: 8080}]")]);
    let answer = suite.ask(To::Echo.at(80), &Ask::get("/close"));
    assert_eq!((answer.status, answer.error), (502, None));
}

#[test]
fn a_backend_where_nobody_listens_is_unavailable() {
    let suite = Suite::start(&[route("  - backendRefs: [{name: echo-v1, port: 9090}]")]);
    let answer = suite.ask(To::Echo.at(80), &Ask::get("/"));
    assert_eq!((answer.status, answer.error), (503, None));
}

/// A client that waits to be told to send its body, and is refused, does not send it: what comes next would be
/// taken for it.
#[test]
fn a_connection_ends_where_a_body_that_waits_is_refused() {
    let suite = Suite::start(&[route("  - backendRefs: [{name: echo-v1, port: 8080}]")]);
    let program = "
import socket
s = socket.create_connection(('10.96.0.10', 80))
s.settimeout(10)
s.sendall(b'PUT /status/417 HTTP/1.1\\r\\nHost: echo\\r\\nExpect: 100-continue\\r\\nContent-Length: 5\\r\\n\\r\\n')
said = s.recv(1000)
# This server answers when it has the body.
s.sendall(b'hello')
while True:
    more = s.recv(1000)
    if not more:
        break
    said += more
heads = [head.split(b' ')[1].decode() for head in said.split(b'\\r\\n') if head.startswith(b'HTTP/1.1 ')]
print(heads[-1], b'connection: close' in said.lower())
";
    let said = script::run_in(suite.client.netns(), suite.client.cgroup(), program).unwrap();
    assert_eq!(said.trim(), "417 True");
}
