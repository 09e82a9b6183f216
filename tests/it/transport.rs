//! Transports between nodes: our own, or HBONE with those who do not know it.

use std::sync::Arc;

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server, transfer};
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{World, service};
use mesh_tests::mesh::Workload;
use mesh_tests::pair::{ECHO, PORT, Pair, hello, spiffe};
use mesh_tests::peers::{Behavior, Impostor, names, server_config};
use mesh_tests::process::{DEADLINE, Process};
use mesh_tests::report::Event;
use rustls::ServerConfig;
use serde_json::Value;

/// How many tunnels an agent has had: of our own transport, and of HBONE.
fn tunnels(agent: &Agent) -> [f64; 2] {
    let metrics = agent.metrics().unwrap();
    ["native", "hbone"]
        .map(|protocol| metrics.sum("mesh_tunnels_opened_total", &[("protocol", protocol)]))
}

/// Agents that offer as `[client's, server's]` says carry connections by `expect`.
#[track_caller]
fn check(offers: [&[&str]; 2], expect: [bool; 2]) {
    let pair = Pair::new().unwrap();
    let a = pair.agent(&pair.a, offers[0]).unwrap();
    let b = pair.agent(&pair.b, offers[1]).unwrap();
    let _echo = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let outcome = hello().times(200, 8).run(&pair.client).unwrap();
    assert_eq!(outcome.totals.failed, 0, "{:?}", outcome.totals.errors);
    for agent in [&a, &b] {
        assert_eq!(tunnels(agent).map(|count| count > 0.0), expect, "{}", agent.node().name());
    }
}

const NATIVE: &[&str] = &[];
const HBONE: &[&str] = &["--transport", "hbone"];

#[test]
fn two_agents_speak_our_own_transport() {
    check([NATIVE, NATIVE], [true, false]);
}

#[test]
fn a_server_that_knows_hbone_alone_is_spoken_to_by_it() {
    check([NATIVE, HBONE], [false, true]);
}

#[test]
fn a_client_that_knows_hbone_alone_is_answered_by_it() {
    check([HBONE, NATIVE], [false, true]);
}

#[test]
fn hbone_carries_every_byte_too() {
    let pair = Pair::new().unwrap();
    let (_a, _b) = (pair.agent(&pair.a, HBONE).unwrap(), pair.agent(&pair.b, HBONE).unwrap());
    transferred(&pair, "30000000", "30000000");
}

#[test]
fn a_stream_that_is_not_read_holds_up_no_other() {
    let world = World::start(1).unwrap();
    let _echo = Server::echo(world.v1(), 8080, "v1").unwrap();
    let deaf = ["digest", "--late", "--listen", "[::]:8081"];
    let mut server = Server::start(world.v1(), &deaf).unwrap();
    let flood = |to: &str| {
        let args = ["press", "flood", "--to", to, "--size", "65536"];
        world.client().start(args).unwrap()
    };
    let mut floods: Vec<Process> = (0..10).map(|_| flood(&service(1).to_string())).collect();
    for flood in &floods {
        assert!(matches!(flood.event().unwrap(), Event::Transfer(held) if held.sent > 65_536));
    }
    let client = Client::to(service(0)).arg("--banner").arg("--bytes").arg("200000").times(300, 16);
    let outcome = client.run(world.client()).unwrap();
    assert_eq!(outcome.totals.failed, 0, "{:?}", outcome.totals.errors);
    server.begin().unwrap();
    for flood in &mut floods {
        flood.say("end").unwrap();
        let Event::Transfer(done) = flood.event().unwrap() else { panic!("no report") };
        assert_eq!((done.error, done.confirmed), (None, Some(true)));
    }
    assert_eq!(tunnels(&world.a).map(|count| count > 0.0), [true, false]);
}

/// Sends and receives so many bytes, all of which are checked at both ends.
fn transferred(pair: &Pair, up: &str, down: &str) {
    let listen = format!("[::]:{PORT}");
    let _server =
        Server::start(&pair.echo, &["digest", "--bytes", down, "--listen", &listen]).unwrap();
    let seen = transfer(&pair.client, ECHO, &["--up", up, "--down", down]).unwrap();
    assert_eq!((seen.error, seen.confirmed), (None, Some(true)), "{up} up, {down} down");
}

/// Sends and receives so many bytes by so many connections at once.
fn at_once(pair: &Pair, count: usize, bytes: &str) {
    let listen = format!("[::]:{PORT}");
    let _server =
        Server::start(&pair.echo, &["digest", "--bytes", bytes, "--listen", &listen]).unwrap();
    std::thread::scope(|scope| {
        let one = || transfer(&pair.client, ECHO, &["--up", bytes, "--down", bytes]).unwrap();
        let transfers: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
        for transfer in transfers {
            let seen = transfer.join().unwrap();
            assert_eq!((seen.error, seen.confirmed), (None, Some(true)), "{count} at once");
        }
    });
}

#[test]
fn the_agents_take_what_the_lab_gives_them() {
    let pair = Pair::new().unwrap();
    let _echo = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let agents = [&pair.a, &pair.b].map(|node| pair.agent(node, &["--threads", "1"]).unwrap());
    for agent in &agents {
        assert_eq!(agent.conditions().unwrap(), serde_json::json!([]), "{}", agent.node().name());
    }
    assert_eq!(hello().run(&pair.client).unwrap().single().unwrap().version(), Some("v1"));
}

#[test]
fn transfers_of_every_size_keep_every_byte() {
    let pair = Pair::new().unwrap();
    // With one thread each, all share what a peer is reached by.
    let one = &["--threads", "1"];
    let (a, b) = (pair.agent(&pair.a, one).unwrap(), pair.agent(&pair.b, one).unwrap());
    transferred(&pair, "1", "1");
    transferred(&pair, "100000", "100000");
    transferred(&pair, "30000000", "0");
    transferred(&pair, "0", "30000000");
    transferred(&pair, "30000000", "30000000");
    // Several at once, and the next ones when the first have shown what they are.
    for _wave in 0..2 {
        at_once(&pair, 4, "8000000");
    }
    for agent in [&a, &b] {
        let lines = agent.access_log().unwrap();
        let secure = |line: &Value| line["connection_security_policy"] == "mutual_tls";
        assert!(!lines.is_empty() && lines.iter().all(secure), "{}", agent.node().name());
    }
}

#[test]
fn another_tunnel_is_opened_beside_one_that_carries_bulk() {
    let pair = Pair::new().unwrap();
    let one = &["--threads", "1"];
    let (a, _b) = (pair.agent(&pair.a, one).unwrap(), pair.agent(&pair.b, one).unwrap());
    transferred(&pair, "100000", "100000");
    let open = || tunnels(&a).map(|count| count.to_string());
    assert_eq!(open(), ["1", "0"]);
    transferred(&pair, "30000000", "0");
    transferred(&pair, "0", "30000000");
    transferred(&pair, "30000000", "30000000");
    // It is opened in the background, and is enough for transfers that follow each other.
    eventually("a second tunnel", DEADLINE, || (open() == ["2", "0"]).then_some(())).unwrap();
}

/// HBONE tunnels of one data thread to one peer because the others carry bulk: the agent's
/// `HBONE_MAX_CONNECTIONS`.
const MAX_CONNECTIONS: usize = 4;

/// A server on the destination's node with the identity of this account.
fn shows(pair: &Pair, account: &str) -> Arc<ServerConfig> {
    let root = pair.authority.steal_root().unwrap().anchor().unwrap().clone();
    let leaf = pair.authority.steal(pair.b.name()).unwrap().leaf(&spiffe(account)).unwrap();
    server_config(&leaf, &root, &[b"h2"]).unwrap()
}

#[test]
fn bulk_over_hbone_goes_by_several_connections_of_one_identity_each() {
    // A second implementation counts the connections, and who has opened them.
    let pair = Pair::new().unwrap();
    let config = shows(&pair, "echo");
    let server = Impostor::start(pair.echo.netns(), config, Behavior::Echo).unwrap();
    let other = pair.a.pod("other").unwrap();
    pair.config.write(&pair.mesh().workload(&Workload::of(&other).account("other"))).unwrap();
    let args = [HBONE, &["--threads", "1"]].concat();
    let _a = pair.agent(&pair.a, &args).unwrap();
    // Streams of each tunnel that this account has opened.
    let streams = |account: &str| {
        let id = spiffe(account);
        let opened = server.tunnels().into_iter().filter(|tunnel| names(&tunnel.client, &id));
        opened.map(|tunnel| tunnel.streams.len()).collect::<Vec<_>>()
    };
    let bulk = Client::to(ECHO).arg("--bytes").arg("8000000");
    let mut held = Vec::new();
    for (account, pod) in [("client", &pair.client), ("other", &other)] {
        for n in 1..=MAX_CONNECTIONS + 2 {
            let (stream, opened) = bulk.hold(pod).unwrap();
            assert_eq!((opened.connections, opened.failed), (1, 0), "{account}, {n}");
            held.push(stream);
            // One more is opened as soon as all carry bulk, for whoever comes next.
            eventually("another connection", DEADLINE, || {
                (streams(account).len() == MAX_CONNECTIONS.min(n + 1)).then_some(())
            })
            .unwrap();
        }
        assert_eq!(streams(account), [2, 2, 1, 1], "{account}");
    }
    assert_eq!(server.tunnels().len(), 2 * MAX_CONNECTIONS);
}

#[test]
fn bulk_over_hbone_shares_a_connection_where_no_other_can_be_had() {
    let pair = Pair::new().unwrap();
    let config = shows(&pair, "echo");
    let server = Impostor::start(pair.echo.netns(), config, Behavior::Echo).unwrap();
    let args = [HBONE, &["--threads", "1"]].concat();
    let a = pair.agent(&pair.a, &args).unwrap();
    let to = Client::to(ECHO).arg("--send").arg("hello");
    assert_eq!(to.run(&pair.client).unwrap().totals.failed, 0);
    // From now on, whoever dials meets someone else.
    server.change(shows(&pair, "stranger"), Behavior::Echo);
    let refused = || a.metrics().unwrap().sum("mesh_handshakes_failed_total", &[]);
    let bulk = Client::to(ECHO).arg("--bytes").arg("8000000");
    let mut held = Vec::new();
    for n in 1..=3 {
        let (stream, opened) = bulk.hold(&pair.client).unwrap();
        assert_eq!((opened.connections, opened.failed), (1, 0), "{n}");
        held.push(stream);
        eventually("another connection to be tried", DEADLINE, || (refused() > 0.0).then_some(()))
            .unwrap();
    }
    let streams: Vec<_> = server.tunnels().iter().map(|tunnel| tunnel.streams.len()).collect();
    assert_eq!(streams, [4]);
}

#[test]
fn bulk_transfers_at_once_over_hbone_keep_every_byte() {
    let pair = Pair::new().unwrap();
    let args = [HBONE, &["--threads", "1"]].concat();
    let (a, _b) = (pair.agent(&pair.a, &args).unwrap(), pair.agent(&pair.b, &args).unwrap());
    // Those that begin together share what there is; the next ones find more.
    for _wave in 0..3 {
        at_once(&pair, 6, "8000000");
        let more = |connections: &f64| *connections > 1.0;
        eventually("another connection", DEADLINE, || Some(tunnels(&a)[1]).filter(more)).unwrap();
    }
    let [native, hbone] = tunnels(&a);
    assert!(native == 0.0 && hbone <= 4.0, "{native} native, {hbone} HBONE");
}
