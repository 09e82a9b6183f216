//! The events, in order.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::apps::{Client, Outcome, Traffic};
use mesh_tests::capture::{Capture, Wire, records};
use mesh_tests::expect::eventually;
use mesh_tests::mesh::ConfigDir;
use mesh_tests::report::{Connection, Totals};
use serde_json::Value;

use crate::claims::{Claims, Identities, OnWire};
use crate::screen::Screen;
use crate::shop::SHOP;
use crate::world::{ECHO, Machines, PORT, Split, World};
use crate::{LabId, delivery};

/// The text that every connection carries, and nobody between the nodes may read.
pub(crate) const SECRET: &str = "attack at dawn";

/// The port of the mesh's tunnels.
const HBONE: u16 = 15008;

/// Connections of which the shares are measured.
const CONNECTIONS: u64 = 2000;

/// At once: enough that the machine is not idle, few enough that a laptop copes.
const CONCURRENCY: u64 = 8;

/// Connections a second while the file is replaced.
const RATE: &str = "400";

const BEFORE: Split = (90, 10);
const AFTER: Split = (50, 50);

/// Tells it.
pub(crate) fn tell(screen: &Screen, id: &LabId) -> Result<(World, Claims)> {
    let start = Instant::now();
    screen.line("");
    screen.line(&format!(
        "  {}  two nodes, two services, two versions of each",
        screen.bold("nodemesh")
    ));
    let machines = screen.step("1  Two nodes and seven pods", || machines(screen, id))?;
    let (servers, shop) = (machines.serve()?, machines.shop.serve()?);
    let control =
        screen.step("2  Without the mesh, for comparison", || without_mesh(screen, &machines))?;
    let config = ConfigDir::create(machines.lab.state().join("config"))?;
    config.write(&machines.mesh(BEFORE))?;
    let capture = Capture::start(machines.lab.fabric())?;
    let (agent_a, agent_b) =
        screen.step("3  An authority, and an agent a node", || machines.join(screen, &config))?;
    let mut world = World { agent_a, agent_b, servers, shop, config, machines };
    let (one, identities) =
        screen.step("4  One connection to the service", || one_connection(screen, &world))?;
    let before = screen.step("5  2,000 connections at 90/10", || many(screen, &world))?;
    let reload = screen.step("6  The file is replaced by one with 50/50, under traffic", || {
        replace(screen, &world)
    })?;
    let after = screen.step("7  2,000 connections at 50/50", || many(screen, &world))?;
    let delivery = delivery::tell(screen, &mut world)?;
    let wire = screen
        .step("14 What was on the wire between the nodes", || on_wire(screen, &capture.stop()?))?;
    let banner = one.banner.context("the server said no version")?;
    let claims = Claims {
        before: (BEFORE, before),
        after: (AFTER, after),
        reload,
        client: world.machines.client.v4().into(),
        source: banner.peer,
        peername: one.peername.context("the client has no peer")?,
        identities,
        delivery,
        control,
        wire,
        seconds: start.elapsed().as_secs_f64(),
    };
    Ok((world, claims))
}

fn machines(screen: &Screen, id: &LabId) -> Result<Machines> {
    let machines = Machines::create(id)?;
    let (echo, shop) = ([&machines.v1, &machines.v2], &machines.shop);
    let [stable_a, stable_b] = &shop.stable;
    for (node, pods) in [
        (&machines.a, vec![&machines.client, stable_a]),
        (&machines.b, echo.to_vec()),
        (&machines.b, vec![stable_b, &shop.canary, &shop.shadow]),
    ] {
        let pods: Vec<_> =
            pods.iter().map(|pod| format!("{} {}", screen.cyan(pod.name()), pod.v4())).collect();
        screen.detail(&format!("{:<10} {}", node.name(), pods.join(", ")));
    }
    screen.detail(&format!(
        "services   {} {ECHO}, {} {SHOP}, which are nobody's addresses",
        screen.cyan("echo"),
        screen.cyan("shop")
    ));
    Ok(machines)
}

/// The same bytes in the open, so that it is known that the capture would see them.
fn without_mesh(screen: &Screen, machines: &Machines) -> Result<bool> {
    let capture = Capture::start(machines.lab.fabric())?;
    let client = Client::to(machines.v1.at(PORT)).echo(SECRET);
    client.run(&machines.client)?.single()?;
    let wire = capture.stop()?;
    let seen = wire.shows(SECRET.as_bytes());
    screen.detail(&format!("the client says {SECRET:?} to {}", machines.v1.at(PORT)));
    let found = if seen { screen.red("can be read") } else { "cannot be read".to_owned() };
    screen.detail(&format!("between the nodes it {found}: {} frames", wire.frames));
    Ok(seen)
}

fn one_connection(screen: &Screen, world: &World) -> Result<(Connection, Identities)> {
    let one = Client::to(ECHO).echo(SECRET).run(&world.machines.client)?.single()?;
    let banner = one.banner.as_ref().context("the server said no version")?;
    let peername = one.peername.context("the client has no peer")?;
    screen.detail(&format!("client     connects to {ECHO}; getpeername says {peername}"));
    let source = banner.peer.ip().to_canonical();
    screen.detail(&format!("server     is {}; accept says {source}", banner.version));
    let log = |agent: &mesh_tests::agent::Agent, reporter: &str| {
        agent.logged(reporter, |line| line["reporter"] == reporter)
    };
    let (source, destination) =
        (log(&world.agent_a, "source")?, log(&world.agent_b, "destination")?);
    let name = |line: &Value, key: &str| line[key].as_str().map(str::to_owned);
    let identities = Identities {
        client_saw: name(&source, "destination_principal"),
        server_saw: name(&destination, "source_principal"),
    };
    for (node, seen) in [("a", &identities.client_saw), ("b", &identities.server_saw)] {
        let seen = seen.as_deref().unwrap_or("nobody");
        screen.detail(&format!("agent {node}    talked to {}", screen.cyan(seen)));
    }
    let took = (one.connect_us, one.total_us);
    screen.detail(&format!("time       {} µs to connect, {} µs in all", took.0, took.1));
    Ok((one, identities))
}

fn many(screen: &Screen, world: &World) -> Result<Totals> {
    let start = Instant::now();
    let client = Client::to(ECHO).echo(SECRET).times(CONNECTIONS, CONCURRENCY);
    let Outcome { totals, .. } = client.run(&world.machines.client)?;
    bars(screen, &totals);
    let rate = f64::from(u32::try_from(totals.connections)?) / start.elapsed().as_secs_f64();
    screen.detail(&format!(
        "{} failed; {rate:.0} a second, half of them within {} µs, 99 % within {} µs",
        totals.failed, totals.p50_us, totals.p99_us
    ));
    Ok(totals)
}

/// Replaces the configuration while connections are made, until they follow it.
fn replace(screen: &Screen, world: &World) -> Result<Totals> {
    let client = Client::to(ECHO).echo(SECRET).arg("--concurrency").arg("4");
    let mut traffic = client.arg("--rate").arg(RATE).traffic(&world.machines.client)?;
    let mut sum = Totals::default();
    let before = watch(&mut traffic, &mut sum, |recent| recent.connections >= 100)?;
    screen.detail(&format!("before     {}", shares(&before)));
    let replaced = Instant::now();
    world.config.write(&world.machines.mesh(AFTER))?;
    // 50 connections at 10 % have 19 or more of the second version once in 10^6 times.
    let after = watch(&mut traffic, &mut sum, |recent| {
        recent.connections >= 50 && recent.share("v2") >= 0.38
    })?;
    let took = replaced.elapsed().as_millis();
    screen.detail(&format!("after      {}", shares(&after)));
    add(&mut sum, &traffic.stop()?);
    ensure!(sum.connections > 0, "there was no traffic");
    screen.detail(&format!("the traffic follows the file {took} ms after it was replaced"));
    screen.detail(&format!("{} connections meanwhile, {} failed", sum.connections, sum.failed));
    Ok(sum)
}

/// Looks at the traffic of the last moments, until it is as `expect` wants it.
fn watch(
    traffic: &mut Traffic,
    sum: &mut Totals,
    expect: impl Fn(&Totals) -> bool,
) -> Result<Totals> {
    let mut recent = Totals::default();
    eventually("the traffic to follow the configuration", Duration::from_secs(20), || {
        match traffic.mark() {
            Err(error) => Some(Err(error)),
            Ok(totals) => {
                add(sum, &totals);
                // A fresh start now and then: what was before the change must be forgotten.
                if recent.connections >= 100 {
                    recent = Totals::default();
                }
                add(&mut recent, &totals);
                expect(&recent).then(|| Ok(recent.clone()))
            }
        }
    })?
}

fn on_wire(screen: &Screen, wire: &Wire) -> Result<OnWire> {
    let mut count = 0;
    let mut plaintext = None;
    for stream in wire.of_port(HBONE) {
        ensure!(stream.lost == 0, "the capture lost frames");
        match records(&stream.bytes) {
            Ok(records) => count += records,
            Err(error) => {
                plaintext = Some(format!("{} → {}: {error}", stream.from, stream.to));
            }
        }
    }
    if let Some(stream) = wire.beside_port(HBONE).next() {
        plaintext = Some(format!("{} → {} is not the mesh's", stream.from, stream.to));
    }
    if wire.shows(SECRET.as_bytes()) {
        plaintext = Some(format!("{SECRET:?} can be read"));
    }
    let tunnels = wire.of_port(HBONE).filter(|stream| stream.to.port() == HBONE).count();
    screen.detail(&format!("{} frames, {} bytes", wire.frames, wire.bytes));
    screen.detail(&format!("{count} TLS records in {tunnels} connections to port {HBONE}"));
    match &plaintext {
        None => screen.detail(&format!(
            "{}, and no byte that is not TLS",
            screen.green(&format!("{SECRET:?} cannot be read"))
        )),
        Some(problem) => screen.detail(&screen.red(problem)),
    }
    Ok(OnWire { records: count, frames: wire.frames, plaintext })
}

fn bars(screen: &Screen, totals: &Totals) {
    for (version, count) in &totals.versions {
        let share = totals.share(version);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 40")]
        let filled = (share * 40.0).round() as usize;
        let bar = format!("{:━<filled$}", "");
        let bar = format!("{}{:<rest$}", screen.cyan(&bar), "", rest = 40 - filled);
        screen.detail(&format!("{version}  {bar}  {:>5.1} %  {count}", share * 100.0));
    }
}

fn shares(totals: &Totals) -> String {
    let shares = totals
        .versions
        .keys()
        .map(|version| format!("{version} {:.0} %", totals.share(version) * 100.0));
    format!("{} (the last {})", shares.collect::<Vec<_>>().join(", "), totals.connections)
}

fn add(sum: &mut Totals, more: &Totals) {
    sum.connections += more.connections;
    sum.failed += more.failed;
    for (into, from) in [(&mut sum.versions, &more.versions), (&mut sum.errors, &more.errors)] {
        for (key, count) in from {
            *into.entry(key.clone()).or_default() += count;
        }
    }
}
