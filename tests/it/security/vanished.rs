//! Peers that vanish: each leaves a connection in a state of its own, and answers no packet any more.
//! A slow peer that is there is not taken for one of them.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use mesh_tests::agent::Agent;
use mesh_tests::apps::Server;
use mesh_tests::expect::eventually;
use mesh_tests::mesh::{Service, Workload};
use mesh_tests::netns::Netns;
use mesh_tests::pair::{PORT, Pair, hello};
use mesh_tests::peers::{Caller, connect};
use mesh_tests::pod::Pod;
use mesh_tests::process::{DEADLINE, run};
use mesh_tests::script::Script;

use super::strangers::{client, root, serves};
use super::{Arena, Bystander, Trace};

/// The shortest that there is, in seconds.
const TIMEOUT: [&str; 2] = ["--peer-timeout", "15"];

/// Where [`SERVER`] listens.
const SERVER_PORT: u16 = 9090;

/// The service of a server without an agent.
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);

/// For a slow reader: more than all the buffers on its way take.
const SLOW_BYTES: usize = 48 << 20;

/// Serves each connection as its first byte says. It never answers the end of a connection.
const SERVER: &str = "
import socket, threading, time
def serve(conn):
    how = conn.recv(1)
    try:
        if how == b'e': conn.shutdown(socket.SHUT_WR)
        while how == b't':
            conn.sendall(b'.'); time.sleep(.1)
        if how in b'zs': conn.sendall(b'x' * SLOW)
        if how == b's': conn.close()
        while True: time.sleep(60)
    except OSError: pass
listener = socket.create_server(('0.0.0.0', PORT), backlog=64)
print('ready', flush=True)
while True:
    conn, _ = listener.accept()
    threading.Thread(target=serve, args=(conn,), daemon=True).start()
";

/// Opens a connection, brings it to the state of the word, and says from which port. If it is slow, it
/// reads when it is told to.
const CLIENT: &str = "
import socket, sys
how = 'HOW'
conn = socket.create_connection(('ADDRESS', PORT))
conn.sendall(how.encode())
if how == 'h': conn.shutdown(socket.SHUT_WR)
if how in 'te': conn.recv(1)
print(conn.getsockname()[1], flush=True)
sys.stdin.readline()
n = 0
while more := conn.recv(1 << 20): n += len(more)
print(n, flush=True)
";

/// How a connection is left behind: its word, and its name.
const STATES: [(&str, &str); 5] = [
    ("i", "an idle connection"),
    ("h", "a connection that it has half closed"),
    ("e", "a connection that the server has half closed"),
    ("t", "a connection with bytes under way"),
    ("z", "a connection whose window the client has closed"),
];

/// Starts [`SERVER`].
fn server(pod: &Pod) -> Script {
    let program = SERVER.replace("PORT", &SERVER_PORT.to_string());
    Script::start(pod, &program.replace("SLOW", &SLOW_BYTES.to_string())).unwrap().0
}

/// Starts [`CLIENT`]; with its port.
fn open(pod: &Pod, to: Ipv4Addr, how: &str) -> (Script, u16) {
    let program = CLIENT.replace("HOW", how).replace("PORT", &SERVER_PORT.to_string());
    let (client, port) = Script::start(pod, &program.replace("ADDRESS", &to.to_string())).unwrap();
    (client, port.parse().unwrap())
}

/// Connections in all the states.
struct Left {
    /// Dropped last: while it lives, the clients do.
    clients: Vec<Script>,
    /// The clients' addresses, as access logs have them.
    addresses: Vec<String>,
    names: Vec<String>,
}

impl Left {
    /// Opens them between two pods; `who` is the one that will vanish.
    fn between(from: &Pod, to: Ipv4Addr, who: &str) -> Self {
        let clients = STATES.iter().map(|(how, _)| open(from, to, how));
        let (clients, ports): (Vec<_>, Vec<_>) = clients.unzip();
        let addresses = ports.iter().map(|port| from.at(*port).to_string()).collect();
        let names = STATES.iter().map(|(_, state)| format!("{who} that vanishes from {state}"));
        Self { clients, addresses, names: names.collect() }
    }

    /// Has the client read whose window is closed: whatever came before the end is given to it first.
    fn read_on(&mut self) {
        self.clients.last_mut().unwrap().say("read").unwrap();
    }

    /// Asserts that `act`, which lets one end vanish, ends each of them, with `why` in the access log.
    fn end(&self, arena: &Arena<'_>, why: &str, act: impl FnOnce()) {
        let words: Vec<_> = self.addresses.iter().map(|address| [address.as_str(), why]).collect();
        let traces = words.iter().map(|words| Trace::Access(words));
        let attacks = self.names.iter().map(String::as_str).zip(traces);
        arena.together(&attacks.collect::<Vec<_>>(), act);
    }
}

/// Lets a pod receive and answer nothing any more: to other nodes there is no route.
fn vanish(pod: &Pod) {
    pod.netns().ip("route replace blackhole default").unwrap();
}

/// The sockets of the agent in a namespace, as `ss` prints them, one a line: with their timers.
fn sockets(agent: &Agent, netns: &Netns) -> Vec<String> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns.name(), "ss", "-Htanop"]);
    let all = run(&mut command).unwrap();
    let own = format!("pid={},", agent.pid());
    let is_open = |line: &&str| line.contains(&own) && !line.starts_with("LISTEN");
    all.lines().filter(is_open).map(str::to_owned).collect()
}

/// Makes a service of a pod without an agent, at [`EXTERNAL`].
fn add_external(pair: &Pair, pod: &Pod) {
    let workload = Workload::external(pod).label("app", "external").port(SERVER_PORT);
    let service = Service::new("external").at(EXTERNAL).select("app", "external");
    let mesh = pair.mesh().workload(&workload).service(&service.port(SERVER_PORT, SERVER_PORT));
    pair.config.write(&mesh).unwrap();
}

/// Waits until the agent waits for `count` windows to open.
fn closed_windows(agent: &Agent, netns: &Netns, count: usize) {
    eventually("closed windows", DEADLINE, || {
        let closed = |line: &String| line.contains("timer:(persist");
        (sockets(agent, netns).into_iter().filter(closed).count() >= count).then_some(())
    })
    .unwrap();
}

/// Waits until it carries nothing.
fn carries_nothing(agent: &Agent) {
    eventually("no connection", DEADLINE, || {
        let open = agent.metrics().ok()?.sum("mesh_connections_open", &[]);
        (open == 0.0).then_some(())
    })
    .unwrap();
}

/// The error of a connection whose peer answers nothing: `ETIMEDOUT`.
const GONE: &str = "os error 110";

#[test]
fn strangers_that_vanish_are_noticed_and_slow_ones_are_served() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &TIMEOUT).unwrap();
    let _servers = (server(&pair.echo), Server::echo(&pair.echo, PORT, "v1").unwrap());
    let [stranger, slow] = ["stranger", "slow"].map(|name| pair.a.pod(name).unwrap());
    let (mut reader, _port) = open(&slow, pair.echo.v4(), "s");
    let left = Left::between(&stranger, pair.echo.v4(), "a stranger");
    closed_windows(&agent, pair.echo.netns(), 2);
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "network", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    left.end(&arena, GONE, || vanish(&stranger));
    // The slow one has answered all that time, and not read.
    reader.say("read").unwrap();
    assert_eq!(reader.line().unwrap(), SLOW_BYTES.to_string());
    drop(reader);
    carries_nothing(&agent);
}

#[test]
fn servers_without_an_agent_that_vanish_are_noticed() {
    let pair = Pair::new().unwrap();
    let external = pair.b.pod("external").unwrap();
    add_external(&pair, &external);
    let (a, b) = (pair.agent(&pair.a, &TIMEOUT).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _servers = (server(&external), Server::echo(&pair.echo, PORT, "v1").unwrap());
    let left = Left::between(&pair.client, EXTERNAL, "a server");
    let serves = || assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    let bystander = Bystander::between(&a, &b);
    let arena = Arena { by: "network", agent: &a, serves: &serves, bystander: &bystander };
    left.end(&arena, GONE, || vanish(&external));
    carries_nothing(&a);
}

/// The node of a client vanishes; both agents notice it.
#[track_caller]
fn check_peer(transport: &str) {
    let pair = Pair::new().unwrap();
    let args = [TIMEOUT[0], TIMEOUT[1], "--transport", transport];
    let (a, b) = (pair.agent(&pair.a, &args).unwrap(), pair.agent(&pair.b, &args).unwrap());
    let _servers = (server(&pair.echo), Server::echo(&pair.echo, PORT, "v1").unwrap());
    let other = pair.a.pod("other").unwrap();
    let mut left =
        Left::between(&pair.client, pair.echo.v4(), &format!("a peer node ({transport})"));
    let serves = || {
        let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
        let request = connect(&pair.echo.at(PORT).to_string(), None).unwrap();
        let address = IpAddr::V4(pair.echo.v4());
        assert_eq!(caller.call(other.netns(), address, request, b"hello").unwrap().status, 200);
    };
    let bystander = Bystander::between(&a, &b);
    let arena = Arena { by: "peer node", agent: &b, serves: &serves, bystander: &bystander };
    left.end(&arena, "reset", || vanish(&pair.client));
    left.read_on();
    carries_nothing(&a);
    carries_nothing(&b);
}

#[test]
fn peers_of_the_native_transport_that_vanish_are_noticed() {
    check_peer("native");
}

#[test]
fn peers_of_hbone_that_vanish_are_noticed() {
    check_peer("hbone");
}

/// The kernel's timer of each socket shows that its peer is asked whether it is there.
#[test]
fn every_socket_of_the_agent_watches_its_peer() {
    let pair = Pair::new().unwrap();
    let [external, stranger] = [pair.b.pod("external").unwrap(), pair.a.pod("stranger").unwrap()];
    add_external(&pair, &external);
    let (a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _servers = [&external, &pair.echo].map(server);
    let _held = [
        open(&pair.client, EXTERNAL, "i"),
        open(&pair.client, pair.echo.v4(), "i"),
        open(&stranger, pair.echo.v4(), "i"),
    ];
    let admin = pair.a.netns().run(|| std::net::TcpStream::connect("127.0.0.1:15000"));
    let _admin = admin.unwrap().unwrap();
    // Two applications' connections, a tunnel and one to a server without an agent; a client of the
    // admin server; a tunnel, a stranger's connection and two to applications.
    let ends = [(&a, pair.client.netns(), 4), (&a, pair.a.netns(), 1), (&b, pair.echo.netns(), 4)];
    for (agent, netns, count) in ends {
        let watched = |line: &String| line.contains("timer:(keepalive");
        let all_watched = || {
            let sockets = sockets(agent, netns);
            (sockets.len() >= count && sockets.iter().all(watched)).then_some(())
        };
        let seen = eventually("keepalive on every socket", DEADLINE, all_watched);
        assert!(seen.is_ok(), "{}: {:#?}", netns.name(), sockets(agent, netns));
    }
}
