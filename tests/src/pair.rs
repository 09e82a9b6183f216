//! The usual mesh of a test: a client on one node, an echo server on another, and a service.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;

use crate::agent::{Agent, Options};
use crate::apps::Client;
use crate::lab::Lab;
use crate::mesh::{ConfigDir, Mesh, Service, Workload};
use crate::node::Node;
use crate::pki::Authority;
use crate::pod::Pod;
use crate::sweep::BPFFS;

/// The service's address and port.
pub const ECHO: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80);

/// Where the server listens.
pub const PORT: u16 = 8080;

/// The trust domain of the authority (RFC 2606, section 3).
pub const TRUST_DOMAIN: &str = "demo.example";

/// Two nodes with a pod each, certificates and a configuration; no agents and no applications yet.
#[derive(Debug)]
pub struct Pair {
    /// The client's node.
    pub a: Node,
    /// The server's node.
    pub b: Node,
    /// The pod of the workload `client`, whose service account has this name as well.
    pub client: Pod,
    /// The pod of the workload `echo`, whose service account has this name as well.
    pub echo: Pod,
    /// The signer.
    pub authority: Authority,
    /// The configuration of the agents.
    pub config: ConfigDir,
    /// All of it. Dropped last.
    pub lab: Lab,
}

impl Pair {
    /// Makes it, and writes [`Self::mesh`].
    ///
    /// # Errors
    ///
    /// The lab cannot be made, or the agent is not built.
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let (client, echo) = (a.pod("client")?, b.pod("echo")?);
        let authority = Authority::init(&lab.state().join("ca"), TRUST_DOMAIN)?;
        for node in [&a, &b] {
            authority.node(node.name())?;
        }
        let config = ConfigDir::create(lab.state().join("config"))?;
        let pair = Self { a, b, client, echo, authority, config, lab };
        pair.config.write(&pair.mesh())?;
        Ok(pair)
    }

    /// Both workloads, and the service `echo` at [`ECHO`].
    pub fn mesh(&self) -> Mesh {
        let echo = Workload::of(&self.echo).account("echo").label("app", "echo").port(PORT);
        let service = Service::new("echo").at(ECHO.ip()).select("app", "echo");
        Mesh::new("demo")
            .workload(&Workload::of(&self.client).account("client"))
            .workload(&echo)
            .service(&service.port(ECHO.port(), PORT))
    }

    /// Starts the agent of `node`, with more arguments.
    ///
    /// # Errors
    ///
    /// It does not become ready.
    pub fn agent(&self, node: &Node, args: &[&str]) -> Result<Agent> {
        let ca = self.lab.state().join("ca").join(node.name());
        Agent::start(node, &Options { ca: &ca, config: self.config.path(), args })
    }
}

impl Pair {
    /// Starts another agent of `node`, and does not wait: the one that runs answers at its address.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn successor(&self, node: &Node, args: &[&str]) -> Result<Agent> {
        let ca = self.lab.state().join("ca").join(node.name());
        Agent::spawn(node, &Options { ca: &ca, config: self.config.path(), args })
    }
}

/// A client of the service, that expects the banner of `Server::echo`.
pub fn hello() -> Client {
    Client::to(ECHO).echo("hello")
}

/// Where the agents of `node` pin.
pub fn pins(node: &Node) -> PathBuf {
    PathBuf::from(BPFFS).join("mesh").join(node.name())
}

/// The SPIFFE ID of a service account of the mesh.
pub fn spiffe(account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/demo/sa/{account}")
}
