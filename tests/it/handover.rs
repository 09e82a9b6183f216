//! Agents that are replaced by another one of the same node, without a moment in which nobody serves.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use mesh_tests::agent::{self, Agent};
use mesh_tests::apps::{Client, Server};
use mesh_tests::capture::Capture;
use mesh_tests::expect::eventually;
use mesh_tests::http::{Ask, Load, Web, route};
use mesh_tests::mesh::{Mesh, MeshPolicy, Service, Workload};
use mesh_tests::node::Node;
use mesh_tests::pair::{ECHO, PORT, Pair, hello};
use mesh_tests::pod::Pod;
use mesh_tests::process::{self, DEADLINE};
use mesh_tests::script::PYTHON;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::failure_modes::{few_ports, hold};

/// Agents that follow one another, on each node.
const SUCCESSORS: usize = 10;

/// The routed service, and where its server listens.
const WEB: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20)), 80);
const WEB_PORT: u16 = 8081;

/// The text that must not be seen between the nodes.
const SECRET: &str = "never in the open";

/// An agent says so when a successor has taken over.
const REPLACED: &str = "a successor serves the node: this agent drains";

/// The usual mesh, in which a second server is on the client's node, and a service with a route of HTTP,
/// without retries, on the other one.
fn mesh(pair: &Pair, near: &Pod, mode: &str) -> Mesh {
    let workload = Workload::of(near).account("near").label("app", "near").port(PORT);
    let web = Service::new("web").at(WEB.ip()).select("app", "echo");
    let rules = format!("  - backendRefs: [{{name: web, port: {}}}]", WEB.port());
    pair.mesh()
        .workload(&workload)
        .service(&web.port_of(WEB.port(), WEB_PORT, "http"))
        .raw(route::http("demo", "web", "name: web", &rules))
        .policy(&MeshPolicy::new("all").mtls(mode))
}

/// Clients of the routed service: connections that stay, of HTTP/1.1 and HTTP/2, and one for each request.
fn clients_of_the_route(pair: &Pair) -> [Load; 3] {
    let ask = Ask::post("/", SECRET).times(1, 2);
    [ask.clone(), ask.clone().http2(), ask.fresh()]
        .map(|ask| Load::start(&pair.client, WEB, &ask).unwrap())
}

/// Waits until agents of a node have been replaced so many times.
#[track_caller]
fn replaced(agent: &Agent, count: usize) {
    let found = || (agent.log().matches(REPLACED).count() >= count).then_some(());
    eventually("the agent to be replaced", DEADLINE, found)
        .unwrap_or_else(|error| panic!("{error}: {}", agent.log()));
}

/// Has agents follow one another on both nodes while connections are opened from the client to
/// servers of its node and of the other: none fails, and nothing is in plaintext between the nodes.
fn check_replaced(mode: &str) {
    let pair = Pair::new().unwrap();
    let near = pair.a.pod("near").unwrap();
    pair.config.write(&mesh(&pair, &near, mode)).unwrap();
    // Longer than all of them take on a busy machine.
    let args = ["--drain-timeout", "300"];
    let start = |node: &Node| pair.agent(node, &args).unwrap();
    let (mut a, mut b) = (vec![start(&pair.a)], vec![start(&pair.b)]);
    let servers = [&pair.echo, &near].map(|pod| Server::echo(pod, PORT, "v1").unwrap());
    let web = Web::quiet(&pair.echo, "web", &[WEB_PORT]).unwrap();
    let wire = Capture::start(pair.lab.fabric()).unwrap();
    let requests = clients_of_the_route(&pair);
    let far = Client::to(ECHO).echo(SECRET).times(10_000_000, 4);
    let beside = Client::to(near.at(PORT)).echo(SECRET).times(10_000_000, 4);
    let traffic = [far, beside].map(|client| client.traffic(&pair.client).unwrap());
    let (mut held, _) = Client::to(ECHO).echo("held").hold(&pair.client).unwrap();
    for count in 1..=SUCCESSORS {
        for (agents, node) in [(&mut a, &pair.a), (&mut b, &pair.b)] {
            agents.push(pair.successor(node, &args).unwrap());
            replaced(&agents[0], count);
        }
    }
    // The first ones still carry what was opened before.
    assert_eq!(held.mark().unwrap().failed, 0);
    for mut load in requests {
        let until_now = load.mark().unwrap();
        assert!(until_now.requests > 0);
        for tally in [until_now, load.stop().unwrap()] {
            assert_eq!((tally.failed(), tally.errors.into_keys().next()), (0, None));
        }
    }
    for mut traffic in traffic {
        let until_now = traffic.mark().unwrap();
        assert!(until_now.connections > 0);
        for totals in [until_now, traffic.stop().unwrap()] {
            assert_eq!((totals.failed, totals.errors.into_keys().next()), (0, None));
        }
    }
    assert_eq!(held.stop().unwrap().failed, 0);
    for agents in [&mut a, &mut b] {
        let last = agents.pop().unwrap();
        for agent in agents {
            assert_eq!(agent.ended().unwrap().code(), Some(0));
        }
        assert!(!last.log().contains("panicked"), "{}", last.log());
        assert!(last.ready(), "{}", last.log());
        last.terminate().unwrap();
    }
    let wire = wire.stop().unwrap();
    assert!(!wire.shows(SECRET.as_bytes()));
    drop((servers, web));
}

#[test]
fn agents_follow_one_another_and_no_connection_fails() {
    check_replaced("STRICT");
}

#[test]
fn agents_follow_one_another_where_plaintext_would_be_taken() {
    check_replaced("PERMISSIVE");
}

/// A successor that is nothing but its side of the hand-over.
struct Fake(BufReader<UnixStream>);

impl Fake {
    fn ask(agent: &Agent, message: &Value) -> (Self, Value) {
        let path = agent.admin_socket().with_file_name("handover.sock");
        let mut fake = Self(BufReader::new(UnixStream::connect(path).unwrap()));
        let answer = fake.say(message);
        (fake, answer)
    }

    fn say(&mut self, message: &Value) -> Value {
        self.0.get_mut().write_all(format!("{message}\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

/// Says something to a socket, and prints the answer.
const ASK: &str = "import socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect(sys.argv[1])
asked.sendall(sys.argv[2].encode() + b'\\n')
print(asked.makefile().readline())";

fn take_over(node: &str, version: u32) -> Value {
    json!({"request": "take-over", "version": version, "node": node, "agent": "test",
        "descriptors": true})
}

#[test]
fn a_successor_that_fails_leaves_all_as_it_was() {
    let pair = Pair::new().unwrap();
    let [a, _b] = [&pair.a, &pair.b].map(|node| pair.agent(node, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let met = || hello().run(&pair.client).unwrap().totals.errors.into_keys().next();
    assert_eq!(met(), None);
    let (fake, answer) = Fake::ask(&a, &take_over(a.node().name(), 1));
    assert_eq!(answer, json!({"answer": "paused", "generation": 0, "workloads": ["demo/client"]}));
    // It serves, and what documents say now is in force when its successor has gone.
    assert_eq!(met(), None);
    let other = Service::new("other").at([10, 96, 0, 11]).select("app", "echo");
    pair.config.write(&pair.mesh().service(&other.port(ECHO.port(), PORT))).unwrap();
    let elsewhere = Client::to("10.96.0.11:80".parse().unwrap()).echo("hello");
    let reaches = || elsewhere.run(&pair.client).unwrap().totals.failed == 0;
    assert!(!reaches());
    drop(fake);
    eventually("the new service", DEADLINE, || reaches().then_some(())).unwrap();
    assert!(a.ready(), "{}", a.log());
    assert_eq!(met(), None);
    // One that is killed in the middle of its start.
    for _ in 0..5 {
        let successor = pair.successor(&pair.a, &[]).unwrap();
        eventually("the successor to begin", DEADLINE, || {
            let begun = a.log().matches("this agent serves until it does").count();
            let ended = a.log().matches("this agent goes on").count();
            (begun > ended).then_some(())
        })
        .unwrap();
        successor.kill();
        eventually("the agent to go on", DEADLINE, || {
            let gone = a.log().matches("this agent goes on").count();
            let taken = a.log().matches(REPLACED).count();
            (gone + taken >= a.log().matches("a successor starts").count()).then_some(())
        })
        .unwrap();
        assert_eq!(met(), None, "{}", a.log());
        assert_eq!(a.log().matches(REPLACED).count(), 0, "{}", a.log());
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "an attack at every moment")]
fn a_successor_that_is_killed_leaves_nothing_in_the_open() {
    let pair = Pair::new().unwrap();
    let [a, _b] = [&pair.a, &pair.b].map(|node| pair.agent(node, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let traffic = Client::to(ECHO).echo(SECRET).times(10_000_000, 4).traffic(&pair.client).unwrap();
    for step in 1..100 {
        let wire = Capture::start(pair.lab.fabric()).unwrap();
        let successor = pair.successor(&pair.a, &[]).unwrap();
        // At every moment of its start, one after the other.
        std::thread::sleep(Duration::from_millis(25) * step);
        successor.kill();
        if a.log().contains(REPLACED) {
            break;
        }
        let on = || {
            let begun = a.log().matches("this agent serves until it does").count();
            (a.log().matches("this agent goes on").count() == begun).then_some(())
        };
        eventually("the agent to go on", DEADLINE, on).unwrap();
        let wire = wire.stop().unwrap();
        assert_eq!(wire.of_port(PORT).count(), 0, "{}", a.log());
    }
    // The last one came so far that it served, and the one that was replaced is gone with it.
    a.says(REPLACED).unwrap();
    drop(traffic.stop().unwrap());
}

#[test]
fn a_successor_that_is_late_is_told() {
    let pair = Pair::new().unwrap();
    let a = pair.agent(&pair.a, &[]).unwrap();
    let (fake, answer) = Fake::ask(&a, &take_over(a.node().name(), 1));
    assert_eq!(answer["answer"], "paused");
    let late = || a.get("/readyz").ok()?.1.contains("no successor that is late").then_some(());
    eventually("the agent not to be ready", DEADLINE, late).unwrap();
    drop(fake);
    eventually("the agent to be ready", DEADLINE, || a.ready().then_some(())).unwrap();
}

#[test]
fn who_is_no_successor_is_refused() {
    let pair = Pair::new().unwrap();
    let a = pair.agent(&pair.a, &[]).unwrap();
    let refused = |message: &Value, words: &str| {
        let (_fake, answer) = Fake::ask(&a, message);
        assert_eq!(answer["answer"], "refused");
        assert!(answer["reason"].as_str().unwrap().contains(words), "{answer}");
    };
    refused(&take_over("another", 1), "the node a");
    refused(&take_over(a.node().name(), 2), "version 1");
    let mut earlier = take_over(a.node().name(), 1);
    earlier.as_object_mut().unwrap().remove("descriptors");
    refused(&earlier, "hands its listeners of --admin and --metrics over");
    refused(&json!({"request": "done"}), "nothing was taken over");
    refused(&json!("x"), "");
    // Root without capabilities, as a unit may be: it may open the socket.
    let path = a.admin_socket().with_file_name("handover.sock");
    let mut weak = Command::new("setpriv");
    weak.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", PYTHON, "-c", ASK]);
    weak.arg(path).arg(take_over(a.node().name(), 1).to_string());
    let said = process::run(&mut weak).unwrap();
    assert!(said.contains("without the capabilities of an agent"), "{said}");
    // Without the socket it cannot ask, and there is one agent of a node at a time.
    let elsewhere = pair.lab.state().join("elsewhere/admin.sock");
    let mut second = Command::new(agent::binary().unwrap());
    second.args(["run", "--node", pair.a.name(), "--admin-socket"]).arg(&elsewhere);
    second.arg("--config").arg(pair.config.path()).arg("--cgroup").arg(pair.a.cgroup());
    second.arg("--ca").arg(pair.lab.state().join("ca").join(pair.a.name()));
    let said = process::run(&mut second).unwrap_err().to_string();
    assert!(said.contains("another agent of the node"), "{said}");
    assert!(a.ready(), "{}", a.log());
}

#[test]
fn what_a_running_agent_has_pinned_is_not_removed_unless_forced() {
    let pair = Pair::new().unwrap();
    let [a, _b] = [&pair.a, &pair.b].map(|node| pair.agent(node, &[]).unwrap());
    let uninstall = |args: &[&str]| {
        let mut command = Command::new(agent::binary().unwrap());
        process::run(command.args(["uninstall", "--node", pair.a.name()]).args(args))
    };
    let refused = uninstall(&[]).unwrap_err().to_string();
    assert!(refused.contains("stop it first"), "{refused}");
    assert!(a.ready(), "{}", a.log());
    assert!(uninstall(&["--force"]).unwrap().ends_with(": removed\n"));
}

#[test]
fn an_agent_that_stops_serves_until_what_is_open_has_ended() {
    let pair = Pair::new().unwrap();
    let [mut a, mut b] = [&pair.a, &pair.b].map(|node| pair.agent(node, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let (mut held, opened) = hello().hold(&pair.client).unwrap();
    assert_eq!(opened.failed, 0);
    for agent in [&mut a, &mut b] {
        agent.signal(Signal::SIGTERM).unwrap();
        let stopping = || matches!(agent.get("/readyz"), Ok((503, _body))).then_some(());
        eventually("the agent to stop", DEADLINE, stopping).unwrap();
    }
    for _ in 0..20 {
        assert_eq!(hello().run(&pair.client).unwrap().totals.errors.into_keys().next(), None);
    }
    assert_eq!(held.mark().unwrap().failed, 0);
    assert_eq!(held.stop().unwrap().failed, 0);
    for agent in [&mut a, &mut b] {
        assert_eq!(agent.ended().unwrap().code(), Some(0));
    }
}

#[test]
fn a_pod_that_holds_the_agents_ports_does_not_keep_a_successor_waiting() {
    let pair = Pair::new().unwrap();
    let [a, _b] = [&pair.a, &pair.b].map(|node| pair.agent(node, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    // Where agents that were numbered would listen, and everywhere.
    let _holder = hold(
        &pair.client,
        "[(at, port) for port in (15001, 15006, 15008) for at in ['0.0.0.0', '::'] \
         + ['240.%d.0.%d' % (g, n) for g in range(4) for n in range(9)] \
         + ['100::%x:%x' % (g, n) for g in range(4) for n in range(9)]]",
    );
    let successor = pair.successor(&pair.a, &[]).unwrap();
    replaced(&a, 1);
    assert!(successor.ready(), "{}", successor.log());
    assert!(!successor.log().contains("without it"), "{}", successor.log());
    assert_eq!(hello().run(&pair.client).unwrap().totals.errors.into_keys().next(), None);
}

#[test]
fn a_workload_that_cannot_be_enrolled_does_not_keep_others_from_a_successor() {
    let pair = Pair::new().unwrap();
    let near = pair.a.pod("near").unwrap();
    pair.config.write(&mesh(&pair, &near, "STRICT")).unwrap();
    // The ports that are left to the agent are gone when its successor comes.
    let usual = hold(&near, "[('::', port) for port in (15001, 15006, 15008)]");
    let [a, _b] = [&pair.a, &pair.b].map(|node| pair.agent(node, &[]).unwrap());
    let _servers = [&pair.echo, &near].map(|pod| Server::echo(pod, PORT, "v1").unwrap());
    let beside = Client::to(near.at(PORT)).echo(SECRET);
    let met = |client: &Client| client.run(&pair.client).unwrap().totals.errors.into_keys().next();
    assert_eq!((met(&hello()), met(&beside)), (None, None));
    let others = hold(&near, &few_ports(&near, 41_000));
    let successor = pair.successor(&pair.a, &[]).unwrap();
    replaced(&a, 1);
    assert_eq!(met(&hello()), None);
    successor.says("taking over without it").unwrap();
    let told = || successor.conditions().ok()?.to_string().contains("NotEnrolled").then_some(());
    eventually("the condition", DEADLINE, told).unwrap();
    drop((usual, others));
    let served =
        || (!successor.conditions().ok()?.to_string().contains("NotEnrolled")).then_some(());
    eventually("the workload to be enrolled", DEADLINE, served).unwrap();
    assert_eq!(met(&beside), None, "{}", successor.log());
}
