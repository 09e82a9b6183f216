//! A malicious peer node whose certificate is good: it breaks the rules inside of its tunnels, or goes
//! on with what is out of date.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use mesh_tests::agent::Agent;
use mesh_tests::apps::Server;
use mesh_tests::expect::eventually;
use mesh_tests::mesh::{Mesh, Workload};
use mesh_tests::pair::{PORT, Pair, spiffe};
use mesh_tests::peers::Caller;
use mesh_tests::pki::Identity;
use mesh_tests::process::DEADLINE;
use mesh_tests::tunnel::{Transport, Tunnel};
use rcgen::CertificateParams;
use socket2::{Domain, Socket, Type};

use super::strangers::{client, root, serves};
use super::{Arena, Bounds, Bystander, Trace};

/// How long the certificate of a peer lives that goes on with it.
const SHORT: Duration = Duration::from_secs(6);

fn tunnel(pair: &Pair, identity: &Identity, transport: Transport) -> anyhow::Result<Tunnel> {
    let caller = Caller::new(Some(identity), &root(pair))?;
    Tunnel::open(&caller, pair.client.netns(), IpAddr::V4(pair.echo.v4()), transport)
}

/// A native frame (docs/transport.md).
fn native(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind], &stream.to_be_bytes(), payload].concat()
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
pub(super) fn h2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Frames that no peer of the native transport sends after its hello.
fn native_violations(pair: &Pair) -> Vec<(&'static str, Vec<u8>)> {
    let port = PORT.to_be_bytes();
    let address = [&[0x81, 6][..], &pair.echo.v4().octets(), &port].concat();
    let open = |stream| native(0x82, stream, &address);
    let name = [7; 16];
    vec![
        ("a second hello", native(0x81, 0, &[])),
        ("a critical frame of an unknown type", native(0xff, 0, &[])),
        ("a payload that is longer than any", vec![0xff, 0xff, 0xff, 0x84, 0, 0, 0, 1]),
        ("a control frame that is too long", native(0x82, 1, &[0; 1_025])),
        ("an empty frame of data", native(0x84, 1, &[])),
        ("bytes for a stream that is not open", native(0x84, 1, b"x")),
        ("the end of a stream that is not open", native(0x85, 1, &[])),
        ("a hole in the numbers of streams", open(2)),
        ("a stream that is opened twice", [open(1), open(1)].concat()),
        ("an answer to a stream of its own", [open(1), native(0x83, 1, &[])].concat()),
        ("bytes after the end", [open(1), native(0x85, 1, &[]), native(0x84, 1, b"x")].concat()),
        ("bytes beyond the window", {
            // More than the application takes, whose answers nobody reads: what it takes may be sent
            // again.
            let data = native(0x84, 1, &vec![0; 1 << 16]);
            [open(1), data.repeat(1 << 9)].concat()
        }),
        ("a window beyond 2^31", {
            let most = native(0x87, 1, &0x7fff_ffff_u32.to_be_bytes());
            [open(1), most.clone(), most].concat()
        }),
        ("an answer to no ping", native(0x09, 0, &[1; 8])),
        ("a ping of a stream", native(0x08, 1, &[1; 8])),
        ("an address of three bytes", native(0x82, 1, &[0x81, 3, 1, 2, 3])),
        ("a stream without a destination", native(0x82, 1, &[])),
        // The frame by which an earlier version moved streams, and could be stopped.
        ("a stream that goes on with its own", {
            let with = [&name[..], &1_u32.to_be_bytes()].concat();
            [open(1), native(0x8b, 2, &with)].concat()
        }),
        ("a stream that has moved", [open(1), native(0x8c, 1, &[])].concat()),
    ]
}

/// Frames that no peer of HTTP/2 sends after its preface.
fn h2_violations() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("settings of a stream", h2(4, 0, 1, &[])),
        ("settings of a length that they do not have", h2(4, 0, 0, &[1, 2, 3])),
        ("data of the connection", h2(0, 0, 0, b"x")),
        ("data for a stream that is not open", h2(0, 0, 1, b"x")),
        ("a head with an even number", h2(1, 4, 2, b"\x82")),
        ("a head that does not decompress", h2(1, 4, 1, &[0xff; 16])),
        ("the rest of a head that did not begin", h2(9, 4, 1, b"\x82")),
        ("a ping of seven bytes", h2(6, 0, 0, &[0; 7])),
        ("a reset of a stream that is idle", h2(3, 0, 9, &[0; 4])),
        ("a frame that is longer than allowed", h2(0, 0, 1, &vec![0; 300_000])),
        ("a window of the connection beyond 2^31", h2(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        ("a promise from a client", h2(5, 4, 1, &[0, 0, 0, 2, 0x82])),
    ]
}

#[test]
fn a_peer_that_breaks_the_protocol_loses_its_tunnel_alone() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "peer node", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    let native = native_violations(&pair).into_iter().map(|it| (Transport::Native, it));
    let all = native.chain(h2_violations().into_iter().map(|it| (Transport::Hbone, it)));
    for (transport, (name, frames)) in all {
        let name = format!("{name}, by {}", transport.as_str());
        arena.attack(&name, Trace::Log(&["broke the protocol", "demo/sa/client"]), || {
            let mut attacker = tunnel(&pair, &client(&pair), transport).unwrap();
            attacker.send(&frames);
            attacker.ended().unwrap();
        });
    }
    let name = "frames before the hello, by the native transport";
    arena.attack(name, Trace::Log(&["broke the protocol", "demo/sa/client"]), || {
        let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
        let to = IpAddr::V4(pair.echo.v4());
        let begun = Tunnel::shake(&caller, pair.client.netns(), to, Transport::Native);
        let mut attacker = begun.unwrap();
        attacker.send(&native_frame_of_nothing().repeat(1_000));
        attacker.ended().unwrap();
    });
}

/// A frame that is skipped, and one that no peer sends.
fn skipped(transport: Transport) -> [Vec<u8>; 2] {
    match transport {
        Transport::Native => [native_frame_of_nothing(), native(0x81, 0, &[])],
        Transport::Hbone => [h2(0xf0, 0, 0, &[0; 1_015]), h2(6, 0, 0, &[0; 7])],
    }
}

/// Makes the records of skipped frames and then of a violation, each of one byte after so many key
/// updates.
fn stack(attacker: &mut Tunnel, transport: Transport, frames: usize, key_updates: usize) {
    let [skipped, wrong] = skipped(transport);
    for byte in skipped.repeat(frames).iter().chain(&wrong) {
        attacker.stack(key_updates, &[*byte]).unwrap();
    }
}

/// Records by which a tunnel keeps its thread busy, without a byte for anybody.
#[test]
fn records_of_no_use_hold_up_nobody_else() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &["--threads", "1"]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let serves = || {
        serves(&pair);
        let (status, body) = agent.get("/readyz").unwrap();
        assert_eq!(status, 200, "{body}");
        let metrics = agent.metrics().unwrap();
        assert!(metrics.sum("mesh_thread_stalls_total", &[]) < 1.0, "{}", agent.log());
    };
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena = Arena { by: "peer node", agent: &agent, serves: &serves, bystander: &bystander };
    for transport in Transport::ALL {
        // Libraries of TLS allow 16 or 32 between any two bytes of data.
        for (key_updates, frames) in [(1, 100), (16, 10)] {
            let by = transport.as_str();
            let name = format!("{key_updates} key updates before each byte of data, by {by}");
            let words = ["broke the protocol", "TooManyKeyUpdateRequests", "demo/sa/client"];
            arena.attack(&name, Trace::Log(&words), || {
                let mut attacker = tunnel(&pair, &client(&pair), transport).unwrap();
                stack(&mut attacker, transport, frames, key_updates);
                attacker.burst();
                attacker.ended().unwrap();
            });
        }
        let name = format!("records of one byte on eight tunnels, by {}", transport.as_str());
        arena.attack(&name, Trace::Log(&["broke the protocol", "demo/sa/client"]), || {
            let mut attackers: Vec<_> =
                (0..8).map(|_| tunnel(&pair, &client(&pair), transport).unwrap()).collect();
            for attacker in &mut attackers {
                stack(attacker, transport, 50, 0);
            }
            std::thread::scope(|scope| {
                for attacker in &mut attackers {
                    scope.spawn(|| attacker.burst());
                }
                serves();
            });
            for attacker in &mut attackers {
                attacker.ended().unwrap();
            }
        });
    }
}

/// The memory of the agent's process, in bytes.
fn memory(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    size.trim().trim_end_matches("kB").trim_end().parse::<u64>().unwrap() << 10
}

/// A socket on which nobody accepts, where sockets have little room for what is under way.
fn listener(pair: &Pair, port: u16) -> Socket {
    let bound = pair.echo.netns().run(|| {
        for limits in ["tcp_rmem", "tcp_wmem"] {
            let file = Path::new("/proc/sys/net/ipv4").join(limits);
            std::fs::write(file, "4096 16384 16384").unwrap();
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((pair.echo.v4(), port)).into()).unwrap();
        socket.listen(16).unwrap();
        socket
    });
    bound.unwrap()
}

/// Each byte that nobody reads lies in a buffer of its own, which other frames have filled.
#[test]
fn unread_bytes_keep_no_buffers() {
    const BYTES: usize = 8_000;
    const OTHER: u16 = PORT + 1;
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let _unread = listener(&pair, OTHER);
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "peer node", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    arena.attack("a byte in each buffer that is read into, by HBONE", Trace::Told, || {
        let mut attacker = tunnel(&pair, &client(&pair), Transport::Hbone).unwrap();
        // The windows are in force once the settings are acknowledged.
        attacker.send(&h2(4, 1, 0, &[]));
        assert_eq!(attacker.ask(pair.echo.at(OTHER), 1).unwrap().accepted, 1);
        // More than the sockets take, and less than the window of the stream, which is 1 MiB.
        attacker.send(&h2(0, 0, 1, &[0; 1 << 14]).repeat(48));
        let before = memory(&agent);
        let unit = [h2(0, 0, 1, b"x"), h2(0xf0, 0, 0, &[0; 9_000])].concat();
        for _ in 0..BYTES / 100 {
            attacker.send(&unit.repeat(100));
        }
        // It is answered when all that came before was read.
        assert_eq!(attacker.ask(pair.echo.at(PORT), 1).unwrap().accepted, 1);
        let kept = memory(&agent).saturating_sub(before);
        assert!(kept < 32 << 20, "{kept} bytes are kept for {BYTES}");
        format!("{BYTES} bytes that nobody reads keep less than 32 MiB")
    });
}

/// 1 KiB of a type that may be skipped.
fn native_frame_of_nothing() -> Vec<u8> {
    native(0x10, 0, &[0; 1_016])
}

#[test]
fn a_certificate_that_expires_opens_nothing_more() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &["--expired-peer-timeout", "3"]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "peer node", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    let node = pair.authority.steal(pair.a.name()).unwrap();
    for transport in Transport::ALL {
        let name = format!("new streams with an expired certificate, by {}", transport.as_str());
        let ended = ["tunnel is ended", "has expired", "demo/sa/client"];
        // A stream each 10 ms until then: 600 in 6 s.
        let bounds = Bounds { descriptors: 700, ..Bounds::default() };
        arena.within(bounds).attack(&name, Trace::Log(&ended), || {
            let short = |params: &mut CertificateParams| {
                params.not_after = (std::time::SystemTime::now() + SHORT).into();
            };
            let leaf = node.leaf_with(&spiffe("client"), short).unwrap();
            let mut attacker = tunnel(&pair, &leaf, transport).unwrap();
            assert_eq!(attacker.ask(pair.echo.at(PORT), 1).unwrap().accepted, 1);
            // Any stream that is asked for later is refused, and then all of it ends.
            let refused = || match attacker.ask(pair.echo.at(PORT), 1) {
                Ok(streams) => (streams.refused == 1).then_some(()),
                Err(_ended) => Some(()),
            };
            eventually("a refusal", DEADLINE, refused).unwrap();
            attacker.ended().unwrap();
        });
    }
}

#[test]
fn a_workload_that_has_left_its_node_opens_nothing_more() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &["--expired-peer-timeout", "3"]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    // Another peer: the client is what leaves.
    let served = || {
        let node = pair.authority.steal(pair.b.name()).unwrap();
        let caller = Caller::new(Some(&node.leaf(&spiffe("echo")).unwrap()), &root(&pair)).unwrap();
        let to = IpAddr::V4(pair.echo.v4());
        let mut tunnel = Tunnel::open(&caller, pair.client.netns(), to, Transport::Native).unwrap();
        assert_eq!(tunnel.ask(pair.echo.at(PORT), 1).unwrap().accepted, 1);
    };
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena = Arena { by: "peer node", agent: &agent, serves: &served, bystander: &bystander };
    for transport in Transport::ALL {
        pair.config.write(&pair.mesh()).unwrap();
        let there = || tunnel(&pair, &client(&pair), transport).ok();
        let mut attacker = eventually("the client's placement", DEADLINE, there).unwrap();
        let name = format!("streams of a workload that has left, by {}", transport.as_str());
        arena.attack(&name, Trace::Log(&["tunnel is ended", "is not scheduled on node"]), || {
            assert_eq!(attacker.ask(pair.echo.at(PORT), 1).unwrap().accepted, 1);
            let echo = Workload::of(&pair.echo).account("echo").port(PORT);
            pair.config.write(&Mesh::new("demo").workload(&echo)).unwrap();
            let refused = || match attacker.ask(pair.echo.at(PORT), 1) {
                Ok(streams) => (streams.refused == 1).then_some(()),
                Err(_ended) => Some(()),
            };
            eventually("a refusal", DEADLINE, refused).unwrap();
            attacker.ended().unwrap();
        });
    }
}
