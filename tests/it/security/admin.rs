//! Processes beside the agent that have, or want to have, the addresses at which it is asked: as another
//! user, and as root without capabilities.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mesh_tests::agent::{self, Agent};
use mesh_tests::apps::Server;
use mesh_tests::expect::eventually;
use mesh_tests::metrics::Metrics;
use mesh_tests::node::Node;
use mesh_tests::pair::{PORT, Pair, hello};
use mesh_tests::process::DEADLINE;
use mesh_tests::script::Script;

/// Where scrapers are served.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15_020);

/// The settings that name the addresses: the lab has `--admin` already.
const ARGS: [&str; 2] = ["--metrics", "127.0.0.1:15020"];

/// Listens at both addresses as another user, until it is told to end.
const HOLDS: &str = "
import os, socket, sys
os.setgid(1000); os.setuid(1000)
held = []
for port in (15000, 15020):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(('127.0.0.1', port)); one.listen(1)
    held.append(one)
print('holds', flush=True)
sys.stdin.readline()
";

/// Tries to join both addresses, as root without capabilities, until it is told to end; says how often it
/// has, and how often it has tried.
const JOINS: &str = "
import ctypes, select, socket, sys
capset = ctypes.CDLL(None).capset
assert capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
print('tries', flush=True)
joined, tries = [], 0
while not select.select([sys.stdin], [], [], 0.0005)[0]:
    for port in (15000, 15020):
        tries += 1
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            one.bind(('127.0.0.1', port)); one.listen(100)
            joined.append(one)
        except OSError: one.close()
print(len(joined), tries, flush=True)
";

/// The answer to a request at the admin socket, with its head.
fn ask_socket(agent: &Agent, path: &str) -> Option<String> {
    let mut stream = UnixStream::connect(agent.admin_socket()).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The answer to a request at an address of the node, with its head.
fn ask(node: &Node, at: SocketAddr, path: &str) -> std::io::Result<String> {
    let asked = node.netns().run(|| {
        let mut stream = TcpStream::connect(at)?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    asked.unwrap()
}

/// At how many of both addresses an agent says that it listens.
fn listening(metrics: &str) -> Option<f64> {
    let (_head, page) = metrics.split_once("\r\n\r\n")?;
    let metrics = Metrics::parse(page);
    let at = |address: SocketAddr| {
        metrics.sum("mesh_admin_listening", &[("address", &address.to_string())])
    };
    Some(at(agent::admin()) + at(METRICS))
}

/// Waits until agents of the node have been replaced so many times.
#[track_caller]
fn replaced(agent: &Agent, count: usize) {
    let words = "a successor serves the node: this agent drains";
    let found = || (agent.log().matches(words).count() >= count).then_some(());
    eventually("the agent to be replaced", DEADLINE, found)
        .unwrap_or_else(|error| panic!("{error}: {}", agent.log()));
}

#[test]
fn an_agent_serves_while_others_have_its_admin_addresses() {
    let pair = Pair::new().unwrap();
    let (mut thief, said) = Script::start_in(pair.a.netns(), pair.a.cgroup(), HOLDS).unwrap();
    assert_eq!(said, "holds");
    let _b = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let a = pair.successor(&pair.a, &ARGS).unwrap();
    let ready = || ask_socket(&a, "/readyz").filter(|answer| answer.contains(" 200 "));
    eventually("the agent to be ready", DEADLINE, ready)
        .unwrap_or_else(|error| panic!("{error}: {}", a.log()));
    assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    let conditions = || ask_socket(&a, "/conditions").unwrap();
    for address in [agent::admin(), METRICS] {
        let words = format!("binding the admin server to {address}");
        let (log, remedy) = (a.log(), format!("ss -ltnp 'sport = :{}'", address.port()));
        let line =
            log.lines().find(|line| line.contains(&words)).unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains("ERROR") && line.contains(&remedy), "{line}");
        let words = format!("another process listens at {address}");
        assert!(conditions().contains(&words), "{}", conditions());
    }
    assert_eq!(listening(&ask_socket(&a, "/metrics").unwrap()), Some(0.0));
    thief.say("").unwrap();
    eventually("the addresses", DEADLINE, || {
        (listening(&ask_socket(&a, "/metrics")?) == Some(2.0)).then_some(())
    })
    .unwrap();
    assert!(!conditions().contains("another process listens"), "{}", conditions());
    let at = |address| ask(&pair.a, address, "/readyz").unwrap();
    assert!(at(agent::admin()).contains(" 200 ") && at(METRICS).contains(" 200 "));
    a.says("the admin server listens").unwrap();
}

#[test]
fn an_address_that_is_handed_over_is_joined_by_nobody_and_answers_at_every_moment() {
    let pair = Pair::new().unwrap();
    let first = pair.agent(&pair.a, &ARGS).unwrap();
    let _b = pair.agent(&pair.b, &[]).unwrap();
    let (mut thief, said) = Script::start_in(pair.a.netns(), pair.a.cgroup(), JOINS).unwrap();
    assert_eq!(said, "tries");
    let ended = AtomicBool::new(false);
    let mut agents = vec![first];
    let asked = thread::scope(|scope| {
        let asking = [agent::admin(), METRICS].map(|address| {
            let (ended, node) = (&ended, &pair.a);
            scope.spawn(move || {
                let mut n_asked = 0;
                while !ended.load(Ordering::Relaxed) {
                    match ask(node, address, "/readyz") {
                        // The agent's own answer: on a machine that is busy it may not be ready.
                        Ok(answer) if answer.contains("\"unprotected\"") => n_asked += 1,
                        other => return Err(format!("{address}, {n_asked}: {other:?}")),
                    }
                }
                Ok(n_asked)
            })
        });
        for count in 1..=3 {
            agents.push(pair.successor(&pair.a, &ARGS).unwrap());
            replaced(&agents[0], count);
            // It has nothing open, and ends.
            assert_eq!(agents.remove(0).ended().unwrap().code(), Some(0));
        }
        ended.store(true, Ordering::Relaxed);
        asking.map(|asking| asking.join().unwrap())
    });
    thief.say("").unwrap();
    let said = thief.line().unwrap();
    let (joined, tries) = said.split_once(' ').unwrap();
    assert_eq!((joined, tries.parse::<u64>().unwrap() > 1_000), ("0", true), "{said}");
    for n_asked in asked {
        assert!(n_asked.unwrap() > 100);
    }
    let last = &agents[0];
    assert_eq!(listening(&ask(&pair.a, METRICS, "/metrics").unwrap()), Some(2.0));
    assert!(!last.log().contains("binding the admin server"), "{}", last.log());
}
