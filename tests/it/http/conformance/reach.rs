//! Which requests a route is for: by the service's address, its port and the client's namespace.

use mesh_tests::http::{self, Ask, route};

use super::{Case, check};
use crate::http::suite::{CONSUMER, HTTP, NAMESPACE, Suite, To, route};

/// The field that the routes of these tests set in answers.
const SET: &str = "X-Header-Set";

/// The rule that sets it, and goes to `backend`.
fn setting(value: &str, backend: &str) -> String {
    format!(
        "
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{{name: {SET}, value: {value}}}]
    backendRefs: [{{{backend}}}]"
    )
}

/// The route of `MeshFrontend` and `MeshFrontendHostname`.
fn frontend() -> Suite {
    let rules = setting("set", "name: echo-v2, port: 80");
    Suite::start(&[route::http(NAMESPACE, "mesh-split-v1", "name: echo-v2", &rules)])
}

pub(super) fn mesh_basic() {
    let suite = Suite::start(&[]);
    let answer = suite.ask(To::Echo.at(80), &Ask::get("/"));
    assert_eq!((answer.status, answer.error), (200, None));
}

pub(super) fn mesh_traffic_split() {
    let suite = Suite::start(&[route::http(
        NAMESPACE,
        "mesh-split",
        "name: echo",
        "
  - matches: [{path: {type: Exact, value: /v1}}]
    backendRefs: [{name: echo-v1, port: 80}]
  - matches: [{path: {type: Exact, value: /v2}}]
    backendRefs: [{name: echo-v2, port: 80}]",
    )]);
    let cases = [Case::of(Ask::get("/v1"), "echo-v1"), Case::of(Ask::get("/v2"), "echo-v2")];
    check(&suite, To::Echo.at(80), &cases);
}

pub(super) fn mesh_http_route_simple_same_namespace() {
    let suite = Suite::start(&[route("  - backendRefs: [{name: echo-v1, port: 8080}]")]);
    check(&suite, To::Echo.at(80), &[Case::of(Ask::get("/"), "echo-v1")]);
}

pub(super) fn mesh_frontend() {
    let suite = frontend();
    let by_service = suite.ask(To::V2.at(80), &Ask::get("/").host("echo-v2"));
    let seen = (by_service.status, by_service.header(SET), by_service.server());
    assert_eq!(seen, (200, Some("set"), Some("echo-v2")));
    let by_pod = suite.ask(suite.versions[1].at(HTTP), &Ask::get("/"));
    let seen = (by_pod.status, by_pod.header(SET), by_pod.server());
    assert_eq!(seen, (200, None, Some("echo-v2")));
}

pub(super) fn mesh_frontend_hostname() {
    let suite = frontend();
    let wrong = suite.ask(To::V2.at(80), &Ask::get("/").host("echo-v1"));
    let seen = (wrong.status, wrong.header(SET), wrong.server());
    assert_eq!(seen, (200, Some("set"), Some("echo-v2")));
    let other = suite.ask(To::V1.at(80), &Ask::get("/").host("echo-v2"));
    let seen = (other.status, other.header(SET), other.server());
    assert_eq!(seen, (200, None, Some("echo-v1")));
}

pub(super) fn mesh_ports() {
    let of = |value: &str, parent: &str| {
        let name = format!("mesh-split-{value}");
        let rules = setting(value, &format!("name: echo-{value}, port: 80"));
        route::http(NAMESPACE, &name, parent, &rules)
    };
    let suite = Suite::start(&[of("v1", "name: echo-v1, port: 80"), of("v2", "name: echo-v2")]);
    for (to, port, expect) in [
        (To::V1, 80, Some("v1")),
        (To::V1, HTTP, None),
        (To::V2, 80, Some("v2")),
        (To::V2, HTTP, Some("v2")),
    ] {
        let answer = suite.ask(to.at(port), &Ask::get("/"));
        let seen = (answer.status, answer.header(SET), answer.server());
        assert_eq!(seen, (200, expect, Some(to.name())), "{to:?} {port}");
    }
}

pub(super) fn mesh_consumer_route() {
    let parent = format!("name: echo-v1, namespace: {NAMESPACE}");
    let rules = setting("set", &format!("name: echo-v1, namespace: {NAMESPACE}, port: 80"));
    let suite = Suite::start(&[route::http(CONSUMER, "mesh-echo-add-header", &parent, &rules)]);
    for (pod, expect) in [(&suite.consumer, Some("set")), (&suite.client, None)] {
        let asked = http::ask(pod, To::V1.at(80), &[Ask::get("/")]).unwrap().remove(0);
        let seen = (asked.status, asked.header(SET), asked.server());
        assert_eq!(seen, (200, expect, Some("echo-v1")), "{}", pod.name());
    }
}
