//! Connections that were made before a workload has another service account, or an agent.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use mesh_tests::agent::{Agent, Options};
use mesh_tests::cgroup;
use mesh_tests::expect::eventually;
use mesh_tests::fixture::TRUST_DOMAIN;
use mesh_tests::http::{self, Web};
use mesh_tests::lab::Lab;
use mesh_tests::mesh::{AuthorizationPolicy, ConfigDir, Mesh, MeshPolicy, Rule, Service, Workload};
use mesh_tests::netns::Netns;
use mesh_tests::node::Node;
use mesh_tests::pki::Authority;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::{Script, run_in};

use super::suite::{HTTP, To};

const NAMESPACE: &str = "demo";

#[test]
fn a_unit_asks_as_who_it_is_now() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let folder = a.cgroup().join("job.service");
    fs::create_dir(&folder).unwrap();
    let pod = b.pod("guarded").unwrap();
    let _server = Web::start(&pod, "guarded", &[HTTP]).unwrap();
    let admin = format!("{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/admin");
    let guard = AuthorizationPolicy::allow("guard").select("app", "guarded");
    let guard = guard.rule(Rule::default().principals(&[&admin]));
    let to = To::Echo.at(80);
    let service = Service::new("guarded").at(to.ip()).select("app", "guarded");
    let guarded = Workload::of(&pod).account("guarded").label("app", "guarded").port(HTTP);
    let mesh = |account: &str| {
        let backend = "  - backendRefs: [{name: guarded, port: 80}]";
        Mesh::new(NAMESPACE)
            .workload(&guarded)
            .service(&service.clone().port_of(80, HTTP, "http"))
            .raw(http::route::http(NAMESPACE, "test", "name: guarded, port: 80", backend))
            .raw(unit(&a, account))
            .authorization(&guard)
    };
    let config = ConfigDir::create(lab.state().join("config")).unwrap();
    config.write(&mesh("admin")).unwrap();
    let authority = Authority::init(&lab.state().join("ca"), TRUST_DOMAIN).unwrap();
    let _agents = [&a, &b].map(|node| {
        let ca = authority.node(node.name()).unwrap();
        Agent::start(node, &Options { ca: &ca, config: config.path(), args: &[] }).unwrap()
    });
    let ask = || asked(a.netns(), &folder, to);
    for _ in 0..4 {
        assert_eq!(ask(), "200");
    }
    // One that has asked, and one that has not yet.
    let mut held = [true, false].map(|asks| {
        let (mut script, _) = Script::start_in(a.netns(), &folder, &holding(to)).unwrap();
        if asks {
            script.say("").unwrap();
            assert_eq!(script.line().unwrap(), "200");
        }
        script
    });
    config.write(&mesh("guest")).unwrap();
    eventually("the denial", DEADLINE, || (ask() != "200").then_some(())).unwrap();
    for _ in 0..4 {
        assert_eq!(ask(), "403", "from then on");
    }
    for script in &mut held {
        script.say("").unwrap();
        assert_eq!(script.line().unwrap(), "ended", "a connection of who it was");
    }
}

#[test]
fn a_destination_is_asked_as_the_configuration_says_now() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let (pod, client) = (b.pod("guarded").unwrap(), a.pod("client").unwrap());
    let _server = Web::start(&pod, "guarded", &[HTTP]).unwrap();
    let nobody = format!("{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/nobody");
    let guard = AuthorizationPolicy::allow("guard").select("app", "guarded");
    let guard = guard.rule(Rule::default().principals(&[&nobody]));
    let to = To::Echo.at(80);
    let service = Service::new("guarded").at(to.ip()).select("app", "guarded");
    let mesh = |workload: Workload| {
        let workload = workload.account("guarded").label("app", "guarded").port(HTTP);
        let backend = "  - backendRefs: [{name: guarded, port: 80}]";
        Mesh::new(NAMESPACE)
            .workload(&workload)
            .workload(&Workload::of(&client).account("client"))
            .service(&service.clone().port_of(80, HTTP, "http"))
            .raw(http::route::http(NAMESPACE, "test", "name: guarded, port: 80", backend))
            .authorization(&guard)
            .policy(&MeshPolicy::new("strict").mtls("STRICT"))
    };
    let config = ConfigDir::create(lab.state().join("config")).unwrap();
    // No agent serves it: it is asked in plaintext, and nobody judges that.
    config.write(&mesh(Workload::external(&pod))).unwrap();
    let authority = Authority::init(&lab.state().join("ca"), TRUST_DOMAIN).unwrap();
    let _agents = [&a, &b].map(|node| {
        let ca = authority.node(node.name()).unwrap();
        Agent::start(node, &Options { ca: &ca, config: config.path(), args: &[] }).unwrap()
    });
    let ask = || asked(client.netns(), client.cgroup(), to);
    let (mut held, _) = Script::start(&client, &holding(to)).unwrap();
    let mut ask_held = || {
        held.say("").unwrap();
        held.line().unwrap()
    };
    for _ in 0..4 {
        assert_eq!((ask().as_str(), ask_held().as_str()), ("200", "200"));
    }
    config.write(&mesh(Workload::of(&pod))).unwrap();
    eventually("the denial", DEADLINE, || (ask() != "200").then_some(())).unwrap();
    for _ in 0..4 {
        assert!(ask() != "200" && ask_held() != "200", "from then on");
    }
}

/// The answer to one request on a connection of its own.
fn asked(netns: &Netns, cgroup: &Path, to: SocketAddr) -> String {
    let (ip, port) = (to.ip(), to.port());
    let program = format!(
        "import http.client
asked = http.client.HTTPConnection('{ip}', {port}, timeout=10)
try:
    asked.request('GET', '/')
    print(asked.getresponse().status)
except OSError:
    print('ended')
"
    );
    run_in(netns, cgroup, &program).unwrap().trim().to_owned()
}

/// Makes a connection, and asks once for each line.
fn holding(to: SocketAddr) -> String {
    let (ip, port) = (to.ip(), to.port());
    format!(
        "import http.client, sys
asked = http.client.HTTPConnection('{ip}', {port}, timeout=10)
asked.connect()
asked.auto_open = 0
print('connected', flush=True)
for line in sys.stdin:
    try:
        asked.request('GET', '/')
        got = asked.getresponse()
        got.read()
        print(got.status, flush=True)
    except (OSError, http.client.HTTPException):
        print('ended', flush=True)
"
    )
}

/// A unit of the host.
fn unit(host: &Node, account: &str) -> String {
    let root = cgroup::mount().unwrap();
    let folder = host.cgroup().join("job.service");
    let below = folder.strip_prefix(&root).unwrap().display().to_string();
    let [v4, v6] = host.addresses();
    format!(
        "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\n\
         metadata: {{name: job, namespace: {NAMESPACE}}}\n\
         spec: {{node: {}, addresses: ['{v4}', '{v6}'], serviceAccount: {account}, \
         cgroup: {below}}}\n",
        host.name()
    )
}
