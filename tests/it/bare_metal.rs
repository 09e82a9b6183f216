//! Units of one host, in its own namespace and on its own address: known by cgroup and by port.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::cgroup;
use mesh_tests::expect::eventually;
use mesh_tests::lab::Lab;
use mesh_tests::mesh::{AuthorizationPolicy, ConfigDir, Mesh, MeshPolicy, Rule, Workload};
use mesh_tests::node::Node;
use mesh_tests::pki::Authority;
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::Script;

const TRUST_DOMAIN: &str = "test.example";
const WEB: u16 = 8080;
const DB: u16 = 5432;

/// Two hosts: `web`, `db` and `job` are units of the first; a pod is beside them, another is far.
struct Hosts {
    a: Agent,
    _b: Agent,
    _servers: [Server; 2],
    near: Pod,
    far: Pod,
    host: Node,
    _lab: Lab,
}

/// A unit of the host, with its ports.
fn unit(host: &Node, name: &str, ports: &[u16]) -> String {
    let folder = folder(host, name);
    let root = cgroup::mount().unwrap();
    let below = folder.strip_prefix(&root).unwrap().display().to_string();
    let [v4, v6] = host.addresses();
    let ports: Vec<_> =
        ports.iter().map(|port| format!("{{name: p{port}, port: {port}}}")).collect();
    format!(
        "apiVersion: nodemesh.dev/v1alpha1
kind: Workload
metadata: {{name: {name}, namespace: demo}}
spec:
  node: {}
  addresses: [\"{v4}\", \"{v6}\"]
  serviceAccount: {name}
  ports: [{}]
  cgroup: {below}
",
        host.name(),
        ports.join(", ")
    )
}

fn folder(host: &Node, unit: &str) -> PathBuf {
    host.cgroup().join(format!("{unit}.service"))
}

fn principal(account: &str) -> String {
    format!("{TRUST_DOMAIN}/ns/demo/sa/{account}")
}

/// Only `web`, and the pod that is far, may use the database.
fn start() -> Hosts {
    let lab = Lab::new().unwrap();
    let (host, other) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let (near, far) = (host.pod("near").unwrap(), other.pod("far").unwrap());
    for (name, below) in [("web", "worker"), ("db", ""), ("job", "")] {
        fs::create_dir_all(folder(&host, name).join(below)).unwrap();
    }
    let rule = Rule::default().principals(&[&principal("web"), &principal("far")]).ports(&[DB]);
    let guard = AuthorizationPolicy::allow("guard").select("app", "db").rule(rule);
    let db = unit(&host, "db", &[DB]).replace("{name: db,", "{name: db, labels: {app: db},");
    let mesh = Mesh::new("demo")
        .workload(&Workload::of(&near).account("near"))
        .workload(&Workload::of(&far).account("far"))
        .raw(unit(&host, "web", &[WEB]))
        .raw(db)
        .raw(unit(&host, "job", &[]))
        .policy(&MeshPolicy::new("strict").mtls("STRICT"))
        .authorization(&guard);
    let config = ConfigDir::create(lab.state().join("config")).unwrap();
    config.write(&mesh).unwrap();
    let authority = Authority::init(&lab.state().join("ca"), TRUST_DOMAIN).unwrap();
    let agent = |node: &Node| {
        let ca = authority.node(node.name()).unwrap();
        let options = mesh_tests::agent::Options { ca: &ca, config: config.path(), args: &[] };
        Agent::start(node, &options).unwrap()
    };
    let (a, b) = (agent(&host), agent(&other));
    let servers = [("web", WEB), ("db", DB)].map(|(name, port)| {
        let args = ["echo", "--listen", &format!("[::]:{port}"), "--name", name];
        Server::start_in(host.netns(), &folder(&host, name), &args).unwrap()
    });
    Hosts { a, _b: b, _servers: servers, near, far, host, _lab: lab }
}

impl Hosts {
    /// What a process of the host in this cgroup meets at an address.
    fn met(&self, cgroup: &Path, to: SocketAddr) -> Option<String> {
        let client = Client::to(to).echo("x");
        let outcome = client.run_in(self.host.netns(), cgroup).unwrap();
        outcome.totals.errors.into_keys().next()
    }

    /// Every way to a port from the host itself.
    fn ways(&self, port: u16) -> Vec<SocketAddr> {
        // The unspecified address leads to the loopback address of its family.
        let local = ["127.0.0.1", "127.0.0.9", "::1", "0.0.0.0", "::", "::ffff:0.0.0.0"];
        let local = local.map(|address| address.parse::<IpAddr>().unwrap());
        let all = self.host.addresses().into_iter().chain(local);
        all.map(|address| SocketAddr::new(address, port)).collect()
    }
}

#[test]
fn units_of_one_host_are_kept_apart() {
    let hosts = start();
    let unit = |name| folder(&hosts.host, name);
    for to in hosts.ways(DB) {
        assert_eq!(hosts.met(&unit("web"), to), None, "{to}");
        assert_eq!(hosts.met(&unit("web").join("worker"), to), None, "an ancestor counts: {to}");
        assert_eq!(hosts.met(&unit("db"), to), None, "itself: {to}");
        assert_eq!(hosts.met(&unit("job"), to).as_deref(), Some("connect EPERM"), "{to}");
        // A process of the host that is no unit of the mesh has no identity.
        let met = hosts.met(hosts.host.cgroup(), to).unwrap();
        assert!(met.ends_with(" ECONNRESET"), "{to}: {met}");
    }
    // Where no policy says otherwise, whoever has an identity may.
    for to in hosts.ways(WEB) {
        assert_eq!(hosts.met(&unit("job"), to), None, "{to}");
    }
    // What is no port of any unit is not touched.
    let other = hosts.ways(1)[0];
    assert_eq!(hosts.met(&unit("job"), other).as_deref(), Some("connect ECONNREFUSED"));
    let denied = hosts.a.logged("the denial", |line| line["failure"] == "denied").unwrap();
    assert_eq!(
        (&denied["source_workload"], &denied["policy"]),
        (&"job".into(), &"demo/guard".into())
    );
}

#[test]
fn a_unit_that_has_gone_to_another_namespace_is_seen() {
    let hosts = start();
    // A process in the unit's cgroup, and in the namespace of nobody.
    let elsewhere = hosts.host.pod("elsewhere").unwrap();
    let to = hosts.near.at(1);
    let client = Client::to(to).arg("--timeout").arg("1");
    let listener = Server::start(&hosts.near, &["echo", "--listen", "[::]:1"]).unwrap();
    let seen = || {
        // On a busy machine one of them may take longer than it waits.
        drop(client.run_in(elsewhere.netns(), &folder(&hosts.host, "job")).unwrap());
        let labels = [("workload", "job"), ("how", "other_namespace")];
        hosts.a.metrics().unwrap().sum("mesh_coverage_connections_total", &labels)
    };
    eventually("the observer", DEADLINE, || (seen() >= 1.0).then_some(())).unwrap();
    listener.stop().unwrap();
}

/// Waits until nobody listens at the agent's address, listens there as somebody without privileges, and
/// counts connections until it is told to end.
const THIEF: &str = "
import os, select, socket, sys
os.setgid(65534); os.setuid(65534)
print('waits', flush=True)
while True:
    thief = socket.socket()
    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        thief.bind(('127.0.0.1', 15001)); thief.listen(100)
        break
    except OSError: thief.close()
print('listens', flush=True)
taken = 0
while True:
    ready, _, _ = select.select([thief, sys.stdin], [], [])
    if sys.stdin in ready: break
    thief.accept()[0].close(); taken += 1
print(taken, flush=True)
";

#[test]
fn whoever_listens_where_the_agent_did_is_not_the_agent() {
    let hosts = start();
    let unit = |name| folder(&hosts.host, name);
    let to = hosts.far.at(WEB);
    let _far = Server::echo(&hosts.far, WEB, "far").unwrap();
    assert_eq!(hosts.met(&unit("web"), to), None);
    let (mut thief, first) = Script::start_in(hosts.host.netns(), &unit("job"), THIEF).unwrap();
    assert_eq!(first, "waits");
    // The heartbeat is of a moment ago.
    hosts.a.kill();
    assert_eq!(thief.line().unwrap(), "listens");
    for _ in 0..20 {
        let met = Client::to(to).echo("x").run_in(hosts.host.netns(), &unit("web")).unwrap();
        let met = met.totals.errors.into_keys().next();
        assert_eq!(met.as_deref(), Some("connect EPERM"));
    }
    thief.say("").unwrap();
    assert_eq!(thief.line().unwrap(), "0");
}

#[test]
fn units_are_reached_from_pods_and_from_other_nodes() {
    let hosts = start();
    for (pod, port, expect) in [
        (&hosts.near, WEB, None),
        (&hosts.near, DB, Some("connect EPERM")),
        (&hosts.far, WEB, None),
        (&hosts.far, DB, None),
    ] {
        for ip in hosts.host.addresses() {
            let outcome = Client::to(SocketAddr::new(ip, port)).echo("x").run(pod).unwrap();
            let error = outcome.totals.errors.keys().next().map(String::as_str);
            assert_eq!(error, expect, "{} to {port}", pod.name());
        }
    }
    // Each tunnel was to the unit that has the port, with that unit's certificate.
    for unit in ["web", "db"] {
        let id = format!("spiffe://{}", principal(unit));
        eventually("the tunnel's line", DEADLINE, || {
            let lines = hosts.a.access_log().ok()?;
            let ours = lines.iter().any(|line| {
                line["destination_principal"] == id.as_str()
                    && line["source_workload"] == "far"
                    && line["connection_security_policy"] == "mutual_tls"
            });
            ours.then_some(())
        })
        .unwrap();
    }
}
