//! Which rule a request is for: by path, fields and query.

use mesh_tests::http::Ask;

use super::{Case, check};
use crate::http::suite::{Suite, To, route};

const V1: &str = "echo-v1";
const V2: &str = "echo-v2";

pub(super) fn mesh_http_route_matching() {
    let suite = Suite::start(&[route(
        "
  - matches:
    - path: {type: PathPrefix, value: /}
    - headers: [{name: version, value: one}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches:
    - path: {type: PathPrefix, value: /v2}
    - headers: [{name: version, value: two}]
    backendRefs: [{name: echo-v2, port: 8080}]",
    )]);
    let cases = [
        Case::of(Ask::get("/"), V1),
        Case::of(Ask::get("/example"), V1),
        Case::of(Ask::get("/").header("Version", "one"), V1),
        Case::of(Ask::get("/v2"), V2),
        Case::of(Ask::get("/v2/example"), V2),
        Case::of(Ask::get("/").header("Version", "two"), V2),
        Case::of(Ask::get("/v2/"), V2),
        // No prefix by elements of the path.
        Case::of(Ask::get("/v2example"), V1),
        Case::of(Ask::get("/foo/v2/example"), V1),
    ];
    check(&suite, To::Echo.at(80), &cases);
}

pub(super) fn mesh_http_route_query_param_matching() {
    let suite = Suite::start(&[route(
        "
  - matches: [{queryParams: [{name: animal, value: whale}]}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches: [{queryParams: [{name: animal, value: dolphin}]}]
    backendRefs: [{name: echo-v2, port: 8080}]
  - matches:
    - path: {type: PathPrefix, value: /path1}
      queryParams: [{name: animal, value: whale}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches:
    - headers: [{name: version, value: one}]
      queryParams: [{name: animal, value: whale}]
    backendRefs: [{name: echo-v2, port: 8080}]
  - matches:
    - path: {type: PathPrefix, value: /path3}
      queryParams: [{name: animal, value: shark}]
    - path: {type: PathPrefix, value: /path4}
      headers: [{name: version, value: three}]
      queryParams: [{name: animal, value: kraken}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches: [{path: {type: PathPrefix, value: /path5}}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches: [{queryParams: [{name: animal, value: hydra}]}]
    backendRefs: [{name: echo-v2, port: 8080}]",
    )]);
    let cases = [
        Case::of(Ask::get("/?animal=whale"), V1),
        Case::of(Ask::get("/?animal=dolphin"), V2),
        Case::of(Ask::get("/?animal=whale&otherparam=irrelevant"), V1),
        Case::of(Ask::get("/?animal=dolphin&color=yellow"), V2),
        Case::refused(Ask::get("/?color=blue"), 404),
        Case::refused(Ask::get("/?animal=dog"), 404),
        Case::refused(Ask::get("/?animal=whaledolphin"), 404),
        Case::refused(Ask::get("/"), 404),
        // With the other kinds of matches.
        Case::of(Ask::get("/path1?animal=whale"), V1),
        Case::of(Ask::get("/?animal=whale").header("version", "one"), V2),
        // Of several matches one is enough.
        Case::of(Ask::get("/path3?animal=shark"), V1),
        Case::of(Ask::get("/path4?animal=kraken").header("version", "three"), V1),
        // Of one match all of it is needed.
        Case::refused(Ask::get("/?animal=shark"), 404),
        Case::refused(Ask::get("/path4?animal=kraken"), 404),
        // A path comes before a query.
        Case::of(Ask::get("/path5?animal=hydra"), V1),
    ];
    check(&suite, To::Echo.at(80), &cases);
}

pub(super) fn mesh_http_route_named_rule() {
    let suite = Suite::start(&[route(
        "
  - name: named-rule
    matches: [{path: {type: PathPrefix, value: /named}}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches: [{path: {type: PathPrefix, value: /unnamed}}]
    backendRefs: [{name: echo-v2, port: 8080}]",
    )]);
    let cases = [
        Case::of(Ask::get("/named"), V1).path("/named"),
        Case::of(Ask::get("/unnamed"), V2).path("/unnamed"),
    ];
    check(&suite, To::Echo.at(80), &cases);
}
