//! Which version of a service a connection reaches.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mesh_tests::apps::{Client, Outcome, Server};
use mesh_tests::fixture::{Machines, World, lines, service, service6, stand_for, vip4};
use mesh_tests::mesh::{Mesh, Route, Service, Workload};
use mesh_tests::pod::Pod;

/// Connections of a test of shares.
const COUNT: u64 = 1000;

/// So many standard deviations away, a fair share is found once in 1.7 million times.
const SIGMAS: f64 = 5.0;

/// Connects `count` times to port `n` of the service.
fn connect(pod: &Pod, n: u16, count: u64) -> Outcome {
    Client::to(service(n)).echo("x").times(count, 16).run(pod).unwrap()
}

/// Checks that every version has its share of [`COUNT`] connections.
#[track_caller]
fn check_shares(versions: &BTreeMap<String, u64>, expect: &[(&str, f64)]) {
    let count = f64::from(u32::try_from(COUNT).unwrap());
    for &(version, share) in expect {
        let got = versions.get(version).copied().unwrap_or_default();
        let got = f64::from(u32::try_from(got).unwrap());
        let bound = SIGMAS * (count * share * (1.0 - share)).sqrt();
        assert!((got - count * share).abs() <= bound, "{version}: {versions:?}");
    }
}

/// Starts a world with more documents, and its servers.
fn world(versions: usize, add: impl FnOnce(Mesh) -> Mesh) -> (World, Vec<Server>) {
    let machines = Machines::new(versions).unwrap();
    let mesh = add(machines.mesh());
    let world = machines.start(&mesh).unwrap();
    let servers = world.serve().unwrap();
    (world, servers)
}

/// A route in `namespace` with these lines below `spec`.
fn raw_route(namespace: &str, name: &str, parent: &str, backend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: \"\", kind: Service, {parent}}}]
  rules:
  - backendRefs: [{{{backend}}}]
"
    )
}

#[test]
fn connections_are_split_by_weight() {
    for (weights, expect) in [
        ([90, 10, 0], [("v1", 0.9), ("v2", 0.1), ("v3", 0.0)]),
        ([1, 1, 2], [("v1", 0.25), ("v2", 0.25), ("v3", 0.5)]),
    ] {
        let (world, _servers) = world(3, |mesh| {
            let route = (1..).zip(weights).fold(Route::new("echo", 80), |route, (n, weight)| {
                route.to(&format!("echo-v{n}"), 80, weight)
            });
            mesh.route(&route)
        });
        let outcome = connect(world.client(), 0, COUNT);
        assert_eq!(outcome.totals.failed, 0, "{:?}", outcome.totals.errors);
        check_shares(outcome.versions(), &expect);
        // A share of 0 has a bound of 0.
        assert_eq!(outcome.versions().len(), weights.iter().filter(|weight| **weight > 0).count());
        let by_ipv6 = Client::to(service6(0)).echo("x").times(100, 16).run(world.client()).unwrap();
        assert_eq!(by_ipv6.totals.failed, 0);
        assert_eq!(lines(&world.a, 1100).unwrap()[0]["route_name"], "demo/echo-split");
    }
}

#[test]
fn without_a_route_every_endpoint_has_the_same_share() {
    let (world, _servers) = world(2, |mesh| mesh);
    let outcome = connect(world.client(), 0, COUNT);
    assert_eq!(outcome.totals.failed, 0, "{:?}", outcome.totals.errors);
    check_shares(outcome.versions(), &[("v1", 0.5), ("v2", 0.5)]);
}

#[test]
fn the_share_of_a_backend_that_does_not_exist_is_refused() {
    let (world, _servers) = world(1, |mesh| {
        mesh.route(&Route::new("echo", 80).to("echo-v1", 80, 3).to("missing", 80, 1))
    });
    let outcome = connect(world.client(), 0, COUNT);
    check_shares(outcome.versions(), &[("v1", 0.75)]);
    let errors: Vec<_> = outcome.totals.errors.keys().map(String::as_str).collect();
    assert_eq!(errors, ["connect ECONNREFUSED"]);
    let lines = lines(&world.a, 1000).unwrap();
    let refused = lines.into_iter().filter(|line| !line["failure"].is_null());
    let refused: Vec<_> = refused.collect();
    assert_eq!(stand_for(&refused), outcome.totals.failed);
    for line in refused {
        let why = ["failure", "failure_side", "retry", "route_name"].map(|field| &line[field]);
        assert_eq!(why, ["no_route", "mesh", "never", "demo/echo-split"], "{line}");
    }
}

#[test]
fn a_consumer_route_is_for_clients_of_its_own_namespace() {
    let machines = Machines::new(2).unwrap();
    let shopper = machines.a.pod("shopper").unwrap();
    let parent = "namespace: demo, name: echo, port: 80";
    let backend = "namespace: demo, name: echo-v2, port: 80";
    let shop = Mesh::new("shop")
        .workload(&Workload::of(&shopper))
        .raw(raw_route("shop", "mine", parent, backend));
    let demo = machines.mesh().route(&Route::new("echo", 80).to("echo-v1", 80, 1));
    let world = machines.start(&demo.raw(shop.yaml())).unwrap();
    let _servers = world.serve().unwrap();
    for (pod, version, route) in
        [(world.client(), "v1", "demo/echo-split"), (&shopper, "v2", "shop/mine")]
    {
        let outcome = connect(pod, 0, 50);
        assert_eq!(outcome.versions(), &BTreeMap::from([(version.to_owned(), 50)]));
        let line = world.a.logged("the route", |line| line["route_name"] == route).unwrap();
        assert_eq!(line["source_workload"], pod.name());
    }
}

#[test]
fn a_route_is_for_the_port_that_its_parent_names() {
    for (parent, second) in [("name: echo, port: 80", 2), ("name: echo", 1)] {
        let (world, _servers) = world(2, |mesh| {
            mesh.raw(raw_route("demo", "first", parent, "name: echo-v1, port: 80"))
        });
        let v1 = &world.on.versions[0];
        let v2 = &world.on.versions[1];
        let more = [(v1, "v1"), (v2, "v2")];
        let _more = more.map(|(pod, name)| Server::echo(pod, 8081, name).unwrap());
        let by_route = connect(world.client(), 0, 50);
        assert_eq!(by_route.versions(), &BTreeMap::from([("v1".to_owned(), 50)]));
        // 2^-49: that 50 connections of two equal shares all go to one of them.
        assert_eq!(connect(world.client(), 1, 50).versions().len(), second, "{parent}");
    }
}

#[test]
fn a_service_without_endpoints_is_refused() {
    let (world, _servers) = world(1, |mesh| {
        mesh.service(&Service::new("empty").at(vip4(99)).select("app", "none").port(80, 8080))
    });
    let to = SocketAddr::new(vip4(99).into(), 80);
    let outcome = Client::to(to).echo("x").run(world.client()).unwrap();
    assert_eq!(outcome.connections[0].error.as_deref(), Some("ECONNREFUSED"));
    let line = lines(&world.a, 1).unwrap().remove(0);
    let why = ["failure", "failure_side", "retry"].map(|field| &line[field]);
    assert_eq!(why, ["no_endpoint", "mesh", "safe"], "{line}");
    assert_eq!(line["destination_service"], "empty.demo.svc.cluster.local");
}
