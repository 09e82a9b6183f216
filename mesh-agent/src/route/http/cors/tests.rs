//! Preflights and answers, as Gateway API's conformance test `HTTPRouteCORS` has them.

use super::*;

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

/// The fields of CORS, sorted.
fn said(headers: &HeaderMap) -> Vec<String> {
    let fields = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
    let mut fields: Vec<_> = fields
        .filter_map(|field| Some(field.strip_prefix("access-control-")?.to_owned()))
        .collect();
    fields.sort();
    fields
}

fn multiple() -> Cors {
    Cors {
        origins: strings(&["https://www.foo.com", "https://*.bar.com"]),
        credentials: true,
        methods: strings(&["GET", "OPTIONS"]),
        headers: strings(&["x-header-1", "x-header-2"]),
        expose: strings(&["x-header-3", "x-header-4"]),
        max_age: 3600,
    }
}

fn wildcards(credentials: bool) -> Cors {
    let all = || strings(&["*"]);
    Cors { origins: all(), credentials, methods: all(), headers: all(), expose: all(), max_age: 5 }
}

#[track_caller]
fn check_preflight(cors: &Cors, request: &[(&'static str, &'static str)], expect: &[&str]) {
    let answer = preflight(cors, &Method::OPTIONS, &headers(request)).unwrap();
    assert_eq!(said(&answer), expect);
    assert!(answer.contains_key(VARY));
}

#[track_caller]
fn check_answer(cors: &Cors, origin_of_request: Option<&'static str>, expect: &[&str]) {
    let mut request = HeaderMap::new();
    if let Some(origin) = origin_of_request {
        request.insert(ORIGIN, HeaderValue::from_static(origin));
    }
    // The backend's own word does not count.
    let mut response = headers(&[
        ("access-control-allow-origin", "https://other.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-other"),
        ("x-own", "1"),
    ]);
    answer(cors, origin(cors, &request).as_ref(), &mut response);
    assert_eq!(said(&response), expect);
}

#[test]
fn preflights_of_allowed_origins_are_allowed() {
    for origin in ["https://www.foo.com", "https://www.bar.com", "https://xpto.www.bar.com"] {
        let request = [
            ("origin", origin),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "x-header-1, x-header-2"),
        ];
        let expect = [
            "allow-credentials: true",
            "allow-headers: x-header-1, x-header-2",
            "allow-methods: GET, OPTIONS",
            &format!("allow-origin: {origin}"),
            "expose-headers: x-header-3, x-header-4",
            "max-age: 3600",
        ];
        check_preflight(&multiple(), &request, &expect);
    }
}

#[test]
fn preflights_of_other_origins_get_an_answer_that_allows_nothing() {
    for origin in ["https://foobar.com", "https://bar.com", "https://.bar.com", "null", "\u{80}"] {
        let request = headers(&[("access-control-request-method", "GET")]);
        let mut request = request;
        request.insert(ORIGIN, HeaderValue::from_bytes(origin.as_bytes()).unwrap());
        let answer = preflight(&multiple(), &Method::OPTIONS, &request).unwrap();
        assert_eq!(said(&answer), Vec::<String>::new());
    }
}

#[test]
fn wildcards_are_what_was_asked_for() {
    let request = [
        ("origin", "https://other.foo.com"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-header-1, x-header-2"),
    ];
    let expect = [
        "allow-credentials: true",
        "allow-headers: x-header-1, x-header-2",
        "allow-methods: PUT",
        "allow-origin: https://other.foo.com",
        "max-age: 5",
    ];
    check_preflight(&wildcards(true), &request, &expect);
    let expect = [
        "allow-headers: x-header-1, x-header-2",
        "allow-methods: PUT",
        "allow-origin: *",
        "expose-headers: *",
        "max-age: 5",
    ];
    check_preflight(&wildcards(false), &request, &expect);
    // Not asked for, not said.
    let request = [("origin", "https://a.example:12345"), ("access-control-request-method", "PUT")];
    let expect = ["allow-methods: PUT", "allow-origin: *", "expose-headers: *", "max-age: 5"];
    check_preflight(&wildcards(false), &request, &expect);
}

#[test]
fn empty_lists_say_nothing() {
    let cors = Cors { origins: strings(&["https://www.foo.com"]), max_age: 5, ..Cors::default() };
    let request = [
        ("origin", "https://www.foo.com"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x"),
    ];
    check_preflight(&cors, &request, &["allow-origin: https://www.foo.com", "max-age: 5"]);
}

#[test]
fn other_requests_are_no_preflights() {
    let check = |method: Method, fields: &[(&'static str, &'static str)]| {
        assert_eq!(preflight(&multiple(), &method, &headers(fields)), None);
    };
    let origin = ("origin", "https://www.foo.com");
    let asks = ("access-control-request-method", "GET");
    check(Method::GET, &[origin, asks]);
    check(Method::OPTIONS, &[origin]);
    check(Method::OPTIONS, &[asks]);
    check(Method::OPTIONS, &[]);
}

#[test]
fn answers_say_who_may_read_them() {
    let expect = [
        "allow-credentials: true",
        "allow-origin: https://www.foo.com",
        "expose-headers: x-header-3, x-header-4",
    ];
    check_answer(&multiple(), Some("https://www.foo.com"), &expect);
    check_answer(&multiple(), Some("https://foobar.com"), &[]);
    check_answer(&multiple(), None, &[]);
    let expect = ["allow-origin: *", "expose-headers: *"];
    check_answer(&wildcards(false), Some("https://foobar.com:12345"), &expect);
    let expect =
        ["allow-credentials: true", "allow-origin: https://other.foo.com", "expose-headers: x-own"];
    check_answer(&wildcards(true), Some("https://other.foo.com"), &expect);
}

#[test]
fn caches_learn_that_origins_differ() {
    let check = |cors: &Cors, before: &[(&'static str, &'static str)], expect: &[&str]| {
        let mut response = headers(before);
        answer(cors, None, &mut response);
        let vary: Vec<_> = response.get_all(VARY).iter().collect();
        assert_eq!(vary, expect);
    };
    check(&multiple(), &[], &["Origin"]);
    check(&multiple(), &[("vary", "accept")], &["accept", "Origin"]);
    check(&multiple(), &[("vary", "accept, ORIGIN")], &["accept, ORIGIN"]);
    check(&multiple(), &[("vary", "*")], &["*"]);
    check(&wildcards(true), &[], &["Origin"]);
    check(&wildcards(false), &[], &[]);
}

#[test]
fn origins_are_compared_by_their_parts() {
    let check = |pattern: &str, origin: &str, expect: bool| {
        assert_eq!(allows(pattern, origin), expect, "{pattern} {origin}");
    };
    check("*", "null", true);
    check("https://a.example", "https://a.example", true);
    check("https://A.example", "https://a.example", true);
    check("https://a.example", "http://a.example", false);
    check("https://a.example:443", "https://a.example", true);
    check("http://a.example:443", "http://a.example", false);
    check("https://a.example", "https://a.example:8443", false);
    check("https://a.example:8443", "https://a.example:8443", true);
    check("https://*", "https://a.example", true);
    check("https://*", "https://a.example:8443", false);
    check("https://*:8443", "https://a.example:8443", true);
    check("https://*.example", "https://a.b.example", true);
    check("https://*.example", "https://example", false);
    check("https://*.b.example", "https://ab.example", false);
    check("https://[fd00::1]", "https://[fd00::1]", true);
    check("https://[fd00::1]:443", "https://[fd00::1]", true);
    check("https://a.example", "https://a.example:x", false);
    check("https://a.example", "https://a.example:+443", false);
    check("https://*.example", "https://evil.test/a.example", false);
    check("https://*.example", "https://evil.test:8443/a.example", false);
    check("https://*.example", "https://evil.test#.example", false);
    check("https://*", "https://a:b", false);
    check("https://*", "https://[fd00::1]", true);
    check("https://*", "https://[]", false);
    check("https://*.example", "https://[fd00::1].example", false);
    check("https://a.example", "https://a.example.evil.example", false);
    check("https://a.example", "null", false);
    check("https://a.example", "", false);
}
