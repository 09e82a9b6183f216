//! A unit of a host that runs as root without capabilities, in the namespace that all units share:
//! takes other units' connections from the agent.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use mesh_tests::apps::{Client, Outcome, Server};
use mesh_tests::expect::eventually;
use mesh_tests::netns::Netns;
use mesh_tests::node::Node;
use mesh_tests::pair::pins;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::{Script, run_in};
use nix::sys::signal::{Signal, kill};

use super::{Arena, Bounds, Bystander, Trace};
use crate::bare_metal::{DB, Hosts, Thief, WEB, start_after, start_with};

/// Connections of each kind that an attacker waits for.
const CONNECTIONS: u64 = 200;

fn serves(hosts: &Hosts) {
    assert_eq!(hosts.met(&hosts.unit("web"), hosts.far.at(WEB)), None);
    let [v4, v6] = hosts.host.addresses();
    for ip in [v4, v6] {
        assert_eq!(hosts.met(&hosts.unit("web"), (ip, DB).into()), None);
        assert_eq!(hosts.met(&hosts.unit("job"), (ip, DB).into()).unwrap(), "connect EPERM");
        let outcome = Client::to((ip, DB).into()).echo("x").run(&hosts.far).unwrap();
        assert_eq!(outcome.totals.failed, 0, "{ip}");
    }
}

/// Has the units send and get connections of every kind, and says how many the thief was given.
fn told(hosts: &Hosts, thief: Thief, n_listeners: usize) -> String {
    let netns = hosts.host.netns();
    for to in [hosts.far.at(WEB), hosts.far.at6(WEB)] {
        let client = Client::to(to).echo("x").times(CONNECTIONS, 4);
        let totals = client.run_in(netns, &hosts.unit("web")).unwrap().totals;
        assert_eq!(totals.failed, 0, "{:?}", totals.errors);
    }
    for ip in hosts.host.addresses() {
        // In plaintext, from nobody.
        let client = Client::to((ip, WEB).into()).echo("x").times(CONNECTIONS, 4);
        let totals = client.run_in(netns, hosts.host.cgroup()).unwrap().totals;
        assert_eq!(totals.failed, CONNECTIONS, "{:?}", totals.errors);
    }
    let taken = thief.taken();
    assert_eq!(taken, 0, "at {n_listeners} addresses");
    format!(
        "listens at {n_listeners} addresses, and is given none of {} connections",
        CONNECTIONS * 4
    )
}

#[test]
fn a_unit_does_not_share_the_agents_listeners() {
    let (hosts, ()) = start_after(|_host: &Node| ());
    let _far = Server::echo(&hosts.far, WEB, "far").unwrap();
    let bystander = Bystander::between(&hosts.a, &hosts.b);
    let arena =
        Arena { by: "unit", agent: &hosts.a, serves: &|| serves(&hosts), bystander: &bystander };
    for (name, addresses) in [
        ("to join all that listen on its host, as root", "list(there())"),
        (
            "to listen beside the agent at its ports, as root",
            "ports('127.0.0.1', '127.0.0.9', '::1', '::9', '0.0.0.0', '::')",
        ),
    ] {
        arena.attack(name, Trace::Told, || {
            // In case that it can join nothing.
            let addresses = format!("{addresses} + [('127.0.0.99', 9099)]");
            let mut thief = Thief::start(&hosts.host, &addresses);
            let n_listeners = thief.listens();
            told(&hosts, thief, n_listeners)
        });
    }
}

#[test]
fn a_unit_does_not_keep_others_out_by_the_agents_ports() {
    let addresses = "ports('0.0.0.0', '::')";
    let (hosts, thief) = start_after(|host| {
        let mut thief = Thief::start(host, addresses);
        assert_eq!(thief.listens(), 6);
        thief
    });
    let _far = Server::echo(&hosts.far, WEB, "far").unwrap();
    let bystander = Bystander::between(&hosts.a, &hosts.b);
    let arena =
        Arena { by: "unit", agent: &hosts.a, serves: &|| serves(&hosts), bystander: &bystander };
    let name = "to hold the agent's ports before it starts, as root";
    arena.attack(name, Trace::Told, || told(&hosts, thief, 6));
}

/// Connects without waiting, and leaves by a reset at once, from two processes until it is told to end. A SYN
/// that no queue has room for is sent again after a second at the earliest (RFC 6298, section 2).
const FLOOD: &str = "
import ctypes, os, signal, socket, struct
def flood():
    # PR_SET_PDEATHSIG: it ends with the test.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    n, at_once = 0, struct.pack('ii', 1, 0)
    while True:
        one = socket.socket(FAMILY)
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        one.connect_ex((TO, FIRST + n % PORTS))
        one.close()
        n += 1
children = []
for _ in range(2):
    child = os.fork()
    if child == 0: flood()
    children.append(child)
print('floods', flush=True)
input()
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print('ended', flush=True)
";

/// Connections of a bystander of the same host, one after the other.
const SEQUENTIAL: u64 = 100;

/// Sooner than a SYN is sent again.
const AT_ONCE: Duration = Duration::from_millis(900);

/// The memory that an agent needs for the connections that it takes of a flood, within the share of
/// one workload.
const FLOODED: Bounds =
    Bounds { memory_bytes: 512 << 20, descriptors: 66_000, descriptors_after: 64 };

/// How many connections a queue on the host holds: a flood fills it whatever the machine is.
const QUEUE: &str = "64";

/// Prints how many entries a pinned map has whose keys are of 32 bytes.
const COUNT: &str = "
import ctypes, glob, platform
number = {'x86_64': 321, 'aarch64': 280}[platform.machine()]
libc = ctypes.CDLL(None)
def bpf(command, *words): return libc.syscall(number, command, (ctypes.c_uint64 * 16)(*words), 128)
[path] = [found.encode() for found in glob.glob('PATH')]
path, key, following = (ctypes.create_string_buffer(b) for b in (path, b'K' * 31, b'K' * 31))
# BPF_OBJ_GET, BPF_MAP_GET_NEXT_KEY.
fd, at, count = bpf(7, ctypes.addressof(path)), 0, 0
assert fd >= 0
while bpf(4, fd, at, ctypes.addressof(following)) == 0:
    ctypes.memmove(key, following, 32)
    at, count = ctypes.addressof(key), count + 1
print(count)
";

/// A flood from one address of a namespace and cgroup to so many ports of another.
struct Flood(Script);

impl Flood {
    fn start(netns: &Netns, cgroup: &Path, first: SocketAddr, n_ports: u16) -> Self {
        let program = FLOOD
            .replace("FAMILY", if first.is_ipv4() { "socket.AF_INET" } else { "socket.AF_INET6" })
            .replace("TO", &format!("'{}'", first.ip()))
            .replace("FIRST", &first.port().to_string())
            .replace("PORTS", &n_ports.to_string());
        let (script, said) = Script::start_in(netns, cgroup, &program).unwrap();
        assert_eq!(said, "floods");
        Self(script)
    }

    fn end(mut self) {
        self.0.say("").unwrap();
        assert_eq!(self.0.line().unwrap(), "ended");
    }
}

/// How many SYNs of a namespace met a queue that was full (`ListenOverflows` of `/proc/net/netstat`).
fn overflows(netns: &Netns) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let text = netns.run(read).unwrap();
    let lines: Vec<Vec<_>> = text
        .lines()
        .filter(|line| line.starts_with("TcpExt:"))
        .map(|line| line.split(' ').collect())
        .collect();
    let [names, values] = &lines[..] else { panic!("{text}") };
    let at = names.iter().position(|name| *name == "ListenOverflows").unwrap();
    values[at].parse().unwrap()
}

/// Has others of the same host exchange something while its agent is flooded: all succeed at once. `client`
/// opens the connections.
fn meanwhile(hosts: &Hosts, flood: Flood, client: impl FnOnce() -> Outcome) -> String {
    let before = overflows(hosts.host.netns());
    let outcome = client();
    let n_dropped = overflows(hosts.host.netns()) - before;
    flood.end();
    assert_eq!(outcome.totals.errors.into_keys().next(), None, "{n_dropped} SYNs were dropped");
    assert!(n_dropped > 0, "the flood fills no queue");
    let slowest = outcome.connections.iter().map(|one| Duration::from_micros(one.total_us)).max();
    let slowest = slowest.unwrap();
    assert!(slowest < AT_ONCE, "one took {slowest:?} while {n_dropped} SYNs were dropped");
    format!("of a neighbor's exchanges the slowest takes {slowest:?}, {n_dropped} SYNs are dropped")
}

/// Makes all queues on a host short.
fn shorten(host: &Node) {
    host.netns().sysctl(&[("net/core/somaxconn", QUEUE)]).unwrap();
}

/// Waits until the kernel remembers no more of connections to the agent than are under way.
fn forgotten(hosts: &Hosts) {
    let path = pins(&hosts.host).join("*/ORIGINS").display().to_string();
    let mut last = 0;
    let few = || {
        let said = run_in(hosts.host.netns(), hosts.host.cgroup(), &COUNT.replace("PATH", &path));
        last = said.unwrap().trim().parse().unwrap();
        (last <= 100).then_some(())
    };
    let forgotten = eventually("records to be forgotten", DEADLINE, few);
    forgotten.unwrap_or_else(|error| panic!("{error}: {last} are left"));
}

#[test]
fn a_unit_that_floods_the_agent_keeps_its_neighbors_from_nothing() {
    let (hosts, ()) = start_after(shorten);
    let _far = Server::echo(&hosts.far, WEB, "far").unwrap();
    let bystander = Bystander::between(&hosts.a, &hosts.b);
    let arena =
        Arena { by: "unit", agent: &hosts.a, serves: &|| serves(&hosts), bystander: &bystander };
    let (netns, job, web) = (hosts.host.netns(), hosts.unit("job"), hosts.unit("web"));
    for (family, first, to) in [
        ("IPv4", hosts.far.at(1), hosts.far.at(WEB)),
        ("IPv6", hosts.far.at6(1), hosts.far.at6(WEB)),
    ] {
        let name = format!("connections that are opened and left in a loop, by {family}");
        arena.within(FLOODED).attack(&name, Trace::Told, || {
            let flood = Flood::start(netns, &job, first, 60_000);
            let client = Client::to(to).echo("x").times(SEQUENTIAL, 1);
            let told = meanwhile(&hosts, flood, || client.run_in(netns, &web).unwrap());
            forgotten(&hosts);
            told
        });
    }
}

#[test]
fn a_flood_of_one_units_port_keeps_its_neighbors_from_nothing() {
    let (hosts, ()) = start_with("PERMISSIVE", shorten);
    let bystander = Bystander::between(&hosts.a, &hosts.b);
    let [v4, _] = hosts.host.addresses();
    let [stranger, guest] = ["stranger", "guest"].map(|name| hosts.b.node().pod(name).unwrap());
    let client = Client::to((v4, WEB).into()).echo("x");
    let served = || assert_eq!(client.run(&guest).unwrap().totals.failed, 0);
    let arena = Arena { by: "stranger", agent: &hosts.a, serves: &served, bystander: &bystander };
    let name = "connections in plaintext to one unit that are opened and left in a loop";
    arena.within(FLOODED).attack(name, Trace::Told, || {
        let flood = Flood::start(stranger.netns(), stranger.cgroup(), (v4, DB).into(), 1);
        let client = client.clone().times(SEQUENTIAL, 1);
        meanwhile(&hosts, flood, || client.run(&guest).unwrap())
    });
}

/// Connects from a port of its own choice each time that it is told to, says how that went, and what it is
/// sent; or, if it `LEAVES`, sends something itself and resets the connection at once.
const FROM_ONE_PORT: &str = "
import socket, struct, sys
print('begins', flush=True)
for line in sys.stdin:
    one = socket.socket(FAMILY)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    one.bind(('', 45678))
    failed = one.connect_ex((TO, PORT))
    if LEAVES and not failed: one.send(b'in the name of another')
    if LEAVES: one.close()
    print(failed, flush=True)
    if LEAVES or failed: continue
    try: print('served' if one.recv(100) else 'ended', flush=True)
    except OSError as error: print(error, flush=True)
    one.close()
";

#[test]
fn a_unit_does_not_get_what_the_kernel_has_noted_of_its_neighbor() {
    let (hosts, ()) = start_after(|_host: &Node| ());
    let _far = Server::echo(&hosts.far, WEB, "far").unwrap();
    let bystander = Bystander::between(&hosts.a, &hosts.b);
    let arena =
        Arena { by: "unit", agent: &hosts.a, serves: &|| serves(&hosts), bystander: &bystander };
    let start = |unit: &str, to: SocketAddr, leaves: &str| {
        let program = FROM_ONE_PORT
            .replace("FAMILY", if to.is_ipv4() { "socket.AF_INET" } else { "socket.AF_INET6" })
            .replace("TO", &format!("'{}'", to.ip()))
            .replace("PORT", &to.port().to_string())
            .replace("LEAVES", leaves);
        Script::start_in(hosts.host.netns(), &hosts.unit(unit), &program).unwrap().0
    };
    for (family, to) in [("IPv4", hosts.far.at(WEB)), ("IPv6", hosts.far.at6(WEB))] {
        let (mut job, mut web) = (start("job", to, "True"), start("web", to, "False"));
        let connect = |script: &mut Script| {
            script.say("").unwrap();
            script.line().unwrap() == "0"
        };
        let name = format!("a connection from the port of a neighbor's that is left, by {family}");
        arena.attack(&name, Trace::Told, || {
            // Both wait to be accepted. An agent that waits for longer than a moment is not connected to.
            let both = || {
                kill(hosts.a.pid(), Signal::SIGSTOP).unwrap();
                let opened = connect(&mut job);
                let both = connect(&mut web);
                kill(hosts.a.pid(), Signal::SIGCONT).unwrap();
                let met = both.then(|| web.line().unwrap());
                met.filter(|_| opened)
            };
            let met = eventually("both to connect", DEADLINE, both).unwrap();
            assert_eq!(met, "served");
            met
        });
    }
}
