//! What is spoken between nodes: our own transport, or HBONE with those who do not know it.

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server, transfer};
use mesh_tests::fixture::{World, service};
use mesh_tests::pair::{ECHO, PORT, Pair, hello};
use mesh_tests::process::Process;
use mesh_tests::report::Event;

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

#[test]
fn bulk_transfers_get_a_tunnel_of_their_own_and_give_it_back() {
    let pair = Pair::new().unwrap();
    // With one thread each, the next transfer finds what the last has given back.
    let one = &["--threads", "1"];
    let (a, _b) = (pair.agent(&pair.a, one).unwrap(), pair.agent(&pair.b, one).unwrap());
    let leased = || a.metrics().unwrap().sum("mesh_tunnels_leased_total", &[]);
    transferred(&pair, "100000", "100000");
    assert_eq!((leased(), tunnels(&a)), (0.0, [1.0, 0.0]));
    transferred(&pair, "30000000", "0");
    transferred(&pair, "0", "30000000");
    transferred(&pair, "30000000", "30000000");
    assert_eq!((leased(), tunnels(&a)), (3.0, [2.0, 0.0]));
}
