//! Timeouts and retries of rules.

use mesh_tests::http::Ask;

use super::suite::{Suite, To, route};

/// A rule to `echo-v1`, with more fields.
fn suite(more: &str) -> Suite {
    Suite::start(&[route(&format!(
        "
  - backendRefs: [{{name: echo-v1, port: 8080}}]
    {more}"
    ))])
}

#[test]
fn an_answer_that_is_late_is_a_timeout() {
    for timeouts in
        ["request: 100ms", "backendRequest: 100ms", "request: 1s, backendRequest: 100ms"]
    {
        // The other rule has time for a new connection on a busy machine.
        let suite = suite(&format!(
            "timeouts: {{{timeouts}}}
    matches: [{{path: {{type: Exact, value: /slow}}}}]
  - backendRefs: [{{name: echo-v1, port: 8080}}]
    timeouts: {{request: 1m}}"
        ));
        let late = Ask::get("/slow?ms=60000");
        for ask in [late.clone(), late.http2()] {
            let answer = suite.ask(To::Echo.at(80), &ask);
            assert_eq!((answer.status, answer.error), (504, None), "{timeouts}");
        }
        let in_time = suite.ask(To::Echo.at(80), &Ask::get("/"));
        assert_eq!(in_time.status, 200, "{timeouts}");
    }
}

#[test]
fn a_timeout_of_zero_is_none() {
    let suite = suite("timeouts: {request: 0s}");
    assert_eq!(suite.ask(To::Echo.at(80), &Ask::get("/slow?ms=500")).status, 200);
}

#[test]
fn what_fails_is_tried_again_as_often_as_the_rule_says() {
    let suite = suite("retry: {codes: [503], attempts: 2}");
    for (times, expect) in [(1, 200), (2, 200), (3, 503)] {
        let ask = Ask::post(&format!("/fail?times={times}&key={times}&status=503"), "hello");
        let answer = suite.ask(To::Echo.at(80), &ask);
        assert_eq!((answer.status, answer.error), (expect, None), "{times}");
        for _ in 0..3.min(times + 1) {
            assert_eq!(suite.servers[0].seen().unwrap().body, "hello");
        }
    }
    let other = suite.ask(To::Echo.at(80), &Ask::get("/fail?times=1&key=other&status=500"));
    assert_eq!(other.status, 500, "a status that the rule does not name");
}

#[test]
fn nothing_is_tried_again_without_a_word_of_it() {
    let suite = suite("");
    let answer = suite.ask(To::Echo.at(80), &Ask::get("/fail?times=1&key=a"));
    assert_eq!(answer.status, 503);
}

#[test]
fn a_body_that_comes_too_slowly_is_late_too() {
    // The body is kept for another attempt, which waits for all of it.
    let suite = suite("retry: {codes: [503], attempts: 1}\n    timeouts: {request: 200ms}");
    let ask = Ask::raw("POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: 10\r\n\r\nhello");
    let answer = suite.ask(To::Echo.at(80), &ask.timeout_ms(10_000));
    assert_eq!((answer.status, answer.error), (504, None));
    assert_eq!(suite.ask(To::Echo.at(80), &Ask::get("/")).status, 200);
}
