//! Finding rules: cases of Gateway API, an oracle, and what a search costs.

use std::cmp::Reverse;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::find::Search;
use super::*;
use crate::model::http::pattern::Expression;
use crate::model::http::rules::{HttpRule, HttpRules};
use crate::model::http::{
    HeaderMatch, Kind, Match, PathMatch, QueryMatch, Rule, Timeouts, ValueMatch,
};
use crate::model::id::ResourceName;

/// A rule that says no more than when it is true.
pub(super) fn rule(matches: Vec<Match>) -> HttpRule {
    let rule = Rule {
        name: None,
        matches,
        filters: Vec::new(),
        backends: Vec::new(),
        timeouts: Timeouts::default(),
        retry: None,
        persistence: None,
        split_by: None,
    };
    HttpRule {
        route: Arc::new(ResourceName::new("demo", "route")),
        index: 0,
        rule: Arc::new(rule),
        backends: Vec::new(),
        mirrors: Vec::new(),
    }
}

fn rules(matches: Vec<Vec<Match>>) -> HttpRules {
    let rules: Vec<_> = matches.into_iter().map(rule).collect();
    let table = Arc::new(compile(&rules));
    HttpRules { kind: Kind::Http, rules, table }
}

fn regex(source: &str) -> Expression {
    Expression::new(source).unwrap()
}

fn on(path: PathMatch) -> Match {
    Match { path, ..Match::all() }
}

fn prefix(prefix: &str) -> Match {
    on(PathMatch::Prefix(prefix.to_owned()))
}

fn exact(path: &str) -> Match {
    on(PathMatch::Exact(path.to_owned()))
}

fn pattern(source: &str) -> Match {
    on(PathMatch::Regex(regex(source)))
}

fn value(text: &str) -> ValueMatch {
    ValueMatch::Exact(text.to_owned())
}

impl Match {
    fn with_method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    fn with_header(mut self, name: &str, value: ValueMatch) -> Self {
        self.headers.push(HeaderMatch { name: name.parse().unwrap(), value });
        self
    }

    fn with_query(mut self, name: &str, value: ValueMatch) -> Self {
        self.query.push(QueryMatch { name: name.to_owned(), value });
        self
    }
}

fn fields(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
    }
    headers
}

/// The rule that a `GET` of `target` is for.
fn found(rules: &HttpRules, target: &str, headers: &[(&str, &str)]) -> Option<usize> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let headers = fields(headers);
    let request = RequestView { method: &Method::GET, path, query, headers: &headers };
    find(rules, &request).map(|found| found.index)
}

#[track_caller]
fn check(rules: &HttpRules, target: &str, headers: &[(&str, &str)], expect: Option<usize>) {
    assert_eq!(found(rules, target, headers), expect, "{target} {headers:?}");
}

/// Gateway API's conformance test `HTTPRouteMatching`.
#[test]
fn paths_and_headers_of_conformance() {
    let rules = rules(vec![
        vec![prefix("/"), Match::all().with_header("version", value("one"))],
        vec![prefix("/v2"), Match::all().with_header("Version", value("two"))],
    ]);
    check(&rules, "/", &[], Some(0));
    check(&rules, "/example", &[], Some(0));
    check(&rules, "/", &[("Version", "one")], Some(0));
    check(&rules, "/v2", &[], Some(1));
    check(&rules, "/v2/", &[], Some(1));
    check(&rules, "/v2/example", &[], Some(1));
    check(&rules, "/", &[("VERSION", "two")], Some(1));
    check(&rules, "/v2example", &[], Some(0));
    check(&rules, "/foo/v2/example", &[], Some(0));
    check(&rules, "*", &[], Some(0));
}

/// Gateway API's conformance test `HTTPRouteQueryParamMatching`.
#[test]
fn queries_of_conformance() {
    let animal = |match_: Match, which: &str| match_.with_query("animal", value(which));
    let rules = rules(vec![
        vec![animal(Match::all(), "whale")],
        vec![animal(Match::all(), "dolphin").with_query("color", value("blue"))],
        vec![animal(Match::all(), "dolphin"), animal(Match::all(), "penguin")],
        vec![animal(prefix("/path1"), "whale")],
        vec![animal(Match::all(), "whale").with_header("version", value("one"))],
        vec![prefix("/path5")],
        vec![animal(Match::all(), "hydra")],
        vec![Match::all().with_header("version", value("four"))],
    ]);
    check(&rules, "/?animal=whale", &[], Some(0));
    check(&rules, "/?animal=dolphin", &[], Some(2));
    check(&rules, "/?animal=penguin", &[], Some(2));
    check(&rules, "/?animal=dolphin&color=blue", &[], Some(1));
    check(&rules, "/?ANIMAL=Whale", &[], None);
    check(&rules, "/?animal=Whale", &[], None);
    check(&rules, "/?animal=whale&otherparam=irrelevant", &[], Some(0));
    check(&rules, "/?animal=shark&animal=whale", &[], None);
    check(&rules, "/?%61nimal=%77hale", &[], Some(0));
    check(&rules, "/", &[], None);
    check(&rules, "/path1?animal=whale", &[], Some(3));
    check(&rules, "/?animal=whale", &[("version", "one")], Some(4));
    check(&rules, "/path5?animal=hydra", &[("version", "four")], Some(5));
    check(&rules, "/?animal=hydra", &[("version", "four")], Some(7));
}

#[test]
fn precedence_is_gateway_apis() {
    let rules = rules(vec![
        vec![prefix("/")],
        vec![prefix("/a")],
        vec![prefix("/a/")],
        vec![prefix("/a/b")],
        vec![exact("/a/b")],
        vec![prefix("/m").with_header("x", value("1")).with_header("y", value("1"))],
        vec![prefix("/m").with_method(Method::GET)],
        vec![prefix("/h").with_query("q", value("1")).with_query("r", value("1"))],
        vec![prefix("/h").with_header("x", value("1"))],
        vec![prefix("/h").with_header("x", value("1")).with_query("q", value("1"))],
    ]);
    check(&rules, "/a", &[], Some(1));
    check(&rules, "/a/c", &[], Some(1));
    check(&rules, "/a/b/c", &[], Some(3));
    check(&rules, "/a/b/", &[], Some(3));
    check(&rules, "/a/b", &[], Some(4));
    check(&rules, "/m", &[("x", "1"), ("y", "1")], Some(6));
    check(&rules, "/h?q=1&r=1", &[("x", "1")], Some(9));
    check(&rules, "/h?q=2&r=1", &[("x", "1")], Some(8));
    check(&rules, "/h?q=1&r=1", &[], Some(7));
    check(&rules, "/h?q=1", &[], Some(0));
}

#[test]
fn expressions_are_placed_by_what_they_begin_with() {
    let rules = rules(vec![
        vec![prefix("/")],
        vec![pattern(".*")],
        vec![prefix("/img")],
        vec![pattern(r".*\.png")],
        vec![pattern("/img/[0-9]+")],
        vec![exact("/img/1")],
    ]);
    check(&rules, "/", &[], Some(1));
    check(&rules, "/x.png", &[], Some(1));
    check(&rules, "/img/x.png", &[], Some(2));
    check(&rules, "/img/2", &[], Some(4));
    check(&rules, "/img/1", &[], Some(5));
    check(&rules, "/img/1/", &[], Some(2));
}

/// `GRPCRoute`: characters in a matching service, then in a matching method, then headers.
#[test]
fn grpc_is_paths() {
    let rules = rules(vec![
        vec![Match::all().with_header("x", value("1"))],
        vec![pattern("/[^/]+/Get")],
        vec![prefix("/foo.Bar")],
        vec![exact("/foo.Bar/Get")],
        vec![prefix("/foo.Bar").with_header("x", value("1"))],
    ]);
    check(&rules, "/foo.Bar/Get", &[("x", "1")], Some(3));
    check(&rules, "/foo.Bar/Put", &[("x", "1")], Some(4));
    check(&rules, "/foo.Bar/Put", &[], Some(2));
    check(&rules, "/foo.Baz/Get", &[("x", "1")], Some(1));
    check(&rules, "/foo.Baz/Put", &[("x", "1")], Some(0));
    check(&rules, "/foo.Baz/Put", &[], None);
}

#[test]
fn values_of_several_fields_are_one() {
    let rules = rules(vec![
        vec![Match::all().with_header("x", value("1,2"))],
        vec![Match::all().with_header("x", ValueMatch::Regex(regex("1|2,.*")))],
        vec![Match::all().with_header("cookie", value("a=1; b=2"))],
    ]);
    check(&rules, "/", &[("x", "1"), ("x", "2")], Some(0));
    check(&rules, "/", &[("x", "1,2")], Some(0));
    check(&rules, "/", &[("x", "1")], Some(1));
    check(&rules, "/", &[("x", "2"), ("x", "1")], Some(1));
    check(&rules, "/", &[("x", "2")], None);
    check(&rules, "/", &[("cookie", "a=1"), ("cookie", "b=2")], Some(2));
    check(&rules, "/", &[("cookie", "a=1; b=2")], Some(2));
}

#[test]
fn what_was_found_says_its_prefix() {
    let rules = rules(vec![vec![exact("/x"), prefix("/a/"), pattern("/p.*")]]);
    let prefix_of = |path: &str| {
        let headers = HeaderMap::new();
        let request = RequestView { method: &Method::GET, path, query: None, headers: &headers };
        let found = find(&rules, &request).unwrap();
        (found.matched, found.prefix())
    };
    assert_eq!(prefix_of("/x"), (0, None));
    assert_eq!(prefix_of("/a/b"), (1, Some("/a/")));
    assert_eq!(prefix_of("/pq"), (2, None));
}

#[test]
fn equal_rules_have_equal_tables() {
    let matches = || vec![vec![pattern("/a+").with_header("x", ValueMatch::Regex(regex("b")))]];
    assert_eq!(rules(matches()), rules(matches()));
    assert_ne!(rules(matches()).table, rules(vec![vec![pattern("/a+")]]).table);
}

/// How many matches a search looks at.
fn cost(rules: &HttpRules, path: &str, headers: &[(&str, &str)]) -> usize {
    let headers = fields(headers);
    let request =
        RequestView { method: &Method::GET, path, query: Some("user=u7&x=1"), headers: &headers };
    let mut search = Search::new(&request);
    assert!(search.run(&rules.table).is_some());
    search.n_looked_at
}

#[test]
fn rules_that_cannot_match_cost_nothing() {
    let check = |match_: fn(usize) -> Match, path: &str, headers: &[(&str, &str)]| {
        let costs = [10, 1000].map(|n| {
            let mut all: Vec<_> = (0..n).map(|i| vec![match_(i)]).collect();
            all.push(vec![prefix("/")]);
            cost(&rules(all), path, headers)
        });
        assert!(costs[0] == costs[1] && costs[1] <= 2, "{path} {costs:?}");
    };
    check(|i| exact(&format!("/e{i}")), "/e7", &[]);
    check(|i| prefix(&format!("/p{i}")), "/p7/x", &[]);
    check(|i| prefix(&format!("/p/{i}/q")), "/p/7/q", &[]);
    check(|i| pattern(&format!("/r{i}/.*")), "/r7/x", &[]);
    check(|i| Match::all().with_header("user", value(&format!("u{i}"))), "/", &[("user", "u7")]);
    check(|i| Match::all().with_header("user", value(&format!("u{i}"))), "/", &[("user", "x")]);
    check(|i| Match::all().with_header(&format!("h{i}"), value("1")), "/", &[("h7", "1")]);
    check(|i| Match::all().with_query("user", value(&format!("u{i}"))), "/", &[]);
    check(|i| Match::all().with_query(&format!("q{i}"), value("1")), "/", &[]);
    let common = |i: usize| {
        let match_ = prefix("/").with_method(Method::GET).with_header("env", value("prod"));
        match_.with_header("user", value(&format!("u{i}")))
    };
    check(common, "/", &[("user", "u7"), ("env", "prod")]);
}

/// Expressions, and with how many characters they say that a path begins.
const PATTERNS: &[(&str, usize)] = &[
    (".*", 1),
    ("/a", 2),
    ("/a.*", 2),
    ("/ab?/.*", 2),
    ("/[^/]+/a", 1),
    ("/a|/b", 1),
    ("/a/(a|b)", 3),
    ("/ab/a+", 5),
];

/// Written as it is read, with nothing in common with the table.
fn oracle(
    rules: &HttpRules,
    request: &RequestView<'_>,
    headers: &HeaderMap,
) -> Option<(usize, usize)> {
    let all = rules.rules.iter().enumerate().flat_map(|(rule, resolved)| {
        resolved.rule.matches.iter().enumerate().map(move |(matched, m)| ((rule, matched), m))
    });
    let best = all.filter(|(_, m)| is_true(m, request, headers)).min_by_key(|(place, m)| {
        let path = match &m.path {
            PathMatch::Exact(_) => (0, Reverse(0), 0),
            PathMatch::Prefix(prefix) if prefix == "/" => (1, Reverse(1), 1),
            PathMatch::Prefix(prefix) => {
                (1, Reverse(prefix.trim_end_matches('/').chars().count()), 1)
            }
            PathMatch::Regex(pattern) => {
                let (_, n_chars) =
                    PATTERNS.iter().find(|(source, _)| *source == pattern.source()).unwrap();
                (1, Reverse(*n_chars), 0)
            }
        };
        let numbers = (Reverse(m.headers.len()), Reverse(m.query.len()));
        (path, m.method.is_none(), numbers, *place)
    });
    best.map(|(place, _)| place)
}

fn is_true(m: &Match, request: &RequestView<'_>, headers: &HeaderMap) -> bool {
    let value_is = |expected: &ValueMatch, value: &str| match expected {
        ValueMatch::Exact(expected) => expected == value,
        ValueMatch::Regex(pattern) => whole(pattern.source(), value),
    };
    let path = match &m.path {
        PathMatch::Exact(path) => path == request.path,
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            prefix.is_empty()
                || request.path == prefix
                || request.path.starts_with(&format!("{prefix}/"))
        }
        PathMatch::Regex(pattern) => whole(pattern.source(), request.path),
    };
    path && m.method.as_ref().is_none_or(|method| method == request.method)
        && m.headers.iter().all(|header| {
            let values = headers.get_all(&header.name).iter();
            let values: Vec<_> = values.map(|value| value.to_str().unwrap()).collect();
            !values.is_empty() && value_is(&header.value, &values.join(","))
        })
        && m.query.iter().all(|parameter| {
            let pairs = request.query.unwrap_or_default().split('&');
            let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
            let first = pairs.find(|(name, _)| plain(name) == parameter.name);
            first.is_some_and(|(_, value)| value_is(&parameter.value, &plain(value)))
        })
}

fn whole(source: &str, value: &str) -> bool {
    ::regex::Regex::new(&format!("^(?:{source})$")).unwrap().is_match(value)
}

/// Decodes the alphabet of the test.
fn plain(text: &str) -> String {
    text.replace("%61", "a").replace("%20", " ").replace('+', " ")
}

fn path() -> impl Strategy<Value = String> {
    let element = prop::sample::select(vec!["a", "b", "ab", "é"]);
    (prop::collection::vec(element, 0..4), any::<bool>()).prop_map(|(elements, slash)| {
        let path = format!("/{}", elements.join("/"));
        if slash && path.len() > 1 { path + "/" } else { path }
    })
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop::sample::select(vec![
        value("1"),
        value("2"),
        value("1,2"),
        value("a a"),
        ValueMatch::Regex(regex("1.*")),
        ValueMatch::Regex(regex("1|a a")),
    ])
}

fn a_match() -> impl Strategy<Value = Match> {
    let patterns: Vec<_> = PATTERNS.iter().map(|(source, _)| *source).collect();
    let path = prop_oneof![
        path().prop_map(PathMatch::Exact),
        path().prop_map(PathMatch::Prefix),
        Just(PathMatch::Prefix("/".to_owned())),
        prop::sample::select(patterns).prop_map(|source| PathMatch::Regex(regex(source))),
    ];
    let methods = vec![None, None, Some(Method::GET), Some(Method::POST)];
    let header = prop::sample::subsequence(vec!["x", "y", "z"], 0..=2);
    let query = prop::sample::subsequence(vec!["a", "b", "a b"], 0..=2);
    let values = prop::collection::vec(value_match(), 4);
    (path, prop::sample::select(methods), header, query, values).prop_map(
        |(path, method, headers, query, values)| {
            let mut values = values.into_iter();
            let mut match_ = Match { method, ..on(path) };
            for name in headers {
                match_ = match_.with_header(name, values.next().unwrap());
            }
            for name in query {
                match_ = match_.with_query(name, values.next().unwrap());
            }
            match_
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_table_finds_what_a_scan_does(
        matches in prop::collection::vec(prop::collection::vec(a_match(), 1..4), 0..20),
        requests in prop::collection::vec((
            prop_oneof![path(), Just("*".to_owned())],
            prop::sample::select(vec![Method::GET, Method::POST, Method::PUT]),
            prop::collection::vec(
                prop::sample::select(vec![("x", "1"), ("x", "2"), ("y", "1"), ("z", "a a")]),
                0..4,
            ),
            prop::option::of(prop::collection::vec(
                prop::sample::select(vec!["a=1", "%61=2", "a+b=1", "a%20b=2", "b=a+%61", "c=1"]),
                0..4,
            )),
        ), 1..8),
    ) {
        let rules = rules(matches);
        for (path, method, headers, query) in requests {
            let query = query.map(|parameters| parameters.join("&"));
            let headers = fields(&headers);
            let request = RequestView {
                method: &method,
                path: &path,
                query: query.as_deref(),
                headers: &headers,
            };
            let found = find(&rules, &request).map(|found| (found.index, found.matched));
            prop_assert_eq!(found, oracle(&rules, &request, &headers), "{:?}", request);
        }
    }
}
