//! How connections of workloads really went, as an observer of its own sees them.

use std::process::{Command, Stdio};

use mesh_tests::agent::{self, Agent};
use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{Machines, World, service};
use mesh_tests::mesh::MeshPolicy;
use mesh_tests::pod::Pod;
use mesh_tests::process::{DEADLINE, inside, run};
use serde_json::Value;

/// The report of `mesh-agent coverage` about a workload, once `wanted` finds it right.
#[track_caller]
fn covered(agent: &Agent, workload: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let ask = || {
        let mut command = Command::new(agent::binary().unwrap());
        command.arg("coverage").arg("--json").arg("--admin-socket").arg(agent.admin_socket());
        let all: Value = serde_json::from_str(&run(&mut command).unwrap()).unwrap();
        let all = all.as_array().unwrap().clone();
        all.into_iter().find(|covered| covered["workload"] == workload)
    };
    let found =
        eventually("the coverage", std::time::Duration::from_secs(5), || ask().filter(&wanted));
    found.unwrap_or_else(|_| panic!("{:?}\n{}", ask(), agent.log()))
}

fn connect(from: &Pod, to: std::net::SocketAddr, times: u64) {
    let seen = Client::to(to).echo("x").times(times, 1).run(from).unwrap().totals;
    assert_eq!((seen.connections, seen.failed), (times, 0), "{:?}", seen.errors);
}

#[test]
fn the_observer_counts_each_way() {
    let world = World::start(2).unwrap();
    let _servers = world.serve().unwrap();
    let outside = world.on.b.pod("outside").unwrap();
    let _outside = Server::echo(&outside, 8080, "outside").unwrap();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    // Through both agents, with mutual TLS.
    connect(world.client(), world.v1().at(8080), 3);
    // Within a node, decided in the kernel; and to what the mesh does not know.
    connect(v1, v2.at(8080), 2);
    connect(v1, outside.at(8080), 1);
    // From outside, in plaintext: by the agent of the destination.
    connect(&outside, v2.at(8080), 4);

    let client = covered(&world.a, "demo/client", |it| it["outbound"]["agent"] == 3);
    assert_eq!(
        (&client["outbound"]["mutualTls"], &client["outbound"]["bypassed"]),
        (&3.into(), &0.into())
    );
    let first = covered(&world.b, "demo/v1", |it| it["inbound"]["agent"] == 3);
    assert_eq!(first["inbound"]["mutualTls"], 3);
    assert_eq!(
        (&first["outbound"]["direct"], &first["outbound"]["outside"]),
        (&2.into(), &1.into())
    );
    let second = covered(&world.b, "demo/v2", |it| it["inbound"]["direct"] == 2);
    assert_eq!(
        (&second["inbound"]["agent"], &second["inbound"]["plaintext"]),
        (&4.into(), &4.into())
    );
    let labels = [("workload", "client"), ("direction", "outbound"), ("how", "agent")];
    let sum = world.a.metrics().unwrap().sum("mesh_coverage_connections_total", &labels);
    assert_eq!(sum.to_string(), "3");
    // As people see it.
    let mut command = Command::new(agent::binary().unwrap());
    command.arg("coverage").arg("--admin-socket").arg(world.a.admin_socket());
    let text = run(&mut command).unwrap();
    assert!(text.contains("demo/client  out        3            100.0 %"), "{text}");
}

#[test]
fn what_goes_past_the_mesh_is_seen() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    // A process of the workload's namespace that is in no cgroup of the mesh: no hook redirects it.
    let to = world.v1().at(8080);
    let client = Client::to(to).echo("x");
    let beside = world.on.lab.cgroup().join("beside");
    std::fs::create_dir(&beside).unwrap();
    let seen = client.run_in(world.client().netns(), &beside).unwrap().totals;
    std::fs::remove_dir(&beside).unwrap();
    assert_eq!(seen.failed, 0, "{:?}", seen.errors);
    let client = covered(&world.a, "demo/client", |it| it["outbound"]["bypassed"] == 1);
    assert_eq!(client["outbound"]["agent"], 0);

    // A port that is excluded: plaintext is not captured there.
    let open = MeshPolicy::new("open").select("app", "echo").mtls("DISABLE");
    world.config.write(&world.on.mesh().policy(&open)).unwrap();
    let outside = world.on.a.pod("outside").unwrap();
    eventually("plaintext that is not captured", DEADLINE, || {
        connect(&outside, to, 1);
        let covered = covered(&world.b, "demo/v1", |_| true);
        (covered["inbound"]["bypassed"].as_u64()? > 0).then_some(())
    })
    .unwrap();

    // Sockets that no hook redirects.
    let mut command = inside(world.client().netns(), world.client().cgroup()).unwrap();
    let program = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\n\
                   socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n";
    command.args(["exec", "--", "/usr/bin/python3", "-c", program]).stdin(Stdio::null());
    run(&mut command).unwrap();
    let client = covered(&world.a, "demo/client", |it| it["sockets"]["raw"] == 1);
    assert_eq!(client["sockets"]["mptcp"], 1);
    assert_eq!(Client::to(service(0)).echo("x").run(world.client()).unwrap().totals.failed, 0);
}

/// A process of a workload's namespace that no hook redirects, to a neighbor.
#[test]
fn a_neighbor_that_the_kernel_has_not_let_in_is_no_direct_one() {
    let world = World::start(2).unwrap();
    let _servers = world.serve().unwrap();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let beside = world.on.lab.cgroup().join("beside");
    std::fs::create_dir(&beside).unwrap();
    let seen = Client::to(v2.at(8080)).echo("x").run_in(v1.netns(), &beside).unwrap().totals;
    std::fs::remove_dir(&beside).unwrap();
    assert_eq!(seen.failed, 0, "{:?}", seen.errors);
    connect(v1, v2.at(8080), 2);
    let from = covered(&world.b, "demo/v1", |it| it["outbound"]["bypassed"] == 1);
    assert_eq!(from["outbound"]["direct"], 2);
    let to = covered(&world.b, "demo/v2", |it| it["inbound"]["direct"] == 2);
    assert_eq!(to["outbound"]["bypassed"], 0);
}

/// Where all was started from one session, workloads share the agent's cgroup.
#[test]
fn what_runs_beside_the_agent_is_counted() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    let beside = world.on.a.cgroup().join("agent");
    let client = Client::to(world.v1().at(8080)).echo("x").times(3, 1);
    let seen = client.run_in(world.client().netns(), &beside).unwrap().totals;
    assert_eq!((seen.connections, seen.failed), (3, 0), "{:?}", seen.errors);
    // The agent's own, which leave from the same namespace, are not among them.
    let client = covered(&world.a, "demo/client", |it| it["outbound"]["agent"] == 3);
    assert_eq!(client["outbound"]["bypassed"], 0, "{client}");
}

#[test]
fn connections_from_before_the_enrolment_are_counted_and_stay() {
    let on = Machines::new(2).unwrap();
    let first = &on.versions[0];
    let _server = Server::echo(first, 8080, "v1").unwrap();
    let client = Client::to(first.at(8080)).echo("x").times(3, 3);
    let (mut held, opened) = client.hold(&on.client).unwrap();
    assert_eq!((opened.connections, opened.failed), (3, 0), "{:?}", opened.errors);
    let mesh = on.mesh();
    let world = on.start(&mesh).unwrap();
    for (agent, workload) in [(&world.a, "demo/client"), (&world.b, "demo/v1")] {
        covered(agent, workload, |it| it["sockets"]["earlier"] == 3);
    }
    covered(&world.b, "demo/v2", |it| it["sockets"].as_object().unwrap().is_empty());
    let again = held.mark().unwrap();
    assert_eq!((again.connections, again.failed), (3, 0), "{:?}", again.errors);
}
