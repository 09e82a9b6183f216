//! Changes of routes in a request.

use mesh_tests::http::Ask;

use super::{Case, check};
use crate::http::suite::{GRPC, Suite, To, grpc_route, route};

const V1: &str = "echo-v1";
const V2: &str = "echo-v2";

/// The rules of both tests of request fields: a path, and what is changed in its requests.
const RULES: [(&str, &str); 5] = [
    ("/set", "{set: [{name: X-Header-Set, value: set-overwrites-values}]}"),
    ("/add", "{add: [{name: X-Header-Add, value: add-appends-values}]}"),
    ("/remove", "{remove: [X-Header-Remove]}"),
    (
        "/multiple",
        "{set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}], \
         add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}, \
         {name: X-Header-Add-3, value: header-add-3}], remove: [X-Header-Remove-1, X-Header-Remove-2]}",
    ),
    (
        "/case-insensitivity",
        "{set: [{name: X-Header-Set, value: header-set}], add: [{name: X-Header-Add, value: header-add}], \
         remove: [X-Header-Remove]}",
    ),
];

fn request_fields(rules: &str) {
    let suite = Suite::start(&[route(rules)]);
    let other = ("Some-Other-Header", "val");
    let ask = |path: &str, fields: &[(&str, &str)]| Ask::get(path).headers(fields);
    let set = ("X-Header-Set", "set-overwrites-values");
    let cases = [
        Case::of(ask("/set", &[other]), V1).gets(&[other, set]),
        Case::of(ask("/set", &[other, ("X-Header-Set", "some-other-value")]), V1)
            .gets(&[other, set]),
        Case::of(ask("/add", &[other]), V1).gets(&[other, ("X-Header-Add", "add-appends-values")]),
        Case::of(ask("/add", &[other, ("X-Header-Add", "some-other-value")]), V1)
            .gets(&[other, ("X-Header-Add", "some-other-value,add-appends-values")]),
        Case::of(ask("/remove", &[("X-Header-Remove", "val")]), V1).misses(&["X-Header-Remove"]),
        Case::of(
            ask(
                "/multiple",
                &[
                    ("X-Header-Set-2", "set-val-2"),
                    ("X-Header-Add-2", "add-val-2"),
                    ("X-Header-Remove-2", "remove-val-2"),
                    ("Another-Header", "another-header-val"),
                ],
            ),
            V1,
        )
        .gets(&[
            ("X-Header-Set-1", "header-set-1"),
            ("X-Header-Set-2", "header-set-2"),
            ("X-Header-Add-1", "header-add-1"),
            ("X-Header-Add-2", "add-val-2,header-add-2"),
            ("X-Header-Add-3", "header-add-3"),
            ("Another-Header", "another-header-val"),
        ])
        .misses(&["X-Header-Remove-1", "X-Header-Remove-2"]),
        Case::of(
            ask(
                "/case-insensitivity",
                &[
                    ("x-header-set", "original-val-set"),
                    ("x-header-add", "original-val-add"),
                    ("x-header-remove", "original-val-remove"),
                    ("Another-Header", "another-header-val"),
                ],
            ),
            V1,
        )
        .gets(&[
            ("X-Header-Set", "header-set"),
            ("X-Header-Add", "original-val-add,header-add"),
            ("Another-Header", "another-header-val"),
        ])
        .misses(&["X-Header-Remove"]),
    ];
    let cases = cases.map(|case| {
        let path = RULES.iter().find(|(path, _)| *path == case.ask.path).unwrap().0;
        case.path(path)
    });
    check(&suite, To::Echo.at(80), &cases);
}

pub(super) fn mesh_http_route_request_header_modifier() {
    request_fields(
        &RULES
            .map(|(path, change)| {
                format!(
                    "
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {change}}}]
    backendRefs: [{{name: echo-v1, port: 8080}}]"
                )
            })
            .concat(),
    );
}

pub(super) fn mesh_http_route_backend_request_header_modifier() {
    request_fields(
        &RULES
            .map(|(path, change)| {
                format!(
                    "
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    backendRefs:
    - name: echo-v1
      port: 8080
      filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {change}}}]"
                )
            })
            .concat(),
    );
}

pub(super) fn mesh_http_route_rewrite_path() {
    let rule = |prefix: &str, path: &str, more: &str| {
        format!(
            "
  - matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}]
    filters:
    - {{type: URLRewrite, urlRewrite: {{path: {path}}}}}{more}
    backendRefs: [{{name: echo-v1, port: 80}}]"
        )
    };
    let change = "
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: X-Header-Set, value: set-overwrites-values}]
        add: [{name: X-Header-Add, value: header-val-1}, {name: X-Header-Add-Append, value: header-val-2}]
        remove: [X-Header-Remove]";
    let prefix = |to: &str| format!("{{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}");
    let full = |to: &str| format!("{{type: ReplaceFullPath, replaceFullPath: {to}}}");
    let rules = [
        rule("/prefix/one", &prefix("/one"), ""),
        rule("/strip-prefix", &prefix("/"), ""),
        rule("/full/one", &full("/one"), ""),
        rule("/full/rewrite-path-and-modify-headers", &full("/test"), change),
        rule("/prefix/rewrite-path-and-modify-headers", &prefix("/prefix"), change),
    ];
    let suite = Suite::start(&[route(&rules.concat())]);
    let case = |path: &str| Case::of(Ask::get(path), V1);
    let changed = |path: &str| {
        let fields = [
            ("X-Header-Remove", "remove-val"),
            ("X-Header-Add-Append", "append-val-1"),
            ("X-Header-Set", "set-val"),
        ];
        Case::of(Ask::get(path).headers(&fields), V1)
            .gets(&[
                ("X-Header-Add", "header-val-1"),
                ("X-Header-Add-Append", "append-val-1,header-val-2"),
                ("X-Header-Set", "set-overwrites-values"),
            ])
            .misses(&["X-Header-Remove"])
    };
    let cases = [
        case("/prefix/one/two").path("/one/two"),
        case("/strip-prefix/three").path("/three"),
        case("/strip-prefix").path("/"),
        case("/full/one/two").path("/one"),
        changed("/full/rewrite-path-and-modify-headers/test").path("/test"),
        changed("/prefix/rewrite-path-and-modify-headers/one").path("/prefix/one"),
    ];
    check(&suite, To::Echo.at(80), &cases);
}

pub(super) fn mesh_grpc_route_request_header_modifier() {
    let rule = |value: &str, change: &str, backend: &str| {
        format!(
            "
  - matches: [{{headers: [{{name: x-test-case, value: {value}}}]}}]
    filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {change}}}]
    backendRefs: [{{name: {backend}, port: 7070}}]"
        )
    };
    let multi = "{set: [{name: x-header-set-1, value: header-set-1}, {name: x-header-set-2, value: header-set-2}], \
                 add: [{name: x-header-add-1, value: header-add-1}, {name: x-header-add-2, value: header-add-2}], \
                 remove: [x-header-remove-1, x-header-remove-2]}";
    let rules = [
        rule("set", "{set: [{name: x-header-set, value: set-overwrites-values}]}", V1),
        rule("add", "{add: [{name: x-header-add, value: add-appends-values}]}", V1),
        rule("remove", "{remove: [x-header-remove]}", V1),
        rule("multi", multi, V2),
    ];
    let suite = Suite::start(&[grpc_route(&rules.concat())]);
    let ask = |case: &str, fields: &[(&str, &str)]| {
        let ask = Ask::grpc("/proto.EchoTestService/Echo", "hello");
        ask.header("x-test-case", case).headers(fields)
    };
    let kept = ("some-other-header", "this-header-should-be-set");
    let cases = [
        Case::of(ask("set", &[kept, ("x-header-set", "this-value-should-be-overwritten")]), V1)
            .gets(&[("x-test-case", "set"), kept, ("x-header-set", "set-overwrites-values")]),
        Case::of(ask("add", &[("x-header-add", "this-value-should-be-appended")]), V1).gets(&[
            ("x-test-case", "add"),
            ("x-header-add", "this-value-should-be-appended,add-appends-values"),
        ]),
        Case::of(ask("remove", &[("x-header-remove", "this-should-be-removed")]), V1)
            .gets(&[("x-test-case", "remove")])
            .misses(&["x-header-remove"]),
        Case::of(
            ask(
                "multi",
                &[
                    ("x-header-set-2", "set-header-2"),
                    ("x-header-add-2", "add-header-2"),
                    ("x-header-remove-2", "should-be-removed-2"),
                ],
            ),
            V2,
        )
        .gets(&[
            ("x-test-case", "multi"),
            ("x-header-set-1", "header-set-1"),
            ("x-header-set-2", "header-set-2"),
            ("x-header-add-1", "header-add-1"),
            ("x-header-add-2", "add-header-2,header-add-2"),
        ])
        .misses(&["x-header-remove-1", "x-header-remove-2"]),
    ];
    check(&suite, To::Echo.at(GRPC), &cases);
}
