//! Connections that an end resets after the answer was complete, by every way that there is: a reset
//! by the client is its own affair, one by the server a failure.

use std::net::SocketAddr;

use mesh_tests::agent::Agent;
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{Machines, World, service};
use mesh_tests::http::route::http;
use mesh_tests::mesh::{Mesh, MeshPolicy};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::{Script, run_in};
use serde_json::Value;

/// Answers each request, and waits for its client, or resets the connection if the request says so.
const SERVER: &str = "
import socket, struct, threading
def serve(conn):
    try:
        request = b''
        while more := conn.recv(4096):
            request += more
            if b'\\r\\n\\r\\n' not in request: continue
            conn.sendall(b'HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\n\\r\\nhello')
            if b'GET /reset' in request:
                # The answer is to arrive before the reset.
                conn.recv(1)
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                break
            request = b''
    except OSError: pass
    conn.close()
listener = socket.create_server(('', 8080))
print('listening', flush=True)
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
";

/// Asks once, reads the whole answer, and ends as `HOW` says.
const CLIENT: &str = "
import socket, struct
conn = socket.create_connection(('HOST', PORT), timeout=20)
path = '/reset' if 'HOW' == 'server' else '/'
conn.sendall(f'GET {path} HTTP/1.1\\r\\nhost: echo\\r\\n\\r\\n'.encode())
answer = b''
while not answer.endswith(b'hello'):
    more = conn.recv(4096)
    assert more, answer
    answer += more
if 'HOW' == 'client':
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
if 'HOW' == 'server':
    conn.sendall(b'x')
    try:
        assert not conn.recv(1)
        print('an end')
    except ConnectionResetError: print('a reset')
conn.close()
";

/// Connects from `from`, and has the connection end by `how`. Returns what the client saw.
fn connect(from: &Pod, to: SocketAddr, how: &str) -> String {
    let program = CLIENT.replace("HOST", &to.ip().to_string());
    let program = program.replace("PORT", &to.port().to_string()).replace("HOW", how);
    run_in(from.netns(), from.cgroup(), &program).unwrap()
}

/// Flags, failure, its side and whether the details name the client's reset, of the newest line.
fn told(agent: &Agent, reporter: &str, count: usize) -> String {
    let lines = eventually("the line", DEADLINE, || {
        let lines = agent.access_log().ok()?;
        let ours: Vec<_> = lines.into_iter().filter(|line| line["reporter"] == reporter).collect();
        (ours.len() >= count).then_some(ours)
    });
    let line = lines.unwrap().pop().unwrap();
    let word = |field: &str| line[field].as_str().unwrap_or("-").to_owned();
    let details = line["connection_termination_details"].as_str().unwrap_or_default();
    let client = if details.starts_with("client_reset") { " client_reset" } else { "" };
    format!("{} {} {}{client}", word("response_flags"), word("failure"), word("failure_side"))
}

const CLIENTS: &str = "DC - - client_reset";
const SERVERS: &str = "UC reset upstream";
const ORDERLY: &str = "- - -";

/// Connections that `from` opens: an orderly one, one that it resets, and one that the server does, as
/// each of the agents tells of them.
fn check(from: &Pod, to: SocketAddr, agents: &[(&Agent, &str)]) {
    let before: Vec<_> = agents.iter().map(|(agent, reporter)| count(agent, reporter)).collect();
    let failed = || -> Vec<String> {
        let of = |(agent, reporter): &(&Agent, &str)| {
            let labels = [("reporter", *reporter)];
            let metrics = agent.metrics().unwrap();
            metrics.sum("istio_tcp_connections_failed_total", &labels).to_string()
        };
        agents.iter().map(of).collect()
    };
    let (mut seen, before_failed) = (vec![], failed());
    let mut without_servers = vec![];
    for (n, how) in (1..).zip(["nobody", "client", "server"]) {
        if how == "server" {
            without_servers = failed();
        }
        let saw = connect(from, to, how);
        assert_eq!(saw.trim_end(), if how == "server" { "a reset" } else { "" });
        for ((agent, reporter), before) in agents.iter().zip(&before) {
            seen.push((how, *reporter, told(agent, reporter, before + n)));
        }
    }
    let expect: Vec<_> = [("nobody", ORDERLY), ("client", CLIENTS), ("server", SERVERS)]
        .into_iter()
        .flat_map(|(how, told)| agents.iter().map(move |(_, by)| (how, *by, told.to_owned())))
        .collect();
    assert_eq!(seen, expect);
    assert_eq!(before_failed, without_servers, "a client's reset counts as a failure");
    assert_ne!(without_servers, failed(), "a server's reset does not");
}

fn count(agent: &Agent, reporter: &str) -> usize {
    let lines = agent.access_log().unwrap();
    lines.iter().filter(|line: &&Value| line["reporter"] == reporter).count()
}

fn world(change: impl FnOnce(Mesh) -> Mesh) -> (World, Script) {
    let machines = Machines::new(2).unwrap();
    let mesh = change(machines.mesh());
    let world = machines.start(&mesh).unwrap();
    let (server, _listening) = Script::start(world.v1(), SERVER).unwrap();
    (world, server)
}

#[test]
fn between_two_agents() {
    let (world, _server) = world(|mesh| mesh);
    let agents = [(&world.a, "source"), (&world.b, "destination")];
    check(world.client(), world.v1().at(8080), &agents);
}

#[test]
fn within_a_node_by_the_kernel() {
    let (world, _server) = world(|mesh| mesh);
    let agents = [(&world.b, "source"), (&world.b, "destination")];
    check(&world.on.versions[1], world.v1().at(8080), &agents);
}

#[test]
fn within_a_node_by_the_agent() {
    let (world, _server) = world(|mesh| mesh.policy(&MeshPolicy::new("all").same_node("mtls")));
    let agents = [(&world.b, "source"), (&world.b, "destination")];
    check(&world.on.versions[1], world.v1().at(8080), &agents);
}

#[test]
fn in_plaintext_from_outside() {
    let (world, _server) = world(|mesh| mesh);
    let outside = world.on.a.pod("outside").unwrap();
    check(&outside, world.v1().at(8080), &[(&world.b, "destination")]);
}

/// Requests that are routed: a client's connection is none that is reported, and the one to the endpoint
/// goes on for others.
#[test]
fn where_requests_are_routed() {
    let rules = "  - backendRefs: [{name: echo-v1, port: 80}]\n";
    let route = http("demo", "all", "name: echo, port: 80", rules);
    let (world, _server) = world(|mesh| mesh.raw(route));
    for how in ["nobody", "client", "client"] {
        connect(world.client(), service(0), how);
    }
    let sum = |name: &str, labels: &[(&str, &str)]| {
        world.a.metrics().unwrap().sum(name, labels).to_string()
    };
    eventually("every request to be counted", DEADLINE, || {
        let well = [("response_code", "200"), ("response_flags", "-")];
        (sum("istio_requests_total", &well) == "3").then_some(())
    })
    .unwrap();
    assert_eq!(sum("istio_requests_total", &[]), "3");
    assert_eq!(sum("istio_tcp_connections_failed_total", &[]), "0");
}
