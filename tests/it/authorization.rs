//! Permissions to connect: judged by the agent of the destination, for tunnels, for plaintext, and between
//! workloads of one node.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{Machines, TRUST_DOMAIN, World, service};
use mesh_tests::mesh::{AuthorizationPolicy, Mesh, MeshPolicy, Rule};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use serde_json::Value;

/// A principal of the fixture, as policies write it.
fn principal(account: &str) -> String {
    format!("{TRUST_DOMAIN}/ns/demo/sa/{account}")
}

/// Denies the workloads with an account to connect to all versions.
fn deny(account: &str) -> AuthorizationPolicy {
    let rule = Rule::default().principals(&[&principal(account)]);
    AuthorizationPolicy::deny("no-entry").select("app", "echo").rule(rule)
}

fn start(add: impl FnOnce(Mesh) -> Mesh) -> (World, Vec<Server>) {
    let machines = Machines::new(2).unwrap();
    let mesh = add(machines.mesh());
    let world = machines.start(&mesh).unwrap();
    let servers = world.serve().unwrap();
    (world, servers)
}

/// The error that a connection meets.
fn error(from: &Pod, to: SocketAddr) -> Option<String> {
    Client::to(to).echo("x").run(from).unwrap().totals.errors.into_keys().next()
}

fn denied(agent: &Agent, reporter: &str) -> Value {
    let is = |line: &Value| line["failure"] == "denied" && line["reporter"] == reporter;
    agent.logged("the denial", is).unwrap()
}

/// Holds connections, changes the mesh, and waits until they are cut.
#[track_caller]
fn cut_by(world: &World, from: &Pod, to: SocketAddr, change: &Mesh) {
    let (mut held, opened) = Client::to(to).echo("held").times(3, 3).hold(from).unwrap();
    assert_eq!((opened.connections, opened.failed), (3, 0));
    assert_eq!(held.mark().unwrap().failed, 0);
    world.config.write(change).unwrap();
    // A connection that is cut is not held any more, and is told once.
    let mut cut = 0;
    eventually("the connections to be cut", DEADLINE, || {
        cut += held.mark().unwrap().failed;
        (cut == 3).then_some(())
    })
    .unwrap();
}

#[test]
fn what_comes_through_a_tunnel_is_judged_at_the_destination() {
    let (world, _servers) = start(|mesh| mesh.authorization(&deny("client")));
    let met = error(world.client(), service(0)).unwrap();
    assert!(met.ends_with(" ECONNRESET"), "{met}");
    let there = denied(&world.b, "destination");
    assert_eq!(there["response_flags"], "DENY");
    assert_eq!(there["source_workload"], "client");
    let cause = there["connection_termination_details"].as_str().unwrap();
    assert!(cause.contains("demo/no-entry"), "{cause}");
    assert_eq!([&there["verdict"], &there["policy"]], ["deny", "demo/no-entry"]);
    let here = denied(&world.a, "source");
    assert_eq!((&here["failure_side"], &here["retry"]), (&"upstream".into(), &"never".into()));
}

#[test]
fn only_what_is_allowed_comes_in_where_something_is() {
    let rule = Rule::default().principals(&[&principal("client")]).ports(&[8080]);
    let allow = AuthorizationPolicy::allow("guests").select("version", "v1").rule(rule);
    let (world, _servers) = start(|mesh| mesh.authorization(&allow));
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let _other = Server::echo(v1, 8081, "v1").unwrap();
    assert_eq!(error(world.client(), v1.at(8080)), None);
    assert!(error(world.client(), v1.at(8081)).is_some());
    assert!(error(v2, v1.at(8080)).is_some());
    assert_eq!(error(world.client(), v2.at(8080)), None, "nothing is said of it");
    // Without an identity it is nobody that is allowed.
    let outside = world.on.b.pod("outside").unwrap();
    assert!(error(&outside, v1.at(8080)).unwrap().ends_with(" ECONNRESET"));
    assert_eq!(error(&outside, v2.at(8080)), None);
}

#[test]
fn a_tunnels_connections_end_when_they_are_forbidden() {
    let (world, _servers) = start(|mesh| mesh);
    let change = world.on.mesh().authorization(&deny("client"));
    cut_by(&world, world.client(), service(0), &change);
    denied(&world.b, "destination");
}

#[test]
fn plaintext_ends_when_it_is_forbidden() {
    let (world, _servers) = start(|mesh| mesh);
    let outside = world.on.a.pod("outside").unwrap();
    let strict = MeshPolicy::new("tight").mtls("STRICT");
    cut_by(&world, &outside, world.v1().at(8080), &world.on.mesh().policy(&strict));
    let line = world.b.logged("the end", |line| line["failure"] == "plaintext").unwrap();
    assert_eq!([&line["verdict"], &line["policy"]], ["deny", "demo/tight"], "{line}");
}

#[test]
fn workloads_of_one_node_may_talk_through_the_agent() {
    let by_agent = MeshPolicy::new("by-agent").same_node("agent");
    let (world, _servers) = start(|mesh| mesh.policy(&by_agent));
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    for to in [v1.at(8080), v1.at6(8080)] {
        let seen = Client::to(to).echo("x").run(v2).unwrap().single().unwrap();
        assert_eq!((seen.version(), seen.peername), (Some("v1"), Some(to)));
        let peer = seen.banner.unwrap().peer;
        let own = [v2.v4().into(), v2.v6().into()];
        assert!(own.contains(&peer.ip().to_canonical()), "{peer}");
    }
    for reporter in ["source", "destination"] {
        let line = world.b.logged(reporter, |line| line["reporter"] == reporter).unwrap();
        assert_eq!(line["connection_security_policy"], "kernel", "{line}");
        let ends = [&line["source_workload"], &line["destination_workload"]];
        assert_eq!(ends, ["v2", "v1"]);
        assert!(!line["source_principal"].is_null() && !line["destination_principal"].is_null());
        assert_eq!((&line["failure"], &line["bytes_received"]), (&Value::Null, &1.into()));
    }
    let tunnels = world.b.metrics().unwrap().sum("mesh_tunnels_open", &[]);
    assert_eq!(tunnels.to_string(), "0");
    let change = world.on.mesh().policy(&by_agent).authorization(&deny("echo"));
    cut_by(&world, v2, v1.at(8080), &change);
    for reporter in ["source", "destination"] {
        let line = denied(&world.b, reporter);
        let judged = [&line["verdict"], &line["policy"]];
        assert_eq!(judged, ["deny", "demo/no-entry"], "{line}");
    }
}

#[test]
fn workloads_of_one_node_may_be_made_to_use_mutual_tls() {
    let by_tls = MeshPolicy::new("by-tls").select("version", "v1").same_node("mtls");
    let (world, _servers) = start(|mesh| mesh.policy(&by_tls));
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    // Either end may demand it.
    for (from, to) in [(v2, v1), (v1, v2)] {
        assert_eq!(error(from, to.at(8080)), None);
        let is = |line: &Value| {
            line["connection_security_policy"] == "mutual_tls"
                && line["source_workload"] == from.name()
                && line["reporter"] == "destination"
        };
        world.b.logged("the tunnel's stream", is).unwrap();
    }
}

/// Units of a node that share its address: their names, ports and cgroups, and the mesh with them.
fn units(machines: &Machines) -> (IpAddr, [(&'static str, u16, PathBuf); 2], Mesh) {
    let node = &machines.b;
    let address = node.addresses()[0];
    let units = [("one", 7001), ("two", 7002)]
        .map(|(name, port)| (name, port, node.cgroup().join("pods").join(name)));
    let mut mesh = machines.mesh();
    for (name, port, cgroup) in &units {
        fs::create_dir(cgroup).unwrap();
        let below = cgroup.strip_prefix(mesh_tests::cgroup::mount().unwrap()).unwrap();
        mesh = mesh.raw(format!(
            "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}\n  \
             namespace: demo\n  labels: {{unit: {name}}}\nspec:\n  node: {}\n  \
             addresses: [{address}]\n  ports: [{{name: p, port: {port}}}]\n  \
             serviceAccount: {name}\n  cgroup: {}\n",
            node.name(),
            below.display(),
        ));
    }
    (address, units, mesh)
}

/// Starts an echo server of a unit.
fn serve_unit(world: &World, cgroup: &Path, listen: SocketAddr, name: &str) -> Server {
    let args = ["echo", "--listen", &listen.to_string(), "--name", name];
    Server::start_in(world.on.b.netns(), cgroup, &args).unwrap()
}

#[test]
fn units_that_share_an_address_are_told_apart() {
    let machines = Machines::new(0).unwrap();
    let (address, units, mesh) = units(&machines);
    let world = machines.start(&mesh).unwrap();
    let servers = units.each_ref().map(|(name, port, cgroup)| {
        serve_unit(&world, cgroup, SocketAddr::new(address, *port), name)
    });
    for (name, port, _) in &units {
        let to = SocketAddr::new(address, *port);
        let seen = Client::to(to).echo("x").run(world.client()).unwrap();
        assert_eq!(seen.single().unwrap().version(), Some(*name));
        let is = |line: &Value| line["destination_workload"] == *name;
        let line = world.b.logged(name, is).unwrap();
        let expect = format!("spiffe://{}", principal(name));
        assert_eq!(line["destination_principal"], expect, "{line}");
        assert_eq!(line["connection_security_policy"], "mutual_tls");
    }
    // A policy of one of them that the other one's connections must not meet.
    let rule = Rule::default().principals(&[&principal("client")]);
    let deny = AuthorizationPolicy::deny("not-two").select("unit", "two").rule(rule);
    world.config.write(&mesh.authorization(&deny)).unwrap();
    eventually("the policy to be in force", DEADLINE, || {
        error(world.client(), SocketAddr::new(address, 7002)).is_some().then_some(())
    })
    .unwrap();
    assert_eq!(error(world.client(), SocketAddr::new(address, 7001)), None);
    drop(servers);
}

#[test]
fn units_that_meet_on_loopback_may_go_through_the_agent() {
    let machines = Machines::new(0).unwrap();
    let (_address, [one, two], mesh) = units(&machines);
    let by_agent = MeshPolicy::new("by-agent").same_node("agent");
    let mesh = mesh.policy(&by_agent);
    let world = machines.start(&mesh).unwrap();
    let to: SocketAddr = "127.0.0.1:7002".parse().unwrap();
    let _server = serve_unit(&world, &two.2, to, two.0);
    let client = Client::to(to).echo("x");
    let meet = || client.run_in(world.on.b.netns(), &one.2).unwrap();
    let seen = meet().single().unwrap();
    assert_eq!((seen.version(), seen.peername), (Some("two"), Some(to)));
    let line = world.b.logged("both ends", |line| line["reporter"] == "destination").unwrap();
    let ends = [&line["source_workload"], &line["destination_workload"], &line["path"]];
    assert_eq!(ends, ["one", "two", "agent"]);
    let rule = Rule::default().principals(&[&principal("one")]);
    let deny = AuthorizationPolicy::deny("not-two").select("unit", "two").rule(rule);
    world.config.write(&mesh.authorization(&deny)).unwrap();
    eventually("the policy to be in force", DEADLINE, || (meet().totals.failed == 1).then_some(()))
        .unwrap();
}

fn told(agent: &Agent, policy: &str, reason: &str) -> f64 {
    let labels = [("policy", policy), ("reason", reason)];
    agent.metrics().unwrap().sum("mesh_policy_verdicts_total", &labels)
}

#[test]
fn what_is_tried_out_or_audited_is_told_by_kernel_and_agent_and_changes_nothing() {
    let rule = |account: &str| Rule::default().principals(&[&principal(account)]);
    let (world, _servers) = start(|mesh| {
        let audit = AuthorizationPolicy::audit("watch").select("app", "echo").rule(Rule::default());
        let tried = deny("client").dry_run();
        let direct = AuthorizationPolicy::allow("guests").select("app", "echo").rule(rule("echo"));
        mesh.authorization(&audit).authorization(&tried).authorization(&direct.dry_run())
    });
    assert_eq!(error(world.client(), service(0)), None);
    for (policy, reason) in [("demo/watch", "audited"), ("demo/no-entry", "would_deny")] {
        eventually(policy, DEADLINE, || (told(&world.b, policy, reason) >= 1.0).then_some(()))
            .unwrap();
    }
    // Within the node the agent is not asked, and tells what it hears from the kernel.
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let before = told(&world.b, "demo/watch", "audited");
    assert_eq!(error(v1, v2.at(8080)), None);
    eventually("the kernel's connection", DEADLINE, || {
        let all = told(&world.b, "demo/watch", "audited") > before;
        (all && told(&world.b, "demo/guests", "would_allow") >= 1.0).then_some(())
    })
    .unwrap();
    let log = world.b.log();
    assert!(log.contains("a policy that is not enforced has its say"), "{log}");
}

#[test]
fn every_denial_is_counted_with_policy_rule_and_reason() {
    let (world, _servers) = start(|mesh| mesh.authorization(&deny("client")));
    assert!(error(world.client(), service(0)).is_some());
    let denied = |agent: &Agent| {
        let labels = [("policy", "demo/no-entry"), ("rule", "0"), ("reason", "rule_denies")];
        agent.metrics().unwrap().sum("mesh_policy_verdicts_total", &labels)
    };
    eventually("the denial", DEADLINE, || (denied(&world.b) >= 1.0).then_some(())).unwrap();
    // In the kernel of one node.
    let before = denied(&world.b);
    world.config.write(&world.on.mesh().authorization(&deny("echo"))).unwrap();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    eventually("the kernel's denial", DEADLINE, || {
        drop(error(v1, v2.at(8080)));
        (denied(&world.b) > before).then_some(())
    })
    .unwrap();
    let line = denied_line(&world.b);
    let cause = line["connection_termination_details"].as_str().unwrap();
    assert!(cause.contains("`spec.rules[0]`"), "{cause}");
}

fn denied_line(agent: &Agent) -> Value {
    let is = |line: &Value| line["failure"] == "denied" && line["source_workload"] == "v1";
    agent.logged("the kernel's denial", is).unwrap()
}

#[test]
fn an_istio_peer_authentication_demands_mutual_tls() {
    let (world, _servers) = start(|mesh| mesh);
    let outside = world.on.a.pod("outside").unwrap();
    assert_eq!(error(&outside, world.v1().at(8080)), None);
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                  metadata: {name: default, namespace: istio-system}\n\
                  spec: {mtls: {mode: STRICT}}\n";
    fs::write(world.config.path().join("strict.yaml"), strict).unwrap();
    eventually("plaintext to be refused", DEADLINE, || error(&outside, world.v1().at(8080)))
        .unwrap();
    let labels = [("policy", "istio-system/default"), ("reason", "plaintext")];
    let counted = world.b.metrics().unwrap().sum("mesh_policy_verdicts_total", &labels);
    assert!(counted >= 1.0);
    assert_eq!(error(world.client(), service(0)), None);
}
