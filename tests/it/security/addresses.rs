//! A workload of the node that misuses addresses and sockets: opens the way past a policy for a stranger, or
//! has connections reported that never were.

use std::net::IpAddr;

use mesh_tests::apps::Client;
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{Machines, TRUST_DOMAIN, World};
use mesh_tests::mesh::{AuthorizationPolicy, MeshPolicy, Rule, Workload};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::{self, Script};

/// Where `v1` listens.
const PORT: u16 = 8080;

/// Two pods beside `v1`, which demands mutual TLS: the first is the only one that may connect to it, the
/// second is not of the mesh.
fn world() -> (World, Pod, Pod) {
    let machines = Machines::new(1).unwrap();
    let [beside, stranger] = ["beside", "stranger"].map(|name| machines.b.pod(name).unwrap());
    let principal = format!("{TRUST_DOMAIN}/ns/demo/sa/beside");
    let only = AuthorizationPolicy::allow("only").select("app", "echo");
    let mesh = machines
        .mesh()
        .workload(&Workload::of(&beside).account("beside"))
        .policy(&MeshPolicy::new("mode").mtls("STRICT"))
        .authorization(&only.rule(Rule::default().principals(&[&principal])));
    (machines.start(&mesh).unwrap(), beside, stranger)
}

/// A socket that is bound to an address which need not be of its namespace. Begins to connect, and stays.
fn bound_to(from: (IpAddr, u16), to: IpAddr) -> String {
    // `IPV6_FREEBIND`, and `IP_TRANSPARENT`.
    let (family, level, option) =
        if to.is_ipv4() { ("AF_INET", 0, 19) } else { ("AF_INET6", 41, 78) };
    format!(
        "
import socket
s = socket.socket(socket.{family})
s.setsockopt({level}, {option}, 1)
s.bind(('{}', {}))
s.setblocking(False)
print(s.connect_ex(('{to}', {PORT})), flush=True)
input()
",
        from.0, from.1
    )
}

/// The result of a client that connects from an address and port of its own.
fn met(pod: &Pod, from: (IpAddr, u16), to: IpAddr) -> String {
    let family = if to.is_ipv4() { "AF_INET" } else { "AF_INET6" };
    let program = format!(
        "
import socket
s = socket.socket(socket.{family})
s.settimeout(5)
s.bind(('{}', {}))
try:
    s.connect(('{to}', {PORT}))
    s.sendall(b'hello')
    print('answered' if s.recv(100) else 'ended')
except OSError as error:
    print(type(error).__name__)
",
        from.0, from.1
    );
    script::run_in(pod.netns(), pod.cgroup(), &program).unwrap().trim().to_owned()
}

#[test]
fn a_stranger_does_not_use_the_permission_of_a_socket_with_its_address() {
    let (world, beside, stranger) = world();
    let _servers = world.serve().unwrap();
    let v1 = &world.on.versions[0];
    let ways: [(IpAddr, IpAddr); 2] =
        [(stranger.v6().into(), v1.v6().into()), (stranger.v4().into(), v1.v4().into())];
    for (port, (own, to)) in (20_001..).zip(ways) {
        assert_eq!(met(&stranger, (own, port), to), "ConnectionResetError", "by itself");
        let program = bound_to((own, port + 10), to);
        let (_open, began) = Script::start(&beside, &program).unwrap();
        assert_eq!(began, "115", "EINPROGRESS: it waits for its answer");
        assert_eq!(met(&stranger, (own, port + 10), to), "ConnectionResetError", "{to}");
        // From its own address it may.
        let own: IpAddr = if to.is_ipv4() { beside.v4().into() } else { beside.v6().into() };
        assert_eq!(met(&beside, (own, port), to), "answered");
        assert_eq!(Client::to((to, PORT).into()).echo("x").run(&beside).unwrap().totals.failed, 0);
    }
}

#[test]
fn ends_of_connections_that_never_were_are_not_reported() {
    let (world, beside, _stranger) = world();
    let _servers = world.serve().unwrap();
    let v1 = &world.on.versions[0];
    // `connect()` to `AF_UNSPEC` undoes the first one.
    let program = format!(
        "
import ctypes, errno, socket
s = socket.create_connection(('{}', {PORT}))
assert ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16) == 0
for _ in range(100):
    try:
        s.listen(1)
    except OSError as error:
        # Some kernels let nobody listen with a socket that was connected before.
        assert error.errno == errno.EINVAL, error
        break
    s.shutdown(socket.SHUT_RD)
",
        v1.v4()
    );
    script::run_in(beside.netns(), beside.cgroup(), &program).unwrap();
    assert_eq!(Client::to(v1.at(PORT)).echo("x").run(&beside).unwrap().totals.failed, 0);
    let lines = || {
        let lines = world.b.access_log().ok()?;
        let is_its = |line: &&serde_json::Value| {
            line["reporter"] == "source" && line["source_workload"] == "beside"
        };
        let count = lines.iter().filter(is_its).count();
        (count >= 2).then_some(count)
    };
    assert_eq!(eventually("the lines of both connections", DEADLINE, lines).unwrap(), 2);
}
