//! Many requests of HTTP/2 at once, of clients who ask for much and read little: what they leave is
//! bounded, and others are answered meanwhile.

use std::net::SocketAddr;

use mesh_tests::expect::eventually;
use mesh_tests::http::Ask;
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::Script;
use nix::sys::signal::Signal;

use super::suite::{GRPC, Suite, To, grpc_route, policy, route};

/// A request that is answered when nobody waits any more.
const HANGS: &str = "/slow?ms=3600000";

/// A client of the sort.
struct Crowd(Script);

impl Crowd {
    fn start(pod: &Pod, to: SocketAddr) -> Self {
        let client = include_str!("../../clients/http2_crowd.py");
        let program = format!("TO = ('{}', {})\n{client}", to.ip(), to.port());
        let (script, ready) = Script::start(pod, &program).unwrap();
        assert_eq!(ready, "ready");
        Self(script)
    }

    fn tell(&mut self, line: &str) {
        self.0.say(line).unwrap();
        assert_eq!(self.0.line().unwrap(), "done", "{line}");
    }
}

/// Checks that requests of other clients of the same service are answered.
#[track_caller]
fn answers_others(suite: &Suite) {
    for _ in 0..8 {
        let answer = suite.ask(To::Echo.at(GRPC), &Ask::get("/quick").http2().timeout_ms(10_000));
        assert_eq!((answer.status, answer.server()), (200, Some("echo-v1")), "{answer:?}");
        assert!(answer.body.contains("/quick"), "{answer:?}");
    }
}

/// Several clients of a route.
fn crowds(suite: &Suite) -> [Crowd; 4] {
    std::array::from_fn(|_| Crowd::start(&suite.client, To::Echo.at(GRPC)))
}

fn routed() -> Suite {
    Suite::start(&[grpc_route("  - backendRefs: [{name: echo-v1, port: 7070}]")])
}

/// How often each of [`takers_back`] takes 24 requests back: 480 are fewer than end its connection.
const ROUNDS: usize = 20;

/// Clients that do so, of a workload whose requests are judged.
fn takers_back(suite: &Suite) -> [Crowd; 10] {
    std::array::from_fn(|_| Crowd::start(&suite.client, To::V1.at(80)))
}

#[test]
fn requests_that_hang_take_no_place_of_others() {
    let suite = routed();
    let mut crowds = crowds(&suite);
    for crowd in &mut crowds {
        // From then on there is a connection to the application that others use too.
        crowd.tell("ask /quick 1 0");
        crowd.tell("heads 1");
        crowd.tell(&format!("ask {HANGS} 100 0"));
    }
    answers_others(&suite);
}

#[test]
fn answers_that_are_not_read_take_no_window_of_others() {
    let suite = routed();
    let mut crowds = crowds(&suite);
    for crowd in &mut crowds {
        crowd.tell("ask /bytes?n=4000000 10 0");
        crowd.tell("heads 10");
        crowd.tell("full");
    }
    answers_others(&suite);
}

#[test]
fn requests_that_are_taken_back_leave_nothing() {
    // Requests are judged, and the application takes no more of them.
    let suite = Suite::start(&[policy("all", "ALLOW", "{to: [{operation: {methods: ['*']}}]}")]);
    let mut crowds = takers_back(&suite);
    for crowd in &mut crowds {
        crowd.tell(&format!("ask {HANGS} 100 0"));
    }
    let before = suite.b.memory_bytes().unwrap();
    for crowd in &mut crowds {
        for _ in 0..ROUNDS {
            crowd.tell("ask / 24 190");
            crowd.tell("reset 24");
        }
    }
    let grown = suite.b.memory_bytes().unwrap().saturating_sub(before);
    // Without a bound they are 4,800 heads of more than 10 KB each.
    assert!(grown < 32 << 20, "{grown} bytes more");
}

#[test]
fn requests_that_the_application_does_not_read_leave_nothing() {
    let mut suite =
        Suite::start(&[policy("all", "ALLOW", "{to: [{operation: {methods: ['*']}}]}")]);
    let mut crowds = takers_back(&suite);
    for crowd in &mut crowds {
        crowd.tell("ask /quick 1 0");
        crowd.tell("heads 1");
    }
    suite.servers[0].signal(Signal::SIGSTOP).unwrap();
    let before = suite.b.memory_bytes().unwrap();
    // More than the sockets take.
    let path = "x".repeat(4_000);
    for crowd in &mut crowds {
        for _ in 0..ROUNDS {
            crowd.tell(&format!("ask /{path} 24 100"));
            crowd.tell("reset 24");
        }
    }
    let grown = suite.b.memory_bytes().unwrap().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
}

#[test]
fn a_head_of_many_fields_is_refused() {
    let suite = Suite::start(&[
        policy("all", "ALLOW", "{to: [{operation: {methods: ['*']}}]}"),
        grpc_route("  - backendRefs: [{name: echo-v2, port: 7070}]"),
    ]);
    let fields: Vec<_> = (0..300).map(|n| (format!("x-{n}"), n.to_string())).collect();
    let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    for to in [To::V1.at(80), To::Echo.at(GRPC)] {
        let few = suite.ask(to, &Ask::get("/").http2().headers(&fields[..150]));
        assert_eq!(few.status, 200, "{few:?}");
        let many = suite.ask(to, &Ask::get("/").http2().headers(&fields));
        assert_eq!((many.status, many.server()), (431, None), "{many:?}");
    }
}

#[test]
fn a_client_that_is_gone_leaves_nothing_at_the_application() {
    let suite = Suite::start(&[policy("all", "ALLOW", "{to: [{operation: {methods: ['*']}}]}")]);
    let to = To::V1.at(80);
    let program = format!(
        "import socket, struct\ns = socket.create_connection(('{}', {}))\n\
         s.sendall(b'GET {HANGS} HTTP/1.1\\r\\nHost: echo\\r\\n\\r\\n')\nprint('sent', flush=True)\n\
         input()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n\
         s.close()\nprint('done', flush=True)\n",
        to.ip(),
        to.port()
    );
    let (mut client, sent) = Script::start(&suite.client, &program).unwrap();
    assert_eq!(sent, "sent");
    assert_eq!(suite.servers[0].seen().unwrap().path, HANGS);
    client.say("").unwrap();
    assert_eq!(client.line().unwrap(), "done");
    // The connection to the application has a line when it ends.
    let ended = |line: &serde_json::Value| {
        let details = line["connection_termination_details"].as_str().unwrap_or_default();
        details.starts_with("client_reset") && line["destination_workload"] == "echo-v1"
    };
    suite.b.logged("the end", ended).unwrap();
}

/// Connections whose requests have bodies of 64 KB, of which the last bytes are held back.
const HELD_BACK: &str = r#"
import socket, sys
from concurrent.futures import ThreadPoolExecutor
LENGTH = 65_000
HEAD = f"POST /held HTTP/1.1\r\nHost: echo\r\nContent-Length: {LENGTH}\r\n\r\n".encode()
clients = []
for _ in range(COUNT):
    client = socket.create_connection(TO)
    client.settimeout(60)
    client.sendall(HEAD + b"x" * (LENGTH - 10))
    clients.append(client)
print("sent", flush=True)
sys.stdin.readline()
def answer(client):
    client.sendall(b"x" * 10)
    return client.recv(12)
with ThreadPoolExecutor(8) as pool:
    answers = list(pool.map(answer, clients))
print(answers.count(b"HTTP/1.1 200"), flush=True)
"#;

#[test]
fn bodies_that_are_kept_for_another_attempt_have_a_bound_together() {
    const COUNT: usize = 960;
    let rule = "  - retry: {attempts: 1}\n    backendRefs: [{name: echo-v1, port: 8080}]";
    let suite = Suite::start(&[route(rule)]);
    let to = To::Echo.at(80);
    let program = format!("TO, COUNT = ('{}', {}), {COUNT}\n{HELD_BACK}", to.ip(), to.port());
    let (mut script, sent) = Script::start(&suite.client, &program).unwrap();
    assert_eq!(sent, "sent");
    let unkept = || {
        let count = suite.a.metrics().unwrap().sum("mesh_http_unkept_total", &[("reason", "room")]);
        (count > 0.0).then_some(())
    };
    eventually("bodies that are not kept any more", DEADLINE, unkept).unwrap();
    // They are all sent, and answered.
    script.say("").unwrap();
    assert_eq!(script.line().unwrap(), COUNT.to_string());
}
