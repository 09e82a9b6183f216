//! A unit whose service account changes, and the connections to endpoints that it has left.

use std::fs;

use mesh_tests::agent::{Agent, Options};
use mesh_tests::cgroup;
use mesh_tests::expect::eventually;
use mesh_tests::fixture::TRUST_DOMAIN;
use mesh_tests::http::{self, Web};
use mesh_tests::lab::Lab;
use mesh_tests::mesh::{AuthorizationPolicy, ConfigDir, Mesh, Rule, Service, Workload};
use mesh_tests::node::Node;
use mesh_tests::pki::Authority;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::run_in;

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
    let ask = || {
        let program = format!(
            "import http.client\nasked = http.client.HTTPConnection('{}', {}, timeout=10)\n\
             asked.request('GET', '/')\nprint(asked.getresponse().status)\n",
            to.ip(),
            to.port()
        );
        run_in(a.netns(), &folder, &program).unwrap().trim().to_owned()
    };
    for _ in 0..4 {
        assert_eq!(ask(), "200");
    }
    config.write(&mesh("guest")).unwrap();
    eventually("the denial", DEADLINE, || (ask() != "200").then_some(())).unwrap();
    for _ in 0..4 {
        assert_eq!(ask(), "403", "from then on");
    }
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
