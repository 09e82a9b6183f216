//! A malicious pod: runs in a workload's namespace and cgroup, without privileges over the node.

use std::fs;
use std::net::SocketAddr;

use mesh_tests::apps::{Client, Server};
use mesh_tests::fixture::{Machines, TRUST_DOMAIN, World, service};
use mesh_tests::mesh::{AuthorizationPolicy, MeshPolicy, Rule};
use mesh_tests::pod::Pod;
use mesh_tests::script::{Script, run_in};

use super::{Arena, Bystander, Trace};

/// The error that a connection meets; `None`: an answer.
pub(super) fn error(from: &Pod, to: SocketAddr) -> Option<String> {
    Client::to(to).echo("x").run(from).unwrap().totals.errors.into_keys().next()
}

pub(super) fn serves(world: &World) {
    assert_eq!(error(world.client(), service(0)), None);
}

/// Runs a program of Python in a pod, as one of its processes.
pub(super) fn python(pod: &Pod, program: &str) -> String {
    run_in(pod.netns(), pod.cgroup(), program).unwrap()
}

/// Everybody demands mutual TLS, `v1` takes nobody on its node, and nothing else is reached.
fn world() -> (World, Vec<Server>) {
    let machines = Machines::new(2).unwrap();
    let strict = MeshPolicy::new("strict").mtls("STRICT");
    let guests = format!("{TRUST_DOMAIN}/ns/demo/sa/client");
    let only = AuthorizationPolicy::allow("guests").select("version", "v1");
    let only = only.rule(Rule::default().principals(&[&guests]));
    let mesh = machines.mesh().policy(&strict).authorization(&only);
    let world = machines.start(&mesh).unwrap();
    let servers = world.serve().unwrap();
    (world, servers)
}

#[test]
fn a_pod_does_not_get_around_the_mesh() {
    let (world, _servers) = world();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let outside = world.on.b.pod("outside").unwrap();
    let bystander = Bystander::between(&world.a, &world.b);
    let arena =
        Arena { by: "pod", agent: &world.b, serves: &|| serves(&world), bystander: &bystander };
    for (name, to) in [
        ("plaintext from outside of the mesh, by IPv4", v1.at(8080)),
        ("plaintext from outside of the mesh, by IPv6", v1.at6(8080)),
    ] {
        arena.attack(name, Trace::Access(&["plaintext", "demo/strict"]), || {
            assert!(error(&outside, to).is_some());
        });
    }
    let name = "a neighbor that no policy allows, by its address";
    arena.attack(name, Trace::Access(&["denied", "demo/guests"]), || {
        assert!(error(v2, v1.at(8080)).unwrap().ends_with(" EPERM"));
    });
    let name = "the same by the service, which picks the neighbor";
    arena.attack(name, Trace::Access(&["denied", "demo/guests"]), || {
        let mut to = service(0);
        to.set_ip(mesh_tests::fixture::vip4(1).into());
        assert!(error(v2, to).unwrap().ends_with(" EPERM"));
    });
    let name = "the same by MPTCP";
    arena.attack(name, Trace::Access(&["denied", "demo/guests"]), || {
        let program = format!(
            "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
             print(s.connect_ex(('{}', 8080)))\n",
            v1.v4()
        );
        assert_eq!(python(v2, &program).trim(), "1");
    });
    let name = "a listener of the agent in its own namespace, asked directly";
    arena.attack(name, Trace::Access(&["no_origin"]), || {
        let met = python(
            v2,
            "import socket\n\
             try:\n s = socket.create_connection(('127.0.0.1', 15001), 10)\n \
             s.sendall(b'hello')\n print('got', s.recv(100))\n\
             except OSError as e:\n print('refused', e.errno)\n",
        );
        assert!(met.contains("refused") || met.contains("got b''"), "{met}");
    });
}

/// Connects one socket to the port of a probe first, and then to one that has none. The first
/// connection fails, or is undone: `connect()` to `AF_UNSPEC`, connect(2).
const SECOND: &str = "
import ctypes, socket
family, to, first, second = FAMILY, 'ADDRESS', FIRST, SECOND
s = socket.socket(family)
s.settimeout(10)
s.connect_ex((to, first))
try: print('probe', s.recv(1), end=' ')
except OSError as error: print('probe', error.errno, end=' ')
ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16)
try:
    s.connect((to, second))
    s.sendall(b'x')
    print('got', s.recv(100))
except OSError as error:
    print('refused', error.errno)
";

#[test]
fn a_process_of_the_node_does_not_get_in_by_a_probe() {
    let machines = Machines::new(2).unwrap();
    let strict = MeshPolicy::new("strict").mtls("STRICT");
    let mesh = machines.mesh_of(|version, workload| match version {
        1 => workload.probe(8080).probe(8079),
        _ => workload,
    });
    let mesh = mesh.policy(&strict);
    let world = machines.start(&mesh).unwrap();
    let _servers = world.serve().unwrap();
    let _other = Server::echo(world.v1(), 8081, "v1").unwrap();
    let node = &world.on.b;
    let process = node.cgroup().join("process");
    fs::create_dir(&process).unwrap();
    let bystander = Bystander::between(&world.a, &world.b);
    let arena = Arena {
        by: "process of the node",
        agent: &world.b,
        serves: &|| serves(&world),
        bystander: &bystander,
    };
    let to = [("AF_INET", world.v1().v4().to_string()), ("AF_INET6", world.v1().v6().to_string())];
    for (family, to) in &to {
        let firsts =
            [("was a probe's", 8080, "probe b'{"), ("failed as a probe's", 8079, "probe b''")];
        for (what, first, expect) in firsts {
            let name = format!("a socket that {what} before, by {family}");
            let program = SECOND
                .replace("FAMILY", &format!("socket.{family}"))
                .replace("ADDRESS", to)
                .replace("FIRST", &first.to_string())
                .replace("SECOND", "8081");
            arena.attack(&name, Trace::Access(&["plaintext", "demo/strict"]), || {
                let met = run_in(node.netns(), &process, &program).unwrap();
                assert!(met.starts_with(expect) && met.contains(" refused "), "{name}: {met}");
            });
        }
    }
}

/// Connects from a port, reads what comes, and is gone without a trace: the port is free at once.
const FROM_PORT: &str = "
import socket, struct
s = socket.socket(socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
s.settimeout(10)
s.bind(('0.0.0.0', 20007))
try:
    s.connect(('ADDRESS', 8080))
    s.sendall(b'x')
    print('got', s.recv(100))
except OSError as error:
    print('refused', error.errno)
s.close()
";

/// Traffic that is translated to the node's address has no socket that the kernel's programs see.
#[test]
fn a_probes_address_and_port_let_nobody_in_when_it_has_ended() {
    let machines = Machines::new(2).unwrap();
    let strict = MeshPolicy::new("strict").mtls("STRICT");
    let mesh = machines.mesh_of(|version, workload| match version {
        1 => workload.probe(8080),
        _ => workload,
    });
    let world = machines.start(&mesh.policy(&strict)).unwrap();
    let _servers = world.serve().unwrap();
    let node = &world.on.b;
    let process = node.cgroup().join("process");
    fs::create_dir(&process).unwrap();
    let unseen = node.cgroup().parent().unwrap();
    let program = FROM_PORT.replace("ADDRESS", &world.v1().v4().to_string());
    let bystander = Bystander::between(&world.a, &world.b);
    let arena = Arena {
        by: "process of the node",
        agent: &world.b,
        serves: &|| serves(&world),
        bystander: &bystander,
    };
    let name = "the address and port of a probe that has ended";
    arena.attack(name, Trace::Access(&["plaintext", "demo/strict"]), || {
        let met = run_in(node.netns(), &process, &program).unwrap();
        assert!(met.starts_with("got b'"), "the probe: {met}");
        let met = run_in(node.netns(), unseen, &program).unwrap();
        assert!(met.starts_with("refused"), "{met}");
    });
}

/// Keeps a connection open, and says when an answer is not the echo.
const VICTIM: &str = "
import socket, sys
s = socket.create_connection(('SERVER', 8080), 10)
s.recv(1000)
print(s.getsockname()[1], flush=True)
sys.stdin.readline()
for n in range(100):
    secret = b'secret %03d' % n
    s.sendall(secret)
    got = b''
    while len(got) < len(secret): got += s.recv(len(secret) - len(got)) or sys.exit('the end')
    if got != secret: sys.exit(got)
print('all is well', flush=True)
";

/// Has the addresses of both ends in a namespace of its own, and a connection between them.
const DOUBLE: &str = "
import socket, subprocess, sys
# Nobody else is to ask it for the addresses.
subprocess.run(['ip', 'link', 'set', 'eth0', 'down'], check=True)
for address in ('SERVER', 'CLIENT'):
    subprocess.run(['ip', 'address', 'add', address + '/32', 'dev', 'lo'], check=True)
listener = socket.socket()
listener.bind(('SERVER', 8080)); listener.listen()
opening = socket.socket()
opening.bind(('CLIENT', PORT)); opening.connect(('SERVER', 8080))
accepted, _ = listener.accept()
print('ready', flush=True)
sys.stdin.readline()
for s in (opening, accepted):
    s.setblocking(False)
    try: print('got', s.recv(1000), flush=True)
    except BlockingIOError: print('nothing', flush=True)
";

#[test]
fn a_pod_with_the_addresses_of_others_is_not_given_their_bytes() {
    let machines = Machines::new(2).unwrap();
    let short = MeshPolicy::new("short").acceleration("sockmap").mtls("STRICT");
    let mesh = machines.mesh().policy(&short);
    let world = machines.start(&mesh).unwrap();
    let _servers = world.serve().unwrap();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let outside = world.on.b.pod("outside").unwrap();
    let bystander = Bystander::between(&world.a, &world.b);
    let arena =
        Arena { by: "pod", agent: &world.b, serves: &|| serves(&world), bystander: &bystander };
    let server = v1.v4().to_string();
    arena.attack("the addresses of an accelerated connection", Trace::Told, || {
        let victim = VICTIM.replace("SERVER", &server);
        let (mut victim, port) = Script::start(v2, &victim).unwrap();
        let double = DOUBLE.replace("SERVER", &server).replace("PORT", &port);
        let double = double.replace("CLIENT", &v2.v4().to_string());
        let (mut thief, ready) = Script::start(&outside, &double).unwrap();
        assert_eq!(ready, "ready");
        victim.say("").unwrap();
        assert_eq!(victim.line().unwrap(), "all is well");
        thief.say("").unwrap();
        let stolen = [thief.line().unwrap(), thief.line().unwrap()];
        assert_eq!(stolen, ["nothing", "nothing"]);
        "100 messages went to their reader, and none to the other".to_owned()
    });
}

#[test]
fn a_pod_does_not_get_out_of_the_mesh() {
    let (world, _servers) = world();
    let outside = world.on.b.pod("outside").unwrap();
    let _outside = Server::echo(&outside, 8080, "outside").unwrap();
    let egress = "apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\n\
                  metadata: {name: egress, namespace: demo}\nspec: {egress: registry-only}\n";
    world.config.write_file("egress.yaml", egress).unwrap();
    mesh_tests::expect::eventually("the rule", mesh_tests::process::DEADLINE, || {
        error(world.client(), outside.at(8080)).filter(|met| met.ends_with(" EPERM"))
    })
    .unwrap();
    let bystander = Bystander::between(&world.a, &world.b);
    let arena =
        Arena { by: "pod", agent: &world.a, serves: &|| serves(&world), bystander: &bystander };
    for (name, to) in [
        ("a destination that is not registered, by IPv4", outside.at(8080)),
        ("a destination that is not registered, by IPv6", outside.at6(8080)),
    ] {
        arena.attack(name, Trace::Access(&["egress", "no ServiceEntry"]), || {
            assert!(error(world.client(), to).unwrap().ends_with(" EPERM"));
        });
    }
    let name = "a destination that is not registered, by a socket that does not wait";
    arena.attack(name, Trace::Access(&["egress", "no ServiceEntry"]), || {
        let program = format!(
            "import socket\ns = socket.socket()\ns.setblocking(False)\n\
             print(s.connect_ex(('{}', 8080)))\n",
            outside.v4()
        );
        assert_eq!(python(world.client(), &program).trim(), "1");
    });
}
