//! Arrivals at a workload: authorized in the kernel, by tunnel, in plaintext, and probes.

use std::fs;

use mesh_tests::apps::{Client, Server};
use mesh_tests::fixture::{Machines, World, service};
use mesh_tests::mesh::{Mesh, MeshPolicy, Workload};
use mesh_tests::pod::Pod;

fn policy() -> MeshPolicy {
    MeshPolicy::new("arrivals")
}

fn strict() -> MeshPolicy {
    policy().mtls("STRICT")
}

fn world(policy: &MeshPolicy, add: impl FnOnce(&Machines, Mesh) -> Mesh) -> (World, Vec<Server>) {
    let machines = Machines::new(2).unwrap();
    let mesh = add(&machines, machines.mesh()).policy(policy);
    let world = machines.start(&mesh).unwrap();
    let servers = world.serve().unwrap();
    (world, servers)
}

/// The error that a connection from outside of the mesh meets.
fn error(from: &Pod, client: &Client) -> Option<String> {
    client.run(from).unwrap().totals.errors.into_keys().next()
}

#[test]
fn permissive_takes_plaintext_and_shows_the_real_client() {
    let (world, _servers) = world(&policy().mtls("PERMISSIVE"), |_, mesh| mesh);
    for outside in [world.on.a.pod("far").unwrap(), world.on.b.pod("near").unwrap()] {
        for to in [world.v1().at(8080), world.v1().at6(8080)] {
            let seen = Client::to(to).echo("plain").run(&outside).unwrap().single().unwrap();
            assert_eq!(seen.version(), Some("v1"));
            let (peer, local) = (seen.banner.unwrap().peer, seen.local.unwrap());
            assert_eq!(peer.ip().to_canonical(), local.ip().to_canonical());
            assert_eq!(peer.port(), local.port(), "accept(2) shows the client's own port");
        }
    }
    let line =
        world.b.logged("plaintext", |line| line["connection_security_policy"] == "none").unwrap();
    assert_eq!(
        (&line["reporter"], &line["destination_workload"]),
        (&"destination".into(), &"v1".into())
    );
    assert_eq!(line["source_principal"], serde_json::Value::Null, "{line}");
}

#[test]
fn strict_refuses_plaintext_and_says_why() {
    let (world, _servers) = world(&strict(), |_, mesh| mesh);
    let [far, near] = [world.on.a.pod("far").unwrap(), world.on.b.pod("near").unwrap()];
    for outside in [&far, &near] {
        for to in [world.v1().at(8080), world.v1().at6(8080)] {
            let error = error(outside, &Client::to(to).echo("plain")).unwrap();
            assert!(error.ends_with(" ECONNRESET"), "{error}");
        }
    }
    let line = world.b.logged("the refusal", |line| !line["failure"].is_null()).unwrap();
    assert!(line.to_string().contains("demo/arrivals"), "the policy's name: {line}");
    // A client with an identity comes in: through a tunnel, and straight from this node.
    for pod in [world.client(), &world.on.versions[1]] {
        assert_eq!(error(pod, &Client::to(world.v1().at(8080)).echo("mine")), None);
    }
    assert_eq!(error(world.client(), &Client::to(service(0)).echo("mine")), None);
}

#[test]
fn the_workload_itself_is_no_stranger() {
    let (world, _servers) = world(&strict(), |_, mesh| mesh);
    let v1 = world.v1();
    let loopback = ["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()];
    for to in [v1.at(8080), v1.at6(8080), loopback[0], loopback[1]] {
        let seen = Client::to(to).echo("me").run(v1).unwrap().single().unwrap();
        assert_eq!(seen.peername, Some(to));
        assert_eq!(seen.banner.unwrap().peer.port(), seen.local.unwrap().port());
    }
}

#[test]
fn a_record_cannot_be_forged() {
    let (world, _servers) = world(&strict(), |_, mesh| mesh);
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    // A process in an authorized workload's namespace whose sockets the kernel does not watch: it
    // has the address, the ports and everything else of the workload but the record.
    let stranger = world.on.lab.cgroup().join("stranger");
    fs::create_dir(&stranger).unwrap();
    let to = Client::to(v1.at(8080)).echo("forged");
    let refused = to.run_in(v2.netns(), &stranger).unwrap().totals;
    assert_eq!((refused.connections, refused.failed), (1, 1));
    assert_eq!(to.run(v2).unwrap().totals.failed, 0);
}

#[test]
fn a_port_may_have_a_mode_of_its_own() {
    let policy = strict().select("version", "v1");
    let policy = policy.port_mtls(8081, "PERMISSIVE").port_mtls(8082, "DISABLE");
    let (world, _servers) = world(&policy, |_, mesh| mesh);
    let _more = [8081, 8082].map(|port| Server::echo(world.v1(), port, "v1").unwrap());
    let outside = world.on.b.pod("near").unwrap();
    let met = |port| error(&outside, &Client::to(world.v1().at(port)).echo("plain"));
    assert!(met(8080).unwrap().ends_with(" ECONNRESET"));
    assert_eq!((met(8081), met(8082)), (None, None));
    let arrivals = |result| {
        let label = [("verdict", result)];
        world.b.metrics().unwrap().sum("mesh_kernel_arrivals_total", &label).to_string()
    };
    assert_eq!(arrivals("captured"), "2", "what is disabled goes straight to the application");
}

#[test]
fn probes_of_the_nodes_own_processes_pass() {
    let (world, _servers) = world(&strict(), |machines, _| {
        let probed = Workload::of(&machines.versions[0]).probe(8080);
        Mesh::new("demo").workload(&probed)
    });
    let _other = Server::echo(world.v1(), 8081, "v1").unwrap();
    let node = &world.on.b;
    let kubelet = node.cgroup().join("kubelet");
    fs::create_dir(&kubelet).unwrap();
    let probe = |port| {
        let to = Client::to(world.v1().at(port)).echo("healthy?");
        to.run_in(node.netns(), &kubelet).unwrap().totals.errors.into_keys().next()
    };
    assert_eq!(probe(8080), None);
    // Only the port that is declared, and only the node's own sockets, wherever they come from.
    assert!(probe(8081).unwrap().ends_with(" ECONNRESET"));
    let outside = node.pod("outside").unwrap();
    let to = Client::to(world.v1().at(8080)).echo("healthy?");
    for pod in [&outside, world.client()] {
        assert!(error(pod, &to).unwrap().ends_with(" ECONNRESET"));
    }
}
