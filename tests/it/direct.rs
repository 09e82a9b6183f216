//! Two workloads of one node: the kernel picks, authorizes and connects; no agent in the path.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{Machines, TRUST_DOMAIN, World, service, verdicts, vip4, vip6};
use mesh_tests::mesh::{AuthorizationPolicy, Mesh, Route, Rule, Service, Workload};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use serde_json::Value;

/// Connections of a test of shares.
const COUNT: u64 = 1000;

/// How many `connect()`s the kernel sent straight to a workload of the node.
#[track_caller]
fn direct(agent: &Agent) -> String {
    verdicts(agent, "direct").unwrap().to_string()
}

/// The lines of the access log that tell of direct connections.
#[track_caller]
fn direct_lines(agent: &Agent, reporter: &str, count: usize) -> Vec<Value> {
    eventually("the direct connections' lines", DEADLINE, || {
        let lines = agent.access_log().ok()?;
        let ours: Vec<_> = lines
            .into_iter()
            .filter(|line| line["path"] == "direct" && line["reporter"] == reporter)
            .collect();
        (ours.len() >= count).then_some(ours)
    })
    .unwrap()
}

#[test]
fn pods_of_one_node_are_connected_to_each_other() {
    let world = World::start(2).unwrap();
    let _servers = world.serve().unwrap();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let vips = [SocketAddr::new(vip4(2).into(), 80), SocketAddr::new(vip6(2).into(), 80)];
    for addr in [v2.at(8080), v2.at6(8080), vips[0], vips[1]] {
        let seen = Client::to(addr).echo("straight").run(v1).unwrap().single().unwrap();
        assert_eq!(seen.version(), Some("v2"));
        assert_eq!(seen.peername, Some(addr), "the client sees what it asked for");
        // The very socket of the client, and not one that an agent has opened in its place.
        let (peer, local) = (seen.banner.unwrap().peer, seen.local.unwrap());
        assert_eq!(peer.ip().to_canonical(), local.ip().to_canonical());
        assert_eq!(peer.port(), local.port());
    }
    let mapped = Client::to(vips[0]).mapped().echo("straight").run(v1).unwrap().single().unwrap();
    assert_eq!(mapped.version(), Some("v2"));
    assert_eq!(direct(&world.b), "5");
    for line in direct_lines(&world.b, "source", 5) {
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("source_workload"), "v1", "{line}");
        assert_eq!(text("destination_workload"), "v2", "{line}");
        assert_eq!(text("connection_security_policy"), "kernel", "{line}");
        assert_eq!(
            (&line["bytes_received"], &line["bytes_sent"]),
            (&8.into(), &line["bytes_sent"])
        );
        assert!(line["bytes_sent"].as_u64().unwrap() > 8, "the banner and the echo: {line}");
        assert_eq!(line["failure"], Value::Null, "{line}");
    }
    assert_eq!(direct_lines(&world.b, "destination", 5).len(), 5);
}

#[test]
fn a_refusal_is_the_servers_own() {
    let world = World::start(2).unwrap();
    let _servers = world.serve().unwrap();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    for addr in [v2.at(9), v2.at6(9)] {
        let seen = Client::to(addr).arg("--blocking").run(v1).unwrap();
        assert_eq!(seen.totals.errors.keys().collect::<Vec<_>>(), ["connect ECONNREFUSED"]);
    }
    assert_eq!(direct(&world.b), "2");
    for line in direct_lines(&world.b, "source", 2) {
        assert_eq!(line["failure"], "connect", "{line}");
    }
}

#[test]
fn the_kernel_splits_by_weight_and_the_agent_honors_its_pick() {
    // `v1` is on the client's node, `v2` on the other.
    let machines = Machines::new(1).unwrap();
    let near = machines.a.pod("near").unwrap();
    let near_workload = Workload::of(&near).account("echo").label("version", "near");
    let service = Service::new("near").at(vip4(50)).select("version", "near").port(80, 8080);
    let route = Route::new("echo", 80).to("near", 80, 30).to("echo-v1", 80, 70);
    let mesh = machines.mesh().workload(&near_workload).service(&service).route(&route);
    let world = machines.start(&mesh).unwrap();
    let _servers = world.serve().unwrap();
    let _near = Server::echo(&near, 8080, "near").unwrap();
    let client = Client::to(self::service(0)).echo("x").times(COUNT, 16);
    let outcome = client.run(world.client()).unwrap();
    assert_eq!(outcome.totals.failed, 0, "{:?}", outcome.totals.errors);
    let near = outcome.versions()["near"];
    // 300 of 1,000, to within five standard deviations of 14.5.
    assert!((228..=372).contains(&near), "{near}");
    // Each pick was made once: what the kernel did not connect itself went where it picked.
    assert_eq!(direct(&world.a), near.to_string());
    let proxied = verdicts(&world.a, "proxy").unwrap();
    assert_eq!(proxied.to_string(), (COUNT - near).to_string());
}

#[test]
fn a_set_of_backends_is_replaced_at_once() {
    let machines = Machines::new(2).unwrap();
    let client = machines.b.pod("beside").unwrap();
    let split = |weights: [u32; 2]| {
        let route = Route::new("echo", 80);
        let route = route.to("echo-v1", 80, weights[0]).to("echo-v2", 80, weights[1]);
        machines.mesh().workload(&Workload::of(&client).account("beside")).route(&route)
    };
    let meshes = [split([1, 0]), split([0, 1])];
    let world = machines.start(&meshes[0]).unwrap();
    let _servers = world.serve().unwrap();
    let to = Client::to(service(0)).echo("x").times(64, 8);
    for (mesh, only) in meshes.iter().cycle().zip(["v1", "v2"].iter().cycle()).take(8) {
        world.config.write(mesh).unwrap();
        // While it changes there is no failure, and nobody else's version.
        eventually("the new weights", DEADLINE, || {
            let outcome = to.run(&client).unwrap();
            assert_eq!(outcome.totals.failed, 0, "{:?}", outcome.totals.errors);
            (outcome.versions().keys().collect::<Vec<_>>() == [only]).then_some(())
        })
        .unwrap();
    }
    assert_eq!(verdicts(&world.b, "proxy").unwrap().to_string(), "0");
}

#[test]
fn what_is_not_ready_has_no_share() {
    let machines = Machines::new(2).unwrap();
    let client = machines.b.pod("beside").unwrap();
    let [v1, v2] = [0, 1].map(|n| &machines.versions[n]);
    let mesh = |ready: bool| {
        let of = |pod: &Pod| Workload::of(pod).account("echo").label("app", "echo").port(8080);
        Mesh::new("demo")
            .workload(&Workload::of(&client))
            .workload(&of(v1))
            .workload(&of(v2).ready(ready))
            .service(&Service::new("echo").at(vip4(0)).select("app", "echo").port(80, 8080))
    };
    let (out, both) = (mesh(false), mesh(true));
    let own = v2.at(8080);
    let world = machines.start(&out).unwrap();
    let _servers = world.serve().unwrap();
    let to = Client::to(service(0)).echo("x").times(100, 8);
    let only = to.run(&client).unwrap();
    assert_eq!(only.versions().keys().collect::<Vec<_>>(), ["v1"]);
    // By its own address it is reached all the same.
    assert_eq!(Client::to(own).echo("x").run(&client).unwrap().totals.failed, 0);
    world.config.write(&both).unwrap();
    eventually("the second endpoint", DEADLINE, || {
        (to.run(&client).unwrap().versions().len() == 2).then_some(())
    })
    .unwrap();
}

/// Denies `v1` to connect to `v2`, on one port.
fn keep_out(mesh: Mesh) -> Mesh {
    let principal = format!("{TRUST_DOMAIN}/ns/demo/sa/echo");
    let rule = Rule::default().principals(&[&principal]).ports(&[8080]);
    mesh.authorization(&AuthorizationPolicy::deny("keep-out").select("version", "v2").rule(rule))
}

#[test]
fn what_a_policy_denies_fails_in_connect() {
    let machines = Machines::new(2).unwrap();
    let mesh = keep_out(machines.mesh());
    let world = machines.start(&mesh).unwrap();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let _servers = [8080, 8081].map(|port| Server::echo(v2, port, "v2").unwrap());
    for to in [v2.at(8080), v2.at6(8080), SocketAddr::new(vip4(2).into(), 80)] {
        let denied = Client::to(to).arg("--blocking").run(v1).unwrap();
        assert_eq!(denied.totals.errors.keys().collect::<Vec<_>>(), ["connect EPERM"], "{to}");
    }
    // Another port, and another identity, are not meant.
    assert_eq!(Client::to(v2.at(8081)).echo("x").run(v1).unwrap().totals.failed, 0);
    assert_eq!(Client::to(v2.at(8080)).echo("x").run(world.client()).unwrap().totals.failed, 0);
    assert_eq!(verdicts(&world.b, "denied").unwrap().to_string(), "3");
    let line = world.b.logged("the denial", |line| line["failure"] == "denied").unwrap();
    assert_eq!(
        [&line["source_workload"], &line["destination_workload"], &line["policy"]],
        ["v1", "v2", "demo/keep-out"]
    );
}

#[test]
fn a_changed_policy_ends_what_it_forbids() {
    let machines = Machines::new(2).unwrap();
    let beside = machines.b.pod("beside").unwrap();
    let free = machines.mesh().workload(&Workload::of(&beside).account("beside"));
    let kept = keep_out(free.clone());
    let world = machines.start(&free).unwrap();
    let _servers = world.serve().unwrap();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let held = |from, to| {
        let (traffic, opened) = Client::to(to).echo("x").times(3, 3).hold(from).unwrap();
        assert_eq!((opened.connections, opened.failed), (3, 0));
        traffic
    };
    let mut forbidden = [held(v1, v2.at(8080)), held(v1, v2.at6(8080))];
    let mut allowed = [held(&beside, v2.at(8080)), held(v2, v1.at(8080))];
    world.config.write(&kept).unwrap();
    for traffic in &mut forbidden {
        let mut failed = 0;
        eventually("the connections to be ended", DEADLINE, || {
            failed += traffic.mark().unwrap().failed;
            (failed == 3).then_some(())
        })
        .unwrap();
    }
    for traffic in &mut allowed {
        assert_eq!(traffic.mark().unwrap().failed, 0);
    }
    // Their ends are seen before the agent has counted them.
    eventually("all of them to be counted", DEADLINE, || {
        let closed = world.b.metrics().ok()?.sum("mesh_policy_closed_connections_total", &[]);
        (closed.to_string() == "6").then_some(())
    })
    .unwrap();
    world.b.says("demo/keep-out").unwrap();
}

#[test]
fn a_direct_connection_does_not_notice_the_agents_end() {
    let world = World::start(2).unwrap();
    let _servers = world.serve().unwrap();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let to = Client::to(v2.at(8080)).echo("x");
    let (mut held, opened) = to.hold(v1).unwrap();
    assert_eq!(opened.failed, 0);
    let World { a: _a, b, config, on } = world;
    b.kill();
    assert_eq!(held.mark().unwrap().failed, 0);
    let [v1, v2] = [0, 1].map(|n| &on.versions[n]);
    // New ones are made as well: the kernel knows all that it needs.
    let again = Client::to(v2.at(8080)).echo("x").run(v1).unwrap();
    assert_eq!(again.single().unwrap().version(), Some("v2"));
    let b = on.agent(&on.b, &config).unwrap();
    assert_eq!(held.mark().unwrap().failed, 0);
    assert_eq!(held.stop().unwrap().failed, 0);
    // A connection that ended after the restart is reported by the successor, with its whole length.
    let line = direct_lines(&b, "source", 1).pop().unwrap();
    assert_eq!(line["source_workload"], "v1", "{line}");
    assert!(Duration::from_millis(line["duration_ms"].as_u64().unwrap_or(1)) > Duration::ZERO);
}
