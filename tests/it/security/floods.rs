//! Floods: whoever takes as much of an agent as it gives, and keeps it. Each is refused beyond its
//! share, with the reason, and others are served meanwhile: other identities, other addresses, other
//! workloads.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mesh_tests::agent::{Agent, Options};
use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::mesh::Workload;
use mesh_tests::netns::Netns;
use mesh_tests::pair::{ECHO, PORT, Pair, spiffe};
use mesh_tests::peers::{Caller, HBONE_PORT, connect};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::tunnel::{Streams, Transport, Tunnel};
use socket2::{Domain, SockAddr, Socket, Type};

use super::bounds::holding;
use super::strangers::{client, root};
use super::{Arena, Bystander, Trace};

/// The sockets of the agents.
const SOCKETS: &str = "800";

/// The bound of one use of a workload: 700 × 2/3 × 4/5.
const ONE_USE: u32 = 374;

/// The sockets of small holders besides for a use of a workload: 100 / 5 / 2.
const SMALL_HOLDERS: u32 = 10;

/// The bound of one client: four fifths of a use.
const ONE_CLIENT: u32 = 300;

/// Descriptors beside connections: listeners, maps, the runtime's own, and what is being refused.
const OTHER_DESCRIPTORS: usize = 400;

/// The most memory of a flood. A debug build's tunnel is 100 KiB: 800 × 100 KiB = 80 MiB.
const MEMORY_BYTES: u64 = 96 << 20;

/// How soon others are served.
const SOON: Duration = Duration::from_millis(100);

/// Within this an attacker has made as many handshakes as it has a share of: a debug build makes some
/// five in a second on a machine that others load.
const FILLING: Duration = Duration::from_mins(3);

/// The port of an application that takes no connection.
const BLACK_HOLE: u16 = 8099;

/// Two nodes. On the first the workloads `client` and `other`, and two pods that are no workloads;
/// on the second `echo` and `neighbor`.
struct Site {
    pair: Pair,
    other: Pod,
    neighbor: Pod,
    flooder: Pod,
    outside: Pod,
    _servers: [Server; 2],
}

impl Site {
    fn new() -> Self {
        let pair = Pair::new().unwrap();
        let [other, flooder, outside] =
            ["other", "flooder", "outside"].map(|name| pair.a.pod(name).unwrap());
        let neighbor = pair.b.pod("neighbor").unwrap();
        let mesh = pair.mesh();
        let mesh = mesh.workload(&Workload::of(&other).account("other"));
        let mesh = mesh.workload(&Workload::of(&neighbor).account("neighbor").port(PORT));
        pair.config.write(&mesh).unwrap();
        let servers = [&pair.echo, &neighbor].map(|pod| Server::echo(pod, PORT, "v1").unwrap());
        Self { pair, other, neighbor, flooder, outside, _servers: servers }
    }

    fn agent(&self) -> Agent {
        self.pair.agent(&self.pair.b, &["--max-sockets", SOCKETS]).unwrap()
    }

    fn caller(&self, account: &str) -> Caller {
        let node = self.pair.authority.steal(self.pair.a.name()).unwrap();
        let leaf = node.leaf(&spiffe(account)).unwrap();
        Caller::new(Some(&leaf), &root(&self.pair)).unwrap()
    }

    fn echo(&self) -> IpAddr {
        self.pair.echo.v4().into()
    }

    /// Another identity is served by both workloads.
    fn serves_identities(&self) {
        self.serves_identity(&[&self.pair.echo, &self.neighbor]);
    }

    /// Another identity is served by `pods`.
    fn serves_identity(&self, pods: &[&Pod]) {
        let caller = self.caller("other");
        for to in pods {
            let open = || connect(&to.at(PORT).to_string(), None).unwrap();
            soon(|| {
                let said = caller.call(self.other.netns(), to.v4().into(), open(), b"hello");
                assert_eq!(said.unwrap().status, 200);
            });
        }
    }

    /// Another address is served by `pods`.
    fn serves_plaintext(&self, pods: &[&Pod]) {
        for pod in pods {
            soon(|| greeted(self.outside.netns(), pod.at(PORT)));
        }
    }

    /// All of it.
    fn serves(&self) {
        self.serves_identities();
        self.serves_plaintext(&[&self.pair.echo, &self.neighbor]);
    }
}

/// Asserts that `act` succeeds, and that it takes no longer than [`SOON`] at its best: the machine is
/// shared, so that one try may be slow by chance, but not all of thirty.
#[track_caller]
fn soon(act: impl Fn()) {
    let mut best = Duration::MAX;
    for _ in 0..30 {
        let start = Instant::now();
        act();
        best = best.min(start.elapsed());
        if best <= SOON {
            return;
        }
    }
    panic!("it takes {best:?} at its best");
}

/// Asserts that a server's banner comes.
fn greeted(from: &Netns, to: SocketAddr) {
    let read = from.run(|| {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.read(&mut [0; 64])
    });
    assert!(read.unwrap().unwrap() > 0);
}

/// Opens connections, says `first` on each, and keeps them.
fn hold(from: &Netns, to: SocketAddr, count: usize, first: &[u8]) -> Vec<TcpStream> {
    let open = || {
        let mut stream = TcpStream::connect(to).ok()?;
        // It may be refused already.
        drop(stream.write_all(first));
        Some(stream)
    };
    from.run(|| (0..count).filter_map(|_| open()).collect()).unwrap()
}

/// The same from each of many addresses, of which `from` has one and is given the others.
fn hold_from(from: &Pod, to: SocketAddr, addresses: &[IpAddr], each: usize) -> Vec<TcpStream> {
    let bits = |address: &IpAddr| if address.is_ipv4() { "16" } else { "64 nodad" };
    let commands: Vec<_> = addresses
        .iter()
        .map(|address| format!("addr add {address}/{} dev eth0\n", bits(address)))
        .collect();
    from.netns().ip(&commands.concat()).unwrap();
    let open = |address: &IpAddr| -> std::io::Result<TcpStream> {
        let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.bind(&SockAddr::from(SocketAddr::new(*address, 0)))?;
        socket.connect(&to.into())?;
        Ok(socket.into())
    };
    let all = || addresses.iter().flat_map(|address| (0..each).filter_map(|_| open(address).ok()));
    from.netns().run(|| all().collect()).unwrap()
}

/// A sum of metrics.
fn sum(agent: &Agent, name: &str, used: &str) -> f64 {
    agent.metrics().unwrap().sum(name, &[("used", used)])
}

/// How many sockets were refused.
fn refused(agent: &Agent, used: &str) -> f64 {
    sum(agent, "mesh_sockets_refused_total", used)
}

/// Waits until more sockets of this use than `before` are refused; asserts what the flood costs.
fn bounded(agent: &Agent, used: &str, most: u32, before: f64) {
    let more = || (refused(agent, used) > before).then_some(());
    eventually("a refusal", DEADLINE, more).unwrap();
    let open = sum(agent, "mesh_sockets_open", used);
    assert!(open <= f64::from(most), "{open} of {most}");
    let (descriptors, memory) = (agent.descriptors().unwrap(), agent.memory_bytes().unwrap());
    let limit = SOCKETS.parse::<usize>().unwrap() + OTHER_DESCRIPTORS;
    assert!(descriptors <= limit, "{descriptors}");
    assert!(memory <= MEMORY_BYTES, "{memory}");
}

/// Waits until the agent holds nothing more of a flood that has ended.
fn over(agent: &Agent, used: &str) {
    let gone = || (sum(agent, "mesh_sockets_open", used) < 10.0).then_some(());
    eventually("the end of the flood", DEADLINE, gone).unwrap();
}

const CLIENT: Trace<'_> = Trace::Access(&["\"limit\"", "the client has as many sockets"]);

#[test]
fn a_stranger_takes_its_share_of_a_workload() {
    let site = Site::new();
    let agent = site.agent();
    let (echo, neighbor) = (&site.pair.echo, &site.neighbor);
    let bystander = Bystander::of_pair(&site.pair, &agent);
    let arena =
        Arena { by: "network", agent: &agent, serves: &|| site.serves(), bystander: &bystander };
    let flooder = site.flooder.netns();
    for (name, first) in [
        ("idle connections in plaintext", &b""[..]),
        ("connections in plaintext of one byte each", &b"x"[..]),
    ] {
        let mut held = Vec::new();
        arena.within(holding(ONE_CLIENT)).attack(name, CLIENT, || {
            let before = refused(&agent, "plaintext");
            held = hold(flooder, echo.at(PORT), 400, first);
            bounded(&agent, "plaintext", ONE_CLIENT, before);
        });
        drop(held);
        over(&agent, "plaintext");
    }
    let mut held = Vec::new();
    arena.within(holding(467 + SMALL_HOLDERS)).attack(
        "idle connections to every workload of a node",
        CLIENT,
        || {
            let before = refused(&agent, "plaintext");
            held = hold(flooder, echo.at(PORT), 400, b"");
            held.extend(hold(flooder, neighbor.at(PORT), 400, b""));
            // Two thirds of the 700.
            bounded(&agent, "plaintext", 467 + SMALL_HOLDERS, before);
        },
    );
    drop(held);
    over(&agent, "plaintext");
    let addresses: Vec<_> = (0..150).map(|n| format!("fd00:1::f:{n:x}").parse().unwrap()).collect();
    let mut held = Vec::new();
    let name = "idle connections from many addresses of one network of IPv6";
    arena.within(holding(ONE_CLIENT)).attack(name, CLIENT, || {
        let before = refused(&agent, "plaintext");
        held = hold_from(&site.flooder, echo.at6(PORT), &addresses, 4);
        bounded(&agent, "plaintext", ONE_CLIENT, before);
    });
    drop(held);
    over(&agent, "plaintext");
}

#[test]
fn a_stranger_with_many_addresses_keeps_only_strangers_out_and_of_one_workload() {
    let site = Site::new();
    let agent = site.agent();
    let serves = || {
        site.serves_identities();
        site.serves_plaintext(&[&site.neighbor]);
    };
    let bystander = Bystander::of_pair(&site.pair, &agent);
    let arena = Arena { by: "network", agent: &agent, serves: &serves, bystander: &bystander };
    let addresses: Vec<_> = (0..240_u8).map(|n| IpAddr::from([10, 1, 200, n])).collect();
    let name = "idle connections from many addresses";
    let mut held = Vec::new();
    arena.within(holding(ONE_USE + SMALL_HOLDERS)).attack(
        name,
        Trace::Access(&["\"limit\"", "sockets of this agent"]),
        || {
            let before = refused(&agent, "plaintext");
            held = hold_from(&site.flooder, site.pair.echo.at(PORT), &addresses, 2);
            bounded(&agent, "plaintext", ONE_USE + SMALL_HOLDERS, before);
        },
    );
    drop(held);
    over(&agent, "plaintext");
    // No new tunnel to that workload meanwhile; those that are open go on, and other workloads.
    let caller = site.caller("other");
    let open = Tunnel::open(&caller, site.other.netns(), site.echo(), Transport::Native);
    let open = RefCell::new(open.unwrap());
    let serves = || {
        let ask = || open.borrow_mut().ask(site.pair.echo.at(PORT), 1).unwrap().accepted;
        soon(|| assert_eq!(ask(), 1));
        site.serves_identity(&[&site.neighbor]);
        site.serves_plaintext(&[&site.pair.echo, &site.neighbor]);
    };
    let arena = Arena { serves: &serves, ..arena };
    let mut held = Vec::new();
    let name = "handshakes that are half done, from many addresses";
    arena.within(holding(ONE_USE + SMALL_HOLDERS)).attack(
        name,
        Trace::Log(&["connections are refused", "handshake"]),
        || {
            let before = refused(&agent, "handshake");
            let addresses: Vec<_> = (0..60_u8).map(|n| IpAddr::from([10, 1, 201, n])).collect();
            let to = SocketAddr::new(site.echo(), HBONE_PORT);
            held = hold_from(&site.flooder, to, &addresses, 10);
            bounded(&agent, "handshake", ONE_USE + SMALL_HOLDERS, before);
        },
    );
}

#[test]
fn an_identity_takes_its_share_of_tunnels_and_streams() {
    let site = Site::new();
    let agent = site.agent();
    let bystander = Bystander::of_pair(&site.pair, &agent);
    let arena =
        Arena { by: "peer node", agent: &agent, serves: &|| site.serves(), bystander: &bystander };
    let (caller, from) = (site.caller("client"), site.pair.client.netns());
    let to = site.echo();
    let open = |transport| Tunnel::open(&caller, from, to, transport);
    for transport in Transport::ALL {
        let name = format!("tunnels of one identity, {}", transport.as_str());
        let mut held = Vec::new();
        arena.within(holding(ONE_CLIENT)).attack(&name, CLIENT, || {
            let before = refused(&agent, "tunnel");
            // More than the rate allows at once are refused before the handshake, and tried again.
            let full = || {
                held.extend(open(transport).ok());
                (refused(&agent, "tunnel") > before).then_some(())
            };
            eventually("the bound", FILLING, full).unwrap();
            bounded(&agent, "tunnel", ONE_CLIENT, before);
            assert!(held.len() > 250, "{}", held.len());
        });
        drop(held);
        over(&agent, "tunnel");
    }
    for transport in Transport::ALL {
        let name = format!("streams of one identity, {}", transport.as_str());
        let mut tunnels: Vec<_> = (0..5).map(|_| open(transport).unwrap()).collect();
        arena.within(holding(ONE_CLIENT)).attack(&name, CLIENT, || {
            let before = refused(&agent, "stream");
            let ask = |tunnel: &mut Tunnel| tunnel.ask(site.pair.echo.at(PORT), 100).unwrap();
            let all = tunnels.iter_mut().map(ask).fold(Streams::default(), |sum, one| Streams {
                accepted: sum.accepted + one.accepted,
                refused: sum.refused + one.refused,
            });
            assert!((250..=300).contains(&all.accepted), "{all:?}");
            bounded(&agent, "stream", ONE_CLIENT, before);
        });
        drop(tunnels);
        over(&agent, "stream");
    }
}

#[test]
fn a_peer_makes_no_more_dials_than_its_share() {
    let site = Site::new();
    let agent = site.agent();
    let bystander = Bystander::of_pair(&site.pair, &agent);
    let arena =
        Arena { by: "peer node", agent: &agent, serves: &|| site.serves(), bystander: &bystander };
    let (caller, from) = (site.caller("client"), site.pair.client.netns());
    // Its queue is full with one connection, and the kernel drops what comes then.
    let listening = site.pair.echo.netns().run(|| -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SockAddr::from(SocketAddr::from(([0, 0, 0, 0], BLACK_HOLE))))?;
        socket.listen(0)?;
        Ok(socket.into())
    });
    let _listener = listening.unwrap().unwrap();
    let to = site.pair.echo.at(BLACK_HOLE);
    for transport in Transport::ALL {
        let name = format!("streams to an application that takes none, {}", transport.as_str());
        let open = || Tunnel::open(&caller, from, site.echo(), transport).unwrap();
        let mut tunnels: Vec<_> = (0..5).map(|_| open()).collect();
        arena.within(holding(ONE_CLIENT)).attack(&name, CLIENT, || {
            let before = refused(&agent, "stream");
            for tunnel in &mut tunnels {
                tunnel.begin(to, 100).unwrap();
            }
            bounded(&agent, "stream", ONE_CLIENT, before);
        });
        drop(tunnels);
        over(&agent, "stream");
    }
    arena.within(holding(ONE_CLIENT)).attack(
        "connections in plaintext to the same",
        CLIENT,
        || {
            let before = refused(&agent, "plaintext");
            drop(hold(site.flooder.netns(), to, 400, b""));
            bounded(&agent, "plaintext", ONE_CLIENT, before);
        },
    );
}

#[test]
fn tunnels_that_say_nothing_and_heads_that_do_not_end_take_a_share() {
    let site = Site::new();
    let judged = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                  metadata: {name: gets, namespace: demo}\nspec:\n  \
                  selector: {matchLabels: {app: echo}}\n  action: ALLOW\n  rules:\n  \
                  - to: [{operation: {methods: [GET]}}]\n  \
                  - to: [{operation: {ports: ['8080']}}]\n    \
                  from: [{source: {principals: ['*']}}]\n";
    site.pair.config.write_file("gets.yaml", judged).unwrap();
    let agent = site.agent();
    let serves = || {
        site.serves_identities();
        site.serves_plaintext(&[&site.neighbor]);
    };
    let bystander = Bystander::of_pair(&site.pair, &agent);
    let arena = Arena { by: "network", agent: &agent, serves: &serves, bystander: &bystander };
    let mut held = Vec::new();
    let name = "requests in plaintext whose heads do not end";
    arena.within(holding(ONE_CLIENT)).attack(name, CLIENT, || {
        let before = refused(&agent, "plaintext");
        let head = b"GET / HTTP/1.1\r\nx: y";
        held = hold(site.flooder.netns(), site.pair.echo.at(PORT), 400, head);
        bounded(&agent, "plaintext", ONE_CLIENT, before);
    });
    drop(held);
    let arena = Arena { by: "peer node", ..arena };
    let caller = site.caller("client");
    let mut held = Vec::new();
    arena.within(holding(ONE_CLIENT)).attack(
        "tunnels whose peer says nothing after the handshake",
        CLIENT,
        || {
            let before = refused(&agent, "tunnel");
            let full = || {
                let from = site.pair.client.netns();
                held.extend(Tunnel::shake(&caller, from, site.echo(), Transport::Native).ok());
                (refused(&agent, "tunnel") > before).then_some(())
            };
            eventually("the bound", FILLING, full).unwrap();
            bounded(&agent, "tunnel", ONE_CLIENT, before);
        },
    );
}

#[test]
fn a_workload_takes_its_share_of_what_goes_out() {
    let site = Site::new();
    let agent = site.pair.agent(&site.pair.a, &["--max-sockets", SOCKETS]).unwrap();
    let far = site.pair.agent(&site.pair.b, &[]).unwrap();
    let serves = || {
        let met = Client::to(ECHO).echo("hello").times(20, 1).run(&site.other).unwrap().totals;
        assert_eq!((met.failed, met.connections), (0, 20), "{met:?}");
    };
    let bystander = Bystander::between(&agent, &far);
    let arena = Arena { by: "pod", agent: &agent, serves: &serves, bystander: &bystander };
    let mut held = None;
    let use_ = Trace::Access(&["\"limit\"", "for this use"]);
    arena.within(holding(ONE_USE + SMALL_HOLDERS)).attack(
        "connections of a workload that never end",
        use_,
        || {
            let before = refused(&agent, "outbound");
            let (traffic, opened) =
                Client::to(ECHO).echo("hello").times(600, 50).hold(&site.pair.client).unwrap();
            assert!(opened.failed >= 100, "{opened:?}");
            held = Some(traffic);
            bounded(&agent, "outbound", ONE_USE + SMALL_HOLDERS, before);
        },
    );
}

#[test]
fn few_descriptors_are_shared_too() {
    let site = Site::new();
    let ca = site.pair.lab.state().join("ca").join(site.pair.b.name());
    let options = Options { ca: &ca, config: site.pair.config.path(), args: &[] };
    // The hard limit; the soft one that the agent starts with is 1,024, or this.
    let files = 900;
    let agent = Agent::start_within(&site.pair.b, &options, files).unwrap();
    let limit = agent.metrics().unwrap().sum("mesh_sockets_limit", &[]);
    assert!((300.0..650.0).contains(&limit), "{limit}");
    agent.says("allows fewer sockets than --max-sockets").unwrap();
    let bystander = Bystander::of_pair(&site.pair, &agent);
    let arena =
        Arena { by: "network", agent: &agent, serves: &|| site.serves(), bystander: &bystander };
    let mut held = Vec::new();
    arena.within(holding(650)).attack(
        "more connections than the agent may have files open",
        CLIENT,
        || {
            let before = refused(&agent, "plaintext");
            for pod in [&site.pair.echo, &site.neighbor] {
                held.extend(hold(site.flooder.netns(), pod.at(PORT), 1000, b""));
            }
            bounded(&agent, "plaintext", 650, before);
            assert!(agent.descriptors().unwrap() < 900);
            let failures = agent.metrics().unwrap().sum("mesh_accept_failures_total", &[]);
            assert_eq!(failures.to_string(), "0");
        },
    );
    let caller = Caller::new(Some(&client(&site.pair)), &root(&site.pair)).unwrap();
    let tunnel = Tunnel::open(&caller, site.pair.client.netns(), site.echo(), Transport::Native);
    assert!(tunnel.unwrap().ask(site.pair.echo.at(PORT), 5).unwrap().accepted == 5);
}
