//! Destinations of workloads outside of the mesh: decided in the kernel, at `connect()`.

use std::net::SocketAddr;

use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{World, service, verdicts};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;

/// A policy of the mesh's only namespace, with this mode.
fn egress(mode: &str) -> String {
    format!(
        "apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\n\
         metadata: {{name: egress, namespace: demo}}\nspec: {{egress: {mode}}}\n"
    )
}

/// Addresses that are known outside.
fn entry(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: outside, namespace: demo}}\nspec: {spec}\n"
    )
}

/// The error that a connection meets; `None`: an answer.
fn error(from: &Pod, to: SocketAddr) -> Option<String> {
    Client::to(to).echo("x").run(from).unwrap().totals.errors.into_keys().next()
}

/// A mesh, a pod outside of it that serves two ports, and its servers.
fn world() -> (World, Pod, Vec<Server>) {
    let world = World::start(1).unwrap();
    let mut servers = world.serve().unwrap();
    let outside = world.on.b.pod("outside").unwrap();
    for port in [8080, 8081] {
        servers.push(Server::echo(&outside, port, "outside").unwrap());
    }
    (world, outside, servers)
}

fn write(world: &World, name: &str, text: &str) {
    world.config.write_file(name, text).unwrap();
}

/// Waits until a connection is refused by the kernel, or until it is not.
#[track_caller]
fn becomes(world: &World, to: SocketAddr, is_denied: bool) {
    eventually("the rule to be in force", DEADLINE, || {
        let met = error(world.client(), to);
        (met.as_ref().is_some_and(|met| met.ends_with(" EPERM")) == is_denied).then_some(())
    })
    .unwrap();
}

#[test]
fn what_is_not_registered_is_denied_at_once_and_says_so() {
    let (world, outside, _servers) = world();
    for to in [outside.at(8080), outside.at6(8080)] {
        assert_eq!(error(world.client(), to), None);
    }
    write(&world, "egress.yaml", &egress("registry-only"));
    for to in [outside.at(8080), outside.at6(8080)] {
        becomes(&world, to, true);
    }
    assert!(verdicts(&world.a, "outside_denied").unwrap() >= 2.0);
    let line = world.a.logged("the denial", |line| line["failure"] == "egress").unwrap();
    assert_eq!((&line["path"], &line["source_workload"]), (&"outside".into(), &"client".into()));
    let cause = line["connection_termination_details"].as_str().unwrap();
    assert!(cause.contains("no ServiceEntry has the address"), "{cause}");
    // The mesh itself is registered, and so is the workload's own loopback.
    assert_eq!(error(world.client(), service(0)), None);
    assert_eq!(error(world.client(), world.v1().at(8080)), None);
    let _own = Server::echo(world.client(), 9090, "own").unwrap();
    assert_eq!(error(world.client(), ([127, 0, 0, 1], 9090).into()), None);
}

#[test]
fn blocks_and_ports_are_let_out_while_they_are_registered() {
    let (world, outside, _servers) = world();
    write(&world, "egress.yaml", &egress("registry-only"));
    becomes(&world, outside.at(8080), true);
    let block = format!("addresses: ['{}/30', '{}']", outside.v4(), outside.v6());
    let one_port = format!("{{{block}, ports: [{{number: 8080}}]}}");
    write(&world, "outside.yaml", &entry(&one_port));
    for (to, is_denied) in [
        (outside.at(8080), false),
        (outside.at6(8080), false),
        (outside.at(8081), true),
        (outside.at6(8081), true),
    ] {
        becomes(&world, to, is_denied);
    }
    write(&world, "outside.yaml", &entry(&format!("{{{block}, exportTo: [elsewhere]}}")));
    becomes(&world, outside.at(8080), true);
    write(&world, "outside.yaml", &entry(&format!("{{{block}, exportTo: [.]}}")));
    becomes(&world, outside.at(8081), false);
    write(&world, "outside.yaml", "");
    becomes(&world, outside.at(8081), true);
    write(&world, "egress.yaml", &egress("open"));
    becomes(&world, outside.at(8081), false);
}

#[test]
fn ports_of_udp_and_blocks_of_ipv6_let_out_nothing_else() {
    let (world, outside, _servers) = world();
    write(&world, "egress.yaml", &egress("registry-only"));
    becomes(&world, outside.at(8080), true);
    let udp = "ports: [{number: 53, protocol: UDP, name: dns}]";
    let address = |pod: &Pod| format!("addresses: ['{}']", pod.v4());
    let of_udp = entry(&format!("{{{}, {udp}}}", address(&outside)));
    // Another entry tells when both are in force.
    let all_of_ipv6 = entry("{addresses: ['::/0']}").replace("name: outside", "name: ipv6");
    write(&world, "outside.yaml", &format!("{of_udp}---\n{all_of_ipv6}"));
    becomes(&world, outside.at6(8080), false);
    assert!(error(world.client(), outside.at(8080)).unwrap().ends_with(" EPERM"));
}

#[test]
fn what_is_only_logged_goes_out() {
    let (world, outside, _servers) = world();
    write(&world, "egress.yaml", &egress("log"));
    eventually("a report", DEADLINE, || {
        assert_eq!(error(world.client(), outside.at(8080)), None);
        (verdicts(&world.a, "outside").unwrap() > 0.0).then_some(())
    })
    .unwrap();
    let line = world.a.logged("the report", |line| line["path"] == "outside").unwrap();
    assert!(line["failure"].is_null(), "{line}");
    assert_eq!(line["downstream_local_address"], outside.at(8080).to_string());
}

#[test]
fn the_kernel_denies_also_while_there_is_no_agent() {
    let (world, outside, _servers) = world();
    write(&world, "egress.yaml", &egress("registry-only"));
    becomes(&world, outside.at(8080), true);
    let World { a, on, .. } = world;
    a.kill();
    let met = error(&on.client, outside.at(8080)).unwrap();
    assert!(met.ends_with(" EPERM"), "{met}");
}
