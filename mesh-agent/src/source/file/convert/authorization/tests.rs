//! Policies as they are written, and what of them is put in force.

use serde::Deserialize as _;

use super::super::super::{schema, yaml};
use http::HeaderName;

use super::*;
use crate::model::policy::Block;
use crate::model::policy::request::Template;

struct Seed;

impl<'de> serde::de::DeserializeSeed<'de> for Seed {
    type Value = schema::AuthorizationPolicy;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        schema::AuthorizationPolicy::deserialize(d)
    }
}

/// Converts a policy of the namespace `shop` whose `spec` is this flow mapping, in a mesh of the
/// trust domain `cluster.local`.
fn read(annotations: &str, spec: &str) -> (Option<AuthorizationPolicy>, Problems) {
    read_in(&TrustDomains::new("cluster.local", []), annotations, spec)
}

fn read_in(
    domains: &TrustDomains,
    annotations: &str,
    spec: &str,
) -> (Option<AuthorizationPolicy>, Problems) {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a, \
         namespace: shop, annotations: {annotations}}}\nspec: {spec}\n"
    );
    let mut problems = Problems::default();
    let written = yaml::parse(&text, Seed).unwrap_or_else(|error| panic!("{spec}: {error:?}"));
    let policy = convert(written, domains, &mut problems);
    (policy, problems)
}

/// The policy that `spec` puts in force, and the fields that are noted.
#[track_caller]
fn check(spec: &str, action: Action, rules: &[Rule], notes: &[&str]) {
    let (policy, problems) = read("{}", spec);
    assert!(!problems.is_fatal, "{spec}: {problems:?}");
    let policy = policy.unwrap();
    assert_eq!((policy.action, policy.rules.as_slice()), (action, rules), "{spec}");
    let found: Vec<_> = problems.found.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(found, notes, "{spec}");
    assert!(problems.found.iter().all(|problem| problem.reason == Reason::UnsupportedValue));
}

/// Checks that `spec` is refused because of these fields.
#[track_caller]
fn refused(spec: &str, fields: &[&str]) {
    let (_, problems) = read("{}", spec);
    assert!(problems.is_fatal, "{spec}: {problems:?}");
    let found: Vec<_> = problems.found.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(found, fields, "{spec}");
}

fn exact(text: &str) -> Vec<Text> {
    vec![Text::Exact(text.to_owned())]
}

fn block(network: &str, prefix: u8) -> Vec<Block> {
    vec![Block { network: network.parse().unwrap(), prefix }]
}

fn from(source: Source) -> Rule {
    Rule { from: vec![source], ..Rule::default() }
}

fn to(operation: Operation) -> Rule {
    Rule { to: vec![operation], ..Rule::default() }
}

fn when(when: When) -> Rule {
    Rule { when: vec![when], ..Rule::default() }
}

#[test]
fn no_rule_matches_nothing_and_an_empty_one_everything() {
    check("", Action::Allow, &[], &[]);
    check("{}", Action::Allow, &[], &[]);
    check("{rules: []}", Action::Allow, &[], &[]);
    check("{rules: null, action: DENY}", Action::Deny, &[], &[]);
    check("{rules: [{}]}", Action::Allow, &[Rule::default()], &[]);
    check("{rules: [{}], action: DENY}", Action::Deny, &[Rule::default()], &[]);
}

#[test]
fn every_field_of_a_connection_is_read() {
    let source = Source {
        principals: exact("cluster.local/ns/shop/sa/web"),
        not_principals: vec![Text::Suffix("/sa/old".into())],
        namespaces: vec![Text::Prefix("sh".into())],
        not_namespaces: vec![Text::Present],
        ip_blocks: block("10.0.0.0", 8),
        not_ip_blocks: block("10.0.0.1", 32),
    };
    let operation = Operation { ports: vec![80, 81], not_ports: vec![82], ..Operation::default() };
    let rule = Rule { from: vec![source], to: vec![operation], ..Rule::default() };
    let spec = "{rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web], \
                notPrincipals: ['*/sa/old'], namespaces: [sh*], notNamespaces: ['*'], ipBlocks: \
                [10.0.0.0/8], notIpBlocks: [10.0.0.1]}}], to: [{operation: {ports: ['80', 81], \
                notPorts: ['82']}}]}]}";
    check(spec, Action::Allow, &[rule], &[]);
}

#[test]
fn service_accounts_are_principals_of_any_trust_domain() {
    let suffix = |text: &str| vec![Text::Suffix(text.to_owned())];
    let source = Source { principals: suffix("/ns/shop/sa/web"), ..Source::default() };
    let spec = "{rules: [{from: [{source: {serviceAccounts: [web]}}]}]}";
    check(spec, Action::Allow, &[from(source)], &[]);
    let source = Source { not_principals: suffix("/ns/bank/sa/web"), ..Source::default() };
    let spec = "{rules: [{from: [{source: {notServiceAccounts: [bank/web]}}]}]}";
    check(spec, Action::Allow, &[from(source)], &[]);
    for other in
        ["principals: ['*']", "notPrincipals: ['*a']", "namespaces: [a]", "notNamespaces: [a]"]
    {
        refused(
            &format!("{{rules: [{{from: [{{source: {{serviceAccounts: [web], {other}}}}}]}}]}}"),
            &["spec.rules[0].from[0].source.serviceAccounts"],
        );
    }
}

#[test]
fn conditions_on_connections_are_read() {
    let source = |source| when(When { source, ..When::default() });
    let operation = |operation| when(When { operation, ..When::default() });
    let rules = [
        (
            "source.ip",
            "values: [10.0.0.0/8]",
            source(Source { ip_blocks: block("10.0.0.0", 8), ..Source::default() }),
        ),
        (
            "source.ip",
            "notValues: ['fd00::']",
            source(Source { not_ip_blocks: block("fd00::", 128), ..Source::default() }),
        ),
        (
            "source.namespace",
            "values: [shop], notValues: [bank]",
            source(Source {
                namespaces: exact("shop"),
                not_namespaces: exact("bank"),
                ..Source::default()
            }),
        ),
        (
            "source.principal",
            "values: ['*/a'], notValues: ['*/b']",
            source(Source {
                principals: vec![Text::Suffix("/a".into())],
                not_principals: vec![Text::Suffix("/b".into())],
                ..Source::default()
            }),
        ),
        (
            "source.serviceAccount",
            "values: [web]",
            source(Source {
                principals: vec![Text::Suffix("/ns/shop/sa/web".into())],
                ..Source::default()
            }),
        ),
        (
            "destination.port",
            "values: ['80'], notValues: [81]",
            operation(Operation { ports: vec![80], not_ports: vec![81], ..Operation::default() }),
        ),
    ];
    for (key, values, rule) in rules {
        let spec = format!("{{rules: [{{when: [{{key: {key}, {values}}}]}}]}}");
        check(&spec, Action::Allow, &[rule], &[]);
    }
}

#[test]
fn what_a_connection_does_not_have_allows_nothing() {
    let never = |rule: Rule| Rule { never: true, ..rule };
    for field in
        ["requestPrincipals", "notRequestPrincipals", "remoteIpBlocks", "notRemoteIpBlocks"]
    {
        let spec = format!("{{rules: [{{from: [{{source: {{{field}: [a]}}}}]}}, {{}}]}}");
        let path = format!("spec.rules[0].from[0].source.{field}");
        let rules = [never(from(Source::default())), Rule::default()];
        check(&spec, Action::Allow, &rules, &[&path]);
    }
    for key in
        ["request.headers[x y]", "request.auth.claims[iss]", "connection.sni", "destination.ip"]
    {
        let spec = format!("{{rules: [{{when: [{{key: '{key}', values: [a]}}]}}]}}");
        check(&spec, Action::Allow, &[never(Rule::default())], &["spec.rules[0].when[0].key"]);
    }
}

#[test]
fn what_a_connection_does_not_have_does_not_keep_a_deny_from_denying() {
    // The rest of an entry stays: without it, the others would deny less.
    let spec = "{action: DENY, rules: [{from: [{source: {requestPrincipals: ['*'], ipBlocks: \
                [10.0.0.1]}}, {source: {remoteIpBlocks: [10.0.0.2]}}], to: [{operation: {ports: \
                [80]}}], when: [{key: connection.sni, values: [a]}, \
                {key: source.namespace, values: [a]}]}]}";
    let sources =
        vec![Source { ip_blocks: block("10.0.0.1", 32), ..Source::default() }, Source::default()];
    let operations = vec![Operation { ports: vec![80], ..Operation::default() }];
    let source = Source { namespaces: exact("a"), ..Source::default() };
    let conditions = vec![When { source, ..When::default() }];
    let rule = Rule { from: sources, to: operations, when: conditions, never: false };
    let notes = [
        "spec.rules[0].from[0].source.requestPrincipals",
        "spec.rules[0].from[1].source.remoteIpBlocks",
        "spec.rules[0].when[0].key",
    ];
    check(spec, Action::Deny, &[rule], &notes);
}

#[test]
fn what_cannot_be_enforced_denies_or_has_no_effect() {
    let everything = [Rule::default()];
    let narrow = "rules: [{to: [{operation: {ports: [80]}}]}]";
    let check = |fields: &str, rules: &[Rule], note: &str| {
        check(&format!("{{{fields}, {narrow}}}"), Action::Deny, rules, &[note]);
    };
    check("action: CUSTOM, provider: {name: opa}", &everything, "spec.action");
    check("action: CUSTOM", &everything, "spec.action");
    check("targetRef: {kind: Service, name: web}", &everything, "spec.targetRef");
    let two = "targetRefs: [{kind: Gateway, name: web}, {kind: Service, name: web}]";
    check(two, &everything, "spec.targetRefs[1]");
    let gateway = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]";
    check(gateway, &[], "spec.targetRefs");
}

#[test]
fn a_dry_run_is_marked_as_one() {
    let check = |value: &str, is_dry: bool| {
        let (policy, problems) = read(
            &format!("{{istio.io/dry-run: '{value}', other: x}}"),
            "{action: DENY, rules: [{}]}",
        );
        let policy = policy.unwrap();
        assert_eq!((policy.dry_run, policy.rules.len(), problems.found.len()), (is_dry, 1, 0));
    };
    check("true", true);
    check("false", false);
}

#[test]
fn what_an_audit_cannot_know_it_does_not_tell() {
    let spec = "{action: AUDIT, rules: [{}, {from: [{source: {requestPrincipals: ['*']}}]}]}";
    let (policy, problems) = read("{}", spec);
    let policy = policy.unwrap();
    let never: Vec<_> = policy.rules.iter().map(|rule| rule.never).collect();
    assert_eq!((policy.action, never), (Action::Audit, vec![false, true]));
    assert!(problems.found[0].message.contains("this rule matches nothing"));
}

#[test]
fn what_would_restrict_nothing_is_refused() {
    let rule = "spec.rules[0]";
    let check = |written: &str, field: &str| {
        refused(&format!("{{rules: [{written}]}}"), &[&format!("{rule}{field}")]);
    };
    check("null", "");
    check("{from: []}", ".from");
    check("{from: null}", ".from");
    check("{to: []}", ".to");
    check("{when: []}", ".when");
    check("{from: [{}]}", ".from[0].source");
    check("{from: [{source: null}]}", ".from[0].source");
    check("{from: [{source: {}}]}", ".from[0].source");
    check("{to: [{operation: {}}]}", ".to[0].operation");
    check("{from: [{source: {principals: []}}]}", ".from[0].source.principals");
    check("{from: [{source: {ipBlocks: null}}]}", ".from[0].source.ipBlocks");
    check("{to: [{operation: {ports: []}}]}", ".to[0].operation.ports");
    check("{when: [{key: source.ip}]}", ".when[0]");
    check("{when: [{key: source.ip, values: []}]}", ".when[0].values");
}

#[test]
fn wrong_values_are_refused() {
    refused("{action: deny}", &["spec.action"]);
    refused("{action: DENY, provider: {name: opa}}", &["spec.provider"]);
    refused("{selector: {matchLabels: {app: 'a*'}}}", &["spec.selector.matchLabels"]);
    refused(
        "{rules: [{from: [{source: {principals: ['a*b', '*ok'], ipBlocks: [10.0.0.0/33]}}], to: \
         [{operation: {ports: ['0', x, 70000]}}]}]}",
        &[
            "spec.rules[0].from[0].source.principals[0]",
            "spec.rules[0].from[0].source.ipBlocks[0]",
            "spec.rules[0].to[0].operation.ports[0]",
            "spec.rules[0].to[0].operation.ports[1]",
            "spec.rules[0].to[0].operation.ports[2]",
        ],
    );
}

#[test]
fn the_condition_says_what_is_done() {
    let message = |spec: &str| read("{}", spec).1.found.remove(0).message;
    let allow = message("{rules: [{when: [{key: connection.sni, values: [a]}]}]}");
    assert_eq!(
        allow,
        "`connection.sni` is not known here, so that this rule allows nothing; remove this, or the rule"
    );
    let deny = message("{action: DENY, rules: [{when: [{key: connection.sni, values: [a]}]}]}");
    assert_eq!(
        deny,
        "`connection.sni` is not known here, so that this rule denies without regard to it, which is \
         more than is written; remove this, or the rule"
    );
}

#[test]
fn what_requests_have_is_read() {
    let text = |text: &str| Text::Exact(text.into());
    let path = |path: &str| PathText::Template(Template::new(path).unwrap());
    let http = HttpOperation {
        methods: vec![text("GET")],
        not_methods: vec![Text::Prefix("P".into())],
        paths: vec![PathText::Text(Text::Prefix("/a/".into())), path("/b/{*}/c/{**}")],
        not_paths: vec![PathText::Text(text("/a/b"))],
        hosts: vec![Text::Suffix(".example".into())],
        not_hosts: vec![Text::Present],
    };
    let spec = "{rules: [{to: [{operation: {methods: [GET], notMethods: [P*], paths: [/a/*, '/b/{*}/c/{**}'], \
                notPaths: [/a/b], hosts: ['*.Example'], notHosts: ['*']}}]}]}";
    check(spec, Action::Allow, &[to(Operation { http, ..Operation::default() })], &[]);

    let header = HeaderCondition {
        name: HeaderName::from_static("x-user"),
        values: vec![text("a")],
        not_values: vec![Text::Present],
    };
    let rule =
        Rule { when: vec![When { header: Some(header), ..When::default() }], ..Rule::default() };
    let spec =
        "{rules: [{when: [{key: 'request.headers[X-User]', values: [a], notValues: ['*']}]}]}";
    check(spec, Action::Allow, &[rule], &[]);
    refused(
        "{rules: [{to: [{operation: {paths: ['/a{*}', '/{**}/{*}', 'a*b', /fine]}}]}]}",
        &[
            "spec.rules[0].to[0].operation.paths[0]",
            "spec.rules[0].to[0].operation.paths[1]",
            "spec.rules[0].to[0].operation.paths[2]",
        ],
    );
}

#[test]
fn principals_are_of_every_trust_domain_of_the_mesh() {
    let mesh = TrustDomains::new("new.example", ["old.example".to_owned()]);
    let both = ["old.example/ns/shop/sa/web", "new.example/ns/shop/sa/web"];
    let both = both.map(|text| Text::Exact(text.to_owned()));
    let lists = [
        ("from: [{source: {principals: [@/ns/shop/sa/web]}}]", true),
        ("from: [{source: {notPrincipals: [@/ns/shop/sa/web]}}]", false),
        ("when: [{key: source.principal, values: [@/ns/shop/sa/web]}]", true),
        ("when: [{key: source.principal, notValues: [@/ns/shop/sa/web]}]", false),
    ];
    for (list, is_meant) in lists {
        for domain in ["cluster.local", "old.example", "new.example"] {
            let rule = list.replace('@', domain);
            let (policy, problems) = read_in(&mesh, "{}", &format!("{{rules: [{{{rule}}}]}}"));
            assert_eq!(problems.found, [], "{rule}");
            let rule = policy.unwrap().rules.remove(0);
            let sources = rule.from.iter().chain(rule.when.iter().map(|when| &when.source));
            let source = sources.last().unwrap();
            let found = if is_meant { &source.principals } else { &source.not_principals };
            assert_eq!(found[..], both, "{rule:?}");
        }
    }
}

#[test]
fn a_principal_that_nobody_has_is_noted_and_stays() {
    let mesh = TrustDomains::new("new.example", ["old.example".to_owned()]);
    for (list, field) in [
        ("from: [{source: {principals: [@]}}]", "from[0].source.principals[0]"),
        ("from: [{source: {notPrincipals: ['*', @]}}]", "from[0].source.notPrincipals[1]"),
        ("when: [{key: source.principal, values: [@]}]", "when[0].values[0]"),
    ] {
        for nobody in ["other.example/ns/shop/sa/web", "other.example/*", "web"] {
            let rule = list.replace('@', &format!("'{nobody}'"));
            let spec = format!("{{action: DENY, rules: [{{{rule}}}]}}");
            let (policy, problems) = read_in(&mesh, "{}", &spec);
            let [problem] = &problems.found[..] else { panic!("{spec}: {problems:?}") };
            assert_eq!(problem.path, format!("spec.rules[0].{field}"));
            assert_eq!((problem.reason, problem.fatal), (Reason::NoMatchingPrincipal, false));
            let rule = policy.unwrap().rules.remove(0);
            assert_ne!(rule, Rule::default(), "a rule without it would match everybody");
        }
    }
}

#[test]
fn a_policy_that_says_too_much_refuses_everything() {
    let list = |count: usize, text: &str| {
        let texts: Vec<_> = (0..count).map(|n| text.replace('N', &n.to_string())).collect();
        texts.join(", ")
    };
    let check = |action: &str, rules: &str, expect: Option<(Action, usize)>| {
        let (policy, problems) = read("{}", &format!("{{action: {action}, rules: [{rules}]}}"));
        let policy = policy.unwrap();
        match expect {
            None => assert!(problems.found.is_empty(), "{problems:?}"),
            Some(expect) => {
                assert_eq!(problems.found[0].reason, Reason::LimitExceeded, "{problems:?}");
                assert_eq!((policy.action, policy.rules.len()), expect);
                assert!(policy.rules.iter().all(|rule| *rule == Rule::default()));
            }
        }
    };
    let paths = |count| format!("{{to: [{{operation: {{paths: [{}]}}}}]}}", list(count, "/a/N"));
    let blocks =
        |count| format!("{{from: [{{source: {{ipBlocks: [{}]}}}}]}}", list(count, "'fd00::N'"));
    let ports = |count| list(count, "{to: [{operation: {ports: ['80']}}]}");
    for (most, rules) in
        [(1_024, &paths as &dyn Fn(usize) -> String), (8_192, &blocks), (1_024, &ports)]
    {
        check("ALLOW", &rules(most), None);
        check("ALLOW", &rules(most + 1), Some((Action::Deny, 1)));
        check("DENY", &rules(most + 1), Some((Action::Deny, 1)));
        check("AUDIT", &rules(most + 1), Some((Action::Audit, 0)));
    }
}
