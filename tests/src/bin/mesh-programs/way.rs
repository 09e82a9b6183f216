//! The paths that a connection may take, and a lab in which it takes one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::Result;
use clap::ValueEnum;
use mesh_tests::agent::{Agent, Options};
use mesh_tests::http::route;
use mesh_tests::lab::Lab;
use mesh_tests::mesh::{ConfigDir, Mesh, MeshPolicy, Service, Workload};
use mesh_tests::pair::TRUST_DOMAIN;
use mesh_tests::pki::Authority;
use mesh_tests::pod::Pod;

use crate::programs::{Program, Spoken};

/// The address of the service, where connections are routed.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The namespace of everything.
const NAMESPACE: &str = "demo";

/// A path from the client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Way {
    /// No agent runs: what all others are compared with.
    None,
    /// Within a node, decided in the kernel.
    Direct,
    /// Within a node, through the agent, in plaintext.
    Agent,
    /// Within a node, through the agent, by mutual TLS.
    Mtls,
    /// Between two nodes, by mutual TLS.
    CrossNode,
    /// Between two nodes, to a service that has a route to itself: of HTTP or gRPC, where that is
    /// spoken, and of TCP elsewhere.
    Routed,
}

/// All paths; that without a mesh is the first.
pub(crate) const WAYS: [Way; 6] =
    [Way::None, Way::Direct, Way::Agent, Way::Mtls, Way::CrossNode, Way::Routed];

impl Way {
    /// Its name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Direct => "direct",
            Self::Agent => "agent",
            Self::Mtls => "mtls",
            Self::CrossNode => "cross-node",
            Self::Routed => "routed",
        }
    }

    /// How workloads of one node reach each other.
    const fn same_node(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Mtls => "mtls",
            Self::None | Self::Direct | Self::CrossNode | Self::Routed => "direct",
        }
    }
}

/// A client and a server with one path between them. Agents end before their lab does.
#[derive(Debug)]
pub(crate) struct World {
    /// The path.
    pub(crate) way: Way,
    /// The address that clients connect to.
    pub(crate) host: Ipv4Addr,
    agents: Vec<Agent>,
    /// The clients' pod.
    pub(crate) client: Pod,
    /// The servers' pod.
    pub(crate) server: Pod,
}

impl World {
    /// Makes it, with agents that are ready.
    ///
    /// # Errors
    ///
    /// The lab cannot be made, or an agent does not start.
    pub(crate) fn new(way: Way, programs: &[&Program]) -> Result<Self> {
        let lab = Lab::new()?;
        let mut nodes = vec![lab.node("a")?];
        if matches!(way, Way::CrossNode | Way::Routed) {
            nodes.push(lab.node("b")?);
        }
        let client = nodes[0].pod("client")?;
        let server = nodes[nodes.len() - 1].pod("server")?;
        let host = if way == Way::Routed { SERVICE } else { server.v4() };
        let mut world = Self { way, host, agents: Vec::new(), client, server };
        if way == Way::None {
            return Ok(world);
        }
        let authority = Authority::init(&lab.state().join("ca"), TRUST_DOMAIN)?;
        let config = ConfigDir::create(lab.state().join("config"))?;
        config.write(&world.mesh(programs))?;
        for node in &nodes {
            authority.node(node.name())?;
            let ca = lab.state().join("ca").join(node.name());
            let options = Options { ca: &ca, config: config.path(), args: &[] };
            world.agents.push(Agent::start(node, &options)?);
        }
        Ok(world)
    }

    /// Both workloads, and the service, if connections are routed.
    fn mesh(&self, programs: &[&Program]) -> Mesh {
        let ports: BTreeMap<_, _> =
            programs.iter().flat_map(|program| program.ports).copied().collect();
        let more = programs.iter().flat_map(|program| program.more_ports);
        let server = Workload::of(&self.server).account("server").label("app", "server");
        let mesh = Mesh::new(NAMESPACE)
            .workload(&Workload::of(&self.client).account("client"))
            .workload(&ports.keys().fold(server, |server, port| server.port(*port)))
            .policy(&MeshPolicy::new("way").same_node(self.way.same_node()));
        if self.way != Way::Routed {
            return mesh;
        }
        let service = Service::new("server").at(SERVICE).select("app", "server");
        let service = more.fold(service, |service, port| service.port(*port, *port));
        let service =
            ports.iter().fold(service, |service, (&port, &spoken)| match protocol(spoken) {
                Some(protocol) => service.port_of(port, port, protocol),
                None => service.port(port, port),
            });
        ports
            .iter()
            .fold(mesh.service(&service), |mesh, (&port, &spoken)| mesh.raw(routed(port, spoken)))
    }
}

/// The `appProtocol` of a port.
const fn protocol(spoken: Spoken) -> Option<&'static str> {
    match spoken {
        Spoken::Bytes => None,
        Spoken::Http => Some("http"),
        Spoken::H2c => Some("kubernetes.io/h2c"),
        Spoken::Grpc => Some("grpc"),
    }
}

/// The route of a port of the service to itself.
fn routed(port: u16, spoken: Spoken) -> String {
    let name = format!("to-{port}");
    let parent = format!("name: server, port: {port}");
    let rules = format!("  - backendRefs: [{{name: server, port: {port}}}]");
    match spoken {
        Spoken::Http | Spoken::H2c => route::http(NAMESPACE, &name, &parent, &rules),
        Spoken::Grpc => route::grpc(NAMESPACE, &name, &parent, &rules),
        Spoken::Bytes => route::tcp(NAMESPACE, &name, &parent, &rules),
    }
}
