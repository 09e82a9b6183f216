//! Small frames of data between other frames of HTTP/2, which nobody reads: each lies in a buffer that the
//! other frames have filled, and must not keep it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use mesh_tests::agent::Agent;
use mesh_tests::http::{self, Ask};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::Script;

use super::tunnels::h2;
use super::{Arena, Bystander, Trace};
use crate::http::suite::{NAMESPACE, PLAIN, Suite, To, policy};

/// The memory that a connection is promised: what it may keep.
const PROMISED_BYTES: u64 = 20 << 20;

/// The lengths of frames of which so many are within all windows.
const LENGTHS: [usize; 2] = [1, 256];

/// Small frames in all: fewer than h2 takes of one byte.
const FRAMES: usize = 8_000;

/// The first bytes of a client of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bytes of a ping, whose answer says that all before it was read.
const LAST: &[u8; 8] = b"the last";

/// A frame of data, and others that fill the buffer which it lies in: an unknown one, a ping, a window and
/// a priority.
fn unit(stream: u32, length: usize) -> Vec<u8> {
    [
        h2(0, 0, stream, &vec![b'x'; length]),
        h2(0xf0, 0, 0, &[0; 8_200]),
        h2(6, 0, 0, b"whatever"),
        h2(8, 0, stream, &1_u32.to_be_bytes()),
        h2(2, 0, stream, &[0, 0, 0, 0, 1]),
    ]
    .concat()
}

/// The numbers of so many streams of a client.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

/// The answers of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// The head of a request or an answer.
    Head,
    /// The last ping was answered.
    Answered,
}

/// One end of a connection whose other end is an agent.
struct Attacker {
    stream: TcpStream,
    said: Receiver<Said>,
}

impl Attacker {
    /// A client that asks the agent at `stream`, or an application that the agent asks. Acknowledges the
    /// agent's settings, so that its windows are in force.
    fn begin(mut stream: TcpStream, is_client: bool, settings: &[u8]) -> Self {
        let first = if is_client { PREFACE } else { &[] };
        stream.write_all(&[first, &h2(4, 0, 0, settings)].concat()).unwrap();
        let mut reading = stream.try_clone().unwrap();
        if !is_client {
            reading.read_exact(&mut [0; PREFACE.len()]).unwrap();
        }
        let (kind, _, _) = frame(&mut reading).unwrap();
        assert_eq!(kind, 4);
        stream.write_all(&h2(4, 1, 0, &[])).unwrap();
        let (tell, said) = channel();
        thread::spawn(move || {
            while let Some((kind, flags, payload)) = frame(&mut reading) {
                let _unheard = match (kind, flags, &*payload) {
                    (1, _, _) => tell.send(Said::Head),
                    (6, 1, payload) if payload == LAST => tell.send(Said::Answered),
                    _ => Ok(()),
                };
            }
        });
        Self { stream, said }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Waits until the agent says so.
    #[track_caller]
    fn hear(&self, what: Said) {
        while self.said.recv_timeout(DEADLINE).unwrap() != what {}
    }

    /// Waits until the agent has read all that was sent.
    #[track_caller]
    fn settle(&mut self) {
        self.send(&h2(6, 0, 0, LAST));
        self.hear(Said::Answered);
    }

    /// Has `agent` keep small frames on so many streams, and asserts that it keeps no more than it has
    /// promised.
    #[track_caller]
    fn press(&mut self, agent: &Agent, count: u32, length: usize) -> String {
        self.settle();
        let before = agent.memory_bytes().unwrap();
        let each: Vec<u8> = streams(count).flat_map(|stream| unit(stream, length)).collect();
        let rounds = FRAMES / count as usize;
        for _ in 0..rounds {
            self.send(&each);
        }
        self.settle();
        let kept = agent.memory_bytes().unwrap().saturating_sub(before);
        let sent = rounds * count as usize * length;
        assert!(kept < PROMISED_BYTES, "{kept} bytes are kept for {sent}");
        format!("{sent} bytes that nobody reads keep {kept}")
    }
}

/// The next frame: its type, flags and payload. `None`: there is none any more.
fn frame(from: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    from.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    from.read_exact(&mut payload).ok()?;
    Some((head[3], head[4], payload))
}

/// The head of a request: its method, http, / and the authority, named by the static table (RFC 7541,
/// appendix A).
fn head(stream: u32, flags: u8, method: u8) -> Vec<u8> {
    h2(1, flags, stream, &[&[method], &b"\x86\x84\x01\x04echo"[..]].concat())
}

/// Asks an application that reads nothing to take bodies, and has them kept in small frames.
fn bodies(agent: &Agent, client: TcpStream, length: usize) -> String {
    const STREAMS: u32 = 4;
    let mut attacker = Attacker::begin(client, true, &[]);
    for stream in streams(STREAMS) {
        attacker.send(&head(stream, 4, 0x83));
    }
    // As much as the application's window takes: from then on all of it waits.
    attacker.send(&h2(0, 0, 1, &[0; 1 << 14]).repeat(3));
    attacker.send(&h2(0, 0, 1, &[0; (1 << 14) - 1]));
    attacker.press(agent, STREAMS, length)
}

/// Asks an application that answers in small frames, of which the client's window takes none.
fn answers(agent: &Agent, client: TcpStream, application: &TcpListener, length: usize) -> String {
    // The streams of one connection to an endpoint.
    const STREAMS: u32 = 32;
    let mut client = Attacker::begin(client, true, &[0, 4, 0, 0, 0, 0]);
    client.send(&head(1, 5, 0x82));
    let mut attacker = Attacker::begin(application.accept().unwrap().0, false, &[]);
    attacker.hear(Said::Head);
    // Its settings are known: the same connection takes all the others.
    attacker.settle();
    for stream in streams(STREAMS).skip(1) {
        client.send(&head(stream, 5, 0x82));
        attacker.hear(Said::Head);
    }
    for stream in streams(STREAMS) {
        attacker.send(&h2(1, 4, stream, &[0x88]));
        client.hear(Said::Head);
    }
    attacker.press(agent, STREAMS, length)
}

/// A listener of the first version, which takes a connection only when it is asked to.
fn application(suite: &Suite) -> TcpListener {
    let netns = suite.versions[0].netns();
    netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PLAIN))).unwrap().unwrap()
}

fn served(suite: &Suite) {
    let answer = &http::ask(&suite.consumer, To::V1.at(80), &[Ask::get("/status/200")]);
    assert_eq!(answer.as_ref().unwrap()[0].status, 200, "{answer:?}");
}

fn connect(from: &Pod, to: SocketAddr) -> TcpStream {
    from.netns().run(|| TcpStream::connect(to)).unwrap().unwrap()
}

/// Attacks `agent` in both ways, on connections that `connect` makes. Connections to the application may be
/// kept for others: nothing is asked for after both.
fn attacks(arena: &Arena<'_>, suite: &Suite, length: usize, connect: &dyn Fn() -> TcpStream) {
    let application = application(suite);
    let name = format!("answers of {length} bytes a frame that the client does not read");
    arena.attack(&name, Trace::Told, || answers(arena.agent, connect(), &application, length));
    let name = format!("bodies of {length} bytes a frame that the application does not read");
    arena.attack(&name, Trace::Told, || bodies(arena.agent, connect(), length));
}

#[test]
fn small_frames_keep_no_buffers_where_requests_are_judged() {
    let allowed = "{to: [{operation: {methods: [GET, POST]}}]}";
    for length in LENGTHS {
        let suite = Suite::start(&[policy("all", "ALLOW", allowed)]);
        let outside = suite.node.pod("outside").unwrap();
        let other = || served(&suite);
        let bystander = Bystander::between(&suite.a, &suite.b);
        let arena =
            Arena { by: "stranger", agent: &suite.b, serves: &other, bystander: &bystander };
        let connect = || connect(&outside, suite.versions[0].at(PLAIN));
        attacks(&arena, &suite, length, &connect);
    }
}

/// Connects whoever comes to a service, as a process of the pod.
fn relay(pod: &Pod, to: SocketAddr) -> (Script, SocketAddr) {
    let program = format!(
        "import socket, threading
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
def pump(a, b):
    try:
        while data := a.recv(1 << 16):
            b.sendall(data)
    except OSError:
        pass
    for end in (a, b):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
while True:
    near = listener.accept()[0]
    far = socket.create_connection(('{}', {}))
    for ends in ((near, far), (far, near)):
        threading.Thread(target=pump, args=ends, daemon=True).start()
",
        to.ip(),
        to.port()
    );
    let (script, port) = Script::start(pod, &program).unwrap();
    (script, SocketAddr::from((Ipv4Addr::LOCALHOST, port.trim().parse().unwrap())))
}

#[test]
fn small_frames_keep_no_buffers_where_requests_are_routed() {
    let rules = format!("  - backendRefs: [{{name: echo-v1, port: {PLAIN}}}]");
    let parent = format!("name: echo-v1, port: {PLAIN}");
    for length in LENGTHS {
        let suite = Suite::start(&[http::route::http(NAMESPACE, "test", &parent, &rules)]);
        let (_script, relayed) = relay(&suite.client, To::V1.at(PLAIN));
        let other = || served(&suite);
        let bystander = Bystander::between(&suite.a, &suite.b);
        let arena = Arena { by: "pod", agent: &suite.a, serves: &other, bystander: &bystander };
        attacks(&arena, &suite, length, &|| connect(&suite.client, relayed));
    }
}
