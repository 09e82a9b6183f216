//! A peer or a stranger with many connections, each of which has work for the agent all the time: they
//! have the turns of one.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mesh_tests::apps::Server;
use mesh_tests::pair::{PORT, Pair};
use mesh_tests::peers::Caller;
use mesh_tests::tunnel::{Transport, Tunnel};

use super::strangers::{client, root, serves};
use super::{Arena, Bounds, Bystander, Trace};

/// Tunnels of the peer.
const TUNNELS: usize = 32;

/// Streams that it asks for at once on each.
const STREAMS: usize = 100;

/// Connections of the stranger.
const CONNECTIONS: usize = 500;

/// The port of an application that reads all and answers nothing.
const SINK: u16 = PORT + 1;

/// Runs `act` in a thread again and again until `meanwhile` is over.
fn during<T>(acts: Vec<impl FnMut() + Send>, meanwhile: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for mut act in acts {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    act();
                }
            });
        }
        // Also where it fails, they end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        is_over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn streams_that_a_peer_opens_and_resets_have_the_turns_of_one() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &["--threads", "1"]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "peer node", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    let bounds = Bounds { descriptors: 8_000, memory_bytes: 256 << 20, ..Bounds::default() };
    let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    let (server, to) = (IpAddr::V4(pair.echo.v4()), pair.echo.at(PORT));
    let name = "streams that are opened and reset in a loop on many tunnels";
    arena.within(bounds).attack(name, Trace::Told, || {
        let act = || {
            let open =
                || Tunnel::open(&caller, pair.client.netns(), server, Transport::Native).unwrap();
            let mut attacker = open();
            move || {
                if attacker.take_back(to, STREAMS).is_err() {
                    attacker = open();
                }
            }
        };
        let median = during((0..TUNNELS).map(|_| act()).collect(), || bystander.served_meanwhile());
        format!("a bystander's exchange takes {median:?}")
    });
}

#[test]
fn tunnels_that_are_opened_at_one_time_all_come() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &["--threads", "1"]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "peer node", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    let bounds = Bounds { descriptors: 500, memory_bytes: 128 << 20, ..Bounds::default() };
    let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    let server = IpAddr::V4(pair.echo.v4());
    // Each handshake is a stranger's at first, and an identity's then.
    arena.within(bounds).attack("tunnels that are opened at one time", Trace::Told, || {
        let opened = thread::scope(|scope| {
            let open = || {
                let from = pair.client.netns();
                Tunnel::open(&caller, from, server, Transport::Native).is_ok()
            };
            let all: Vec<_> = (0..TUNNELS).map(|_| scope.spawn(open)).collect();
            all.into_iter().map(|one| one.join().unwrap()).filter(|it| *it).count()
        });
        assert_eq!(opened, TUNNELS);
        format!("{opened} of {TUNNELS} are served")
    });
}

/// Reads all that comes on each of `streams`, as far as there is something.
fn drain(streams: &mut [TcpStream], buffer: &mut [u8]) {
    for stream in streams {
        match stream.read(buffer) {
            Ok(_read) => {}
            // At the end of the attack the other side closes first.
            Err(error)
                if [ErrorKind::WouldBlock, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe]
                    .contains(&error.kind()) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Writes as much on each as it takes.
fn fill(streams: &mut [TcpStream], buffer: &[u8]) {
    for stream in streams {
        match stream.write(buffer) {
            Ok(_sent) => {}
            // At the end of the attack the other side closes first.
            Err(error)
                if [ErrorKind::WouldBlock, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe]
                    .contains(&error.kind()) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn bulk_transfers_of_a_stranger_have_the_turns_of_one() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &["--threads", "1"]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "stranger", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    let at = SocketAddr::from((pair.echo.v4(), SINK));
    let bounds = Bounds { descriptors: 1_500, memory_bytes: 256 << 20, ..Bounds::default() };
    arena.within(bounds).attack("bulk transfers on many connections", Trace::Told, || {
        let listener = pair.echo.netns().run(|| TcpListener::bind(at)).unwrap().unwrap();
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let connect = || TcpStream::connect(at).unwrap();
            writers.push(pair.client.netns().run(connect).unwrap());
            readers.push(listener.accept().unwrap().0);
        }
        for stream in writers.iter().chain(&readers) {
            stream.set_nonblocking(true).unwrap();
        }
        let (mut room, bytes) = (vec![0; 1 << 18], vec![0; 1 << 18]);
        let acts: Vec<Box<dyn FnMut() + Send>> = vec![
            Box::new(move || drain(&mut readers, &mut room)),
            Box::new(move || fill(&mut writers, &bytes)),
        ];
        let median = during(acts, || bystander.served_meanwhile());
        format!("a bystander's exchange takes {median:?}")
    });
}
