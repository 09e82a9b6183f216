//! Two nodes with agents, applications, and traffic between them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mesh_tests::agent::{Agent, Options};
use mesh_tests::apps::{Client, Server, Traffic};
use mesh_tests::capture::Capture;
use mesh_tests::clock::WallClock;
use mesh_tests::expect::eventually;
use mesh_tests::http::{self, Ask, Load, Web};
use mesh_tests::mesh::{Mesh, MeshPolicy, Service, Workload};
use mesh_tests::node::Node;
use mesh_tests::pair::{ECHO, PORT, Pair};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::report::Totals;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::starved::Starvation;

/// The service that requests are routed to, and the port of its server.
const SHOP: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 20)), 80);
pub(crate) const HTTP: u16 = 8081;

/// The life of certificates, in seconds: so short that tunnels change theirs all the time. Files of the
/// authority are looked at each quarter of it.
pub(crate) const LEAF_TTL: &str = "60";

/// Connections that were open before an agent was replaced last for longer than the event.
const ARGS: [&str; 4] = ["--leaf-ttl", LEAF_TTL, "--drain-timeout", "30"];

/// The words that are sent, and must not be seen between the nodes.
const SECRET: &str = "never in the open";

/// How often a request says it: some kilobytes, which are several records of TLS with those of others.
const REPEATS: usize = 200;

/// Connections of each kind that are held while something happens.
const HELD: u64 = 4;

/// An agent whose descriptors have been the same for so long is at rest.
const REST: Duration = Duration::from_secs(2);

/// All that runs. The first to be dropped ends first.
pub(crate) struct World {
    /// Connections to the other node, and within the node.
    pub(crate) connections: [Traffic; 2],
    /// Requests that are routed to the other node.
    pub(crate) requests: Load,
    /// Connections to the other node, and within the node, that are open while something happens.
    held: Option<[Held; 2]>,
    /// The capture between the nodes.
    pub(crate) wire: Option<Capture>,
    /// The agent of the clients' node, how the machine treats it, and those that it has followed.
    pub(crate) a: Agent,
    pub(crate) starvation: Starvation,
    pub(crate) former: Vec<Agent>,
    /// The agent of the servers' node: the same one all the time.
    pub(crate) b: Agent,
    /// Its descriptors after the first connections, when they have ended.
    pub(crate) descriptors: usize,
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
    edits: u32,
    /// The clocks of both nodes, and how much they are ahead, in milliseconds.
    clocks: [WallClock; 2],
    skews_ms: [i64; 2],
    pub(crate) pair: Pair,
}

/// Connections that stay open.
#[derive(Debug)]
struct Held {
    traffic: Traffic,
    /// Exchanges that failed since they were opened.
    totals: Totals,
}

impl World {
    /// Starts it, each kind of traffic with at most `rate` connections or requests a second, if that is
    /// given.
    pub(crate) fn start(rate: Option<u32>) -> Result<Self> {
        let pair = Pair::new()?;
        let (near_pod, shop) = (pair.a.pod("near")?, pair.b.pod("shop")?);
        pair.config.write(&mesh(&pair, &near_pod, &shop, 0))?;
        let clocks = [WallClock::new(&pair.a)?, WallClock::new(&pair.b)?];
        let far = Server::echo(&pair.echo, PORT, "v1")?;
        let near = Server::echo(&near_pod, PORT, "v1")?;
        let web = Web::quiet(&shop, "shop", &[HTTP])?;
        let b = spawn(&pair, &pair.b, &clocks[1])?.started()?;
        // Some descriptors are opened with the first connection, and stay.
        let first = spawn(&pair, &pair.a, &clocks[0])?.started()?;
        serves(&pair.client, near_pod.at(PORT))?;
        first.terminate()?;
        let descriptors = settled(&b)?;
        let a = spawn(&pair, &pair.a, &clocks[0])?.started()?;
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
            held: None,
            wire,
            starvation: Starvation::of(&a),
            a,
            former: Vec::new(),
            b,
            descriptors,
            _far: far,
            near: Some(near),
            _web: web,
            near_pod,
            shop,
            link,
            edits: 0,
            clocks,
            skews_ms: [0; 2],
            pair,
        };
        world.serves()?;
        Ok(world)
    }

    /// Waits until everything works.
    pub(crate) fn serves(&self) -> Result<()> {
        serves(&self.pair.client, self.near_pod.at(PORT))
    }

    /// The agent that serves node 0, of the clients, or 1, of the servers.
    pub(crate) fn agent(&self, n: usize) -> &Agent {
        if n == 0 { &self.a } else { &self.b }
    }

    /// Opens connections that stay open, and says how that went: to the other node, and within the node.
    pub(crate) fn hold(&mut self) -> Result<[Totals; 2]> {
        let open = |to| {
            let client = Client::to(to).echo(SECRET).times(HELD, HELD);
            client.hold(&self.pair.client)
        };
        let (far, near) = (open(ECHO)?, open(self.near_pod.at(PORT))?);
        let held = |traffic| Held { traffic, totals: Totals::default() };
        self.held = Some([held(far.0), held(near.0)]);
        Ok([far.1, near.1])
    }

    /// Sends something by each connection that is held, and reads it back.
    pub(crate) fn exchange(&mut self) -> Result<()> {
        for held in self.held.iter_mut().flatten() {
            for (error, count) in held.traffic.mark()?.errors {
                *held.totals.errors.entry(error).or_default() += count;
            }
        }
        Ok(())
    }

    /// Exchanges a last time on the connections that are held, closes them, and says how all that went.
    pub(crate) fn release(&mut self) -> Result<[Totals; 2]> {
        self.exchange()?;
        let held = self.held.take().context("no connections are held")?;
        Ok(held.map(|held| held.totals))
    }

    /// Starts another agent of the clients' node.
    pub(crate) fn successor(&self) -> Result<Agent> {
        spawn(&self.pair, &self.pair.a, &self.clocks[0])
    }

    /// From now on `next` is the agent of the clients' node. Returns the former one.
    pub(crate) fn replace(&mut self, next: Agent) -> Agent {
        self.starvation.watch(&next);
        std::mem::replace(&mut self.a, next)
    }

    /// Kills the agent of the clients' node, and starts another one.
    pub(crate) fn kill_and_start(&mut self) -> Result<()> {
        self.a.signal(Signal::SIGKILL)?;
        self.a.ended()?;
        let next = self.successor()?.started()?;
        drop(self.replace(next));
        Ok(())
    }

    /// Writes the documents again, with something else that nobody uses.
    pub(crate) fn edit(&mut self) -> Result<()> {
        self.edits += 1;
        self.pair.config.write(&mesh(&self.pair, &self.near_pod, &self.shop, self.edits))
    }

    /// From now on the clock of node `n` is ahead by `ahead_ms`, whatever else happens to it.
    pub(crate) fn skew(&mut self, n: usize, ahead_ms: i64) -> Result<()> {
        *either(&mut self.skews_ms, n) = ahead_ms;
        either(&mut self.clocks, n).set(ahead_ms)
    }

    /// Sets the clock of node `n` ahead by so much more, and waits until its agent logs `noticed`.
    pub(crate) fn set_clock(&mut self, n: usize, ahead_ms: i64, noticed: &str) -> Result<()> {
        let before = self.agent(n).log_bytes();
        let skew_ms = *either(&mut self.skews_ms, n);
        either(&mut self.clocks, n).set(skew_ms + ahead_ms)?;
        let agent = self.agent(n);
        eventually("the agent to notice its clock", DEADLINE, || {
            agent.log_from(before).contains(noticed).then_some(())
        })
    }

    /// The last line about each kind of failure, of both access logs.
    pub(crate) fn failures(&self) -> Result<Vec<String>> {
        let mut quoted = Vec::new();
        for node in [&self.pair.a, &self.pair.b] {
            let path = self.log_folder(node).join("access.log");
            let text = fs::read_to_string(path).context("cannot read an access log")?;
            let mut kinds = BTreeSet::new();
            let failed = text.lines().rev().filter(|line| !line.contains("\"failure\":null"));
            quoted.extend(failed.filter(|line| kinds.insert(kind(line))).map(str::to_owned));
        }
        Ok(quoted)
    }

    /// Empties the access logs, to which agents append.
    pub(crate) fn empty_logs(&self) -> Result<()> {
        for node in [&self.pair.a, &self.pair.b] {
            let log = File::options().write(true).open(self.log_folder(node).join("access.log"));
            log.and_then(|log| log.set_len(0)).context("cannot empty an access log")?;
        }
        Ok(())
    }

    /// Copies the agents' logs into `folder`.
    pub(crate) fn keep_logs(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).context("cannot make the folder of logs")?;
        for node in [&self.pair.a, &self.pair.b] {
            let to = folder.join(format!("{}.log", node.name()));
            fs::copy(self.log_folder(node).join("agent.log"), to).context("cannot copy a log")?;
        }
        Ok(())
    }

    fn log_folder(&self, node: &Node) -> PathBuf {
        self.pair.lab.state().join(node.name())
    }
}

/// Waits until a client reaches both servers of the other node, and the one of its own at `near`.
fn serves(client: &Pod, near: SocketAddr) -> Result<()> {
    let fails = |to| {
        let outcome = Client::to(to).echo("x").run(client);
        outcome.map_or(true, |outcome| outcome.totals.failed > 0)
    };
    eventually("everything to work", DEADLINE, || {
        let answers = http::ask(client, SHOP, &[Ask::get("/get")]).ok()?;
        let is_answered = answers.first().is_some_and(|answer| answer.status == 200);
        (is_answered && ![ECHO, near].into_iter().any(fails)).then_some(())
    })
}

/// Waits until an agent opens and closes no descriptors for a while, and says how many it has.
fn settled(agent: &Agent) -> Result<usize> {
    let (mut last, mut since) = (0, Instant::now());
    eventually("the agent to be at rest", DEADLINE, || {
        let now = agent.descriptors().ok()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() >= REST).then_some(now)
    })
}

/// The failure that a line of an access log is about, and its destination.
fn kind(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap_or_default();
    let of = |field: &str| line[field].to_string();
    ["destination_workload", "failure", "failure_side", "upstream_transport_failure_reason"]
        .map(of)
        .concat()
}

/// The one of node 0 or of node 1.
const fn either<T>(both: &mut [T; 2], n: usize) -> &mut T {
    let [a, b] = both;
    if n == 0 { a } else { b }
}

/// Starts an agent of `node`, and does not wait.
fn spawn(pair: &Pair, node: &Node, clock: &WallClock) -> Result<Agent> {
    let ca = pair.lab.state().join("ca").join(node.name());
    let options = Options { ca: &ca, config: pair.config.path(), args: &ARGS };
    let variables = clock.variables();
    Agent::spawn_with(node, &options, &variables.each_ref().map(|(name, it)| (*name, it.as_str())))
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
