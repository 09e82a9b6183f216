//! HTTP and gRPC routes as they are written, and what becomes of them.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::super::super::yaml;
use super::*;
use crate::model::http::pattern::Expression;
use crate::model::http::{
    Cors, Filter, HeaderChange, HeaderMatch, Mirror, PathChange, Persistence, PersistenceBy,
    QueryMatch, Redirect, Retry, Rewrite, Scheme, SplitBy, Timeouts, ValueMatch,
};
use crate::model::route::ParentRef;

struct Seed<T>(std::marker::PhantomData<T>);

impl<'de, T: serde::Deserialize<'de>> serde::de::DeserializeSeed<'de> for Seed<T> {
    type Value = T;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<T, D::Error> {
        T::deserialize(d)
    }
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> T {
    let seed = Seed(std::marker::PhantomData);
    yaml::parse(text, seed).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

/// Converts a route `shop/r` whose `spec` is this flow mapping.
fn read(kind: Kind, spec: &str) -> (Option<HttpRoute>, Problems) {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Route\nmetadata: {{name: r, namespace: \
         shop}}\nspec: {spec}\n"
    );
    let mut problems = Problems::default();
    let route = match kind {
        Kind::Http => http(parse(&text), &mut problems),
        Kind::Grpc => grpc(parse(&text), &mut problems),
    };
    (route, problems)
}

fn found(problems: &Problems) -> Vec<String> {
    let one = |problem: &super::super::Problem| {
        let end = if problem.fatal { "" } else { " (noted)" };
        format!("{} {}{end}", problem.path, problem.reason.as_str())
    };
    problems.found.iter().map(one).collect()
}

/// The one rule of a route, which has no problem.
#[track_caller]
fn rule_of(kind: Kind, rule: &str) -> Rule {
    let (route, problems) = read(kind, &format!("{{rules: [{rule}]}}"));
    assert_eq!(found(&problems), [""; 0], "{rule}");
    let [rule] = <[_; 1]>::try_from(route.unwrap().rules).unwrap();
    Arc::unwrap_or_clone(rule)
}

/// Checks the problems of a rule, as `field reason`. The field is given within the rule.
#[track_caller]
fn wrong(kind: Kind, rule: &str, expect: &[&str]) {
    let (_, problems) = read(kind, &format!("{{rules: [{rule}]}}"));
    let found = found(&problems);
    let found: Vec<_> =
        found.iter().map(|one| one.strip_prefix("spec.rules[0].").unwrap_or(one)).collect();
    assert_eq!(found, expect, "{rule}");
}

fn compiled(source: &str) -> Expression {
    Expression::new(source).unwrap()
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.to_owned())
}

fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

/// A route with most of what it may have.
const WHOLE: &str = "\
    {hostnames: [ignored.example], useDefaultGateways: None, parentRefs: [{group: '', \
    kind: Service, name: echo, port: 80}, {group: '', kind: Service, name: other, \
    namespace: demo}], rules: [{name: canary, matches: [{path: {type: Exact, value: \
    /v1}, method: GET, headers: [{name: X-User, value: ann}, {type: RegularExpression, \
    name: x-age, value: '[0-9]+'}], queryParams: [{name: Who, value: a b}]}, {path: \
    {value: /v2/}}, {path: {type: RegularExpression, value: '/v[3-9]'}}], filters: \
    [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: \
    '1'}], add: [{name: x-b, value: '2'}], remove: [X-C]}}], backendRefs: [{name: v1, \
    port: 80, weight: 9}, {name: v2, namespace: demo, port: 81, filters: [{type: \
    ResponseHeaderModifier, responseHeaderModifier: {remove: [server]}}]}], timeouts: \
    {request: 10s, backendRequest: 2s500ms}, retry: {codes: [503, 500, 503], attempts: \
    3, backoff: 100ms}}, {backendRefs: []}]}";

#[test]
fn a_whole_route_is_taken_over() {
    let (route, problems) = read(Kind::Http, WHOLE);
    assert_eq!(found(&problems), [""; 0]);
    let route = route.unwrap();
    let demo = |name: &str| ResourceName::new("demo", name);
    let shop = |name: &str| ResourceName::new("shop", name);
    assert_eq!((route.kind, &route.name, &*route.created), (Kind::Http, &shop("r"), ""));
    let parents = [
        ParentRef { service: shop("echo"), port: Some(80) },
        ParentRef { service: demo("other"), port: None },
    ];
    assert_eq!(route.parents, parents);
    let exact = Match {
        path: PathMatch::Exact("/v1".into()),
        method: Some(Method::GET),
        headers: vec![
            HeaderMatch {
                name: HeaderName::from_static("x-user"),
                value: ValueMatch::Exact("ann".into()),
            },
            HeaderMatch {
                name: HeaderName::from_static("x-age"),
                value: ValueMatch::Regex(compiled("[0-9]+")),
            },
        ],
        query: vec![QueryMatch { name: "Who".into(), value: ValueMatch::Exact("a b".into()) }],
    };
    let regex = Match { path: PathMatch::Regex(compiled("/v[3-9]")), ..Match::all() };
    let filters = Filter::RequestHeaders(HeaderChange {
        set: vec![header("x-a", "1")],
        add: vec![header("x-b", "2")],
        remove: vec![HeaderName::from_static("x-c")],
    });
    let of_backend = Filter::ResponseHeaders(HeaderChange {
        remove: vec![HeaderName::from_static("server")],
        ..HeaderChange::default()
    });
    let backend = |service, port, weight, filters| HttpBackend { service, port, weight, filters };
    let canary = Rule {
        name: Some("canary".into()),
        matches: vec![exact, Match { path: prefix("/v2"), ..Match::all() }, regex],
        filters: vec![filters],
        backends: vec![
            backend(shop("v1"), 80, 9, vec![]),
            backend(demo("v2"), 81, 1, vec![of_backend]),
        ],
        timeouts: Timeouts {
            request: Some(Duration::from_secs(10)),
            backend: Some(Duration::from_millis(2500)),
        },
        retry: Some(Retry {
            codes: vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::INTERNAL_SERVER_ERROR],
            attempts: 3,
            backoff: Some(Duration::from_millis(100)),
        }),
        persistence: None,
        split_by: None,
    };
    let rest = Rule {
        name: None,
        matches: vec![Match::all()],
        filters: vec![],
        backends: vec![],
        timeouts: Timeouts::default(),
        retry: None,
        persistence: None,
        split_by: None,
    };
    assert_eq!(route.rules, [canary, rest].map(Arc::new));
}

#[test]
fn paths_are_taken_as_they_match() {
    let check = |path: &str, expect: PathMatch| {
        let rule = rule_of(Kind::Http, &format!("{{matches: [{{path: {path}}}]}}"));
        assert_eq!(rule.matches, [Match { path: expect, ..Match::all() }], "{path}");
    };
    check("{}", prefix("/"));
    check("{value: /}", prefix("/"));
    check("{type: PathPrefix, value: /a/}", prefix("/a"));
    check("{type: Exact, value: /a/}", PathMatch::Exact("/a/".into()));
    check("{type: RegularExpression, value: '/(a|b)'}", PathMatch::Regex(compiled("/(a|b)")));
}

#[test]
fn grpc_methods_are_paths() {
    let check = |method: &str, expect: PathMatch| {
        let rule = rule_of(Kind::Grpc, &format!("{{matches: [{{method: {method}}}]}}"));
        assert_eq!(rule.matches, [Match { path: expect, ..Match::all() }], "{method}");
    };
    let regex = |text: &str| PathMatch::Regex(compiled(text));
    check("{service: a.B, method: C}", PathMatch::Exact("/a.B/C".into()));
    check("{type: Exact, service: a.B}", prefix("/a.B"));
    check("{method: C}", regex("/[^/]+/C"));
    check("{type: RegularExpression, service: 'a|b', method: C.*}", regex("/(?:a|b)/(?:C.*)"));
    check("{type: RegularExpression, service: 'a|b'}", regex("/(?:a|b)/[^/]+"));
    check("{type: RegularExpression, method: C}", regex("/[^/]+/(?:C)"));
    assert_eq!(rule_of(Kind::Grpc, "{}").matches, [Match::all()]);
    let headers = rule_of(Kind::Grpc, "{matches: [{headers: [{name: a, value: b}]}]}");
    assert_eq!(headers.matches[0].headers.len(), 1);
    wrong(Kind::Grpc, "{matches: [{method: {}}]}", &["matches[0].method Invalid"]);
    wrong(
        Kind::Grpc,
        "{matches: [{method: {service: a/b, method: 1c}}]}",
        &["matches[0].method.service Invalid", "matches[0].method.method Invalid"],
    );
    wrong(
        Kind::Grpc,
        "{matches: [{method: {type: RegularExpression, service: (, method: 'a)|(b'}}]}",
        &["matches[0].method.service Invalid", "matches[0].method.method Invalid"],
    );
    wrong(
        Kind::Grpc,
        "{matches: [{method: {type: Prefix, service: a}}]}",
        &["matches[0].method.type UnsupportedValue"],
    );
}

#[test]
fn every_wrong_match_is_named() {
    let check = |of: &str, expect: &[&str]| {
        let expect: Vec<_> = expect.iter().map(|field| format!("matches[0].{field}")).collect();
        let expect: Vec<_> = expect.iter().map(String::as_str).collect();
        wrong(Kind::Http, &format!("{{matches: [{of}]}}"), &expect);
    };
    check("{path: {type: Glob, value: /}}", &["path.type UnsupportedValue"]);
    check("{path: {type: Exact, value: a}}", &["path.value Invalid"]);
    check("{path: {type: PathPrefix, value: /a//b}}", &["path.value Invalid"]);
    check("{path: {type: RegularExpression, value: (}}", &["path.value Invalid"]);
    check("{method: get}", &["method UnsupportedValue"]);
    check("{headers: [{name: 'a b', value: c}]}", &["headers[0].name Invalid"]);
    check("{headers: [{name: ':path', value: c}]}", &["headers[0].name Invalid"]);
    check("{headers: [{name: a, value: ''}]}", &["headers[0].value Invalid"]);
    check("{headers: [{type: Prefix, name: a, value: b}]}", &["headers[0].type UnsupportedValue"]);
    check("{queryParams: [{name: '', value: b}]}", &["queryParams[0].name Invalid"]);
    check(
        "{headers: [{name: a, value: b}, {name: A, value: c}], queryParams: [{name: a, value: b}, \
         {name: A, value: b}, {name: a, value: c}]}",
        &["headers[1].name Conflicted (noted)", "queryParams[2].name Conflicted (noted)"],
    );
}

#[test]
fn filters_are_taken_over() {
    let check = |filter: &str, expect: Filter| {
        let rule = rule_of(Kind::Http, &format!("{{filters: [{filter}]}}"));
        assert_eq!(rule.filters, [expect], "{filter}");
    };
    let mirror = |numerator, denominator| {
        let service = ResourceName::new("shop", "v2");
        Filter::Mirror(Mirror { service, port: 80, numerator, denominator })
    };
    let written = |share: &str| {
        format!(
            "{{type: RequestMirror, requestMirror: {{backendRef: {{name: v2, port: 80}}{share}}}}}"
        )
    };
    check(&written(""), mirror(100, 100));
    check(&written(", percent: 5"), mirror(5, 100));
    check(&written(", fraction: {numerator: 1}"), mirror(1, 100));
    check(&written(", fraction: {numerator: 0, denominator: 1000}"), mirror(0, 1000));
    let plain = Redirect {
        scheme: None,
        hostname: None,
        path: None,
        port: None,
        status: StatusCode::FOUND,
    };
    check("{type: RequestRedirect, requestRedirect: {}}", Filter::Redirect(plain));
    check(
        "{type: RequestRedirect, requestRedirect: {scheme: https, hostname: example.org, path: \
         {type: ReplaceFullPath, replaceFullPath: /x}, port: 8443, statusCode: 308}}",
        Filter::Redirect(Redirect {
            scheme: Some(Scheme::Https),
            hostname: Some("example.org".into()),
            path: Some(PathChange::Full("/x".into())),
            port: Some(8443),
            status: StatusCode::PERMANENT_REDIRECT,
        }),
    );
    for (text, expect) in [("''", ""), ("/", "/"), ("/x/", "/x/")] {
        check(
            &format!(
                "{{type: URLRewrite, urlRewrite: {{hostname: a.b, path: {{type: \
                 ReplacePrefixMatch, replacePrefixMatch: {text}}}}}}}"
            ),
            Filter::Rewrite(Rewrite {
                hostname: Some(HeaderValue::from_static("a.b")),
                path: Some(PathChange::Prefix(expect.into())),
            }),
        );
    }
    check("{type: CORS, cors: {}}", Filter::Cors(Cors { max_age: 5, ..Cors::default() }));
    check(
        "{type: CORS, cors: {allowOrigins: ['https://*.a.b:8443', 'http://*', 'http://c'], \
         allowCredentials: true, allowMethods: ['*'], allowHeaders: [X-A], exposeHeaders: ['*'], \
         maxAge: 60}}",
        Filter::Cors(Cors {
            origins: vec!["https://*.a.b:8443".into(), "http://*".into(), "http://c".into()],
            credentials: true,
            methods: vec!["*".into()],
            headers: vec!["X-A".into()],
            expose: vec!["*".into()],
            max_age: 60,
        }),
    );
}

#[test]
fn a_filter_that_is_not_known_here_is_not_skipped() {
    let check = |kind, filter: &str, note: &str, what: &str| {
        let (route, problems) = read(kind, &format!("{{rules: [{{filters: [{filter}]}}]}}"));
        assert_eq!(found(&problems), [format!("spec.rules[0].filters[0].{note} (noted)")]);
        assert_eq!(route.unwrap().rules[0].filters, [Filter::Unresolved(what.to_owned())]);
    };
    let extension = "{type: ExtensionRef, extensionRef: {group: a.b, kind: Limit, name: c}}";
    for kind in [Kind::Http, Kind::Grpc] {
        check(kind, extension, "extensionRef InvalidKind", "Limit.a.b c");
    }
    let auth = "{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: a, port: \
                80}, grpc: {}, forwardBody: {maxSize: 1}}}";
    check(Kind::Http, auth, "externalAuth UnsupportedValue", "ExternalAuth");
}

/// Checks the problems of a rule's one filter, with the fields as they go on after its path.
#[track_caller]
fn check_filter(filter: &str, expect: &[&str]) {
    let expect: Vec<_> = expect.iter().map(|field| format!("filters[0]{field}")).collect();
    let expect: Vec<_> = expect.iter().map(String::as_str).collect();
    wrong(Kind::Http, &format!("{{filters: [{filter}]}}"), &expect);
}

#[test]
fn every_wrong_filter_is_named() {
    check_filter("{type: Magic}", &[".type UnsupportedValue"]);
    check_filter("{type: CORS}", &[" Invalid"]);
    check_filter("{type: CORS, cors: {}, urlRewrite: {}}", &[".urlRewrite Invalid"]);
    let headers =
        |what: &str| format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{what}}}}}");
    let of = |field: &str| format!(".requestHeaderModifier.{field}");
    for (what, expect) in [
        ("set: [{name: 'a:', value: b}]", "set[0].name Invalid"),
        ("add: [{name: a, value: \"b\\nc\"}]", "add[0].value Invalid"),
        ("set: [{name: a, value: ''}]", "set[0].value Invalid"),
        ("remove: ['']", "remove[0] Invalid"),
        ("set: [{name: Content-Length, value: '1'}]", "set[0].name UnsupportedValue"),
        ("remove: [transfer-encoding]", "remove[0] UnsupportedValue"),
        ("add: [{name: keep-alive, value: '1'}]", "add[0].name UnsupportedValue"),
        ("set: [{name: Host, value: a}]", "set[0].name UnsupportedValue"),
        ("set: [{name: a, value: b}, {name: A, value: c}]", "set[1].name Conflicted (noted)"),
    ] {
        check_filter(&headers(what), &[&of(expect)]);
    }
    let mirror =
        |what: &str| format!("{{type: RequestMirror, requestMirror: {{backendRef: {what}}}}}");
    for (what, expect) in [
        ("{name: v2}", "backendRef.port Invalid"),
        ("{name: v2, port: 0}", "backendRef.port Invalid"),
        ("{kind: Pod, name: v2, port: 80}", "backendRef InvalidKind"),
        ("{name: v2, port: 80}, percent: 101", "percent Invalid"),
        ("{name: v2, port: 80}, percent: 1, fraction: {numerator: 1}", "fraction Invalid"),
        ("{name: v2, port: 80}, fraction: {numerator: 101}", "fraction Invalid"),
        ("{name: v2, port: 80}, fraction: {numerator: 0, denominator: 0}", "fraction Invalid"),
    ] {
        check_filter(&mirror(what), &[&format!(".requestMirror.{expect}")]);
    }
}

#[test]
fn every_wrong_answer_of_a_filter_is_named() {
    let redirect = |what: &str| format!("{{type: RequestRedirect, requestRedirect: {{{what}}}}}");
    for (what, expect) in [
        ("scheme: ftp", "scheme UnsupportedValue"),
        ("hostname: '*.a'", "hostname Invalid"),
        ("hostname: 10.0.0.1", "hostname Invalid"),
        ("port: 65536", "port Invalid"),
        ("statusCode: 200", "statusCode UnsupportedValue"),
        ("path: {type: Other}", "path.type UnsupportedValue"),
        ("path: {type: ReplaceFullPath}", "path Invalid"),
        ("path: {type: ReplaceFullPath, replaceFullPath: ''}", "path.replaceFullPath Invalid"),
        (
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: a}",
            "path.replacePrefixMatch Invalid",
        ),
    ] {
        check_filter(&redirect(what), &[&format!(".requestRedirect.{expect}")]);
    }
    check_filter(
        &redirect("path: {type: ReplaceFullPath, replaceFullPath: /, replacePrefixMatch: /}"),
        &[".requestRedirect.path.replacePrefixMatch Invalid"],
    );
    let cors = |what: &str| format!("{{type: CORS, cors: {{{what}}}}}");
    for (what, expect) in [
        ("allowOrigins: [example.org]", "allowOrigins[0] Invalid"),
        ("allowOrigins: ['https://a/b']", "allowOrigins[0] Invalid"),
        ("allowOrigins: ['https://a:0']", "allowOrigins[0] Invalid"),
        ("allowOrigins: ['https://a.*']", "allowOrigins[0] Invalid"),
        ("allowOrigins: ['http://a', '*']", "allowOrigins[1] Invalid"),
        ("allowMethods: [get]", "allowMethods[0] UnsupportedValue"),
        ("allowHeaders: ['a b']", "allowHeaders[0] Invalid"),
        ("exposeHeaders: ['']", "exposeHeaders[0] Invalid"),
        ("maxAge: 0", "maxAge Invalid"),
        ("maxAge: 2147483648", "maxAge Invalid"),
    ] {
        check_filter(&cors(what), &[&format!(".cors.{expect}")]);
    }
    wrong(Kind::Grpc, "{filters: [{type: URLRewrite}]}", &["filters[0].type UnsupportedValue"]);
}

#[test]
fn filters_that_cannot_be_together_are_refused() {
    let redirect = "{type: RequestRedirect, requestRedirect: {}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: a.b}}";
    let cors = "{type: CORS, cors: {}}";
    let backend =
        |filters: &str| format!("backendRefs: [{{name: a, port: 80, filters: [{filters}]}}]");
    let check = |rule: String, expect: &[&str]| wrong(Kind::Http, &rule, expect);
    check(format!("{{filters: [{redirect}, {rewrite}]}}"), &["filters[1] IncompatibleFilters"]);
    check(
        format!("{{filters: [{redirect}], {}}}", backend("")),
        &["filters[0] IncompatibleFilters"],
    );
    check(format!("{{{}}}", backend(redirect)), &["backendRefs[0].filters[0] IncompatibleFilters"]);
    check(format!("{{{}}}", backend(cors)), &["backendRefs[0].filters[0] UnsupportedValue"]);
    check(
        format!("{{filters: [{rewrite}], {}}}", backend(rewrite)),
        &["backendRefs[0].filters IncompatibleFilters"],
    );
    check(format!("{{filters: [{cors}, {cors}]}}"), &["filters[1] Invalid"]);
    let of_prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}";
    let rewrite = format!("{{type: URLRewrite, urlRewrite: {{{of_prefix}}}}}");
    let redirect = format!("{{type: RequestRedirect, requestRedirect: {{{of_prefix}}}}}");
    let exact = "matches: [{path: {value: /a}}, {path: {type: Exact, value: /b}}]";
    check(format!("{{{exact}, filters: [{rewrite}]}}"), &["filters[0] Invalid"]);
    check(format!("{{{exact}, filters: [{redirect}]}}"), &["filters[0] Invalid"]);
    check(format!("{{{exact}, {}}}", backend(&rewrite)), &["backendRefs[0].filters[0] Invalid"]);
    check(format!("{{filters: [{rewrite}]}}"), &[]);
    check(format!("{{matches: [{{method: GET}}], filters: [{rewrite}]}}"), &[]);
}

#[test]
fn every_wrong_wait_is_named() {
    let check = |rule: &str, expect: &[&str]| wrong(Kind::Http, &format!("{{{rule}}}"), expect);
    check("timeouts: {request: 1d}", &["timeouts.request Invalid"]);
    check("timeouts: {request: 1s, backendRequest: 2s}", &["timeouts.backendRequest Invalid"]);
    check("timeouts: {request: 0s, backendRequest: 2s}", &[]);
    check("timeouts: {backendRequest: 2s}", &[]);
    check(
        "retry: {codes: [200, 600], attempts: 0}",
        &["retry.codes[0] Invalid", "retry.codes[1] Invalid", "retry.attempts Invalid"],
    );
    check(
        "retry: {attempts: 1000, backoff: soon}",
        &["retry.attempts Invalid", "retry.backoff Invalid"],
    );
    assert_eq!(rule_of(Kind::Http, "{retry: {}}").retry.unwrap().attempts, 1);
}

#[test]
fn an_annotation_keeps_users_with_a_backend() {
    let check = |written: &str, expect: Option<SplitBy>, expect_problems: &[&str]| {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, \
             annotations: {{nodemesh.dev/split-by: '{written}'}}}}\nspec: {{parentRefs: [{{group: \
             '', kind: Service, name: a}}], rules: [{{}}, {{}}]}}"
        );
        let mut problems = Problems::default();
        let route = http(parse(&text), &mut problems).unwrap();
        assert!(route.rules.iter().all(|rule| rule.split_by == expect), "{written}: {route:?}");
        assert_eq!(found(&problems), expect_problems, "{written}");
    };
    check("header:X-User", Some(SplitBy::Header("x-user".parse().unwrap())), &[]);
    check("cookie: User ", Some(SplitBy::Cookie("User".to_owned())), &[]);
    for wrong in ["", "x-user", "header:", "cookie:a=b", "query:a", "header:a b"] {
        check(wrong, None, &["metadata.annotations UnsupportedValue (noted)"]);
    }
}

#[test]
fn sessions_are_taken_over() {
    let check = |written: &str, expect: Persistence| {
        let rule = rule_of(Kind::Http, &format!("{{sessionPersistence: {written}}}"));
        assert_eq!(rule.persistence, Some(expect), "{written}");
    };
    let plain =
        |name: &str, by| Persistence { name: name.to_owned(), by, absolute: None, idle: None };
    let session = PersistenceBy::Cookie { permanent: false };
    check("{sessionName: Who}", plain("Who", session));
    check("{sessionName: x-who, type: Header}", plain("x-who", PersistenceBy::Header));
    check(
        "{sessionName: who, type: Cookie, cookieConfig: {lifetimeType: Permanent}, \
         absoluteTimeout: 1h, idleTimeout: 5m}",
        Persistence {
            absolute: Some(Duration::from_hours(1)),
            idle: Some(Duration::from_mins(5)),
            ..plain("who", PersistenceBy::Cookie { permanent: true })
        },
    );
    let names = |kind| {
        let spec = "{rules: [{sessionPersistence: {}}, {sessionPersistence: {}}]}";
        let rules = read(kind, spec).0.unwrap().rules.into_iter();
        rules.map(|rule| rule.persistence.clone().unwrap().name).collect::<Vec<_>>()
    };
    let all: BTreeSet<_> = [names(Kind::Http), names(Kind::Grpc)].concat().into_iter().collect();
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(names(Kind::Http), names(Kind::Http));
    let check = |written: &str, expect: &[&str]| {
        let expect: Vec<_> =
            expect.iter().map(|field| format!("sessionPersistence.{field}")).collect();
        let expect: Vec<_> = expect.iter().map(String::as_str).collect();
        wrong(Kind::Http, &format!("{{sessionPersistence: {written}}}"), &expect);
    };
    check("{type: Address}", &["type UnsupportedValue"]);
    check("{sessionName: 'a;b'}", &["sessionName Invalid"]);
    check("{idleTimeout: x}", &["idleTimeout Invalid"]);
    check("{cookieConfig: {lifetimeType: Ever}}", &["cookieConfig.lifetimeType UnsupportedValue"]);
    check("{cookieConfig: {lifetimeType: Permanent}}", &["cookieConfig.lifetimeType Invalid"]);
    check("{type: Header, cookieConfig: {}}", &["cookieConfig UnsupportedValue (noted)"]);
}

#[test]
fn what_is_too_much_is_refused() {
    let check = |spec: String, expect: &[&str]| {
        assert_eq!(found(&read(Kind::Http, &spec).1), expect);
    };
    let many = |n: usize, one: &str| vec![one; n].join(", ");
    check("{}".to_owned(), &["spec.rules Invalid"]);
    check(format!("{{rules: [{}]}}", many(16, "{}")), &[]);
    check(format!("{{rules: [{}]}}", many(17, "{}")), &["spec.rules Invalid"]);
    let rule = |n| format!("{{matches: [{}]}}", many(n, "{method: GET}"));
    check(format!("{{rules: [{}, {}]}}", rule(64), rule(64)), &[]);
    check(format!("{{rules: [{}, {}, {{}}]}}", rule(64), rule(64)), &["spec.rules Invalid"]);
    check(format!("{{rules: [{}]}}", rule(65)), &["spec.rules[0].matches Invalid"]);
    let backends = |n| format!("{{rules: [{{backendRefs: [{}]}}]}}", many(n, "{name: a, port: 1}"));
    check(backends(16), &[]);
    check(backends(17), &["spec.rules[0].backendRefs Invalid"]);
    check(
        "{rules: [{backendRefs: [{name: a, port: 1, weight: 1000000}, {name: a, port: 1, weight: \
         1000001}, {name: a, port: 1, weight: -1}, {kind: Import, name: a, port: 1}]}]}"
            .to_owned(),
        &[
            "spec.rules[0].backendRefs[1].weight Invalid",
            "spec.rules[0].backendRefs[2].weight Invalid",
            "spec.rules[0].backendRefs[3] InvalidKind",
        ],
    );
    check(
        "{rules: [{name: a}, {name: A}, {name: a}]}".to_owned(),
        &["spec.rules[1].name Invalid", "spec.rules[2].name Invalid"],
    );
}

#[test]
fn a_document_has_no_more_than_is_taken() {
    // 256 KiB each, of 512.
    let matching = |count: usize| {
        let one = r"{headers: [{name: a, type: RegularExpression, value: '\pL{5}'}]}";
        format!("backendRefs: [], matches: [{}]", vec![one; count].join(", "))
    };
    let (_, problems) = read(Kind::Http, &format!("{{rules: [{{{}}}]}}", matching(2)));
    assert_eq!((problems.is_fatal, found(&problems)), (false, vec![]));
    let (_, problems) = read(Kind::Http, &format!("{{rules: [{{{}}}]}}", matching(64)));
    let expect = ["spec.rules[0].matches[2].headers[0].value LimitExceeded"];
    assert_eq!((problems.is_fatal, found(&problems)), (true, expect.map(String::from).to_vec()));
    // What is beyond the lists' bounds is not looked at, and not every problem is told.
    let wrong = "{matches: [{method: nothing}]}";
    let (_, problems) = read(Kind::Http, &format!("{{rules: [{}]}}", vec![wrong; 1000].join(", ")));
    assert_eq!((problems.is_fatal, found(&problems).len()), (true, 1 + 16));
    let parents = vec!["{name: a, port: 0}"; 1000].join(", ");
    let (_, problems) = read(Kind::Http, &format!("{{parentRefs: [{parents}], rules: [{{}}]}}"));
    assert_eq!(found(&problems).len(), 1 + 32);
}
