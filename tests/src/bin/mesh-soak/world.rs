//! Two nodes with agents, applications, and traffic between them.

use std::net::SocketAddr;

use anyhow::Result;
use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server, Traffic};
use mesh_tests::capture::Capture;
use mesh_tests::expect::eventually;
use mesh_tests::http::{self, Ask, Load, Web};
use mesh_tests::mesh::{Mesh, MeshPolicy, Service, Workload};
use mesh_tests::pair::{ECHO, PORT, Pair};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use nix::sys::signal::Signal;

/// The service that requests are routed to, and the port of its server.
const SHOP: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 20)), 80);
pub(crate) const HTTP: u16 = 8081;

/// Certificates live so short that tunnels change theirs all the time.
const ARGS: [&str; 4] = ["--leaf-ttl", "60", "--drain-timeout", "10"];

/// What is sent, and must not be seen between the nodes.
const SECRET: &str = "never in the open";

/// How often a request says it: some kilobytes, which are several records of TLS with those of others.
const REPEATS: usize = 200;

/// All that runs. What is dropped first ends first.
pub(crate) struct World {
    /// Connections to the other node, and within the node.
    pub(crate) connections: [Traffic; 2],
    /// Requests that are routed to the other node.
    pub(crate) requests: Load,
    /// What is between the nodes.
    pub(crate) wire: Option<Capture>,
    /// The agent of the clients' node, and those that it has followed.
    pub(crate) a: Agent,
    pub(crate) former: Vec<Agent>,
    /// The agent of the servers' node: the same one all the time.
    pub(crate) b: Agent,
    /// Servers of the other node, and of the clients' node.
    _far: Server,
    pub(crate) near: Option<Server>,
    _web: Web,
    /// The pod of the server in the clients' node.
    pub(crate) near_pod: Pod,
    shop: Pod,
    /// The other node's link to the fabric.
    pub(crate) link: String,
    /// Documents that were changed.
    pub(crate) edits: u32,
    pub(crate) pair: Pair,
}

impl World {
    /// Starts it, each kind of traffic with at most `rate` connections or requests a second, if that is
    /// given.
    pub(crate) fn start(rate: Option<u32>) -> Result<Self> {
        let pair = Pair::new()?;
        let (near_pod, shop) = (pair.a.pod("near")?, pair.b.pod("shop")?);
        pair.config.write(&mesh(&pair, &near_pod, &shop, 0))?;
        let start = |node| pair.agent(node, &ARGS);
        let (a, b) = (start(&pair.a)?, start(&pair.b)?);
        let far = Server::echo(&pair.echo, PORT, "v1")?;
        let near = Server::echo(&near_pod, PORT, "v1")?;
        let web = Web::quiet(&shop, "shop", &[HTTP])?;
        let to_far = Client::to(ECHO).echo(SECRET).times(u64::MAX, 2);
        let to_near = Client::to(near_pod.at(PORT)).echo(SECRET).times(u64::MAX, 1);
        let paced = |client: Client| rate.into_iter().fold(client, Client::rate);
        let connections =
            [paced(to_far).traffic(&pair.client)?, paced(to_near).traffic(&pair.client)?];
        let ask = Ask::post("/post?n={n}", &SECRET.repeat(REPEATS)).timeout_ms(20_000).checked();
        let ask = rate.into_iter().fold(ask, Ask::rate);
        let requests = Load::start(&pair.client, SHOP, &ask)?;
        let link = pair.b.fabric_link();
        let wire = Some(Capture::start(pair.lab.fabric())?);
        let world = Self {
            connections,
            requests,
            wire,
            a,
            former: Vec::new(),
            b,
            _far: far,
            near: Some(near),
            _web: web,
            near_pod,
            shop,
            link,
            edits: 0,
            pair,
        };
        world.serves()?;
        Ok(world)
    }

    /// Waits until everything works.
    pub(crate) fn serves(&self) -> Result<()> {
        let fails = |to| {
            let outcome = Client::to(to).echo("x").run(&self.pair.client);
            outcome.map_or(true, |outcome| outcome.totals.failed > 0)
        };
        eventually("everything to work", DEADLINE, || {
            let answers = http::ask(&self.pair.client, SHOP, &[Ask::get("/get")]).ok()?;
            let is_answered = answers.first().is_some_and(|answer| answer.status == 200);
            let all = [ECHO, self.near_pod.at(PORT)];
            (is_answered && !all.into_iter().any(fails)).then_some(())
        })
    }

    /// Starts another agent of the clients' node.
    pub(crate) fn successor(&self) -> Result<Agent> {
        self.pair.successor(&self.pair.a, &ARGS)
    }

    /// Kills the agent of the clients' node, and starts another one.
    pub(crate) fn kill_and_start(&mut self) -> Result<Agent> {
        self.a.signal(Signal::SIGKILL)?;
        self.a.ended()?;
        self.pair.agent(&self.pair.a, &ARGS)
    }

    /// Writes the documents again, with something else that nobody uses.
    pub(crate) fn edit(&mut self) -> Result<()> {
        self.edits += 1;
        self.pair.config.write(&mesh(&self.pair, &self.near_pod, &self.shop, self.edits))
    }
}

fn mesh(pair: &Pair, near: &Pod, shop: &Pod, edit: u32) -> Mesh {
    let near = Workload::of(near).account("near").label("app", "near").port(PORT);
    let web = Workload::of(shop).account("shop").label("app", "shop").port(HTTP);
    let service = Service::new("shop").at(SHOP.ip()).select("app", "shop");
    let rules = "  - backendRefs: [{name: shop, port: 80}]";
    let other = format!("other-{}", edit % 7);
    pair.mesh()
        .workload(&near)
        .workload(&web)
        .service(&service.port_of(SHOP.port(), HTTP, "http"))
        .service(&Service::new(&other).at([10, 96, 1, 1]).select("app", "echo").port(80, PORT))
        .policy(&MeshPolicy::new("all").mtls("STRICT"))
        .raw(http::route::http("demo", "shop", "name: shop, port: 80", rules))
}
