//! Frames of HTTP/2 that cost whoever reads them much more than whoever sends them: changes of all
//! streams' windows (SETTINGS), and streams that are opened and broken in a loop (CVE-2025-8671).

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread;

use mesh_tests::agent::Agent;
use mesh_tests::apps::Server;
use mesh_tests::http::{self, Ask};
use mesh_tests::pair::{PORT, Pair};
use mesh_tests::peers::Caller;
use mesh_tests::pod::Pod;
use mesh_tests::tunnel::{Transport, Tunnel};

use super::strangers::{client, root, serves};
use super::tunnels::h2;
use super::{Arena, Bounds, Bystander, Trace};
use crate::http::suite::{HTTP, Suite, To, policy};

/// Connections of the attacker.
const CONNECTIONS: usize = 32;

/// Streams that are open on each while their windows are changed.
const STREAMS: u32 = 96;

/// Frames by which each keeps the agent busy.
const FRAMES: usize = 40_000;

/// SETTINGS that give every stream another window.
fn window(bytes: u32) -> Vec<u8> {
    h2(4, 0, 0, &[&[0, 4][..], &bytes.to_be_bytes()].concat())
}

/// SETTINGS that do so again and again.
fn windows() -> Vec<u8> {
    [window(100), window(0)].concat().repeat(FRAMES / 2)
}

/// A stream that is opened by `head`, and broken at once: its window is changed by nothing
/// (RFC 9113, section 6.9).
fn broken(head: &[u8], first: u32, count: usize) -> Vec<u8> {
    let streams = (first..).step_by(2).take(count);
    streams.flat_map(|id| [h2(1, 4, id, head), h2(8, 0, id, &[0; 4])].concat()).collect()
}

/// Asserts that no thread has had a turn of a second.
fn turns(agent: &Agent) {
    let metrics = agent.metrics().unwrap();
    assert!(metrics.sum("mesh_thread_stalls_total", &[]) < 1.0, "{}", agent.log());
}

/// CONNECT to `to`: the method and the authority, named by the static table (RFC 7541, appendix A).
fn connect(to: SocketAddr) -> Vec<u8> {
    let to = to.to_string();
    let length = u8::try_from(to.len()).unwrap();
    [&b"\x02\x07CONNECT\x01"[..], &[length], to.as_bytes()].concat()
}

/// Has every one of `attackers` do `act`, and `meanwhile`.
fn all<T: Send>(attackers: &mut [T], act: impl Fn(&mut T) + Sync, meanwhile: impl FnOnce()) {
    thread::scope(|scope| {
        for attacker in attackers {
            scope.spawn(|| act(attacker));
        }
        meanwhile();
    });
}

#[test]
fn frames_of_a_peer_that_cost_much_hold_up_nobody() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &["--threads", "1"]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let serves = || {
        serves(&pair);
        turns(&agent);
    };
    let arena = Arena { by: "peer node", agent: &agent, serves: &serves, bystander: &bystander };
    let bounds = Bounds { descriptors: 8_000, memory_bytes: 256 << 20, ..Bounds::default() };
    let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    let to = IpAddr::V4(pair.echo.v4());
    let open = || Tunnel::open(&caller, pair.client.netns(), to, Transport::Hbone).unwrap();
    let name = "windows of all streams that are changed again and again, by HBONE";
    let words = ["broke the protocol", "demo/sa/client"];
    arena.within(bounds).attack(name, Trace::Log(&words), || {
        let mut attackers: Vec<_> = (0..CONNECTIONS).map(|_| open()).collect();
        for attacker in &mut attackers {
            let streams = attacker.ask(pair.echo.at(PORT), STREAMS as usize).unwrap();
            assert!(streams.accepted > 0, "{streams:?}");
        }
        let windows = windows();
        all(
            &mut attackers,
            |attacker| attacker.send(&windows),
            || {
                bystander.served();
            },
        );
        for attacker in &mut attackers {
            attacker.ended().unwrap();
        }
    });
    let name = "streams that are opened and broken in a loop, by HBONE";
    arena.within(bounds).attack(name, Trace::Told, || {
        let mut attackers: Vec<_> = (0..CONNECTIONS).map(|_| open()).collect();
        let head = connect(pair.echo.at(PORT));
        let frames = broken(&head, 1, FRAMES / 10);
        all(
            &mut attackers,
            |attacker| attacker.send(&frames),
            || {
                bystander.served();
            },
        );
        format!("{} streams, and nobody waits", CONNECTIONS * FRAMES / 10)
    });
}

/// A client without identity: says `first`, and reads whatever comes, for as long as it is there.
fn visitor(from: &Pod, to: SocketAddr, first: &[u8]) -> TcpStream {
    let mut stream = reader(from, to);
    stream.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", first].concat()).unwrap();
    stream
}

/// A connection of which whatever comes is read.
fn reader(from: &Pod, to: SocketAddr) -> TcpStream {
    let stream = from.netns().run(|| TcpStream::connect(to)).unwrap().unwrap();
    let mut reading = stream.try_clone().unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 1 << 14];
        while reading.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
    stream
}

/// GET of a path, as a head (RFC 7541, appendix A).
fn get(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    [&[0x82, 0x86, 0x04, length], path.as_bytes(), b"\x01\x04echo"].concat()
}

#[test]
fn frames_of_a_stranger_that_cost_much_hold_up_nobody() {
    let allowed = "{to: [{operation: {methods: [GET]}}]}";
    let suite = Suite::start_with(&[policy("readers", "ALLOW", allowed)], &["--threads", "1"]);
    let outside = suite.node.pod("outside").unwrap();
    let agent = &suite.b;
    let serves = || {
        let answer = &http::ask(&suite.consumer, To::V1.at(80), &[Ask::get("/status/200")]);
        assert_eq!(answer.as_ref().unwrap()[0].status, 200, "{answer:?}");
        turns(agent);
    };
    let bystander = Bystander::between(&suite.a, agent);
    let arena = Arena { by: "stranger", agent, serves: &serves, bystander: &bystander };
    let bounds = Bounds { memory_bytes: 512 << 20, descriptors: 8_000, ..Bounds::default() };
    let to = suite.versions[0].at(HTTP);
    // The answers wait, as their windows are nothing.
    let head = get("/bytes?n=2000000");
    let asked = (0..STREAMS).flat_map(|n| h2(1, 5, 2 * n + 1, &head));
    let asked = [window(0), asked.collect()].concat();
    let broken = broken(&get("/status/200"), 1, FRAMES / 20);
    let end = |attackers: Vec<TcpStream>| {
        // A server that reads them stops.
        for one in attackers {
            drop(one.shutdown(Shutdown::Both));
        }
    };
    let name = "windows of all streams that are changed again and again, by HTTP/2";
    let words = ["unspecific protocol error"];
    arena.within(bounds).attack(name, Trace::Access(&words), || {
        let mut attackers: Vec<_> =
            (0..CONNECTIONS).map(|_| visitor(&outside, to, &asked)).collect();
        let windows = windows();
        let flood = |attacker: &mut TcpStream| drop(attacker.write_all(&windows));
        all(&mut attackers, flood, || {
            bystander.served();
        });
        end(attackers);
    });
    let name = "requests that are begun and broken in a loop, by HTTP/2";
    arena.within(bounds).attack(name, Trace::Told, || {
        let mut attackers: Vec<_> = (0..CONNECTIONS).map(|_| visitor(&outside, to, &[])).collect();
        let flood = |attacker: &mut TcpStream| drop(attacker.write_all(&broken));
        all(&mut attackers, flood, || {
            bystander.served();
        });
        end(attackers);
        format!("{} requests, and nobody waits", CONNECTIONS * FRAMES / 20)
    });
    // Each of these is within its turn; what they do together is bounded too.
    let denied = h1("DELETE", "/status/200").repeat(FRAMES / 10);
    let taken_back = taken_back(&get("/status/200"), FRAMES / 20);
    for (name, first, flood) in [
        ("requests of many connections that are denied, by HTTP/1.1", true, &denied),
        ("requests with trailers that are taken back, by HTTP/2", false, &taken_back),
    ] {
        arena.within(bounds).attack(name, Trace::Told, || {
            let connect = |_| if first { reader(&outside, to) } else { visitor(&outside, to, &[]) };
            let mut attackers: Vec<_> = (0..MANY).map(connect).collect();
            all(
                &mut attackers,
                |attacker| drop(attacker.write_all(flood)),
                || {
                    bystander.served();
                },
            );
            end(attackers);
            format!("{MANY} connections, and nobody waits")
        });
    }
}

/// Connections of an attacker whose turns would add up.
const MANY: usize = 24;

/// A request of HTTP/1.1, of which many come at once.
fn h1(method: &str, path: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: echo\r\n\r\n").into_bytes()
}

/// Requests that are begun, have trailers, and are taken back.
fn taken_back(head: &[u8], count: usize) -> Vec<u8> {
    let trailers = b"\x00\x01x\x01y";
    let one =
        |id| [h2(1, 4, id, head), h2(1, 5, id, trailers), h2(3, 0, id, &[0, 0, 0, 8])].concat();
    (1..).step_by(2).take(count).flat_map(one).collect()
}
