//! Units of one host, in its own namespace and on its own address: known by cgroup and by port.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::cgroup;
use mesh_tests::expect::eventually;
use mesh_tests::lab::Lab;
use mesh_tests::mesh::{AuthorizationPolicy, ConfigDir, Mesh, MeshPolicy, Rule, Workload};
use mesh_tests::node::Node;
use mesh_tests::peers::{Caller, connect};
use mesh_tests::pki::Authority;
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::Script;
use nix::sys::signal::Signal;

const TRUST_DOMAIN: &str = "test.example";
pub(crate) const WEB: u16 = 8080;
pub(crate) const DB: u16 = 5432;

/// Two hosts: `web`, `db` and `job` are units of the first; a pod is beside them, another is far.
pub(crate) struct Hosts {
    pub(crate) a: Agent,
    pub(crate) b: Agent,
    _servers: [Server; 2],
    near: Pod,
    pub(crate) far: Pod,
    pub(crate) host: Node,
    authority: Authority,
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
    start_after(|_host| ()).0
}

/// The same, and what was done on the first host before its agent started.
pub(crate) fn start_after<T>(before: impl FnOnce(&Node) -> T) -> (Hosts, T) {
    start_with("STRICT", before)
}

/// The same, where this mode of mutual TLS is in force.
pub(crate) fn start_with<T>(mtls: &str, before: impl FnOnce(&Node) -> T) -> (Hosts, T) {
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
        .policy(&MeshPolicy::new("mode").mtls(mtls))
        .authorization(&guard);
    let config = ConfigDir::create(lab.state().join("config")).unwrap();
    config.write(&mesh).unwrap();
    let authority = Authority::init(&lab.state().join("ca"), TRUST_DOMAIN).unwrap();
    let agent = |node: &Node| {
        let ca = authority.node(node.name()).unwrap();
        let options = mesh_tests::agent::Options { ca: &ca, config: config.path(), args: &[] };
        Agent::start(node, &options).unwrap()
    };
    let earlier = before(&host);
    let (a, b) = (agent(&host), agent(&other));
    let servers = [("web", WEB), ("db", DB)].map(|(name, port)| {
        let args = ["echo", "--listen", &format!("[::]:{port}"), "--name", name];
        Server::start_in(host.netns(), &folder(&host, name), &args).unwrap()
    });
    (Hosts { a, b, _servers: servers, near, far, host, authority, _lab: lab }, earlier)
}

impl Hosts {
    /// The cgroup of a unit of the first host.
    pub(crate) fn unit(&self, name: &str) -> PathBuf {
        folder(&self.host, name)
    }

    /// The result of a process of the host in this cgroup at an address.
    pub(crate) fn met(&self, cgroup: &Path, to: SocketAddr) -> Option<String> {
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
    // An address that is no port of any unit is not touched.
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
    // To what the mesh does not know: to its own, the kernel lets nothing go that is not protected.
    let outside = hosts.host.pod("outside").unwrap();
    let client = Client::to(outside.at(1)).arg("--timeout").arg("1");
    let listener = Server::start(&outside, &["echo", "--listen", "[::]:1"]).unwrap();
    let seen = || {
        // On a busy machine one of them may take longer than it waits.
        drop(client.run_in(elsewhere.netns(), &folder(&hosts.host, "job")).unwrap());
        let labels = [("workload", "job"), ("how", "other_namespace")];
        hosts.a.metrics().unwrap().sum("mesh_coverage_connections_total", &labels)
    };
    eventually("the observer", DEADLINE, || (seen() >= 1.0).then_some(())).unwrap();
    listener.stop().unwrap();
}

/// Listens, as root without capabilities, as soon as it can at one of `ADDRESSES`, says at how many, and
/// counts connections until it is told to end. `there()` are the addresses at which others listen,
/// applications excepted; `ports(..)` are the agent's ports at some addresses.
const THIEF: &str = "
import ctypes, select, socket, sys
def there():
    for path, family in ('/proc/net/tcp', socket.AF_INET), ('/proc/net/tcp6', socket.AF_INET6):
        for line in open(path).readlines()[1:]:
            _, local, _, state = line.split()[:4]
            words, port = bytes.fromhex(local.split(':')[0]), int(local.split(':')[1], 16)
            if state == '0A' and port not in (8080, 5432):
                address = b''.join(words[n:n + 4][::-1] for n in range(0, len(words), 4))
                yield socket.inet_ntop(family, address), port
def ports(*addresses):
    return [(address, port) for address in addresses for port in (15001, 15006, 15008)]
def listen(address, port):
    v6 = ':' in address
    one = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # IPV6_V6ONLY; IPV6_FREEBIND or IP_FREEBIND.
    if v6: one.setsockopt(41, 26, 1)
    one.setsockopt(*((41, 78) if v6 else (0, 15)), 1)
    try:
        one.bind((address, port)); one.listen(100)
        return one
    except OSError: one.close()
capset = ctypes.CDLL(None).capset
assert capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
assert 'CapEff:\t0000000000000000' in open('/proc/self/status').read()
print('tries', flush=True)
mine = []
while not mine: mine = [one for one in [listen(*at) for at in ADDRESSES] if one]
print(len(mine), flush=True)
taken = 0
while True:
    ready, _, _ = select.select(mine + [sys.stdin], [], [])
    if sys.stdin in ready: break
    for one in ready: one.accept()[0].close(); taken += 1
print(taken, flush=True)
";

/// A process of a unit that takes connections where others, above all the agent, listen or should.
pub(crate) struct Thief(Script);

impl Thief {
    /// Starts one in the unit `job`. `addresses`: a list in Python, see [`THIEF`].
    pub(crate) fn start(host: &Node, addresses: &str) -> Self {
        let program = THIEF.replace("ADDRESSES", addresses);
        let (script, first) =
            Script::start_in(host.netns(), &folder(host, "job"), &program).unwrap();
        assert_eq!(first, "tries");
        Self(script)
    }

    /// Waits until it listens; at how many addresses.
    pub(crate) fn listens(&mut self) -> usize {
        self.0.line().unwrap().parse().unwrap()
    }

    /// How many connections it was given.
    pub(crate) fn taken(mut self) -> usize {
        self.0.say("").unwrap();
        self.0.line().unwrap().parse().unwrap()
    }
}

#[test]
fn whoever_listens_where_the_agent_did_is_not_the_agent() {
    let mut hosts = start();
    let (to, web) = (hosts.far.at(WEB), hosts.unit("web"));
    let _far = Server::echo(&hosts.far, WEB, "far").unwrap();
    assert_eq!(hosts.met(&web, to), None);
    let mut thief = Thief::start(&hosts.host, "ports('127.0.0.1', '::1', '0.0.0.0', '::')");
    let netns = hosts.host.netns();
    thread::scope(|scope| {
        // Some of these are between `connect()` and `accept()` when it ends.
        let client = || Client::to(to).echo("x").times(2_000, 8).run_in(netns, &web).unwrap();
        let running = scope.spawn(client);
        let lines = || hosts.a.access_log().ok().filter(|lines| lines.len() > 20);
        eventually("connections", DEADLINE, lines).unwrap();
        // The heartbeat is of a moment ago.
        hosts.a.signal(Signal::SIGKILL).unwrap();
        assert!(running.join().unwrap().totals.failed > 0);
    });
    hosts.a.ended().unwrap();
    assert!(thief.listens() > 0);
    for _ in 0..20 {
        assert_eq!(hosts.met(&web, to).as_deref(), Some("connect EPERM"));
    }
    assert_eq!(thief.taken(), 0);
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

#[test]
fn a_tunnel_does_not_lead_to_the_hosts_loopback() {
    let hosts = start();
    let node = hosts.authority.steal(hosts.far.node().name()).unwrap();
    let leaf = node.leaf(&format!("spiffe://{}", principal("far"))).unwrap();
    let root = hosts.authority.steal_root().unwrap();
    let caller = Caller::new(Some(&leaf), root.anchor().unwrap()).unwrap();
    let [v4, _] = hosts.host.addresses();
    let status = |to: SocketAddr| {
        let request = connect(&to.to_string(), None).unwrap();
        caller.call(hosts.far.netns(), v4, request, b"x").unwrap().status
    };
    assert_eq!(status(SocketAddr::new(v4, DB)), 200);
    for to in ["127.0.0.1", "127.0.0.9", "::1"].map(|ip| ip.parse().unwrap()) {
        assert_eq!(status(SocketAddr::new(to, DB)), 400, "{to}");
    }
}

/// Connects from twenty ports of one address to another, and prints what answered.
const FROM_TWENTY_PORTS: &str = r#"
import socket, struct
met = set()
for port in range(41000, 41020):
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Reset at its end: the port is free at once.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.settimeout(10)
        client.bind((FROM, port))
        try:
            client.connect((TO, PORT))
            client.sendall(b"x")
            met.add("served" if client.recv(64) else "ended")
        except ConnectionError:
            met.add("refused")
print(" ".join(sorted(met)))
"#;

#[test]
fn a_connection_of_a_unit_to_itself_lets_nobody_in_when_it_has_ended() {
    let hosts = start();
    let [v4, _] = hosts.host.addresses();
    let own = v4.to_string();
    for (from, to) in [("127.0.0.1", "127.0.0.9"), ("127.0.0.1", "127.0.0.1"), ("127.0.0.3", &own)]
    {
        let program = format!("FROM, TO, PORT = '{from}', '{to}', {DB}\n{FROM_TWENTY_PORTS}");
        let met = |cgroup: &Path| {
            mesh_tests::script::run_in(hosts.host.netns(), cgroup, &program).unwrap()
        };
        let all =
            [hosts.host.cgroup().to_owned(), hosts.unit("db"), hosts.host.cgroup().to_owned()];
        let all = all.map(|cgroup| met(&cgroup).trim().to_owned());
        assert_eq!(all, ["refused", "served", "refused"], "from {from} to {to}");
    }
}

#[test]
fn a_document_of_another_namespace_does_not_take_a_port() {
    let hosts = start();
    let met = |unit: &str, to| hosts.met(&hosts.unit(unit), to);
    let guarded = |when: &str| {
        for to in hosts.ways(DB) {
            assert_ne!(hosts.met(hosts.host.cgroup(), to), None, "{when}: no unit, {to}");
            assert_ne!(met("job", to), None, "{when}: one that may not, {to}");
        }
    };
    let served = |when: &str| {
        for to in hosts.ways(DB) {
            assert_eq!(met("web", to), None, "{when}: one that may, {to}");
        }
        let to = SocketAddr::new(hosts.host.addresses()[0], DB);
        let far = Client::to(to).echo("x").run(&hosts.far).unwrap();
        assert_eq!(far.totals.failed, 0, "{when}: one of another node that may: {far:?}");
    };
    guarded("before");
    served("before");
    let there = folder(&hosts.host, "evil");
    fs::create_dir_all(&there).unwrap();
    let evil = unit(&hosts.host, "evil", &[DB]).replace("namespace: demo", "namespace: aaa");
    let [v4, v6] = hosts.host.addresses();
    let elsewhere = evil.replace(&format!("\"{v4}\", \"{v6}\""), "10.123.45.6");
    assert_ne!(elsewhere, evil);
    let config = hosts.a.config();
    let file = config.join("evil.yaml");
    let is_told = |has: bool| {
        let told = || {
            let conditions = hosts.a.conditions().ok()?.to_string();
            (conditions.contains("Workload aaa/evil") == has).then_some(())
        };
        eventually("the condition", DEADLINE, told).unwrap();
    };
    let absent = evil.replace("evil.service", "absent.service");
    for (when, text) in
        [("claimed", &evil), ("at another address", &elsewhere), ("absent", &absent)]
    {
        fs::write(&file, text).unwrap();
        is_told(true);
        guarded(when);
        served(when);
        fs::remove_file(&file).unwrap();
        is_told(false);
    }
    // It is not the other's either while its own document is away, or has another name.
    fs::write(&file, &evil).unwrap();
    is_told(true);
    let mesh = config.join("mesh.yaml");
    let text = fs::read_to_string(&mesh).unwrap();
    let without: Vec<_> = text.split("---\n").filter(|it| !it.contains("{name: db,")).collect();
    let replace = |text: &str| {
        let revision = |of: &Agent| of.metrics().unwrap().sum("mesh_applied_revision", &[]);
        // The other node reads the same documents, at its own pace.
        let agents = [&hosts.a, &hosts.b].map(|of| (of, revision(of)));
        let new = config.join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &mesh).unwrap();
        let all = || agents.iter().all(|(of, before)| revision(of) > *before).then_some(());
        eventually("the change", DEADLINE, all).unwrap();
    };
    replace(&without.join("---\n"));
    guarded("away");
    for name in ["db", "db2"] {
        replace(&text.replace("{name: db,", &format!("{{name: {name},")));
        eventually("the unit", DEADLINE, || {
            met("web", SocketAddr::new(v4, DB)).is_none().then_some(())
        })
        .unwrap();
        guarded(name);
        served(name);
    }
    fs::remove_dir(&there).unwrap();
}
