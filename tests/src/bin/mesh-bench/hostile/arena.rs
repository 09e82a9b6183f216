//! The lab of floods: an attacked node, another of the mesh, and one without an agent.
//!
//! The victims are on the attacked node: one that is called from the other node, and one that calls
//! it. The attacked workload is on the same node, and has no traffic of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::agent::{Agent, Options};
use mesh_tests::flood::{Credentials, Flood, Party};
use mesh_tests::lab::Lab;
use mesh_tests::mesh::{AuthorizationPolicy, ConfigDir, Mesh, Rule, Service, Workload};
use mesh_tests::node::Node;
use mesh_tests::peers::HBONE_PORT;
use mesh_tests::pki::Authority;
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;

use super::Cell;
use crate::LabIds;
use crate::cpu;
use crate::pod::InPod;
use crate::routed;
use crate::serve::READY;
use crate::workload::{Contender, DISCARD, ECHO, HTTP, PORTS};

/// The virtual addresses of the services.
const NEAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20));
const DEPOT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 40));

/// A port of the attacked workload that a policy denies. Nobody listens there.
const DENIED: u16 = 9012;

/// The namespace of all workloads, and the trust domain of the certificates.
const NAMESPACE: &str = "bench";
const TRUST_DOMAIN: &str = "bench.example";

/// The traffic of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    /// From the attacked node to the other.
    Outbound,
    /// From the other node to the attacked one.
    Inbound,
    /// Inside of the attacked node.
    SameNode,
}

/// A lab, and its programs. They are stopped before their machines are removed.
#[derive(Debug)]
pub(super) struct Arena {
    pub(super) contender: Contender,
    agents: Option<[Agent; 2]>,
    _servers: Vec<InPod>,
    pods: Pods,
    attacked: Node,
    credentials: PathBuf,
    lab: Lab,
}

#[derive(Debug)]
struct Pods {
    /// On the attacked node: the victims' client and server, the attacked workload, and the
    /// workload that attacks.
    client: Pod,
    near: Pod,
    target: Pod,
    intruder: Pod,
    /// On the other node: the victims', and what the attacking workload may connect to.
    far: Pod,
    depot: Pod,
    /// On the node without an agent.
    stranger: Pod,
    peer: Pod,
}

impl Victim {
    /// All, in the order of the tables.
    pub(super) const ALL: [Self; 3] = [Self::Outbound, Self::Inbound, Self::SameNode];

    /// The name for machines.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::SameNode => "same_node",
        }
    }

    /// The name for people.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Outbound => "from the attacked node to another",
            Self::Inbound => "from another node to the attacked one",
            Self::SameNode => "inside of the attacked node",
        }
    }
}

impl Arena {
    /// Makes the nodes and starts everything on them.
    pub(super) fn create(contender: Contender, ids: &LabIds) -> Result<Self> {
        let lab = Lab::new()?;
        ids.add(lab.id())?;
        let (a, b, c) = (lab.node("a")?, lab.node("b")?, lab.node("c")?);
        let pods = Pods {
            client: a.pod("client")?,
            near: a.pod("near")?,
            target: a.pod("target")?,
            intruder: a.pod("intruder")?,
            far: b.pod("far")?,
            depot: b.pod("depot")?,
            stranger: c.pod("stranger")?,
            peer: c.pod("peer")?,
        };
        let authority = Authority::init(&lab.state().join("ca"), TRUST_DOMAIN)?;
        for node in [&a, &b, &c] {
            authority.node(node.name())?;
        }
        let credentials = lab.state().join("peer");
        save(&authority, &c, "peer", &credentials)?;
        let mut servers = Vec::new();
        for pod in [&pods.near, &pods.target, &pods.far, &pods.depot] {
            servers.push(serve(pod, &["serve"])?);
        }
        let agents = if contender == Contender::Direct {
            let folder = lab.state().join("target");
            save(&authority, &a, "target", &folder)?;
            let folder = folder.to_str().context("a path that is no UTF-8")?;
            servers.push(serve(&pods.target, &["sink", "--credentials", folder])?);
            None
        } else {
            let config = ConfigDir::create(lab.state().join("config"))?;
            config.write(&mesh(&pods))?;
            let start = |node: &Node| {
                let ca = lab.state().join("ca").join(node.name());
                Agent::start(node, &Options { ca: &ca, config: config.path(), args: &[] })
            };
            Some([start(&a)?, start(&b)?])
        };
        Ok(Self { contender, agents, _servers: servers, pods, attacked: a, credentials, lab })
    }

    /// The agent of the attacked node.
    pub(super) fn agent(&self) -> Option<&Agent> {
        self.agents.as_ref().map(|[attacked, _]| attacked)
    }

    /// The group of that agent; without one, an empty group.
    pub(super) fn agent_group(&self) -> PathBuf {
        self.attacked.cgroup().join("agent")
    }

    /// The group of all that runs here.
    pub(super) fn lab_group(&self) -> PathBuf {
        self.lab.cgroup().to_owned()
    }

    /// Waits until the agents rest after the last flood, if they do.
    pub(super) fn settle(&self) {
        // One that goes on is seen by the victims.
        drop(cpu::settled("the work of the agents to end", &[self.agent_group()]));
    }

    /// Starts the client of a victim.
    pub(super) fn victim(&self, victim: Victim) -> Result<InPod> {
        let (from, service, server) = match victim {
            Victim::Outbound => (&self.pods.client, FAR, &self.pods.far),
            Victim::Inbound => (&self.pods.far, NEAR, &self.pods.near),
            Victim::SameNode => (&self.pods.client, NEAR, &self.pods.near),
        };
        let to = self.address(service, server, HTTP).to_string();
        InPod::start(from, &["victim", "--to", &to])
    }

    /// Starts an attacker.
    pub(super) fn attack(&self, Cell { flood, party }: Cell) -> Result<InPod> {
        let from = match party {
            Party::Stranger => &self.pods.stranger,
            Party::Workload => &self.pods.intruder,
            Party::Peer => &self.pods.peer,
        };
        let to = match (flood, party) {
            (Flood::DeniedConnects, _) => self.pods.target.at(DENIED),
            (Flood::HugeHeads | Flood::MalformedFrames, Party::Workload) => {
                self.address(routed::ADDRESS, &self.pods.depot, HTTP)
            }
            (_, Party::Workload) => self.address(DEPOT, &self.pods.depot, port(flood)),
            (_, Party::Stranger | Party::Peer) => self.pods.target.at(port(flood)),
        };
        let (to, tunnel) = (to.to_string(), self.pods.target.at(HBONE_PORT).to_string());
        let credentials = self.credentials.to_str().context("a path that is no UTF-8")?;
        let args = [
            "attack",
            "--flood",
            flood.name(),
            "--by",
            party.name(),
            "--to",
            &to,
            "--tunnel",
            &tunnel,
            "--credentials",
            credentials,
        ];
        InPod::start_idle(from, &args)
    }

    /// A service of the mesh, or without one the server itself.
    fn address(&self, service: IpAddr, server: &Pod, port: u16) -> SocketAddr {
        match self.contender {
            Contender::Direct => server.at(port),
            _ => SocketAddr::new(service, port),
        }
    }
}

/// The application's port that a flood is for.
fn port(flood: Flood) -> u16 {
    match flood {
        Flood::HugeHeads | Flood::MalformedFrames => HTTP,
        Flood::OneByteWriters => DISCARD,
        Flood::DeniedConnects => DENIED,
        Flood::Connections
        | Flood::Handshakes
        | Flood::Tunnels
        | Flood::Streams
        | Flood::SlowReaders => ECHO,
    }
}

/// Signs an identity with a node's key, as an attacker could who has taken that node.
fn save(authority: &Authority, node: &Node, account: &str, folder: &std::path::Path) -> Result<()> {
    let uri = format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{account}");
    let identity = authority.steal(node.name())?.leaf(&uri)?;
    let root = authority.steal_root()?.anchor().context("a root without a certificate")?.clone();
    Credentials { identity, root }.save(folder)
}

fn serve(pod: &Pod, args: &[&str]) -> Result<InPod> {
    let server = InPod::start(pod, args)?;
    let line = server.line(DEADLINE).with_context(|| format!("no server in {}", pod.name()))?;
    ensure!(line == READY, "a server said {line:?} before it was ready");
    Ok(server)
}

/// The mesh: three services, one with HTTP routes, and a workload whose requests a policy judges.
fn mesh(pods: &Pods) -> Mesh {
    let workload = |pod: &Pod| Workload::of(pod).account(pod.name()).label("app", pod.name());
    let server = |pod: &Pod| PORTS.into_iter().fold(workload(pod), Workload::port);
    let service = |pod: &Pod, addr: IpAddr| {
        let service = Service::new(pod.name()).at(addr).select("app", pod.name());
        PORTS.into_iter().fold(service, |service, port| service.port(port, port))
    };
    let mesh = Mesh::new(NAMESPACE)
        .workload(&workload(&pods.client))
        .workload(&workload(&pods.intruder))
        .workload(&workload(&pods.peer))
        .workload(&server(&pods.near))
        .workload(&server(&pods.far))
        .workload(&server(&pods.depot))
        .workload(&server(&pods.target).port(DENIED))
        .service(&service(&pods.near, NEAR))
        .service(&service(&pods.far, FAR))
        .service(&service(&pods.depot, DEPOT));
    let target = pods.target.name();
    let rule = Rule::default().not_ports(&[DENIED, HTTP]);
    let bytes = AuthorizationPolicy::allow("bytes").select("app", target).rule(rule);
    let requests = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: requests, namespace: {NAMESPACE}}}\n\
         spec:\n  selector: {{matchLabels: {{app: {target}}}}}\n  action: ALLOW\n  \
         rules: [{{to: [{{operation: {{ports: [\"{HTTP}\"], methods: [GET], paths: [/*]}}}}]}}]\n"
    );
    let mesh = mesh.authorization(&bytes).raw(requests);
    routed::add(mesh, NAMESPACE, pods.depot.name(), Contender::Mesh)
}
