//! Metrics of requests.

use mesh_tests::expect::eventually;
use mesh_tests::http::Ask;
use mesh_tests::process::DEADLINE;

use super::suite::{GRPC, Suite, To, grpc_route, route};

/// Checks that the client's agent has counted so many requests that have these labels, and their durations.
#[track_caller]
fn counted(suite: &Suite, labels: &[(&str, &str)], count: f64) {
    let common = [("reporter", "source"), ("source_workload", "client")];
    let labels = [&common, labels].concat();
    let sum = |name: &str| suite.a.metrics().unwrap().sum(name, &labels);
    // An answer is counted when it has ended, which its client may know first.
    let wanted = eventually("the requests to be counted", DEADLINE, || {
        (sum("istio_requests_total") >= count).then_some(())
    });
    wanted.unwrap_or_else(|error| panic!("{labels:?}: {error}"));
    for name in ["istio_requests_total", "istio_request_duration_milliseconds_count"] {
        assert!((sum(name) - count).abs() < 0.5, "{name} {labels:?}: {}", sum(name));
    }
}

#[test]
fn requests_are_counted_between_their_parties() {
    let suite = Suite::start(&[
        route(
            "
  - matches: [{path: {value: /status}}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches: [{path: {value: /close}}]
    backendRefs: [{name: echo-v2, port: 8080}]
  - matches: [{path: {value: /slow}}]
    timeouts: {request: 50ms}
    backendRefs: [{name: echo-v2, port: 8080}]
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 302}}]
  - matches: [{path: {value: /none}}]
    backendRefs: [{name: empty, port: 8080}]",
        ),
        grpc_route(
            "
  - matches: [{method: {service: lab.Echo}}]
    backendRefs: [{name: echo-v1, port: 7070}]",
        ),
    ]);
    for ask in [Ask::get("/status/201"), Ask::get("/status/404").http2()] {
        suite.tally(To::Echo.at(80), &ask.times(10, 2));
    }
    for path in ["/elsewhere", "/moved", "/close", "/slow?ms=1000", "/none"] {
        suite.ask(To::Echo.at(80), &Ask::get(path));
    }
    for path in ["/lab.Echo/Say", "/lab.Other/Say"] {
        suite.ask(To::Echo.at(GRPC), &Ask::grpc(path, "hello"));
    }
    let (code, flags) = ("response_code", "response_flags");
    let (workload, grpc) = ("destination_workload", "grpc_response_status");
    let v1 = [(workload, "echo-v1"), (flags, "-"), ("destination_service_name", "echo-v1")];
    let http = ("request_protocol", "http");
    counted(&suite, &[&v1[..], &[(code, "201"), http]].concat(), 10.0);
    counted(&suite, &[&v1[..], &[(code, "404"), http]].concat(), 10.0);
    counted(&suite, &[(code, "404"), (flags, "NR"), (workload, "unknown")], 1.0);
    counted(&suite, &[(code, "302"), (flags, "-"), ("destination_service_name", "echo")], 1.0);
    counted(&suite, &[(code, "502"), (flags, "UPE")], 1.0);
    counted(&suite, &[(code, "504"), (flags, "UT")], 1.0);
    counted(&suite, &[(code, "503"), (flags, "UH")], 1.0);
    let call = ("request_protocol", "grpc");
    counted(&suite, &[&v1[..], &[(code, "200"), (grpc, "0"), call]].concat(), 1.0);
    counted(&suite, &[(code, "200"), (flags, "NR"), (grpc, "12"), call], 1.0);
}
