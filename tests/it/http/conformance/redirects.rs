//! Redirects: what of an address is replaced, and the status.

use mesh_tests::http::Ask;

use crate::http::suite::{Suite, To, route};

/// A path, what its requests are redirected to, the status, and the `location` that is expected.
type Case<'a> = (&'a str, &'a str, u16, &'a str);

/// Checks that requests for `path` are redirected. The service is asked as `echo`.
#[track_caller]
fn check(suite: &Suite, path: &str, status: u16, location: &str) {
    let answer = suite.ask(To::Echo.at(80), &Ask::get(path));
    assert_eq!(answer.error, None, "{path}");
    let seen = (answer.status, answer.header("location"), answer.server());
    assert_eq!(seen, (status, Some(location), None), "{path}");
}

/// A rule for each case, and what comes of its path.
#[track_caller]
fn all(cases: &[Case<'_>]) {
    let rules = cases.iter().map(|(path, redirect, ..)| rule(path, redirect));
    let suite = Suite::start(&[route(&rules.collect::<String>())]);
    for (path, _redirect, status, location) in cases {
        check(&suite, path, *status, location);
    }
}

fn rule(path: &str, redirect: &str) -> String {
    format!(
        "
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]"
    )
}

pub(super) fn mesh_http_route_redirect_host_and_status() {
    all(&[
        (
            "/hostname-redirect",
            "hostname: example.org",
            302,
            "http://example.org/hostname-redirect",
        ),
        (
            "/host-and-status",
            "statusCode: 301, hostname: example.org",
            301,
            "http://example.org/host-and-status",
        ),
    ]);
}

pub(super) fn mesh_http_route_redirect_path() {
    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}";
    let full = |to: &str| format!("path: {{type: ReplaceFullPath, replaceFullPath: {to}}}");
    let rules = [
        rule("/original-prefix", prefix),
        rule("/full", &full("/full-path-replacement")),
        rule("/path-and-host", &format!("hostname: example.org, {prefix}")),
        rule("/path-and-status", &format!("{prefix}, statusCode: 301")),
        rule(
            "/full-path-and-host",
            &format!("hostname: example.org, {}", full("/replacement-full")),
        ),
        rule("/full-path-and-status", &format!("{}, statusCode: 301", full("/replacement-full"))),
    ];
    let suite = Suite::start(&[route(&rules.concat())]);
    for (path, status, location) in [
        ("/original-prefix/lemon", 302, "http://echo/replacement-prefix/lemon"),
        ("/full/path/original", 302, "http://echo/full-path-replacement"),
        ("/path-and-host", 302, "http://example.org/replacement-prefix"),
        ("/path-and-status", 301, "http://echo/replacement-prefix"),
        ("/full-path-and-host", 302, "http://example.org/replacement-full"),
        ("/full-path-and-status", 301, "http://echo/replacement-full"),
    ] {
        check(&suite, path, status, location);
    }
}

pub(super) fn mesh_http_route_redirect_port() {
    let host = "port: 8083, hostname: example.org";
    let status = "port: 8083, hostname: example.org, statusCode: 302";
    all(&[
        ("/port", "port: 8083", 302, "http://echo:8083/port"),
        ("/port-and-host", host, 302, "http://example.org:8083/port-and-host"),
        (
            "/port-and-status",
            "port: 8083, statusCode: 301",
            301,
            "http://echo:8083/port-and-status",
        ),
        (
            "/port-and-host-and-status",
            status,
            302,
            "http://example.org:8083/port-and-host-and-status",
        ),
    ]);
}

pub(super) fn mesh_http_route_scheme_redirect() {
    let https = "scheme: https";
    let host = "hostname: example.org, scheme: https";
    let status = "scheme: https, statusCode: 302, hostname: example.org";
    all(&[
        ("/scheme", https, 302, "https://echo/scheme"),
        ("/scheme-and-host", host, 302, "https://example.org/scheme-and-host"),
        (
            "/scheme-and-status",
            "scheme: https, statusCode: 301",
            301,
            "https://echo/scheme-and-status",
        ),
        (
            "/scheme-and-host-and-status",
            status,
            302,
            "https://example.org/scheme-and-host-and-status",
        ),
    ]);
}

pub(super) fn mesh_http_route_303_redirect() {
    all(&[("/redirect", "statusCode: 303", 303, "http://echo/redirect")]);
}

pub(super) fn mesh_http_route_307_redirect() {
    all(&[("/redirect", "statusCode: 307", 307, "http://echo/redirect")]);
}

pub(super) fn mesh_http_route_308_redirect() {
    all(&[("/redirect", "statusCode: 308", 308, "http://echo/redirect")]);
}
