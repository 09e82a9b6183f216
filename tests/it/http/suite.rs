//! The world of Gateway API's mesh conformance tests (`conformance/mesh/manifests.yaml`): versions of
//! a service on one node, clients of two namespaces on another.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mesh_tests::agent::{Agent, Options};
use mesh_tests::expect::eventually;
use mesh_tests::fixture::TRUST_DOMAIN;
use mesh_tests::http::{self, Answer, Ask, Tally, Web};
use mesh_tests::lab::Lab;
use mesh_tests::mesh::{ConfigDir, Mesh, Service, Workload};
use mesh_tests::node::Node;
use mesh_tests::pki::Authority;
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;

/// The namespace of the services, and of the client.
pub(crate) const NAMESPACE: &str = "gateway-conformance-mesh";

/// The namespace of the other client.
pub(crate) const CONSUMER: &str = "gateway-conformance-mesh-consumer";

/// The port of HTTP of the workloads, and another one of the services.
pub(crate) const HTTP: u16 = 8080;

/// The port of gRPC.
pub(crate) const GRPC: u16 = 7070;

/// A port of which nothing is said.
pub(crate) const PLAIN: u16 = 9090;

/// The services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// `echo`: both versions.
    Echo,
    /// `echo-v1`.
    V1,
    /// `echo-v2`.
    V2,
    /// `empty`: no endpoint.
    Empty,
}

impl To {
    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::V1 => "echo-v1",
            Self::V2 => "echo-v2",
            Self::Empty => "empty",
        }
    }

    /// Its address, with a port.
    pub(crate) const fn at(self, port: u16) -> SocketAddr {
        let last = match self {
            Self::Echo => 10,
            Self::V1 => 11,
            Self::V2 => 12,
            Self::Empty => 13,
        };
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, last)), port)
    }

    fn service(self) -> Service {
        let service = Service::new(self.name()).at(self.at(0).ip());
        let service = match self {
            Self::Echo => service.select("app", "echo"),
            Self::V1 => service.select("app", "echo").select("version", "v1"),
            Self::V2 => service.select("app", "echo").select("version", "v2"),
            Self::Empty => service.select("app", "none"),
        };
        let service = service.port_of(80, HTTP, "http").port_of(HTTP, HTTP, "http");
        let service = match self {
            Self::Echo => service.port_of(GRPC, GRPC, "kubernetes.io/h2c"),
            _ => service.port(GRPC, GRPC),
        };
        service.port(PLAIN, PLAIN)
    }
}

/// Agents, servers and clients. Those that are started last end first.
#[derive(Debug)]
pub(crate) struct Suite {
    /// The servers of `echo-v1` and `echo-v2`, at [`HTTP`] and [`GRPC`].
    pub servers: [Web; 2],
    /// The client's agent.
    pub a: Agent,
    /// The servers' agent.
    pub b: Agent,
    /// The configuration that both agents read.
    pub config: ConfigDir,
    /// On one node, in [`NAMESPACE`].
    pub client: Pod,
    /// On the client's node, in [`CONSUMER`].
    pub consumer: Pod,
    /// On the other node.
    pub versions: [Pod; 2],
    /// The other node.
    pub node: Node,
    _lab: Lab,
}

impl Suite {
    /// Starts all of it, with these routes.
    pub(crate) fn start(routes: &[String]) -> Self {
        Self::start_with(routes, &[])
    }

    /// The same, with more arguments of the agents.
    pub(crate) fn start_with(routes: &[String], args: &[&str]) -> Self {
        let lab = Lab::new().unwrap();
        let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
        let (client, consumer) = (a.pod("client").unwrap(), a.pod("consumer").unwrap());
        let versions = ["echo-v1", "echo-v2"].map(|name| b.pod(name).unwrap());
        let servers =
            versions.each_ref().map(|pod| Web::start(pod, pod.name(), &[HTTP, GRPC]).unwrap());
        let config = ConfigDir::create(lab.state().join("config")).unwrap();
        config.write(&mesh(&client, &consumer, &versions, routes)).unwrap();
        let authority = Authority::init(&lab.state().join("ca"), TRUST_DOMAIN).unwrap();
        let start = |node: &Node| {
            let ca = authority.node(node.name()).unwrap();
            Agent::start(node, &Options { ca: &ca, config: config.path(), args }).unwrap()
        };
        let (a, b, node) = (start(&a), start(&b), b);
        Self { servers, a, b, config, client, consumer, versions, node, _lab: lab }
    }

    /// Replaces the routes. Agents follow when they have read them.
    pub(crate) fn write(&self, routes: &[String]) {
        let mesh = mesh(&self.client, &self.consumer, &self.versions, routes);
        self.config.write(&mesh).unwrap();
    }

    /// Replaces the routes, and waits until the client's agent has them in force: whatever it decides
    /// from then on, it decides by them.
    pub(crate) fn apply(&self, routes: &[String]) {
        let revision = || self.a.metrics().unwrap().sum("mesh_applied_revision", &[]);
        let before = revision();
        self.write(routes);
        let newer = || (revision() > before).then_some(());
        eventually("the routes to be in force", DEADLINE, newer).unwrap();
    }

    /// Asks once from the client.
    #[track_caller]
    pub(crate) fn ask(&self, to: SocketAddr, ask: &Ask) -> Answer {
        let mut answers = http::ask(&self.client, to, std::slice::from_ref(ask)).unwrap();
        assert_eq!(answers.len(), 1, "{ask:?}");
        answers.remove(0)
    }

    /// Asks all of it from the client, one after the other.
    pub(crate) fn all(&self, to: SocketAddr, asks: &[Ask]) -> Vec<Answer> {
        http::ask(&self.client, to, asks).unwrap()
    }

    /// Asks many times, and counts who answered.
    pub(crate) fn tally(&self, to: SocketAddr, ask: &Ask) -> Tally {
        Tally::of(&http::ask(&self.client, to, std::slice::from_ref(ask)).unwrap())
    }
}

fn mesh(client: &Pod, consumer: &Pod, versions: &[Pod; 2], routes: &[String]) -> Mesh {
    let mut mesh = Mesh::new(NAMESPACE).workload(&Workload::of(client).account("client"));
    for (pod, version) in versions.iter().zip(["v1", "v2"]) {
        let workload = Workload::of(pod).account("echo").label("app", "echo");
        let workload = [HTTP, GRPC, PLAIN].into_iter().fold(workload, Workload::port);
        mesh = mesh.workload(&workload.label("version", version));
    }
    for service in [To::Echo, To::V1, To::V2, To::Empty] {
        mesh = mesh.service(&service.service());
    }
    let other = Mesh::new(CONSUMER).workload(&Workload::of(consumer).account("consumer"));
    routes.iter().fold(mesh.raw(other.yaml()), |mesh, route| mesh.raw(route.as_str()))
}

/// An `AuthorizationPolicy` of the first version.
pub(crate) fn policy(name: &str, action: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: echo, version: v1}}}}
  action: {action}
  rules: [{rules}]
"
    )
}

/// A route of HTTP of the service `echo`'s port 80, called `test`, with these rules.
pub(crate) fn route(rules: &str) -> String {
    http::route::http(NAMESPACE, "test", "name: echo, port: 80", rules)
}

/// A route of gRPC of the service `echo`'s port 7070, called `test`, with these rules.
pub(crate) fn grpc_route(rules: &str) -> String {
    http::route::grpc(NAMESPACE, "test", "name: echo, port: 7070", rules)
}
