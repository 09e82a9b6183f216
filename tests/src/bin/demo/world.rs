//! The demo's nodes, pods, programs and configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::Result;
use mesh_tests::agent::{Agent, Options};
use mesh_tests::apps::Server;
use mesh_tests::lab::Lab;
use mesh_tests::mesh::{ConfigDir, Mesh, Route, Service, Workload};
use mesh_tests::node::Node;
use mesh_tests::pki::Authority;
use mesh_tests::pod::Pod;
use mesh_tests::process;

use crate::LabId;
use crate::screen::Screen;
use crate::shop::{FILE, Pods, SHOP, Shop, TESTER};

/// The virtual address of the service.
pub(crate) const ECHO: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80);

/// The port on which the servers listen.
pub(crate) const PORT: u16 = 8080;

/// The trust domain of the demo's certificates (RFC 2606, section 3).
pub(crate) const TRUST_DOMAIN: &str = "demo.example";

/// Shares of the two versions, in percent.
pub(crate) type Split = (u32, u32);

/// Nodes and pods.
#[derive(Debug)]
pub(crate) struct Machines {
    pub a: Node,
    pub b: Node,
    pub client: Pod,
    pub v1: Pod,
    pub v2: Pod,
    pub shop: Pods,
    pub lab: Lab,
}

/// All that runs. Programs are stopped before their machines are removed.
#[derive(Debug)]
pub(crate) struct World {
    pub agent_a: Agent,
    pub agent_b: Agent,
    pub servers: [Server; 2],
    pub shop: Shop,
    pub config: ConfigDir,
    pub machines: Machines,
}

impl Machines {
    /// Makes them.
    pub(crate) fn create(id: &LabId) -> Result<Self> {
        let lab = Lab::new()?;
        id.get_or_init(|| lab.id().to_owned());
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let client = a.pod("client")?;
        let (v1, v2) = (b.pod("echo-v1")?, b.pod("echo-v2")?);
        let shop = Pods::create(&a, &b)?;
        Ok(Self { a, b, client, v1, v2, shop, lab })
    }

    /// Starts both versions of the server.
    pub(crate) fn serve(&self) -> Result<[Server; 2]> {
        Ok([Server::echo(&self.v1, PORT, "v1")?, Server::echo(&self.v2, PORT, "v2")?])
    }

    /// The mesh's configuration with this split.
    pub(crate) fn mesh(&self, (v1, v2): Split) -> Mesh {
        let workload = |pod: &Pod, version: &str| {
            Workload::of(pod)
                .account("echo")
                .label("app", "echo")
                .label("version", version)
                .port(PORT)
        };
        let service = |name: &str, last: u8| {
            Service::new(name).at(Ipv4Addr::new(10, 96, 0, last)).port(ECHO.port(), PORT)
        };
        let mesh = Mesh::new("demo")
            .workload(&Workload::of(&self.client).account("frontend"))
            .workload(&workload(&self.v1, "v1"))
            .workload(&workload(&self.v2, "v2"))
            .service(&service("echo", 10).select("app", "echo"))
            .service(&service("echo-v1", 11).select("app", "echo").select("version", "v1"))
            .service(&service("echo-v2", 12).select("app", "echo").select("version", "v2"))
            .route(&Route::new("echo", 80).to("echo-v1", 80, v1).to("echo-v2", 80, v2));
        self.shop.describe(mesh)
    }

    /// Makes an authority and the agents' certificates, and starts the agents.
    pub(crate) fn join(&self, screen: &Screen, config: &ConfigDir) -> Result<(Agent, Agent)> {
        let authority = Authority::init(&self.lab.state().join("ca"), TRUST_DOMAIN)?;
        screen.detail(&format!("authority of {TRUST_DOMAIN}; one certificate a node"));
        let start = |node: &Node| {
            let ca = authority.node(node.name())?;
            let start = Instant::now();
            let agent = Agent::start(node, &Options { ca: &ca, config: config.path(), args: &[] })?;
            let took = start.elapsed().as_millis();
            screen.detail(&format!("agent of {:<10} ready after {took} ms", node.name()));
            Ok::<_, anyhow::Error>(agent)
        };
        Ok((start(&self.a)?, start(&self.b)?))
    }
}

impl World {
    /// Prints what can be tried by hand.
    pub(crate) fn explain(&self, screen: &Screen) {
        let client = &self.machines.client;
        let app = process::binary("mesh-app", "mesh-tests");
        let app =
            app.map_or_else(|_missing| "mesh-app".to_owned(), |path| path.display().to_string());
        let state = self.machines.lab.state();
        let [_, v2] = &self.servers;
        let lines = [
            (
                "Connect ten times, as the client:",
                format!(
                    "{app} --netns {} --cgroup {} connect --to {ECHO} --banner --count 10",
                    client.netns().path().display(),
                    client.cgroup().display()
                ),
            ),
            (
                "A shell in the client's pod:",
                format!(
                    "sh -c 'echo $$ > {}/cgroup.procs && exec nsenter --net={} sh'",
                    client.cgroup().display(),
                    client.netns().path().display()
                ),
            ),
            (
                "Change the split, and connect again:",
                format!("${{EDITOR:-vi}} {}/mesh.yaml", self.config.path().display()),
            ),
            (
                "Ask the shop, as a tester:",
                format!(
                    "sh -c 'echo $$ > {}/cgroup.procs && exec nsenter --net={} \
                     curl -s -H \"{}: {}\" {}'",
                    client.cgroup().display(),
                    client.netns().path().display(),
                    TESTER.0,
                    TESTER.1,
                    SHOP.ip()
                ),
            ),
            (
                "Change where its requests go:",
                format!("${{EDITOR:-vi}} {}/{FILE}", self.config.path().display()),
            ),
            ("End the second version:", format!("kill {}", v2.process().pid())),
            (
                "The access log of an agent:",
                format!("tail -n 1 {}/{}/access.log", state.display(), self.machines.a.name()),
            ),
            (
                "The configuration and the metrics of an agent:",
                format!(
                    "nsenter --net={} curl -s 127.0.0.1:15000/conditions 127.0.0.1:15000/metrics",
                    self.machines.a.netns().path().display()
                ),
            ),
        ];
        screen.line("");
        screen.line(&format!("  {}", screen.bold("Everything keeps running. Try:")));
        for (what, command) in lines {
            screen.line("");
            screen.line(&format!("  {what}"));
            screen.line(&format!("    {}", screen.cyan(&command)));
        }
        screen.line("");
        screen.line("  Ctrl-C removes everything.");
    }
}
