//! The store as its users see it: updates in, snapshots out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::endpoints::Catalog;
use super::index::{Family, Index};
use super::update::{Object, Resource};
use super::*;
use crate::model::condition::{Condition, Location, Reason};
use crate::model::http::pattern::Expression;
use crate::model::http::{self, Kind};
use crate::model::id::ResourceName;
use crate::model::route::{BackendRef, ParentRef, TcpRoute};
use crate::model::service::{AppProtocol, Service, ServicePort, TargetPort};
use crate::model::snapshot::{Backend, Endpoints, Snapshot, Split};
use crate::model::spiffe::SpiffeId;
use crate::model::workload::{NamedPort, Place, Workload};

/// `namespace/name`.
fn name(text: &str) -> ResourceName {
    let (namespace, name) = text.split_once('/').unwrap();
    ResourceName::new(namespace, name)
}

/// A service of these addresses, with port 80 to the port `tcp` and port 81 to 8081.
fn service(at: &str, app: &str, addresses: &[&str]) -> Object {
    let port = |port, target| {
        let (name, protocol) = (String::new(), AppProtocol::Unset);
        ServicePort { name, port, target, protocol }
    };
    Object::Service(Arc::new(Service {
        name: name(at),
        hostname: at.into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ports: vec![port(80, TargetPort::Name("tcp".into())), port(81, TargetPort::Number(8081))],
        selector: BTreeMap::from([("app".into(), app.into())]),
    }))
}

fn workload(at: &str, app: &str, addresses: &[&str]) -> Object {
    let name = name(at);
    Object::Workload(Arc::new(Workload {
        identity: SpiffeId::new("cluster.local", &name.namespace, "default").unwrap(),
        name,
        node: None,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        labels: BTreeMap::from([("app".into(), app.into())]),
        ports: vec![NamedPort { name: "tcp".into(), port: 8080 }],
        probes: Vec::new(),
        ready: true,
        place: Place::Unplaced,
    }))
}

/// A route of one parent (`namespace/name`, port) and backends on port 80.
fn route(at: &str, created: &str, parent: (&str, Option<u16>), backends: &[(&str, u32)]) -> Object {
    let backend =
        |(at, weight): &(&str, u32)| BackendRef { service: name(at), port: 80, weight: *weight };
    Object::TcpRoute(Arc::new(TcpRoute {
        name: name(at),
        created: created.into(),
        parents: vec![ParentRef { service: name(parent.0), port: parent.1 }],
        backends: backends.iter().map(backend).collect(),
    }))
}

/// An HTTP route of one rule, with backends on port 80.
fn http_route(
    kind: Kind,
    at: &str,
    created: &str,
    parent: (&str, Option<u16>),
    backends: &[(&str, u32)],
) -> Object {
    let backend = |(at, weight): &(&str, u32)| http::HttpBackend {
        service: name(at),
        port: 80,
        weight: *weight,
        filters: Vec::new(),
    };
    let rule = http::Rule {
        name: None,
        matches: vec![http::Match::all()],
        filters: Vec::new(),
        backends: backends.iter().map(backend).collect(),
        timeouts: http::Timeouts::default(),
        retry: None,
        persistence: None,
        split_by: None,
    };
    Object::HttpRoute(Arc::new(http::HttpRoute {
        name: name(at),
        kind,
        created: created.into(),
        parents: vec![ParentRef { service: name(parent.0), port: parent.1 }],
        rules: vec![Arc::new(rule)],
    }))
}

fn update(source: &'static str, objects: &[Object]) -> Update {
    let resource = |(i, object): (usize, &Object)| Resource {
        location: Location {
            file: std::path::Path::new("a.yaml").into(),
            document: i + 1,
            line: 1,
        },
        object: object.clone(),
    };
    let resources = objects.iter().enumerate().map(resource).collect();
    Update { source, resources, conditions: Vec::new() }
}

fn snapshot(objects: &[Object]) -> Snapshot {
    build::build(&Snapshot::default(), &BTreeMap::from([("file", update("file", objects))]))
}

/// `route: backend weight [endpoints], …`, and of HTTP routes ` | ` and that for each rule.
fn print(split: &Split) -> String {
    let route = split.route.as_ref().map_or("-".to_owned(), ToString::to_string);
    let mut parts = vec![format!("{route}: {}", print_backends(&split.backends))];
    for rule in split.http.iter().flat_map(|http| &http.rules) {
        let kind = split.http.as_ref().unwrap().kind;
        let mirrors = print_backends(&rule.mirrors);
        let to = if mirrors.is_empty() { String::new() } else { format!(" + {mirrors}") };
        let backends = print_backends(&rule.backends);
        parts.push(format!("{kind:?} {} {}: {backends}{to}", rule.route, rule.index));
    }
    parts.join(" | ")
}

fn print_backends(backends: &[Backend]) -> String {
    let backends = backends.iter().map(|backend| {
        let endpoints = match &backend.endpoints {
            Endpoints::Invalid => "invalid".to_owned(),
            Endpoints::Resolved { endpoints, .. } => {
                let endpoints = endpoints.iter().map(|endpoint| endpoint.address.to_string());
                endpoints.collect::<Vec<_>>().join(" ")
            }
        };
        format!("{} {} [{endpoints}]", backend.service, backend.weight)
    });
    backends.collect::<Vec<_>>().join(", ")
}

/// Checks what clients of a namespace get at an address, and the reasons of all conditions.
#[track_caller]
fn check(objects: &[Object], (at, namespace): (&str, &str), expect: &str, reasons: &[Reason]) {
    let snapshot = snapshot(objects);
    let target = &snapshot.services[&at.parse::<SocketAddr>().unwrap()];
    assert_eq!(print(crate::route::select(target, namespace)), expect);
    let found: Vec<_> = snapshot.conditions.iter().map(|condition| condition.reason).collect();
    assert_eq!(found, reasons, "{:#?}", snapshot.conditions);
}

#[test]
fn a_service_without_route_is_its_own_backend() {
    let objects = [
        service("demo/echo", "echo", &["10.96.0.1", "fd00::1"]),
        workload("demo/dual", "echo", &["10.0.0.1", "fd00:1::1"]),
        workload("demo/six", "echo", &["fd00:1::2"]),
        workload("demo/none", "other", &["10.0.0.3"]),
        workload("shop/foreign", "echo", &["10.0.0.4"]),
    ];
    let four = "-: demo/echo 1 [10.0.0.1:8080 [fd00:1::2]:8080]";
    check(&objects, ("10.96.0.1:80", "demo"), four, &[]);
    let six = "-: demo/echo 1 [[fd00:1::1]:8080 [fd00:1::2]:8080]";
    check(&objects, ("[fd00::1]:80", "demo"), six, &[]);
    let number = "-: demo/echo 1 [10.0.0.1:8081 [fd00:1::2]:8081]";
    check(&objects, ("10.96.0.1:81", "demo"), number, &[]);
}

#[test]
fn a_workload_that_is_not_ready_is_no_endpoint_but_has_its_address() {
    let sick = |object: Object| match object {
        Object::Workload(workload) => {
            Object::Workload(Arc::new(Workload { ready: false, ..(*workload).clone() }))
        }
        other => other,
    };
    let objects = [
        service("demo/echo", "echo", &["10.96.0.1"]),
        workload("demo/a", "echo", &["10.0.0.1"]),
        sick(workload("demo/b", "echo", &["10.0.0.2"])),
    ];
    check(&objects, ("10.96.0.1:80", "demo"), "-: demo/echo 1 [10.0.0.1:8080]", &[]);
    let address = "10.0.0.2".parse().unwrap();
    assert_eq!(snapshot(&objects).workload_at(address).unwrap().name, name("demo/b"));
}

#[test]
fn routes_attach_as_gamma_says() {
    let base = [
        service("demo/echo", "echo", &["10.96.0.1"]),
        service("demo/v1", "v1", &[]),
        workload("demo/v1-a", "v1", &["10.0.0.1"]),
    ];
    let with = |routes: &[Object]| [&base[..], routes].concat();
    let producer = || route("demo/all", "", ("demo/echo", None), &[("demo/v1", 9)]);
    let expect = "demo/all: demo/v1 9 [10.0.0.1:8080]";
    check(&with(&[producer()]), ("10.96.0.1:80", "shop"), expect, &[]);
    check(&with(&[producer()]), ("10.96.0.1:81", "shop"), expect, &[]);
    let consumer = route("shop/own", "", ("demo/echo", Some(80)), &[("demo/none", 1)]);
    let both = with(&[producer(), consumer]);
    let refused = [Reason::BackendNotFound];
    check(&both, ("10.96.0.1:80", "shop"), "shop/own: demo/none 1 [invalid]", &refused);
    check(&both, ("10.96.0.1:80", "demo"), expect, &refused);
    check(&both, ("10.96.0.1:81", "shop"), expect, &refused);
    let old = route("demo/z", "2025-01-01T00:00:00Z", ("demo/echo", Some(80)), &[("demo/v1", 1)]);
    let new = route("demo/a", "2026-01-01T00:00:00Z", ("demo/echo", None), &[("demo/v1", 2)]);
    let two = with(&[new, old]);
    let lost = [Reason::Conflicted];
    check(&two, ("10.96.0.1:80", "demo"), "demo/z: demo/v1 1 [10.0.0.1:8080]", &lost);
    check(&two, ("10.96.0.1:81", "demo"), "demo/a: demo/v1 2 [10.0.0.1:8080]", &lost);
    let plain = "-: demo/echo 1 []";
    let missing = [Reason::NoMatchingParent];
    for parent in [("demo/none", None), ("demo/echo", Some(82)), ("demo/v1", None)] {
        let lost = with(&[route("demo/r", "", parent, &[("demo/v1", 1)])]);
        check(&lost, ("10.96.0.1:80", "demo"), plain, &missing);
    }
}

#[test]
fn http_routes_of_one_port_and_scope_are_merged_by_age_and_name() {
    let parent = ("demo/echo", Some(80));
    let made = |at: &str, created: &str, backend: &str| {
        http_route(Kind::Http, at, created, parent, &[(backend, 1)])
    };
    let objects = [
        service("demo/echo", "echo", &["10.96.0.1"]),
        service("demo/v1", "v1", &[]),
        workload("demo/a", "v1", &["10.0.0.1"]),
        workload("demo/b", "echo", &["10.0.0.2"]),
        made("demo/b", "2026-01-01T00:00:00Z", "demo/v1"),
        made("demo/a", "2026-01-01T00:00:00Z", "demo/none"),
        made("demo/z", "2025-01-01T00:00:00Z", "demo/echo"),
        made("shop/own", "2024-01-01T00:00:00Z", "demo/v1"),
    ];
    let missing = [Reason::BackendNotFound];
    let own = "-: demo/echo 1 [10.0.0.2:8080]";
    let all = format!(
        "{own} | Http demo/z 0: demo/echo 1 [10.0.0.2:8080] | Http demo/a 0: demo/none 1 [invalid] \
         | Http demo/b 0: demo/v1 1 [10.0.0.1:8080]"
    );
    check(&objects, ("10.96.0.1:80", "demo"), &all, &missing);
    let consumer = format!("{own} | Http shop/own 0: demo/v1 1 [10.0.0.1:8080]");
    check(&objects, ("10.96.0.1:80", "shop"), &consumer, &missing);
    check(&objects, ("10.96.0.1:81", "demo"), "-: demo/echo 1 [10.0.0.2:8081]", &missing);
}

#[test]
fn addresses_and_ports_with_the_same_routes_share_their_rules() {
    let objects = [
        service("demo/echo", "echo", &["10.96.0.1", "10.96.0.2"]),
        http_route(Kind::Http, "demo/all", "", ("demo/echo", None), &[("demo/echo", 1)]),
    ];
    let snapshot = snapshot(&objects);
    let mut rules: Vec<_> =
        snapshot.services.values().map(|target| target.default.http.as_ref().unwrap()).collect();
    assert!(rules.len() >= 4, "{}", rules.len());
    rules.dedup_by(|one, other| Arc::ptr_eq(one, other));
    assert_eq!(rules.len(), 1);
}

#[test]
fn expressions_of_all_routes_of_a_port_have_a_bound() {
    let made = |at: &str, sources: &[&str]| {
        let object = http_route(Kind::Http, at, at, ("demo/echo", None), &[("demo/echo", 1)]);
        let Object::HttpRoute(mut route) = object else { panic!() };
        let of = |source: &&str| http::Match {
            path: http::PathMatch::Regex(Expression::new(source).unwrap()),
            ..http::Match::all()
        };
        let rule = &mut Arc::make_mut(&mut route).rules[0];
        Arc::make_mut(rule).matches = sources.iter().map(of).collect();
        Object::HttpRoute(route)
    };
    let small = r"/[a-z]+";
    let large = r"/\pL{5}";
    let check = |routes: &[Object], expect: &[&str]| {
        let objects = [&[service("demo/echo", "echo", &["10.96.0.1"])], routes].concat();
        let snapshot = snapshot(&objects);
        let rules = &snapshot.services[&"10.96.0.1:80".parse().unwrap()].default.http;
        let names = rules.iter().flat_map(|rules| &rules.rules).map(|rule| &*rule.route.name);
        assert_eq!(names.collect::<Vec<_>>(), expect);
        let of = |it: &Condition| (it.reason == Reason::LimitExceeded).then(|| it.message.clone());
        snapshot.conditions.iter().filter_map(of).collect::<Vec<_>>()
    };
    let fine = [made("demo/a", &[large]), made("demo/b", &[small; 100])];
    assert!(check(&fine, &["a", "b"]).is_empty());
    // The older ones stay, and a later one that is small has its place.
    let routes = [made("demo/a", &[large]), made("demo/b", &[large; 2]), made("demo/c", &[small])];
    let told = check(&routes, &["a", "c"]);
    assert!(told[0].contains("routes of port 80 of Service demo/echo take"), "{told:?}");
    assert!(!check(&[made("demo/a", &[large; 3])], &[]).is_empty(), "one alone");
}

#[test]
fn expressions_of_all_routes_of_a_namespace_have_a_bound() {
    // Each takes 256 KiB of 16 MiB.
    let routed = |n: u16, namespace: &str| {
        let to = format!("{namespace}/echo");
        let at = format!("{namespace}/r-{n:02}");
        let object = http_route(Kind::Http, &at, &at, (&to, Some(1000 + n)), &[(&to, 1)]);
        let Object::HttpRoute(mut route) = object else { panic!() };
        let rule = Arc::make_mut(&mut Arc::make_mut(&mut route).rules[0]);
        rule.matches[0].path = http::PathMatch::Regex(Expression::new(r"/\pL{5}").unwrap());
        Object::HttpRoute(route)
    };
    let service = |at: &str, address: &str| {
        let Object::Service(mut service) = service(at, "echo", &[address]) else { panic!() };
        let own = Arc::make_mut(&mut service);
        let port = own.ports[0].clone();
        let ports =
            (0..70).map(|n| ServicePort { port: 1000 + n, name: format!("p{n}"), ..port.clone() });
        own.ports = ports.collect();
        Object::Service(service)
    };
    let mut objects = vec![service("big/echo", "10.96.0.1"), service("other/echo", "10.96.0.2")];
    objects.extend((0..66).map(|n| routed(n, "big")));
    objects.push(routed(0, "other"));
    let snapshot = snapshot(&objects);
    let lost = snapshot.conditions.iter().filter(|it| it.reason == Reason::LimitExceeded);
    let lost: Vec<_> = lost.map(|it| it.subject.as_str()).collect();
    assert_eq!(lost, ["HTTPRoute big/r-64", "HTTPRoute big/r-65"]);
    let has_route = |at: &str| snapshot.services[&at.parse().unwrap()].default.http.is_some();
    assert!(has_route("10.96.0.1:1063") && !has_route("10.96.0.1:1064"));
    assert!(has_route("10.96.0.2:1000"));
}

#[test]
fn matches_of_all_routes_of_a_port_have_a_bound() {
    let made = |at: &str, count: usize| {
        let object = http_route(Kind::Http, at, at, ("demo/echo", None), &[("demo/echo", 1)]);
        let Object::HttpRoute(mut route) = object else { panic!() };
        let rule = &mut Arc::make_mut(&mut route).rules[0];
        Arc::make_mut(rule).matches = vec![http::Match::all(); count];
        Object::HttpRoute(route)
    };
    let echo = service("demo/echo", "echo", &["10.96.0.1"]);
    let routes = [made("demo/a", 8_000), made("demo/b", 200), made("demo/c", 0)];
    let snapshot = snapshot(&[&[echo], &routes[..]].concat());
    let rules = &snapshot.services[&"10.96.0.1:80".parse().unwrap()].default.http;
    let names = rules.iter().flat_map(|rules| &rules.rules).map(|rule| &*rule.route.name);
    assert_eq!(names.collect::<Vec<_>>(), ["a", "c"]);
    let told = snapshot.conditions.iter().find(|it| it.reason == Reason::LimitExceeded).unwrap();
    assert_eq!(told.subject, "HTTPRoute demo/b");
}

#[test]
fn endpoints_that_a_namespace_names_have_a_bound_and_are_shared() {
    let many = (0..40).map(|n| workload(&format!("evil/w{n}"), "w", &[&format!("10.0.1.{n}")]));
    let services = (0..5).map(|n| service(&format!("evil/s{n}"), "w", &[&format!("10.96.1.{n}")]));
    let good = [service("shop/s", "w", &["10.96.2.1"]), workload("shop/w", "w", &["10.0.2.1"])];
    let objects: Vec<_> = many.chain(services).chain(good).collect();
    let update = update("file", &objects);
    let updates = BTreeMap::from([("file", update)]);
    let index = Index::new(&updates, &mut Vec::new());
    let mut catalog = Catalog::within(250);
    let mut lists = BTreeMap::new();
    for (_, service) in index.services.values() {
        for port in &service.ports {
            let by = (update::Kind::Service, &service.name);
            let found = catalog.of(&index, (*service, port), Family::V4, by);
            let Endpoints::Resolved { endpoints, .. } = found else { panic!() };
            lists.insert((service.name.to_string(), port.port), endpoints);
        }
    }
    // To look for those of the first service's two ports counts as well.
    let counts: Vec<_> = lists.values().map(|list| list.len()).collect();
    assert_eq!(counts, [40, 40, 40, 40, 40, 0, 0, 0, 0, 0, 1, 1]);
    let list = |name: &str| &lists[&(name.to_owned(), 80)];
    assert!(Arc::ptr_eq(list("evil/s0"), list("evil/s1")));
    let told: Vec<_> = catalog.conditions(&index).into_iter().map(|it| it.subject).collect();
    assert_eq!(told, ["Service evil/s2", "Service evil/s3", "Service evil/s4"]);
}

#[test]
fn of_several_kinds_of_routes_one_applies_and_the_others_are_told() {
    let v1 = &[("demo/v1", 1)][..];
    let grpc = |at: &str| http_route(Kind::Grpc, at, "", ("demo/echo", Some(80)), v1);
    let http = |at: &str| http_route(Kind::Http, at, "", ("demo/echo", None), v1);
    let tcp = |at: &str| route(at, "", ("demo/echo", None), v1);
    let base = [service("demo/echo", "echo", &["10.96.0.1"]), service("demo/v1", "v1", &[])];
    let with = |routes: &[Object]| [&base[..], routes].concat();
    let all = with(&[tcp("demo/a"), http("demo/b"), grpc("demo/c")]);
    let lost = [Reason::Conflicted; 2];
    let grpc_wins = "-: demo/echo 1 [] | Grpc demo/c 0: demo/v1 1 []";
    check(&all, ("10.96.0.1:80", "demo"), grpc_wins, &lost);
    let http_wins = "-: demo/echo 1 [] | Http demo/b 0: demo/v1 1 []";
    check(&all, ("10.96.0.1:81", "demo"), http_wins, &lost);
    let told: Vec<_> =
        snapshot(&all).conditions.into_iter().map(|it| (it.subject, it.message)).collect();
    assert_eq!(told[0].0, "HTTPRoute demo/b");
    assert!(told[0].1.starts_with("GRPCRoute demo/c is of a kind that comes first"), "{told:?}");
    assert_eq!(told[1].0, "TCPRoute demo/a");
    assert!(told[1].1.contains("applies to port 80"), "{told:?}");
    // For its own namespace a route of any kind wins, and of no other one it takes anything.
    let scoped = with(&[grpc("demo/c"), tcp("shop/a")]);
    check(&scoped, ("10.96.0.1:80", "shop"), "shop/a: demo/v1 1 []", &[]);
    check(&scoped, ("10.96.0.1:80", "demo"), grpc_wins, &[]);
    let scoped = with(&[tcp("demo/a"), http("shop/b")]);
    check(
        &scoped,
        ("10.96.0.1:80", "shop"),
        "-: demo/echo 1 [] | Http shop/b 0: demo/v1 1 []",
        &[],
    );
    check(&scoped, ("10.96.0.1:80", "demo"), "demo/a: demo/v1 1 []", &[]);
}

#[test]
fn a_port_that_is_not_http_has_no_requests_to_route() {
    let speaking = |object: Object, protocols: [AppProtocol; 2]| match object {
        Object::Service(service) => {
            let mut service = (*service).clone();
            for (port, protocol) in service.ports.iter_mut().zip(protocols) {
                port.protocol = protocol;
            }
            Object::Service(Arc::new(service))
        }
        other => other,
    };
    let v1 = &[("demo/v1", 1)][..];
    let http = |port| http_route(Kind::Http, "demo/h", "", ("demo/echo", port), v1);
    let grpc = http_route(Kind::Grpc, "demo/g", "", ("demo/echo", Some(80)), v1);
    let tcp = route("demo/t", "", ("demo/echo", Some(80)), v1);
    let (plain, other) = (AppProtocol::Unset, AppProtocol::Other);
    let with = |protocols, routes: &[Object]| {
        let echo = speaking(service("demo/echo", "echo", &["10.96.0.1"]), protocols);
        [&[echo, service("demo/v1", "v1", &[])], routes].concat()
    };
    let wrong = [Reason::UnsupportedProtocol];
    let none = "-: demo/echo 1 []";
    check(&with([other, plain], &[http(Some(80))]), ("10.96.0.1:80", "demo"), none, &wrong);
    check(&with([other, plain], &[grpc]), ("10.96.0.1:80", "demo"), none, &wrong);
    check(&with([other, other], &[http(None)]), ("10.96.0.1:81", "demo"), none, &wrong);
    // Of all ports, those that it can be of; the other is free for what can have it.
    let mixed = with([other, AppProtocol::Http], &[http(None), tcp]);
    check(&mixed, ("10.96.0.1:80", "demo"), "demo/t: demo/v1 1 []", &[]);
    let routed = "-: demo/echo 1 [] | Http demo/h 0: demo/v1 1 []";
    check(&mixed, ("10.96.0.1:81", "demo"), routed, &[]);
    let conditions = snapshot(&with([other, plain], &[http(Some(80))])).conditions;
    assert_eq!(conditions[0].field, "spec.parentRefs[0]");
    assert!(conditions[0].message.contains("port 80 of Service demo/echo"), "{conditions:?}");
    for protocol in [AppProtocol::H2c, AppProtocol::Grpc, AppProtocol::WebSocket] {
        let fine = with([plain, protocol], &[http(Some(81))]);
        check(&fine, ("10.96.0.1:81", "demo"), routed, &[]);
    }
}

#[test]
fn a_table_is_made_again_only_if_a_match_has_changed() {
    let routed = |path: &str, weight| {
        let object =
            http_route(Kind::Http, "demo/h", "", ("demo/echo", Some(80)), &[("demo/v1", weight)]);
        let Object::HttpRoute(route) = object else { panic!("{object:?}") };
        let mut route = (*route).clone();
        let path = Expression::new(path).unwrap();
        Arc::make_mut(&mut route.rules[0]).matches[0].path = http::PathMatch::Regex(path);
        Object::HttpRoute(Arc::new(route))
    };
    let other = http_route(Kind::Http, "demo/o", "", ("demo/echo", Some(81)), &[("demo/v1", 1)]);
    let built = |last: &Snapshot, route| {
        let echo = service("demo/echo", "echo", &["10.96.0.1", "fd00::1"]);
        let all = update("file", &[echo, route, other.clone()]);
        build::build(last, &BTreeMap::from([("file", all)]))
    };
    let table = |snapshot: &Snapshot, at: &str| {
        let split = &snapshot.services[&at.parse::<SocketAddr>().unwrap()].default;
        Arc::clone(&split.http.as_ref().unwrap().table)
    };
    let first = built(&Snapshot::default(), routed("/a.*", 1));
    let one = table(&first, "10.96.0.1:80");
    assert!(Arc::ptr_eq(&one, &table(&first, "[fd00::1]:80")), "both families");
    let weight = built(&first, routed("/a.*", 2));
    assert_eq!(weight.revision, 2);
    let split = &weight.services[&"10.96.0.1:80".parse().unwrap()].default;
    assert_eq!(split.http.as_ref().unwrap().rules[0].backends[0].weight, 2);
    assert!(Arc::ptr_eq(&one, &table(&weight, "10.96.0.1:80")), "another weight");
    let path = built(&weight, routed("/b.*", 2));
    assert_ne!(one, table(&path, "10.96.0.1:80"));
    let beside = table(&first, "10.96.0.1:81");
    assert!(Arc::ptr_eq(&beside, &table(&path, "10.96.0.1:81")), "another route");
    assert!(!Arc::ptr_eq(&beside, &one));
}

#[test]
fn mirrors_are_resolved_in_order_and_reach_their_endpoints() {
    let mirror = |at: &str| {
        let service = name(at);
        http::Filter::Mirror(http::Mirror { service, port: 81, numerator: 1, denominator: 2 })
    };
    let with_mirrors = |object: Object| match object {
        Object::HttpRoute(route) => {
            let mut route = (*route).clone();
            route.parents.push(route.parents[0].clone());
            let rule = Arc::make_mut(&mut route.rules[0]);
            rule.filters = vec![mirror("demo/v1"), mirror("demo/none")];
            rule.backends[0].filters = vec![mirror("demo/v2")];
            Object::HttpRoute(Arc::new(route))
        }
        other => other,
    };
    let route = http_route(Kind::Http, "demo/r", "", ("demo/echo", Some(80)), &[("demo/v1", 3)]);
    let objects = [
        service("demo/echo", "echo", &["10.96.0.1"]),
        service("demo/v1", "v1", &[]),
        service("demo/v2", "v2", &[]),
        workload("demo/a", "v1", &["10.0.0.1"]),
        workload("demo/b", "v2", &["10.0.0.2"]),
        with_mirrors(route),
    ];
    let expect = "-: demo/echo 1 [] | Http demo/r 0: demo/v1 3 [10.0.0.1:8080] + demo/v1 1 \
                  [10.0.0.1:8081], demo/none 1 [invalid], demo/v2 1 [10.0.0.2:8081]";
    check(&objects, ("10.96.0.1:80", "demo"), expect, &[Reason::BackendNotFound]);
    let snapshot = snapshot(&objects);
    assert_eq!(snapshot.conditions[0].field, "spec.rules[0].filters[1].requestMirror.backendRef");
    let target = &snapshot.services[&"10.96.0.1:80".parse().unwrap()];
    let reached: Vec<_> = target.endpoints().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(reached, ["10.0.0.1:8080", "10.0.0.1:8081", "10.0.0.2:8081"]);
}

#[test]
fn the_first_by_name_has_an_address_that_two_claim() {
    let objects = [
        service("demo/b", "b", &["10.96.0.1"]),
        service("demo/a", "a", &["10.96.0.1"]),
        workload("demo/w", "w", &["10.96.0.1"]),
    ];
    let reasons = [Reason::Conflicted; 2];
    check(&objects, ("10.96.0.1:80", "demo"), "-: demo/a 1 []", &reasons);
    // All ports of an address are told at once.
    let told = &snapshot(&objects).conditions[0].message;
    assert!(told.contains("has 10.96.0.1:80 already, and 1 more port is another's;"), "{told}");
}

#[test]
fn the_ports_that_others_have_are_told_at_once() {
    let unit = |at: &str| {
        let mut unit = workload(at, "w", &["10.0.0.1", "fd00::1"]);
        let Object::Workload(it) = &mut unit else { panic!() };
        let named = |port| NamedPort { name: format!("p{port}"), port };
        Arc::make_mut(it).ports = (1..=1_024).map(named).collect();
        unit
    };
    let snapshot = snapshot(&[unit("demo/c"), unit("demo/a"), unit("demo/b")]);
    // One for each address of each that comes too late.
    let told: Vec<_> = snapshot.conditions.iter().map(|it| (&*it.subject, &*it.message)).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    let expect = "port 1 of 10.0.0.1 is Workload demo/a's, whose policies count there, and 1023 more \
                  ports are others'; give one of them another port or address";
    assert_eq!(told[0], ("Workload demo/b", expect));
}

#[test]
fn a_service_does_not_take_the_address_of_a_workload_of_others() {
    let mut served = workload("demo/w", "w", &["10.0.0.1"]);
    let Object::Workload(it) = &mut served else { panic!() };
    Arc::make_mut(it).node = Some("here".into());
    let taken =
        |by: &str| snapshot(&[served.clone(), service(by, "w", &["10.0.0.1", "10.96.0.1"])]);
    let at = |at: &str| -> SocketAddr { at.parse().unwrap() };
    let snapshot = taken("aaa/evil");
    assert!(!snapshot.services.contains_key(&at("10.0.0.1:80")));
    assert!(snapshot.services.contains_key(&at("10.96.0.1:80")));
    let [condition] = &*snapshot.conditions else { panic!("{:?}", snapshot.conditions) };
    assert_eq!((&*condition.subject, &*condition.field), ("Service aaa/evil", "spec.clusterIPs"));
    // Its own namespace may: a host that is behind its own address.
    let snapshot = taken("demo/own");
    assert!(snapshot.services.contains_key(&at("10.0.0.1:80")));
}

#[test]
fn units_of_one_host_share_its_address() {
    let objects = [workload("demo/b", "b", &["10.0.0.1"]), workload("demo/a", "a", &["10.0.0.1"])];
    let snapshot = snapshot(&objects);
    // Both declare one port.
    let [condition] = &*snapshot.conditions else { panic!("{:?}", snapshot.conditions) };
    assert_eq!((&*condition.subject, &*condition.field), ("Workload demo/b", "spec.ports"));
    let address = "10.0.0.1".parse().unwrap();
    assert_eq!(snapshot.workload_at(address).unwrap().name, name("demo/a"));
    assert_eq!(snapshot.by_address[&address].len(), 2);
    assert!(snapshot.is_shared(address));
}

#[test]
fn no_namespace_takes_an_address_or_a_port_from_another() {
    let served = |at: &str, node: &str| {
        let mut served = workload(at, "w", &["10.0.0.1"]);
        let Object::Workload(it) = &mut served else { panic!() };
        let it = Arc::make_mut(it);
        it.node = Some(node.into());
        it.place = Place::Cgroup(at.into());
        served
    };
    let after = |last: &Snapshot, objects: &[Object]| {
        build::build(last, &BTreeMap::from([("file", update("file", objects))]))
    };
    let (own, evil) = (served("demo/w", "here"), served("aaa/evil", "here"));
    let names = |snapshot: &Snapshot, at: &str| -> Vec<String> {
        let listeners = snapshot.listeners(at.parse().unwrap()).iter();
        listeners.map(|workload| workload.name.to_string()).collect()
    };
    let before = after(&Snapshot::default(), std::slice::from_ref(&own));
    let both = [own.clone(), evil.clone()];
    let mut last = after(&before, &both);
    for _ in 0..2 {
        assert_eq!(names(&last, "10.0.0.1:8080"), ["demo/w"], "it had it");
        assert_eq!(names(&last, "10.0.0.1:9"), ["demo/w"], "nobody declares it");
        let [condition] = &*last.conditions else { panic!("{:?}", last.conditions) };
        assert_eq!((&*condition.subject, &*condition.field), ("Workload aaa/evil", "spec.ports"));
        last = after(&last, &both);
    }
    // Its document is away for a moment.
    let away = after(&last, std::slice::from_ref(&evil));
    assert!(!away.owns(&away.workloads[&name("aaa/evil")], 8080));
    let back = after(&away, &both);
    assert_eq!(names(&back, "10.0.0.1:8080"), ["demo/w"]);
    let renamed = after(&back, &[served("demo/v", "here"), evil.clone()]);
    assert_eq!(names(&renamed, "10.0.0.1:8080"), ["demo/v"]);
    // Nobody knows who had it: nobody has it.
    let fresh = after(&Snapshot::default(), &both);
    assert_eq!(names(&fresh, "10.0.0.1:8080"), [""; 0]);
    assert!(fresh.conditions[0].message.contains("it is nobody's"), "{:?}", fresh.conditions);
    // It goes with the other.
    let free = after(&fresh, std::slice::from_ref(&own));
    assert_eq!(names(&free, "10.0.0.1:8080"), ["demo/w"]);
    // A pod shares its address with nobody.
    let pod = |at: &str| {
        let mut pod = served(at, "here");
        let Object::Workload(it) = &mut pod else { panic!() };
        Arc::make_mut(it).place = Place::Netns(at.into());
        pod
    };
    let alone = after(&Snapshot::default(), &[pod("demo/w")]);
    let claimed = after(&alone, &[pod("demo/w"), evil.clone()]);
    for port in [8080, 9] {
        assert_eq!(names(&claimed, &format!("10.0.0.1:{port}")), ["demo/w"]);
    }
    // An address is of one node.
    let elsewhere = after(&before, &[own, served("aaa/evil", "elsewhere")]);
    assert_eq!(names(&elsewhere, "10.0.0.1:8080"), ["demo/w"]);
    assert!(!elsewhere.is_shared("10.0.0.1".parse().unwrap()));
    let [condition] = &*elsewhere.conditions else { panic!("{:?}", elsewhere.conditions) };
    assert_eq!((&*condition.subject, &*condition.field), ("Workload aaa/evil", "spec.addresses"));
}

#[test]
fn an_address_is_of_a_workload_that_has_an_agent() {
    let mut bare = workload("demo/a", "a", &["10.0.0.1", "10.0.0.2"]);
    let Object::Workload(it) = &mut bare else { panic!() };
    Arc::make_mut(it).node = None;
    let mut served = workload("demo/b", "b", &["10.0.0.1"]);
    let Object::Workload(it) = &mut served else { panic!() };
    let it = Arc::make_mut(it);
    it.ports.clear();
    it.node = Some("here".into());
    let snapshot = snapshot(&[bare, served]);
    let at = |at: &str| snapshot.listeners(at.parse().unwrap())[0].name.clone();
    assert_eq!((at("10.0.0.1:8080"), at("10.0.0.2:8080")), (name("demo/b"), name("demo/a")));
    let [condition] = &*snapshot.conditions else { panic!("{:?}", snapshot.conditions) };
    assert_eq!((&*condition.subject, condition.reason), ("Workload demo/a", Reason::Conflicted));
}

#[test]
fn a_port_of_a_shared_address_is_whose_service_or_declaration_it_is() {
    let objects = [
        workload("demo/b", "b", &["10.0.0.1"]),
        workload("demo/a", "a", &["10.0.0.1"]),
        workload("demo/alone", "b", &["10.0.0.2"]),
        service("demo/b", "b", &["10.96.0.1"]),
    ];
    let snapshot = snapshot(&objects);
    let names = |at: &str| -> Vec<_> {
        let listeners = snapshot.listeners(at.parse().unwrap()).iter();
        listeners.map(|workload| &*workload.name.name).collect()
    };
    assert_eq!(names("10.0.0.1:8080"), ["a", "b"], "both declare it");
    assert_eq!(names("10.0.0.1:8081"), ["b"], "the service's number");
    assert_eq!(names("10.0.0.1:9"), ["a"], "nobody's");
    assert_eq!(names("10.0.0.2:9"), ["alone"]);
    assert_eq!(names("10.0.0.3:9"), [""; 0]);
    let b = &snapshot.workloads[&name("demo/b")];
    let serves = [8080, 8081, 80].map(|port| snapshot.serves(b, port));
    assert_eq!(serves, [true, true, false]);
}

/// A few resources that get in each other's way.
fn objects() -> impl Strategy<Value = Vec<Object>> {
    let names = prop::sample::select(vec!["demo/a", "demo/b", "shop/a"]);
    let addresses = prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let object = (0..5, names.clone(), names, addresses).prop_map(|(kind, at, other, address)| {
        // The owner of an address that two namespaces claim depends on who was there before.
        let address = if at.starts_with("shop/") { "10.0.1.1" } else { address };
        let app = other.split_once('/').unwrap().1;
        match kind {
            0 => service(at, app, &[address]),
            1 => workload(at, app, &[address]),
            2 => http_route(Kind::Http, at, "", (other, None), &[(at, 1), (other, 2)]),
            3 => http_route(Kind::Grpc, at, "", (other, Some(80)), &[(at, 1)]),
            _ => route(at, "", (other, None), &[(at, 1), (other, 2)]),
        }
    });
    // One of each name, as a source says it.
    prop::collection::vec(object, 0..12).prop_map(|objects| {
        let by_key: BTreeMap<_, _> = objects.into_iter().map(|o| (o.key(), o)).collect();
        by_key.into_values().collect()
    })
}

/// Runs the store over `updates`, with a pause after each one that asks for it.
async fn published(updates: Vec<(Update, bool)>) -> Arc<Snapshot> {
    let (publisher, reader) = channel();
    let (tx, rx) = mpsc::channel(1);
    let say = async move {
        for (update, pause) in updates {
            tx.send(update).await.unwrap();
            if pause {
                tokio::time::sleep(2 * GATHER).await;
            }
        }
    };
    tokio::join!(run(publisher, rx), say);
    reader.load()
}

proptest! {
    #[test]
    fn only_what_each_source_said_last_matters(
        said in prop::collection::vec((any::<bool>(), objects(), any::<bool>()), 1..6),
    ) {
        let said: Vec<_> = said
            .into_iter()
            .map(|(first, objects, pause)| (update(if first { "a" } else { "b" }, &objects), pause))
            .collect();
        let last: BTreeMap<_, _> = said.iter().map(|(u, _)| (u.source, u.clone())).collect();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        let published = runtime.block_on(published(said));
        prop_assert!(published.revision >= 1);
        let before = Snapshot { revision: published.revision - 1, ..Snapshot::default() };
        prop_assert_eq!(&*published, &build::build(&before, &last));
    }

    #[test]
    fn the_order_of_resources_does_not_matter(objects in objects()) {
        let mut turned = snapshot(&objects.iter().rev().cloned().collect::<Vec<_>>());
        let straight = snapshot(&objects);
        // Where each resource is written is another matter: it was turned too.
        turned.conditions.clone_from(&straight.conditions);
        turned.locations.clone_from(&straight.locations);
        prop_assert_eq!(turned, straight);
    }
}
