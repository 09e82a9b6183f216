//! Slots that are ready to run: two nodes with the same pods and servers for each contender.
//!
//! All slots are up at the same time, so that nothing starts or stops between measurements.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::agent::{Agent, Options};
use mesh_tests::lab::Lab;
use mesh_tests::mesh::{ConfigDir, Mesh, MeshPolicy, Service, Workload as MeshWorkload};
use mesh_tests::node::Node;
use mesh_tests::pki::Authority;
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;

use crate::LabIds;
use crate::pair::{self, Proxy, haproxy, nginx};
use crate::pod::InPod;
use crate::routed;
use crate::serve::READY;
use crate::workload::{Contender, PORTS, Path, Workload};

/// The virtual addresses of the services.
const SAME_NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
const CROSS_NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20));

/// The namespace of all workloads.
const NAMESPACE: &str = "bench";

/// The trust domain of the certificates (RFC 2606, section 3).
const TRUST_DOMAIN: &str = "bench.example";

/// Two nodes, and who carries the bytes between them. Programs are stopped before their machines
/// are removed.
#[derive(Debug)]
pub(crate) struct Slot {
    pub contender: Contender,
    carriers: Carriers,
    _servers: [InPod; 3],
    pods: Pods,
    nodes: [Node; 2],
    _lab: Lab,
}

/// The carriers of the bytes.
#[derive(Debug)]
enum Carriers {
    Nobody,
    Agents([Agent; 2]),
    Proxies { _pair: [Proxy; 2] },
}

#[derive(Debug)]
struct Pods {
    /// On the first node: where the load comes from.
    client: Pod,
    /// On the first node.
    near: Pod,
    /// On the second node.
    far: Pod,
    /// On the second node, and not the mesh's.
    outside: Pod,
}

impl Slot {
    /// Makes the nodes and starts everything on them.
    ///
    /// # Errors
    ///
    /// A program is not built or does not start.
    pub(crate) fn create(contender: Contender, ids: &LabIds) -> Result<Self> {
        let lab = Lab::new()?;
        ids.add(lab.id())?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let pods = Pods {
            client: a.pod("client")?,
            near: a.pod("near")?,
            far: b.pod("far")?,
            outside: b.pod("outside")?,
        };
        let servers = [serve(&pods.near)?, serve(&pods.far)?, serve(&pods.outside)?];
        let carriers = match contender {
            Contender::Direct => Carriers::Nobody,
            Contender::Mesh
            | Contender::Accelerated
            | Contender::Agent
            | Contender::Mtls
            | Contender::ManyRules => Carriers::Agents(agents(&lab, [&a, &b], &pods, contender)?),
            Contender::Haproxy => {
                Carriers::Proxies { _pair: haproxy::pair(&lab, [&a, &b], pods.far.v4())? }
            }
            Contender::Nginx => {
                Carriers::Proxies { _pair: nginx::pair(&lab, [&a, &b], pods.far.v4())? }
            }
        };
        let nodes = [a, b];
        Ok(Self { contender, carriers, _servers: servers, pods, nodes, _lab: lab })
    }

    /// Where the load comes from.
    pub(crate) fn client(&self) -> &Pod {
        &self.pods.client
    }

    /// The first server of the client's node.
    pub(crate) fn near(&self) -> &Pod {
        &self.pods.near
    }

    /// The agent of the client's node.
    pub(crate) fn agent(&self) -> Option<&Agent> {
        match &self.carriers {
            Carriers::Agents([agent, _]) => Some(agent),
            Carriers::Nobody | Carriers::Proxies { .. } => None,
        }
    }

    /// The address that the client connects to; `None` if this contender has no such path.
    pub(crate) fn target(&self, path: Path, port: u16) -> Option<SocketAddr> {
        if !self.contender.has(path) {
            return None;
        }
        Some(match (self.contender, path) {
            (_, Path::Unmeshed) => self.pods.outside.at(port),
            (Contender::Direct, Path::SameNode) => self.pods.near.at(port),
            (Contender::Direct, Path::CrossNode | Path::Routed) => self.pods.far.at(port),
            (Contender::Haproxy | Contender::Nginx, _) => {
                let [node, _] = self.nodes[0].addresses();
                SocketAddr::new(node, pair::entry(port, path == Path::Routed))
            }
            (_, Path::SameNode) => SocketAddr::new(SAME_NODE, port),
            (_, Path::CrossNode) => SocketAddr::new(CROSS_NODE, port),
            (_, Path::Routed) => SocketAddr::new(routed::ADDRESS, port),
        })
    }

    /// The address that the client of a workload connects to.
    pub(crate) fn target_of(&self, path: Path, workload: Workload) -> Option<SocketAddr> {
        self.target(path, workload.port())
    }

    /// The address for the traffic that disturbs a workload on purpose, if anything does.
    pub(crate) fn beside(&self, path: Path, workload: Workload) -> Option<SocketAddr> {
        self.target(path, workload.beside()?)
    }

    /// The groups of whoever carries the bytes.
    pub(crate) fn proxy_groups(&self) -> [PathBuf; 2] {
        self.nodes.each_ref().map(|node| node.cgroup().join("agent"))
    }

    /// The groups of the clients and servers.
    pub(crate) fn load_groups(&self) -> [PathBuf; 2] {
        self.nodes.each_ref().map(|node| node.cgroup().join("pods"))
    }
}

fn serve(pod: &Pod) -> Result<InPod> {
    let server = InPod::start(pod, &["serve"])?;
    let line = server.line(DEADLINE).with_context(|| format!("no server in {}", pod.name()))?;
    ensure!(line == READY, "a server said {line:?} before it was ready");
    Ok(server)
}

/// The policy of the mesh about connections inside of a node, unless it is left at its defaults.
fn policy(contender: Contender) -> Option<MeshPolicy> {
    let policy = MeshPolicy::new(NAMESPACE);
    match contender {
        Contender::Accelerated => Some(policy.acceleration("sockmap")),
        Contender::Agent => Some(policy.same_node("agent")),
        Contender::Mtls => Some(policy.same_node("mtls")),
        Contender::Direct
        | Contender::Mesh
        | Contender::ManyRules
        | Contender::Haproxy
        | Contender::Nginx => None,
    }
}

/// Configures the mesh, and starts an agent on each node. Their access logs are on, as they would
/// be in production.
fn agents(lab: &Lab, nodes: [&Node; 2], pods: &Pods, contender: Contender) -> Result<[Agent; 2]> {
    let workload = |pod: &Pod| {
        let name = pod.name();
        let workload = MeshWorkload::of(pod).account(name).label("app", name);
        PORTS.into_iter().fold(workload, MeshWorkload::port)
    };
    let service = |pod: &Pod, addr: IpAddr| {
        let service = Service::new(pod.name()).at(addr).select("app", pod.name());
        PORTS.into_iter().fold(service, |service, port| service.port(port, port))
    };
    let config = ConfigDir::create(lab.state().join("config"))?;
    let mesh = Mesh::new(NAMESPACE)
        .workload(&MeshWorkload::of(&pods.client).account("client"))
        .workload(&workload(&pods.near))
        .workload(&workload(&pods.far))
        .service(&service(&pods.near, SAME_NODE))
        .service(&service(&pods.far, CROSS_NODE));
    let mesh = routed::add(mesh, NAMESPACE, pods.far.name(), contender);
    config.write(&match policy(contender) {
        Some(policy) => mesh.policy(&policy),
        None => mesh,
    })?;
    let authority = Authority::init(&lab.state().join("ca"), TRUST_DOMAIN)?;
    let start = |node: &Node| {
        let ca = authority.node(node.name())?;
        Agent::start(node, &Options { ca: &ca, config: config.path(), args: &[] })
    };
    let [a, b] = nodes;
    Ok([start(a)?, start(b)?])
}
