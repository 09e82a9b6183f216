//! The beginning of most tests: a client on one node, versions of a service on another, two agents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use serde_json::Value;

use crate::agent::{Agent, Options};
use crate::apps::Server;
use crate::expect::eventually;
use crate::lab::Lab;
use crate::mesh::{ConfigDir, Mesh, Service, Workload};
use crate::node::Node;
use crate::pki::Authority;
use crate::pod::Pod;
use crate::process::DEADLINE;

/// The trust domain of the agents' certificates (RFC 2606, section 3).
pub const TRUST_DOMAIN: &str = "test.example";

/// The ports of each service: service port `80 + n` is port `8080 + n` of its workloads.
pub const PORTS: u16 = 10;

/// Nodes and pods, without agents yet.
#[derive(Debug)]
pub struct Machines {
    /// The pod `client`, on node `a`.
    pub client: Pod,
    /// The pods `v1`, `v2`..., on node `b`.
    pub versions: Vec<Pod>,
    /// The client's node.
    pub a: Node,
    /// The versions' node.
    pub b: Node,
    /// The lab of all of them.
    pub lab: Lab,
}

/// Machines with an agent on each node. Agents end before their machines do.
#[derive(Debug)]
pub struct World {
    /// The agent of node `a`.
    pub a: Agent,
    /// The agent of node `b`.
    pub b: Agent,
    /// The configuration of both agents.
    pub config: ConfigDir,
    /// Where it all runs.
    pub on: Machines,
}

/// The IPv4 address of the service of all versions (0), or of one version (1...).
pub const fn vip4(version: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, 10 + version)
}

/// The IPv6 address of the service of all versions (0), or of one version (1...).
pub fn vip6(version: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, u16::from(version) + 10)
}

/// Port `80 + n` of the service of all versions, by IPv4.
pub const fn service(n: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(vip4(0)), 80 + n)
}

/// Port `80 + n` of the service of all versions, by IPv6.
pub fn service6(n: u16) -> SocketAddr {
    SocketAddr::new(vip6(0).into(), 80 + n)
}

impl Machines {
    /// Two nodes, a client, and so many versions of a service.
    ///
    /// # Errors
    ///
    /// Those of [`Lab::new`].
    pub fn new(versions: usize) -> Result<Self> {
        let lab = Lab::new()?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let client = a.pod("client")?;
        let versions = (1..=versions).map(|n| b.pod(&format!("v{n}"))).collect::<Result<_>>()?;
        Ok(Self { client, versions, a, b, lab })
    }

    /// All workloads in the namespace `demo`, the service `echo` of all versions, and `echo-v1`,
    /// `echo-v2`... of one each.
    pub fn mesh(&self) -> Mesh {
        self.mesh_of(|_version, workload| workload)
    }

    /// The same, with the workload of each version, from 1 on, as `change` has it.
    pub fn mesh_of(&self, change: impl Fn(u8, Workload) -> Workload) -> Mesh {
        let mut mesh = Mesh::new("demo")
            .workload(&Workload::of(&self.client).account("client"))
            .service(&numbered("echo", 0).select("app", "echo"));
        for (n, pod) in (1..).zip(&self.versions) {
            let version = format!("v{n}");
            let workload = Workload::of(pod).account("echo").label("app", "echo");
            let workload = (0..PORTS).fold(workload, |workload, n| workload.port(8080 + n));
            mesh = mesh
                .workload(&change(n, workload.label("version", &version)))
                .service(&numbered(&format!("echo-{version}"), n).select("version", &version));
        }
        mesh
    }

    /// Makes the agents' certificates and starts the agents.
    ///
    /// # Errors
    ///
    /// Those of [`Agent::start`].
    pub fn start(self, mesh: &Mesh) -> Result<World> {
        let config = ConfigDir::create(self.lab.state().join("config"))?;
        config.write(mesh)?;
        let authority = Authority::init(&self.lab.state().join("ca"), TRUST_DOMAIN)?;
        for node in [&self.a, &self.b] {
            authority.node(node.name())?;
        }
        let (a, b) = (self.agent(&self.a, &config)?, self.agent(&self.b, &config)?);
        Ok(World { a, b, config, on: self })
    }

    /// Starts the agent of a node once more, after [`Self::start`].
    ///
    /// # Errors
    ///
    /// Those of [`Agent::start`].
    pub fn agent(&self, node: &Node, config: &ConfigDir) -> Result<Agent> {
        let ca = self.lab.state().join("ca").join(node.name());
        Agent::start(node, &Options { ca: &ca, config: config.path(), args: &[] })
    }
}

impl World {
    /// Machines with so many versions, and agents with [`Machines::mesh`].
    ///
    /// # Errors
    ///
    /// Those of [`Machines::new`] and [`Machines::start`].
    pub fn start(versions: usize) -> Result<Self> {
        let machines = Machines::new(versions)?;
        let mesh = machines.mesh();
        machines.start(&mesh)
    }

    /// The client's pod.
    pub fn client(&self) -> &Pod {
        &self.on.client
    }

    /// The first version's pod.
    pub fn v1(&self) -> &Pod {
        &self.on.versions[0]
    }

    /// Starts an echo server on the first port of each version, that says `v1`, `v2`...
    ///
    /// # Errors
    ///
    /// Those of [`Server::start`].
    pub fn serve(&self) -> Result<Vec<Server>> {
        let pods = self.on.versions.iter();
        pods.map(|pod| Server::echo(pod, 8080, pod.name())).collect()
    }
}

/// How often the kernel decided so about a connection of this agent's workloads.
///
/// # Errors
///
/// Those of [`Agent::metrics`].
pub fn verdicts(agent: &Agent, verdict: &str) -> Result<f64> {
    Ok(agent.metrics()?.sum("mesh_kernel_connects_total", &[("verdict", verdict)]))
}

/// Waits until the lines of the access log stand for `count` connections, and returns all that there
/// are.
///
/// # Errors
///
/// They stand for fewer after [`DEADLINE`].
pub fn lines(agent: &Agent, count: usize) -> Result<Vec<Value>> {
    let what = format!("{count} connections in the access log of {}", agent.node().name());
    let is_whole = |lines: &Vec<Value>| stand_for(lines) >= count as u64;
    eventually(&what, DEADLINE, || agent.access_log().ok().filter(is_whole))
}

/// How many connections the lines stand for: a line of refused ones may stand for several.
pub fn stand_for(lines: &[Value]) -> u64 {
    lines.iter().map(|line| line["connections"].as_u64().unwrap_or(1)).sum()
}

fn numbered(name: &str, number: u8) -> Service {
    let service = Service::new(name).at(vip4(number)).at(vip6(number));
    (0..PORTS).fold(service, |service, n| service.port(80 + n, 8080 + n))
}
