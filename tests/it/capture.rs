//! Connections that the mesh takes, and those that it leaves alone.

use std::fs;
use std::net::SocketAddr;

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server, datagram};
use mesh_tests::capture::Capture;
use mesh_tests::fixture::{Machines, World, lines, service, verdicts, vip4, vip6};
use mesh_tests::mesh::{MeshPolicy, Service, Workload};
use mesh_tests::report::Connection;
use serde_json::Value;

/// The kernel's counts of an agent: connections that went to it, and that it left alone.
#[track_caller]
fn counts(agent: &Agent) -> [String; 2] {
    ["proxy", "pass"].map(|verdict| verdicts(agent, verdict).unwrap().to_string())
}

/// Connects to the service through the mesh: whatever agents log of connections before it, they
/// have logged when this one is logged.
#[track_caller]
fn through_the_mesh(world: &World) -> Connection {
    Client::to(service(0)).echo("meshed").run(world.client()).unwrap().single().unwrap()
}

#[test]
fn unknown_destinations_are_left_alone() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    let outside = world.on.b.pod("outside").unwrap();
    let _outside = Server::echo(&outside, 8080, "outside").unwrap();
    for addr in [outside.at(8080), outside.at6(8080)] {
        let seen = Client::to(addr).echo("x").run(world.client()).unwrap().single().unwrap();
        assert_eq!(seen.version(), Some("outside"));
        assert_eq!(seen.peername, Some(addr));
        assert_eq!(seen.banner.unwrap().peer.port(), seen.local.unwrap().port());
    }
    assert_eq!(counts(&world.a), ["0", "2"]);
    // A port that the service does not have is nobody's, and refused at once.
    let mut other = service(0);
    other.set_port(7);
    let client = Client::to(other).run(world.client()).unwrap();
    assert_eq!(client.totals.errors.keys().collect::<Vec<_>>(), ["connect ECONNREFUSED"]);
    assert_eq!(lines(&world.a, 1).unwrap()[0]["failure"], "no_endpoint");
    through_the_mesh(&world);
    assert_eq!(lines(&world.a, 2).unwrap().len(), 2);
    assert_eq!(counts(&world.a), ["1", "2"]);
}

#[test]
fn processes_outside_of_workloads_are_left_alone() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    let Machines { a: node, client, lab, .. } = &world.on;
    let outside = node.pod("outside").unwrap();
    let to = Client::to(world.v1().at(8080)).echo("x");
    // A process of the node, in the watched cgroup.
    let host = node.cgroup().join("host");
    fs::create_dir(&host).unwrap();
    // A process in a workload's namespace, but not in the watched cgroup.
    let stranger = lab.cgroup().join("stranger");
    fs::create_dir(&stranger).unwrap();
    for (netns, cgroup) in [
        (node.netns(), host.as_path()),
        (outside.netns(), outside.cgroup()),
        (client.netns(), &stranger),
    ] {
        let seen = to.run_in(netns, cgroup).unwrap().single().unwrap();
        assert_eq!(seen.version(), Some("v1"));
    }
    assert_eq!([counts(&world.a), counts(&world.b)], [["0", "0"], ["0", "0"]]);
    through_the_mesh(&world);
    assert_eq!(lines(&world.a, 1).unwrap().len(), 1);
    // Their connections arrived in plaintext, and are reported as that.
    let lines = lines(&world.b, 4).unwrap();
    let plain = lines.iter().filter(|line| line["connection_security_policy"] == "none");
    assert_eq!((lines.len(), plain.count()), (4, 3));
}

#[test]
fn a_workload_that_talks_to_itself_is_left_alone() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    let v1 = world.v1();
    let loopback = ["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()];
    for addr in [v1.at(8080), v1.at6(8080), loopback[0], loopback[1]] {
        let seen = Client::to(addr).echo("x").run(v1).unwrap().single().unwrap();
        assert_eq!(seen.peername, Some(addr));
        let banner = seen.banner.unwrap();
        assert_eq!(banner.peer.ip().to_canonical(), addr.ip());
        assert_eq!(banner.peer.port(), seen.local.unwrap().port());
    }
    assert_eq!(counts(&world.b), ["0", "4"]);
    through_the_mesh(&world);
    assert_eq!(lines(&world.b, 1).unwrap().len(), 1);
}

#[test]
fn datagrams_are_left_alone() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    let args = ["datagram", "--listen", "[::]:8080"];
    let _server = Server::start(world.v1(), &args).unwrap();
    for addr in [world.v1().at(8080), world.v1().at6(8080)] {
        let seen = datagram(world.client(), addr).unwrap();
        assert_eq!((seen.error, seen.peername), (None, Some(addr)));
    }
    assert_eq!(counts(&world.a), ["0", "0"]);
    through_the_mesh(&world);
    assert_eq!(counts(&world.a), ["1", "0"]);
}

#[test]
fn the_agents_listener_refuses_whom_the_kernel_did_not_send() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    for (n, addr) in (1..).zip(["127.0.0.1:15001", "[::1]:15001"]) {
        let client = Client::to(addr.parse().unwrap()).echo("x");
        let seen = client.run(world.client()).unwrap().connections.remove(0);
        assert_eq!(seen.error.as_deref(), Some("ECONNRESET"), "{seen:?}");
        let line = lines(&world.a, n).unwrap().remove(n - 1);
        assert_eq!([&line["failure"], &line["failure_side"]], ["no_origin", "client"], "{line}");
    }
    through_the_mesh(&world);
    assert_eq!(counts(&world.a), ["1", "2"]);
}

#[test]
fn agents_do_not_capture_themselves() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    let outcome = Client::to(service(0)).echo("x").times(10, 2).run(world.client()).unwrap();
    assert_eq!(outcome.totals.failed, 0);
    // Neither the tunnel from the client's namespace, nor the last hop in the server's.
    assert_eq!([counts(&world.a), counts(&world.b)], [["10", "0"], ["0", "0"]]);
    assert_eq!(lines(&world.b, 10).unwrap().len(), 10);
}

#[test]
fn workloads_reach_each_others_addresses_encrypted() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    let wire = Capture::start(world.on.lab.fabric()).unwrap();
    for addr in [world.v1().at(8080), world.v1().at6(8080)] {
        let secret = Client::to(addr).echo("between workloads").run(world.client()).unwrap();
        assert_eq!(secret.single().unwrap().version(), Some("v1"));
    }
    let wire = wire.stop().unwrap();
    assert!(!wire.shows(b"between workloads"));
    assert!(wire.of_port(15008).count() > 0);
    assert_eq!(wire.of_port(8080).count(), 0);
    for line in lines(&world.a, 2).unwrap() {
        assert_eq!(line["connection_security_policy"], "mutual_tls", "{line}");
        assert_eq!(line["destination_service"], Value::Null, "{line}");
        assert_eq!(line["destination_workload"], "v1", "{line}");
    }
}

#[test]
fn two_pods_of_one_node_may_use_mutual_tls() {
    let machines = Machines::new(2).unwrap();
    let mesh = machines.mesh().policy(&MeshPolicy::new("all").same_node("mtls"));
    let world = machines.start(&mesh).unwrap();
    let _servers = world.serve().unwrap();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    for addr in [v2.at(8080), v2.at6(8080)] {
        let seen = Client::to(addr).echo("x").run(v1).unwrap().single().unwrap();
        assert_eq!(seen.version(), Some("v2"));
        let ip = if addr.is_ipv4() { v1.at(0).ip() } else { v1.at6(0).ip() };
        assert_eq!(seen.banner.unwrap().peer.ip().to_canonical(), ip);
    }
    // Both ends are of the same agent: each connection has two lines.
    let lines = lines(&world.b, 4).unwrap();
    for reporter in ["source", "destination"] {
        let of = lines.iter().filter(|line| line["reporter"] == reporter);
        assert_eq!(of.clone().count(), 2);
        assert!(of.clone().all(|line| line["connection_security_policy"] == "mutual_tls"));
        assert!(of.clone().all(|line| line["failure"].is_null()));
    }
}

#[test]
fn an_endpoint_without_an_agent_is_reached_in_plaintext_through_its_service() {
    let machines = Machines::new(1).unwrap();
    let outside = machines.b.pod("outside").unwrap();
    let legacy = Service::new("legacy").select("app", "legacy").port(80, 8080);
    let mesh = machines
        .mesh()
        .workload(&Workload::external(&outside).label("app", "legacy").port(8080))
        .service(&legacy.at(vip4(99)).at(vip6(99)));
    let world = machines.start(&mesh).unwrap();
    let (client, _server) = (world.client(), Server::echo(&outside, 8080, "legacy").unwrap());
    let wire = Capture::start(world.on.lab.fabric()).unwrap();
    let services = [SocketAddr::new(vip4(99).into(), 80), SocketAddr::new(vip6(99).into(), 80)];
    // By its own address it is none of the mesh's business.
    for addr in [services[0], services[1], outside.at(8080), outside.at6(8080)] {
        let seen = Client::to(addr).echo("in the open").run(client).unwrap().single().unwrap();
        assert_eq!((seen.version(), seen.peername), (Some("legacy"), Some(addr)));
        let ip = if addr.is_ipv4() { client.at(0).ip() } else { client.at6(0).ip() };
        assert_eq!(seen.banner.unwrap().peer.ip().to_canonical(), ip);
    }
    assert!(wire.stop().unwrap().shows(b"in the open"));
    for line in lines(&world.a, 2).unwrap() {
        assert_eq!(line["connection_security_policy"], "none", "{line}");
        assert_eq!(
            (&line["failure"], &line["destination_principal"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(
            [&line["source_workload"], &line["destination_workload"]],
            ["client", "outside"]
        );
    }
    assert_eq!(counts(&world.a), ["2", "2"]);
    assert_eq!(world.b.access_log().unwrap().len(), 0);
}
