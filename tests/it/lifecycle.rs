//! Agents that stop, die, are replaced and removed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mesh_tests::agent::{self, Agent};
use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::mesh::MeshPolicy;
use mesh_tests::pair::{PORT, Pair, hello, pins};
use mesh_tests::process::{self, DEADLINE};
use nix::sys::signal::Signal;

/// Far below the time that an agent gives open connections to end, which is 30 s.
const SOON: Duration = Duration::from_secs(10);

/// The mesh with both agents and the server. Without an agent, nothing is let through.
fn start(args: &[&str]) -> (Pair, Agent, Agent, Server) {
    let pair = Pair::new().unwrap();
    let closed = MeshPolicy::new("all").failure("closed");
    pair.config.write(&pair.mesh().policy(&closed)).unwrap();
    let (a, b) = (pair.agent(&pair.a, args).unwrap(), pair.agent(&pair.b, args).unwrap());
    let server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    (pair, a, b, server)
}

/// The error of one connection to the service; `None` if it went well.
fn error(pair: &Pair) -> Option<String> {
    hello().run(&pair.client).unwrap().totals.errors.into_keys().next()
}

#[track_caller]
fn works(pair: &Pair) {
    assert_eq!(error(pair), None);
}

/// Asks an agent to stop, and waits until it says so.
fn stopping(agent: &mut Agent) {
    agent.signal(Signal::SIGTERM).unwrap();
    eventually("the agent not to be ready", DEADLINE, || {
        matches!(agent.get("/readyz"), Ok((503, _body))).then_some(())
    })
    .unwrap();
}

/// An agent that stops: it serves as before as long as something is open, and ends with the last one.
fn check_drain(draining: impl Fn(&mut Agent, &mut Agent) -> bool) {
    let (pair, mut a, mut b, _server) = start(&[]);
    let (mut held, opened) = hello().hold(&pair.client).unwrap();
    assert_eq!((opened.connections, opened.failed), (1, 0));
    let source = draining(&mut a, &mut b);
    works(&pair);
    assert_eq!(held.mark().unwrap().failed, 0);
    let agent = if source { &mut a } else { &mut b };
    let missing = agent.get("/readyz").unwrap().1;
    assert!(missing.contains("not stopping"), "{missing}");
    assert_eq!(held.stop().unwrap().connections, 1);
    let start = Instant::now();
    assert_eq!(agent.ended().unwrap().code(), Some(0));
    assert!(start.elapsed() < SOON, "it took {:?}", start.elapsed());
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    let node = if source { &pair.a } else { &pair.b };
    let _successor = pair.agent(node, &[]).unwrap();
    works(&pair);
}

#[test]
fn the_sources_agent_drains() {
    let drain = |a: &mut Agent, _b: &mut Agent| {
        stopping(a);
        true
    };
    check_drain(drain);
}

#[test]
fn the_destinations_agent_drains() {
    let drain = |_a: &mut Agent, b: &mut Agent| {
        stopping(b);
        false
    };
    check_drain(drain);
}

#[test]
fn an_agent_without_connections_ends_at_once() {
    let (pair, a, b, _server) = start(&[]);
    works(&pair);
    // The source first: its tunnel is open, and carries nothing.
    for mut agent in [a, b] {
        let start = Instant::now();
        agent.signal(Signal::SIGTERM).unwrap();
        assert_eq!(agent.ended().unwrap().code(), Some(0));
        assert!(start.elapsed() < SOON, "it took {:?}", start.elapsed());
        assert!(!agent.log().contains("panicked"), "{}", agent.log());
    }
}

/// A connection that does not end is cut after the time for draining.
fn check_cut(source: bool) {
    let (pair, mut a, mut b, _server) = start(&["--drain-timeout", "1"]);
    let (mut held, opened) = hello().hold(&pair.client).unwrap();
    assert_eq!(opened.failed, 0);
    let (agent, reporter) = if source { (&mut a, "source") } else { (&mut b, "destination") };
    agent.signal(Signal::SIGTERM).unwrap();
    assert_eq!(agent.ended().unwrap().code(), Some(0));
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    let line = agent.logged("the cut", |line| line["failure"] == "shutdown").unwrap();
    assert_eq!((&line["reporter"], &line["retry"]), (&reporter.into(), &"if_idempotent".into()));
    assert_eq!(line["bytes_received"], 5, "`hello` was carried");
    let lost = held.mark().unwrap();
    assert_eq!(lost.errors.keys().collect::<Vec<_>>(), ["exchange ECONNRESET"]);
    drop(pair);
}

#[test]
fn the_sources_agent_cuts_what_does_not_end() {
    check_cut(true);
}

#[test]
fn the_destinations_agent_cuts_what_does_not_end() {
    check_cut(false);
}

/// Files of a pin folder: an object that is pinned anew has another inode.
fn inodes(folder: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino()))
        .collect()
}

fn proxied(agent: &Agent) -> f64 {
    agent.metrics().unwrap().sum("mesh_kernel_connects_total", &[("verdict", "proxy")])
}

/// The only folder of pins of the node, by its name.
fn version(pair: &Pair) -> String {
    let mut names: Vec<_> = inodes(&pins(&pair.a)).into_keys().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names.remove(0)
}

#[test]
fn a_killed_agents_successor_adopts_what_is_in_the_kernel() {
    let (pair, a, _b, _server) = start(&[]);
    works(&pair);
    let folder = pins(&pair.a).join(version(&pair));
    let (before, count) = (inodes(&folder), proxied(&a));
    assert_eq!(before.keys().filter(|name| name.starts_with("link_")).count(), 13, "{before:?}");
    a.kill();
    // Nobody takes connections now, and nothing goes out unprotected.
    assert_eq!(error(&pair).as_deref(), Some("connect EPERM"));
    let a = pair.agent(&pair.a, &[]).unwrap();
    assert_eq!(inodes(&folder), before);
    works(&pair);
    // A map that is made anew would begin at zero.
    assert_eq!((proxied(&a) - count).to_string(), "1");
    let denied = [("verdict", "failed_closed")];
    assert_eq!(a.metrics().unwrap().sum("mesh_kernel_connects_total", &denied).to_string(), "1");
}

#[test]
fn the_destinations_agent_is_killed_and_started_again() {
    let (pair, _a, b, _server) = start(&[]);
    let (mut held, _opened) = hello().hold(&pair.client).unwrap();
    b.kill();
    assert_eq!(held.mark().unwrap().errors.keys().collect::<Vec<_>>(), ["exchange ECONNRESET"]);
    let _b = pair.agent(&pair.b, &[]).unwrap();
    works(&pair);
}

fn uninstall(pair: &Pair) -> String {
    let mut command = Command::new(agent::binary().unwrap());
    process::run(command.args(["uninstall", "--node", pair.a.name()])).unwrap()
}

#[test]
fn what_another_version_pinned_is_replaced() {
    let (pair, a, _b, _server) = start(&[]);
    works(&pair);
    a.terminate().unwrap();
    let node = pins(&pair.a);
    let version = version(&pair);
    fs::rename(node.join(&version), node.join("v0")).unwrap();
    assert_eq!(error(&pair).as_deref(), Some("connect EPERM"), "the old programs run");
    let a = pair.agent(&pair.a, &[]).unwrap();
    assert_eq!(inodes(&node).into_keys().collect::<Vec<_>>(), [version]);
    works(&pair);
    // Its maps are new, and only its programs see this.
    assert_eq!(proxied(&a).to_string(), "1");
    a.terminate().unwrap();
    uninstall(&pair);
    // Programs of the old version, were they still attached, would redirect this to nobody.
    let direct = Client::to(pair.echo.at(PORT)).echo("hello").run(&pair.client).unwrap();
    assert_eq!(direct.single().unwrap().version(), Some("v1"));
}

#[test]
fn uninstall_leaves_nothing_behind() {
    let (pair, a, _b, _server) = start(&[]);
    works(&pair);
    a.terminate().unwrap();
    let to_pod = Client::to(pair.echo.at(PORT)).echo("hello");
    let refused = to_pod.run(&pair.client).unwrap().totals.errors;
    assert_eq!(refused.keys().collect::<Vec<_>>(), ["connect EPERM"]);
    assert!(uninstall(&pair).ends_with(": removed\n"));
    assert!(!pins(&pair.a).exists());
    // Not captured any more: straight to the pod, and to nowhere for an address of no pod.
    let seen = to_pod.run(&pair.client).unwrap().single().unwrap();
    assert_eq!(seen.banner.unwrap().peer.port(), seen.local.unwrap().port());
    let unknown = error(&pair).unwrap();
    assert_ne!(unknown, "connect EPERM");
    assert!(unknown.starts_with("connect "), "{unknown}");
    assert!(uninstall(&pair).ends_with(": nothing is there\n"));
    let _a = pair.agent(&pair.a, &[]).unwrap();
    works(&pair);
}
