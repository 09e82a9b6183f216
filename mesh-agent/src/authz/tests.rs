//! Istio's rules: tables, and a second evaluation that is written as the documentation reads.

use http::{HeaderMap, HeaderName};
use proptest::prelude::*;

use super::*;
use crate::model::policy::request::{HeaderCondition, HttpOperation, PathText, Template};

fn id(text: &str) -> SpiffeId {
    format!("spiffe://{text}").parse().unwrap()
}

const WEB: &str = "cluster.local/ns/shop/sa/web";

pub(super) fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Arc<AuthorizationPolicy> {
    let name = ResourceName::new("shop", name);
    Arc::new(AuthorizationPolicy { name, selector: [].into(), action, dry_run: false, rules })
}

pub(super) fn text(text: &str) -> Text {
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => Text::Present,
        (Some(end), _) => Text::Suffix(end.to_owned()),
        (None, Some(begin)) => Text::Prefix(begin.to_owned()),
        (None, None) => Text::Exact(text.to_owned()),
    }
}

fn block(text: &str) -> Block {
    let (network, prefix) = text.split_once('/').unwrap();
    Block { network: network.parse().unwrap(), prefix: prefix.parse().unwrap() }
}

fn from(source: Source) -> Rule {
    Rule { from: vec![source], ..Rule::default() }
}

/// Whether one `ALLOW` rule lets a connection from `principal` (empty: unknown) at `address` to
/// `port` pass.
#[track_caller]
fn check(rule: &Rule, (principal, address, port): (&str, &str, u16), expect: bool) {
    let principal = (!principal.is_empty()).then(|| id(principal));
    let address = address.parse().unwrap();
    let request = Request { principal: principal.as_ref(), address, port, http: None };
    let verdict = decide(&[policy("a", Action::Allow, vec![rule.clone()])], &request);
    let denied = Verdict::Deny(Denial::NoneAllows(ResourceName::new("shop", "a")));
    assert_eq!(verdict, if expect { Verdict::Allow } else { denied }, "{rule:?} {request:?}");
}

#[test]
fn a_deny_wins_and_an_allow_makes_a_list() {
    let all = || vec![Rule::default()];
    let none = Vec::new;
    let allow = |name, rules| policy(name, Action::Allow, rules);
    let deny = |name, rules| policy(name, Action::Deny, rules);
    let none_allows =
        |name: &str| Verdict::Deny(Denial::NoneAllows(ResourceName::new("shop", name)));
    let matched =
        |name: &str, rule| Verdict::Deny(Denial::Matched(ResourceName::new("shop", name), rule));
    let never = Rule { never: true, ..Rule::default() };
    let cases = [
        (vec![], Verdict::Allow),
        (vec![allow("a", all())], Verdict::Allow),
        (vec![allow("a", none())], none_allows("a")),
        (vec![allow("a", none()), allow("b", none())], none_allows("a")),
        (vec![allow("a", none()), allow("b", all())], Verdict::Allow),
        (vec![allow("a", vec![never.clone()])], none_allows("a")),
        (vec![allow("a", vec![never.clone(), Rule::default()])], Verdict::Allow),
        (vec![deny("a", none())], Verdict::Allow),
        (vec![deny("a", all())], matched("a", 0)),
        (vec![allow("a", all()), deny("b", all())], matched("b", 0)),
        (vec![deny("a", none()), deny("b", vec![never, Rule::default()])], matched("b", 1)),
        (vec![deny("a", none()), allow("b", none())], none_allows("b")),
    ];
    let web = id(WEB);
    let address = "10.0.0.1".parse().unwrap();
    for principal in [None, Some(&web)] {
        let request = Request { principal, address, port: 80, http: None };
        for (policies, expect) in &cases {
            assert_eq!(decide(policies, &request), *expect, "{policies:?}");
        }
    }
}

#[test]
fn a_denial_names_its_policy() {
    let request =
        Request { principal: None, address: "10.0.0.1".parse().unwrap(), port: 80, http: None };
    for action in [Action::Allow, Action::Deny] {
        let rules = if action == Action::Deny { vec![Rule::default()] } else { Vec::new() };
        let Verdict::Deny(denial) = decide(&[policy("a", action, rules)], &request) else {
            panic!("{action:?}");
        };
        assert_eq!(*denial.policy(), ResourceName::new("shop", "a"));
    }
}

#[test]
fn principals_are_compared_as_istio_does() {
    let check = |written: &str, expect: bool| {
        let source = Source { principals: vec![text(written)], ..Source::default() };
        check(&from(source), (WEB, "10.0.0.1", 80), expect);
        let source = Source { not_principals: vec![text(written)], ..Source::default() };
        check(&from(source), (WEB, "10.0.0.1", 80), !expect);
    };
    for yes in [
        WEB,
        "*",
        "cluster.local/ns/shop/sa/web*",
        "cluster.local/ns/shop/*",
        "cluster.local/ns/sh*",
        "cluster.loc*",
        "*/ns/shop/sa/web",
        "*hop/sa/web",
        "*/web",
        "*b",
        "*cluster.local/ns/shop/sa/web",
    ] {
        check(yes, true);
    }
    for no in [
        "cluster.local/ns/shop/sa/we",
        "cluster.local/ns/shop/sa/webs",
        "cluster.local/ns/shop",
        "spiffe://cluster.local/ns/shop/sa/web",
        "cluster.local/ns/shop/sa/webs*",
        "ns/shop*",
        "*/sa/eb",
        "*x/cluster.local/ns/shop/sa/web",
        "",
    ] {
        check(no, false);
    }
}

#[test]
fn who_is_unknown_has_no_principal_and_no_namespace() {
    let unknown = ("", "10.0.0.1", 80);
    let any = || vec![Text::Present];
    check(&from(Source { principals: any(), ..Source::default() }), unknown, false);
    check(&from(Source { namespaces: any(), ..Source::default() }), unknown, false);
    check(&from(Source { not_principals: any(), ..Source::default() }), unknown, true);
    check(&from(Source { not_namespaces: any(), ..Source::default() }), unknown, true);
    check(&from(Source { not_principals: any(), ..Source::default() }), (WEB, "::1", 80), false);
}

#[test]
fn blocks_are_of_one_family() {
    let check = |written: &str, address: &str, expect: bool| {
        let source = Source { ip_blocks: vec![block(written)], ..Source::default() };
        check(&from(source), ("", address, 80), expect);
        let source = Source { not_ip_blocks: vec![block(written)], ..Source::default() };
        check(&from(source), ("", address, 80), !expect);
    };
    check("10.0.0.0/8", "10.255.255.255", true);
    check("10.0.0.0/8", "11.0.0.0", false);
    check("10.0.0.0/8", "::ffff:10.1.2.3", true);
    check("10.1.2.3/32", "10.1.2.3", true);
    check("10.1.2.3/32", "10.1.2.2", false);
    check("0.0.0.0/0", "203.0.113.9", true);
    check("0.0.0.0/0", "fd00::1", false);
    check("::/0", "fd00::1", true);
    check("::/0", "10.0.0.1", false);
    check("fd00::/16", "fd00:ffff::1", true);
    check("fd00::1/128", "fd00::2", false);
}

#[test]
fn all_parts_of_a_rule_must_match_and_one_entry_of_each() {
    let source = |account: &str, network: &str| Source {
        principals: vec![text(&format!("*/sa/{account}"))],
        ip_blocks: vec![block(network)],
        ..Source::default()
    };
    let port = |port| Operation { ports: vec![port], ..Operation::default() };
    let rule = Rule {
        from: vec![source("web", "10.0.0.0/8"), source("api", "10.0.0.0/8")],
        to: vec![port(80), Operation { not_ports: vec![80, 81, 82], ..Operation::default() }],
        when: vec![
            When {
                source: Source { namespaces: vec![text("shop")], ..Source::default() },
                ..When::default()
            },
            When {
                operation: Operation { not_ports: vec![99], ..Operation::default() },
                ..When::default()
            },
        ],
        never: false,
    };
    check(&rule, (WEB, "10.0.0.1", 80), true);
    check(&rule, ("cluster.local/ns/shop/sa/api", "10.0.0.1", 83), true);
    check(&rule, ("cluster.local/ns/shop/sa/db", "10.0.0.1", 80), false);
    check(&rule, (WEB, "11.0.0.1", 80), false);
    check(&rule, (WEB, "10.0.0.1", 81), false);
    check(&rule, (WEB, "10.0.0.1", 99), false);
    check(&rule, ("cluster.local/ns/bank/sa/web", "10.0.0.1", 80), false);
    check(&Rule { never: true, ..rule }, (WEB, "10.0.0.1", 80), false);
}

/// A second evaluation: by the printed name, with sets of yes and no, and no early end.
mod naive {
    use super::*;

    pub(super) fn allows(policies: &[Arc<AuthorizationPolicy>], request: &Request<'_>) -> bool {
        let hit = |policy: &&Arc<AuthorizationPolicy>| {
            policy.rules.iter().filter(|rule| matches(rule, request)).count() > 0
        };
        let n = |action, only_hits: bool| {
            let of = policies.iter().filter(|policy| policy.action == action);
            of.filter(|policy| !only_hits || hit(policy)).count()
        };
        n(Action::Deny, true) == 0 && (n(Action::Allow, false) == 0 || n(Action::Allow, true) > 0)
    }

    fn matches(rule: &Rule, request: &Request<'_>) -> bool {
        let mut clauses = vec![!rule.never];
        let sources: Vec<_> =
            rule.from.iter().map(|source| self::source(source, request)).collect();
        clauses.push(sources.is_empty() || sources.contains(&true));
        let ports: Vec<_> = rule.to.iter().map(|to| operation(to, request)).collect();
        clauses.push(ports.is_empty() || ports.contains(&true));
        for when in &rule.when {
            clauses.push(source(&when.source, request));
            clauses.push(operation(&when.operation, request));
        }
        !clauses.contains(&false)
    }

    fn source(source: &Source, request: &Request<'_>) -> bool {
        let name = request.principal.map(|id| id.to_string().replacen("spiffe://", "", 1));
        let namespace = name.as_ref().map(|name| name.split('/').nth(2).unwrap().to_owned());
        let is = |value: &Option<String>| {
            let value = value.clone();
            move |text: &Text| value.as_ref().is_some_and(|value| like(text, value))
        };
        let inside = |block: &Block| {
            let bits = |address: IpAddr| match address.to_canonical() {
                IpAddr::V4(v4) => format!("4{:032b}", v4.to_bits()),
                IpAddr::V6(v6) => format!("6{:0128b}", v6.to_bits()),
            };
            // The family comes first, so that a block of one has no address of the other.
            let length = 1 + usize::from(block.prefix);
            bits(request.address).get(..length) == bits(block.network).get(..length)
        };
        list(&source.principals, &source.not_principals, is(&name))
            && list(&source.namespaces, &source.not_namespaces, is(&namespace))
            && list(&source.ip_blocks, &source.not_ip_blocks, inside)
    }

    fn operation(operation: &Operation, request: &Request<'_>) -> bool {
        list(&operation.ports, &operation.not_ports, |port| *port == request.port)
    }

    fn list<T>(yes: &[T], no: &[T], is: impl Fn(&T) -> bool) -> bool {
        let hits = |list: &[T]| list.iter().filter(|one| is(one)).count();
        hits(no) == 0 && (yes.is_empty() || hits(yes) > 0)
    }

    fn like(text: &Text, value: &str) -> bool {
        match text {
            Text::Exact(text) => text == value,
            Text::Prefix(begin) => value.find(begin.as_str()) == Some(0),
            Text::Suffix(end) => {
                value.rsplit_once(end.as_str()).is_some_and(|(_, rest)| rest.is_empty())
            }
            Text::Present => true,
        }
    }
}

pub(crate) fn principals() -> impl Strategy<Value = SpiffeId> {
    let domain = prop::sample::select(vec!["a", "b", "ab"]);
    let namespace = prop::sample::select(vec!["x", "y", "xy", "ns"]);
    let account = prop::sample::select(vec!["x", "sa", "xx"]);
    (domain, namespace, account)
        .prop_map(|(domain, namespace, account)| SpiffeId::new(domain, namespace, account).unwrap())
}

/// Texts that are like the names above, cut anywhere.
fn texts() -> impl Strategy<Value = Text> {
    (principals(), any::<prop::sample::Index>(), 0..4).prop_map(|(id, at, kind)| {
        let name = id.to_string().replacen("spiffe://", "", 1);
        let (begin, end) = name.split_at(at.index(name.len()));
        match kind {
            0 => Text::Exact(name.clone()),
            1 => Text::Prefix(begin.to_owned()),
            2 => Text::Suffix(end.to_owned()),
            _ => Text::Present,
        }
    })
}

fn namespaces() -> impl Strategy<Value = Text> {
    prop::sample::select(vec!["x", "y", "xy", "x*", "*y", "*", "z"]).prop_map(text)
}

pub(crate) fn addresses() -> impl Strategy<Value = IpAddr> {
    let texts = vec!["10.0.0.1", "10.0.0.2", "11.0.0.1", "fd00::1", "fd01::1", "::ffff:10.0.0.1"];
    prop::sample::select(texts).prop_map(|text| text.parse().unwrap())
}

fn blocks() -> impl Strategy<Value = Block> {
    (addresses(), 0u8..=128).prop_map(|(network, prefix)| match network.to_canonical() {
        IpAddr::V4(v4) => Block { network: v4.into(), prefix: prefix.min(32) },
        IpAddr::V6(v6) => Block { network: v6.into(), prefix },
    })
}

fn few<T: fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(of, 0..2)
}

fn sources() -> impl Strategy<Value = Source> {
    let names = (few(texts()), few(texts()), few(namespaces()), few(namespaces()));
    (names, few(blocks()), few(blocks())).prop_map(|(names, ip_blocks, not_ip_blocks)| {
        let (principals, not_principals, namespaces, not_namespaces) = names;
        Source { principals, not_principals, namespaces, not_namespaces, ip_blocks, not_ip_blocks }
    })
}

fn operations() -> impl Strategy<Value = Operation> {
    (few(80u16..83), few(80u16..83)).prop_map(|(ports, not_ports)| Operation {
        ports,
        not_ports,
        ..Operation::default()
    })
}

fn rules() -> impl Strategy<Value = Rule> {
    let when = (sources(), operations()).prop_map(|(source, operation)| When {
        source,
        operation,
        header: None,
    });
    let never = prop::bool::weighted(0.1);
    (prop::collection::vec(sources(), 0..3), few(operations()), few(when), never)
        .prop_map(|(from, to, when, never)| Rule { from, to, when, never })
}

fn policies() -> impl Strategy<Value = Vec<Arc<AuthorizationPolicy>>> {
    let action = prop::sample::select(vec![Action::Allow, Action::Deny]);
    let one = (action, prop::collection::vec(rules(), 0..3))
        .prop_map(|(action, rules)| policy("a", action, rules));
    prop::collection::vec(one, 0..4)
}

/// Words that methods, hosts, values of headers and, with a slash before them, paths are of.
fn words() -> impl Strategy<Value = Text> {
    prop::sample::select(vec!["a", "ab", "a*", "*b", "*"]).prop_map(text)
}

fn path_texts() -> impl Strategy<Value = PathText> {
    let texts = vec!["/a", "/a/*", "*/b", "/{*}", "/a/{**}", "*"];
    prop::sample::select(texts).prop_map(|written| match Template::new(written) {
        Some(template) if written.contains('{') => PathText::Template(template),
        _ => PathText::Text(text(written)),
    })
}

fn http_operations() -> impl Strategy<Value = HttpOperation> {
    let lists = (few(words()), few(words()), few(words()), few(words()));
    (lists, few(path_texts()), few(path_texts())).prop_map(|(lists, paths, not_paths)| {
        let (methods, not_methods, hosts, not_hosts) = lists;
        HttpOperation { methods, not_methods, paths, not_paths, hosts, not_hosts }
    })
}

fn http_rules() -> impl Strategy<Value = Rule> {
    let name = HeaderName::from_static("x-a");
    let header = (few(words()), few(words())).prop_map(move |(values, not_values)| {
        Some(HeaderCondition { name: name.clone(), values, not_values })
    });
    let conditions = (prop::option::of(http_operations()), prop::option::of(header));
    (rules(), conditions).prop_map(|(mut rule, (http, header))| {
        if let Some(http) = http {
            rule.to.push(Operation { http, ..Operation::default() });
        }
        if let Some(header) = header {
            rule.when.push(When { header, ..When::default() });
        }
        rule
    })
}

pub(crate) fn http_policies() -> impl Strategy<Value = Vec<Arc<AuthorizationPolicy>>> {
    let action = prop::sample::select(vec![Action::Allow, Action::Deny]);
    let one = (action, prop::collection::vec(http_rules(), 0..3))
        .prop_map(|(action, rules)| policy("a", action, rules));
    prop::collection::vec(one, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The kernel and whoever moves bytes rely on it.
    #[test]
    fn what_is_said_of_a_connection_holds_for_each_request(
        policies in http_policies(), principal in prop::option::of(principals()),
        address in addresses(), port in 80u16..83, method in "[ab]{1,2}",
        path in "/[ab/]{0,3}", host in prop::option::of("[ab]{1,2}"),
        header in prop::option::of("[ab]{1,2}"),
    ) {
        let request = Request { principal: principal.as_ref(), address, port, http: None };
        let header = header.map(|value| (HeaderName::from_static("x-a"), value.parse().unwrap()));
        let headers: HeaderMap = header.into_iter().collect();
        let (host, paths) = (host.map(Cow::Owned), Readings::of(&path));
        let http = HttpRequest { method: &method, host, paths, headers: &headers };
        let of_request = decide(&policies, &Request { http: Some(&http), ..request });
        prop_assert!(!matches!(of_request, Verdict::ByRequest(_)));
        match decide(&policies, &request) {
            Verdict::Allow => prop_assert_eq!(of_request, Verdict::Allow),
            Verdict::Deny(_) => prop_assert_ne!(of_request, Verdict::Allow),
            Verdict::ByRequest(_) => {
                let asks = |rule: &Rule| {
                    rule.to.iter().any(|to| !to.http.is_empty())
                        || rule.when.iter().any(|when| when.header.is_some())
                };
                prop_assert!(policies.iter().any(|policy| policy.rules.iter().any(asks)));
            }
        }
    }
}

#[test]
fn requests_are_judged_by_what_they_ask_for() {
    let operation =
        |http| Rule { to: vec![Operation { http, ..Operation::default() }], ..Rule::default() };
    let paths = |path: &str| HttpOperation {
        paths: vec![PathText::Text(text(path))],
        ..HttpOperation::default()
    };
    let get = HttpOperation { methods: vec![text("GET")], ..HttpOperation::default() };
    let not_admin = HttpOperation {
        not_paths: vec![PathText::Text(text("/admin*"))],
        ..HttpOperation::default()
    };
    let host = HttpOperation { hosts: vec![text("*.example")], ..HttpOperation::default() };
    let check = |action, http: &HttpOperation, (method, path, host): (&str, &str, &str), expect| {
        let headers = HeaderMap::new();
        let host = Some(Cow::Borrowed(host));
        let http_request =
            HttpRequest { method, host, paths: Readings::of(path), headers: &headers };
        let address = "10.0.0.1".parse().unwrap();
        let request = Request { principal: None, address, port: 80, http: Some(&http_request) };
        let policies = [policy("a", action, vec![operation(http.clone())])];
        assert_eq!(
            decide(&policies, &request) == Verdict::Allow,
            expect,
            "{http:?} {method} {path}"
        );
        let connection = decide(&policies, &Request { http: None, ..request });
        assert_eq!(connection, Verdict::ByRequest(ResourceName::new("shop", "a")));
    };
    let (allow, deny) = (Action::Allow, Action::Deny);
    check(allow, &get, ("GET", "/", "a"), true);
    check(allow, &get, ("POST", "/", "a"), false);
    check(allow, &get, ("get", "/", "a"), false);
    check(deny, &get, ("get", "/", "a"), false);
    check(deny, &get, ("POST", "/", "a"), true);
    check(allow, &host, ("GET", "/", "a.example"), true);
    check(allow, &host, ("GET", "/", "a.example.evil"), false);
    // Servers may take it for the name without its last dot and without its port, or not.
    let not_host = HttpOperation { not_hosts: vec![text("*.example")], ..HttpOperation::default() };
    for host_of in ["a.example.", "a.example:80", "a.example.:80"] {
        check(deny, &host, ("GET", "/", host_of), false);
        check(allow, &host, ("GET", "/", host_of), false);
        check(deny, &not_host, ("GET", "/", host_of), false);
        check(allow, &not_host, ("GET", "/", host_of), false);
    }
    // However the application reads the path, it is denied if that is the one, and allowed only if
    // all are.
    for path in ["/admin", "/%61dmin", "//admin", "/x/../admin", "/admin/x", "/x/%2e%2e/admin"] {
        check(deny, &paths("/admin*"), ("GET", path, "a"), false);
        check(allow, &not_admin, ("GET", path, "a"), false);
    }
    check(deny, &paths("/admin*"), ("GET", "/adm", "a"), true);
    check(allow, &paths("/public/*"), ("GET", "/public/a", "a"), true);
    check(allow, &paths("/public/*"), ("GET", "/public/../admin", "a"), false);
    check(allow, &paths("/public/*"), ("GET", "/public/..%2fadmin", "a"), false);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn it_is_what_a_naive_evaluation_says(
        policies in policies(), principal in prop::option::of(principals()),
        address in addresses(), port in 80u16..83,
    ) {
        let request = Request { principal: principal.as_ref(), address, port, http: None };
        let allowed = decide(&policies, &request) == Verdict::Allow;
        prop_assert_eq!(allowed, naive::allows(&policies, &request));
    }

    #[test]
    fn more_denies_and_fewer_rules_never_allow_more(
        policies in policies(), rule in rules(), principal in prop::option::of(principals()),
        address in addresses(), port in 80u16..83,
    ) {
        let request = Request { principal: principal.as_ref(), address, port, http: None };
        if decide(&policies, &request) != Verdict::Allow {
            let mut more = policies.clone();
            more.push(policy("z", Action::Deny, vec![rule]));
            prop_assert_ne!(decide(&more, &request), Verdict::Allow);
            let mut fewer = policies;
            for policy in &mut fewer {
                let policy = Arc::make_mut(policy);
                if policy.action == Action::Allow {
                    policy.rules.pop();
                }
            }
            prop_assert_ne!(decide(&fewer, &request), Verdict::Allow);
        }
    }
}

/// Verdicts told with `policies` of a connection from [`WEB`].
fn tell(policies: &[Arc<AuthorizationPolicy>]) -> Vec<(String, Option<usize>, Outcome)> {
    let principal = id(WEB);
    let address = "10.0.0.1".parse().unwrap();
    let request = Request { principal: Some(&principal), address, port: 80, http: None };
    let told = told(policies, &request).into_iter();
    told.map(|told| (told.policy.name.to_string(), told.rule, told.outcome)).collect()
}

fn dry(policy: Arc<AuthorizationPolicy>) -> Arc<AuthorizationPolicy> {
    Arc::new(AuthorizationPolicy { dry_run: true, ..Arc::unwrap_or_clone(policy) })
}

#[test]
fn what_is_tried_out_or_audited_is_told_and_changes_nothing() {
    let port = |port| Rule {
        to: vec![Operation { ports: vec![port], ..Operation::default() }],
        ..Rule::default()
    };
    let (no, yes) = (port(81), port(80));
    let audit = policy("audit", Action::Audit, vec![no.clone(), yes.clone()]);
    let deny = dry(policy("deny", Action::Deny, vec![yes.clone()]));
    let allow = dry(policy("allow", Action::Allow, vec![no.clone()]));
    let passes = dry(policy("passes", Action::Allow, vec![no.clone(), yes.clone()]));
    let told = |name: &str, rule, outcome| (name.to_owned(), rule, outcome);
    for (policies, expect) in [
        (vec![], vec![]),
        (vec![Arc::clone(&audit)], vec![told("audit", Some(1), Outcome::Audited)]),
        (vec![dry(Arc::clone(&audit))], vec![]),
        (vec![Arc::clone(&deny)], vec![told("deny", Some(0), Outcome::WouldDeny)]),
        (vec![Arc::clone(&allow)], vec![told("allow", None, Outcome::WouldDeny)]),
        (
            vec![Arc::clone(&allow), Arc::clone(&passes)],
            vec![told("passes", Some(1), Outcome::WouldAllow)],
        ),
    ] {
        assert_eq!(tell(&policies), expect);
        let principal = id(WEB);
        let address = "10.0.0.1".parse().unwrap();
        let request = Request { principal: Some(&principal), address, port: 80, http: None };
        assert_eq!(decide(&policies, &request), Verdict::Allow);
    }
    // A connection that is refused anyway is not told of twice.
    let enforced = policy("enforced", Action::Deny, vec![yes]);
    assert_eq!(tell(&[enforced, deny, allow]), []);
}
