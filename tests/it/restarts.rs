//! Workloads that restart: their namespace or cgroup is another one, and nothing of them is in plaintext
//! before the mesh has found it.

use std::fs;

use mesh_tests::agent::{Agent, Options};
use mesh_tests::apps::{Client, Server};
use mesh_tests::capture::Capture;
use mesh_tests::cgroup;
use mesh_tests::expect::eventually;
use mesh_tests::lab::Lab;
use mesh_tests::mesh::{ConfigDir, Mesh, MeshPolicy, Workload};
use mesh_tests::node::Node;
use mesh_tests::pair::PORT;
use mesh_tests::pki::Authority;
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;

/// How often a workload restarts.
const RESTARTS: usize = 100;

/// The text that must not be seen between the nodes.
const SECRET: &str = "never in the open";

/// Two nodes. On the first one a pod and a unit, which demand mutual TLS; on the other one a pod whose
/// server would take plaintext, and one that has no part in the mesh.
struct World {
    agents: [Agent; 2],
    far: Pod,
    stranger: Pod,
    near: Pod,
    host: Node,
    lab: Lab,
}

fn start() -> World {
    let lab = Lab::new().unwrap();
    let (host, other) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let (near, far) = (host.pod("near").unwrap(), other.pod("far").unwrap());
    let stranger = other.pod("stranger").unwrap();
    let unit = host.cgroup().join("job.service");
    fs::create_dir(&unit).unwrap();
    let below = unit.strip_prefix(cgroup::mount().unwrap()).unwrap().display().to_string();
    let job = format!(
        "apiVersion: nodemesh.dev/v1alpha1
kind: Workload
metadata: {{name: job, namespace: demo}}
spec: {{node: {}, addresses: [\"{}\"], serviceAccount: job, cgroup: {below}}}
",
        host.name(),
        host.addresses()[0]
    );
    let open = MeshPolicy::new("open").select("app", "far").mtls("PERMISSIVE");
    let mesh = Mesh::new("demo")
        .workload(&Workload::of(&near).account("near").port(PORT))
        .workload(&Workload::of(&far).account("far").label("app", "far").port(PORT))
        .raw(job)
        .policy(&MeshPolicy::new("all").mtls("STRICT").failure("closed"))
        .policy(&open);
    let config = ConfigDir::create(lab.state().join("config")).unwrap();
    config.write(&mesh).unwrap();
    let authority = Authority::init(&lab.state().join("ca"), "test.example").unwrap();
    let agents = [&host, &other].map(|node| {
        let ca = authority.node(node.name()).unwrap();
        Agent::start(node, &Options { ca: &ca, config: config.path(), args: &[] }).unwrap()
    });
    World { agents, far, stranger, near, host, lab }
}

#[test]
fn a_unit_that_restarts_says_nothing_in_plaintext() {
    let world = start();
    let _server = Server::echo(&world.far, PORT, "v1").unwrap();
    let wire = Capture::start(world.lab.fabric()).unwrap();
    let unit = world.host.cgroup().join("job.service");
    let client = Client::to(world.far.at(PORT)).echo(SECRET);
    let met = || client.run_in(world.host.netns(), &unit).unwrap().totals;
    let mut served = 0;
    for _ in 0..RESTARTS {
        cgroup::remove(&unit).unwrap();
        fs::create_dir(&unit).unwrap();
        served += met().connections - met().failed;
    }
    eventually("the unit to be served", DEADLINE, || (met().failed == 0).then_some(())).unwrap();
    let wire = wire.stop().unwrap();
    assert!(!wire.shows(SECRET.as_bytes()), "{served} of {RESTARTS} were served");
}

#[test]
fn a_unit_that_restarts_without_an_agent_has_its_failure_mode() {
    let World { agents: [here, _there], far, host, lab, .. } = start();
    let _server = Server::echo(&far, PORT, "v1").unwrap();
    let wire = Capture::start(lab.fabric()).unwrap();
    let unit = host.cgroup().join("job.service");
    here.kill();
    for _ in 0..10 {
        cgroup::remove(&unit).unwrap();
        fs::create_dir(&unit).unwrap();
        let client = Client::to(far.at(PORT)).echo(SECRET);
        let met = client.run_in(host.netns(), &unit).unwrap().totals;
        assert_eq!(met.errors.into_keys().collect::<Vec<_>>(), ["connect EPERM"]);
    }
    assert!(!wire.stop().unwrap().shows(SECRET.as_bytes()));
}

#[test]
fn a_pod_that_restarts_says_and_takes_nothing_in_plaintext() {
    let world = start();
    let _server = Server::echo(&world.far, PORT, "v1").unwrap();
    let wire = Capture::start(world.lab.fabric()).unwrap();
    let knocking = Client::to(world.near.at(PORT)).echo("let me in").times(10_000_000, 2);
    let knocking = knocking.traffic(&world.stranger).unwrap();
    let client = Client::to(world.far.at(PORT)).echo(SECRET);
    for _ in 0..RESTARTS {
        world.near.restart().unwrap();
        let server = Server::echo(&world.near, PORT, "v1").unwrap();
        drop(client.run(&world.near).unwrap());
        server.stop().unwrap();
    }
    let met = || client.run(&world.near).unwrap().totals;
    eventually("the pod to be served", DEADLINE, || (met().failed == 0).then_some(())).unwrap();
    let knocked = knocking.stop().unwrap();
    assert!(knocked.connections > 0);
    assert_eq!(knocked.failed, knocked.connections, "a stranger was answered in plaintext");
    let wire = wire.stop().unwrap();
    assert!(!wire.shows(SECRET.as_bytes()));
}
