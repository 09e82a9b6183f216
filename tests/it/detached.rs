//! Kernel programs, pins and the cgroup of the mesh that somebody takes away from an agent that runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mesh_tests::agent::{self, Agent};
use mesh_tests::apps::{Client, Server};
use mesh_tests::capture::Capture;
use mesh_tests::cgroup;
use mesh_tests::expect::eventually;
use mesh_tests::mesh::{MeshPolicy, Workload};
use mesh_tests::node::Node;
use mesh_tests::pair::{ECHO, PORT, Pair, hello, pins};
use mesh_tests::pod::Pod;
use mesh_tests::process::{self, DEADLINE};
use nix::unistd::Pid;

/// The gate that is closed while not all programs are in force.
const GATE: &str = "kernel programs attached";

/// How long an agent may take to notice, on a busy machine: it looks four times a second.
const NOTICED: Duration = Duration::from_secs(3);

/// The text that must not be seen between the nodes.
const SECRET: &str = "never in the open";

/// `bpftool link detach pinned PATH`.
const DETACH: &str = r"
import ctypes, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number = {'x86_64': 321, 'aarch64': 280}[platform.machine()]
path = ctypes.create_string_buffer(sys.argv[1].encode())
get = ctypes.create_string_buffer(struct.pack('QII', ctypes.addressof(path), 0, 0))
link = libc.syscall(number, 7, get, 16)
detach = ctypes.create_string_buffer(struct.pack('II', link, 0))
if link < 0 or libc.syscall(number, 34, detach, 8) != 0:
    sys.exit('errno %d' % ctypes.get_errno())
";

/// The mesh, in which mutual TLS is demanded, with both agents and the server.
fn start() -> (Pair, [Agent; 2], Server) {
    let pair = Pair::new().unwrap();
    pair.config.write(&pair.mesh().policy(&MeshPolicy::new("all").mtls("STRICT"))).unwrap();
    let agents = [&pair.a, &pair.b].map(|node| pair.agent(node, &[]).unwrap());
    let server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    works(&pair);
    (pair, agents, server)
}

fn error(pair: &Pair) -> Option<String> {
    // A connection that is not captured may lead nowhere.
    let quick = hello().arg("--timeout").arg("2");
    quick.run(&pair.client).unwrap().totals.errors.into_keys().next()
}

#[track_caller]
fn works(pair: &Pair) {
    assert_eq!(error(pair), None);
}

/// The pins of a node's agent, by their paths.
fn pinned(node: &Node) -> Vec<PathBuf> {
    let folder = fs::read_dir(pins(node)).unwrap().next().unwrap().unwrap().path();
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn detach(path: &Path) {
    process::run(Command::new("/usr/bin/python3").args(["-c", DETACH]).arg(path)).unwrap();
}

/// Waits until an agent is not ready and says why, which it does soon.
#[track_caller]
fn notices(agent: &Agent, words: &str) {
    let began = Instant::now();
    let told = || {
        let missing = agent.get("/readyz").ok()?.1;
        (missing.contains(GATE) && agent.log().contains(words)).then_some(())
    };
    eventually("the agent to notice", DEADLINE, told)
        .unwrap_or_else(|error| panic!("{error}: {}", agent.log()));
    assert!(began.elapsed() < NOTICED, "{:?}", began.elapsed());
}

#[test]
fn pins_that_are_removed_come_back_and_nothing_is_detached_meanwhile() {
    let (pair, [a, b], _server) = start();
    let wire = Capture::start(pair.lab.fabric()).unwrap();
    let traffic = Client::to(ECHO).echo(SECRET).times(10_000_000, 2).traffic(&pair.client).unwrap();
    for (agent, node) in [(&a, &pair.a), (&b, &pair.b)] {
        let before = pinned(node);
        for path in &before {
            fs::remove_file(path).unwrap();
        }
        let again = || (pinned(node) == before).then_some(());
        eventually("the pins", DEADLINE, again).unwrap_or_else(|_| panic!("{}", agent.log()));
        agent.says("mesh-agent uninstall").unwrap();
        assert!(agent.ready(), "{}", agent.log());
    }
    let totals = traffic.stop().unwrap();
    assert_eq!((totals.failed, totals.errors.into_keys().next()), (0, None));
    let wire = wire.stop().unwrap();
    assert!(!wire.shows(SECRET.as_bytes()));
    assert_eq!(wire.of_port(PORT).count(), 0);
    // A successor finds them.
    a.terminate().unwrap();
    let _a = pair.agent(&pair.a, &[]).unwrap();
    works(&pair);
}

#[test]
fn programs_that_are_detached_are_attached_again() {
    let (pair, [a, b], _server) = start();
    let link = |node: &Node, name: &str| {
        let found = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(name);
        pinned(node).into_iter().find(found).unwrap()
    };
    // The hook that captures at the client's node.
    detach(&link(&pair.a, "link_connect4"));
    eventually("the program", NOTICED, || error(&pair).is_none().then_some(())).unwrap();
    let attached = "all kernel programs are attached again";
    let again = |agent: &Agent| (agent.ready() && agent.log().contains(attached)).then_some(());
    eventually("the agent to be ready", DEADLINE, || again(&a)).unwrap();
    a.says("kernel programs are detached").unwrap();
    // Plaintext arrives at the server, which takes none.
    let stranger = pair.b.pod("stranger").unwrap();
    let knock = || {
        let met = Client::to(pair.echo.at(PORT)).echo("let me in").run(&stranger).unwrap();
        met.totals.errors.into_keys().next()
    };
    assert!(knock().is_some());
    detach(&link(&pair.b, "link_inbound_"));
    eventually("the program", NOTICED, || knock().map(drop)).unwrap();
    eventually("the agent to be ready", DEADLINE, || again(&b)).unwrap();
    assert!(knock().is_some());
    works(&pair);
}

#[test]
fn an_agent_whose_pins_are_uninstalled_says_that_it_protects_nothing() {
    let (pair, [a, _b], _server) = start();
    let mut command = Command::new(agent::binary().unwrap());
    command.args(["uninstall", "--force", "--node", pair.a.name()]);
    assert!(process::run(&mut command).unwrap().ends_with(": removed\n"));
    notices(&a, "its workloads are not protected");
    assert!(!pins(&pair.a).exists());
    a.terminate().unwrap();
    let _a = pair.agent(&pair.a, &[]).unwrap();
    works(&pair);
}

fn enter(group: &Path, process: Pid) {
    fs::write(group.join("cgroup.procs"), process.to_string()).unwrap();
}

#[test]
fn a_cgroup_that_is_made_again_is_captured_again() {
    let (pair, [a, _b], _server) = start();
    let near = pair.a.pod("near").unwrap();
    let workload = Workload::of(&near).account("near").port(PORT);
    let strict = MeshPolicy::new("all").mtls("STRICT");
    pair.config.write(&pair.mesh().workload(&workload).policy(&strict)).unwrap();
    let enrolled = || a.log().contains("workload=demo/near").then_some(());
    eventually("the other pod", DEADLINE, enrolled).unwrap();
    let group = pair.a.cgroup();
    enter(pair.lab.cgroup(), a.pid());
    cgroup::remove(group).unwrap();
    notices(&a, "the cgroup of the mesh is gone");
    fs::create_dir_all(group.join("agent")).unwrap();
    for pod in [&pair.client, &near] {
        make_group(pod);
    }
    enter(&group.join("agent"), a.pid());
    eventually("the agent to be ready", DEADLINE, || a.ready().then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {}", a.log()));
    let wire = Capture::start(pair.lab.fabric()).unwrap();
    for _ in 0..10 {
        works(&pair);
    }
    // Of the same node, and as the server sees its client.
    let server = Server::echo(&near, PORT, "near").unwrap();
    let beside = Client::to(near.at(PORT)).echo("hello").run(&pair.client).unwrap();
    let banner = beside.single().unwrap().banner.unwrap();
    assert_eq!(banner.peer.ip().to_canonical(), pair.client.at(0).ip());
    drop(server);
    assert_eq!(wire.stop().unwrap().of_port(PORT).count(), 0);
}

fn make_group(pod: &Pod) {
    fs::create_dir_all(pod.cgroup()).unwrap();
}
