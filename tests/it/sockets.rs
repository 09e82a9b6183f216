//! Sockets that are not made by a plain `connect(2)` or `listen(2)`: same bytes, same failures, same policies.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use mesh_tests::apps::{Client, Server};
use mesh_tests::fixture::{Machines, World, service, service6, vip6};
use mesh_tests::mesh::{AuthorizationPolicy, MeshPolicy, Rule};
use mesh_tests::netns::Netns;
use mesh_tests::pod::Pod;
use mesh_tests::script::{Script, run_in};
use serde_json::Value;

use crate::bare_metal;

/// Ways to connect, see `clients/sockets.py`: TCP fast open by `sendto(2)` and by an option of the socket,
/// MPTCP, `io_uring` with and without a thread of the kernel that submits, and a bound device.
const KINDS: [&str; 8] =
    ["plain", "sendto", "deferred", "mptcp", "mptcp+sendto", "uring", "polled", "device:eth0"];

/// The result of a connection of `kind` at an address.
fn met_in(netns: &Netns, cgroup: &Path, kind: &str, to: SocketAddr) -> Value {
    const CLIENT: &str = include_str!("../clients/sockets.py");
    let (ip, port) = (to.ip(), to.port());
    let program = format!("KIND, HOST, PORT = '{kind}', '{ip}', {port}\n{CLIENT}");
    serde_json::from_str(&run_in(netns, cgroup, &program).unwrap()).unwrap()
}

fn met(pod: &Pod, kind: &str, to: SocketAddr) -> Value {
    met_in(pod.netns(), pod.cgroup(), kind, to)
}

/// A server in `pod` that says `name`.
fn listen(pod: &Pod, kind: &str, at: SocketAddr, name: &str) -> Script {
    const SERVER: &str = include_str!("../clients/listeners.py");
    let (ip, port) = (at.ip(), at.port());
    let names = "KIND, HOST, PORT, NAME";
    let program = format!("{names} = '{kind}', '{ip}', {port}, '{name}'\n{SERVER}");
    let (script, said) = Script::start(pod, &program).unwrap();
    assert_eq!(said, "listens");
    script
}

/// Checks that a connection from `from` to `to` went well, and that both ends see each other.
#[track_caller]
fn check(seen: &Value, what: &str, from: IpAddr, to: SocketAddr) {
    assert_eq!((&seen["error"], &seen["echoed"]), (&Value::Null, &true.into()), "{what}: {seen}");
    let at = |address: &Value| address.as_str().unwrap().parse::<SocketAddr>().unwrap();
    assert_eq!(at(&seen["local"]).ip(), from, "{what}: {seen}");
    assert_eq!(at(&seen["peer"]), to, "{what}: {seen}");
    assert_eq!(at(&seen["banner"]["peername"]).ip().to_canonical(), from, "{what}: {seen}");
}

/// TCP fast open is used where both ends may.
fn fast(pods: &[&Pod]) {
    for pod in pods {
        pod.netns().sysctl(&[("net/ipv4/tcp_fastopen", "3")]).unwrap();
    }
}

#[test]
fn every_kind_of_socket_connects_as_a_plain_one() {
    let world = World::start(2).unwrap();
    let _servers = world.serve().unwrap();
    let (client, v1, v2) = (world.client(), world.v1(), &world.on.versions[1]);
    fast(&[client, v1, v2]);
    for (from, to) in [
        (client, service(0)),
        (client, service6(0)),
        (client, v1.at(8080)),
        (client, v1.at6(8080)),
        (v1, v2.at(8080)),
        (v1, v2.at6(8080)),
    ] {
        let own = if to.is_ipv4() { from.at(0) } else { from.at6(0) };
        for kind in KINDS {
            check(&met(from, kind, to), &format!("{kind} to {to}"), own.ip(), to);
        }
    }
}

#[test]
fn every_kind_of_listener_is_reached() {
    let world = World::start(2).unwrap();
    let (client, v1, v2) = (world.client(), world.v1(), &world.on.versions[1]);
    let outside = world.on.b.pod("outside").unwrap();
    fast(&[client, v1, v2]);
    let any = |port| [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
    let kinds = ["mptcp", "fast", "device"];
    let mut listeners = Vec::new();
    for (port, kind) in (8081..).zip(kinds) {
        let [any4, any6] = any(port).map(|at| at.parse().unwrap());
        listeners.push(listen(v1, kind, any4, "v1"));
        listeners.push(listen(v1, &format!("{kind}+only6"), any6, "v1"));
    }
    // From another node by a tunnel, straight from a neighbor, and in plaintext.
    for from in [client, v2, &outside] {
        for (port, kind) in (8081..).zip(kinds) {
            for (own, to) in [(from.at(0), v1.at(port)), (from.at6(0), v1.at6(port))] {
                for by in ["plain", "sendto", "mptcp"] {
                    let what = format!("{by} from {} to {kind} {to}", from.name());
                    check(&met(from, by, to), &what, own.ip(), to);
                }
            }
        }
    }
}

#[test]
fn urgent_bytes_stay_in_their_place() {
    let world = World::start(2).unwrap();
    let (client, v1, v2) = (world.client(), world.v1(), &world.on.versions[1]);
    let outside = world.on.b.pod("outside").unwrap();
    let [any4, any6] = ["0.0.0.0:8080", "[::]:8080"].map(|at| at.parse().unwrap());
    let _listeners = [listen(v1, "urgent", any4, "v1"), listen(v1, "urgent+only6", any6, "v1")];
    // By a tunnel, straight from a neighbor, and in plaintext.
    for from in [client, v2, &outside] {
        for to in [v1.at(8080), v1.at6(8080)] {
            let what = format!("from {} to {to}", from.name());
            check(&met(from, "urgent", to), &what, own(from, to), to);
        }
    }
}

#[test]
fn no_kind_of_socket_gets_around_a_policy() {
    let machines = Machines::new(2).unwrap();
    let nobody = AuthorizationPolicy::allow("nobody").select("version", "v2");
    let mesh = machines.mesh().authorization(&nobody.rule(Rule::default().namespaces(&["none"])));
    let world = machines.start(&mesh).unwrap();
    let _servers = world.serve().unwrap();
    let (client, v1, v2) = (world.client(), world.v1(), &world.on.versions[1]);
    fast(&[client, v1, v2]);
    for kind in KINDS {
        for to in [v2.at(8080), v2.at6(8080)] {
            assert_eq!(met(v1, kind, to)["error"], "EPERM", "{kind} to {to}");
            let error = &met(client, kind, to)["error"];
            assert!(error == "ECONNRESET" || error == "EPIPE", "{kind} to {to}: {error}");
        }
        let mut absent = service(0);
        absent.set_port(7);
        assert_eq!(met(client, kind, absent)["error"], "ECONNREFUSED", "{kind}");
    }
}

#[test]
fn no_kind_of_socket_of_a_unit_gets_around_a_policy() {
    let (hosts, ()) = bare_metal::start_after(|_host| ());
    let [v4, v6] = hosts.host.addresses();
    let to = [v4, v6, "127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    for to in to.map(|ip| SocketAddr::new(ip, bare_metal::DB)) {
        for kind in KINDS.into_iter().filter(|kind| !kind.starts_with("device")) {
            let met = |unit: &str| met_in(hosts.host.netns(), &hosts.unit(unit), kind, to);
            assert_eq!(met("job")["error"], "EPERM", "{kind} to {to}");
            assert_eq!(met("web")["error"], Value::Null, "{kind} to {to}");
        }
    }
}

#[test]
fn a_unit_may_bind_a_socket_to_the_hosts_device() {
    let (hosts, ()) = bare_metal::start_after(|_host| ());
    let _far = Server::echo(&hosts.far, 8080, "far").unwrap();
    let unit = hosts.unit("web");
    let met = |kind, to| met_in(hosts.host.netns(), &unit, kind, to);
    let [v4, v6] = hosts.host.addresses();
    for (own, to) in [(v4, hosts.far.at(8080)), (v6, hosts.far.at6(8080))] {
        check(&met("device:up0", to), "the device of its addresses", own, to);
        assert_eq!(met("device:br0", to)["error"], "EPERM", "the other device");
    }
}

#[test]
fn a_socket_of_a_device_without_the_agent_fails_at_once() {
    let machines = Machines::new(1).unwrap();
    let mesh = machines.mesh().policy(&MeshPolicy::new("strict").mtls("STRICT"));
    let world = machines.start(&mesh).unwrap();
    let (client, _servers) = (world.client(), world.serve().unwrap());
    client
        .netns()
        .ip("link add other type veth peer name end\nlink set other up\nlink set end up\n\
             addr add 10.77.0.1/24 dev other\n")
        .unwrap();
    for to in [service(0), service6(0)] {
        let seen = met(client, "device:other", to);
        assert_eq!(seen["error"], "EPERM", "{to}: {seen}");
        check(&met(client, "device:eth0", to), "the device", own(client, to), to);
    }
    let told = world.a.logged("the refusal", |line| line["failure"] == "no_agent").unwrap();
    assert!(told.to_string().contains("SO_BINDTODEVICE"), "{told}");
    assert_eq!(told["source_workload"], "client");
}

/// The pod's address of the family of `to`.
fn own(pod: &Pod, to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { pod.v4().into() } else { pod.v6().into() }
}

#[test]
fn processes_that_share_a_port_share_its_connections() {
    let world = World::start(2).unwrap();
    let (client, v1, v2) = (world.client(), world.v1(), &world.on.versions[1]);
    let outside = world.on.b.pod("outside").unwrap();
    let at = "[::]:8080".parse().unwrap();
    let names = ["first", "second", "third"];
    let _servers = names.map(|name| listen(v1, "shared", at, name));
    for from in [client, v2, &outside] {
        for to in [v1.at(8080), v1.at6(8080)] {
            let many = Client::to(to).echo("x").times(60, 4).run(from).unwrap();
            assert_eq!(many.totals.failed, 0, "{:?}", many.totals.errors);
            // By chance, one of them has none of 60 once in ten billion times.
            let met: BTreeSet<_> = many.versions().keys().map(String::as_str).collect();
            assert_eq!(met, names.into(), "from {} to {to}", from.name());
        }
    }
}

#[test]
fn a_listener_on_one_address_is_reached_there_only() {
    let world = World::start(2).unwrap();
    let (client, v1, v2) = (world.client(), world.v1(), &world.on.versions[1]);
    let outside = world.on.b.pod("outside").unwrap();
    let loopback = ["127.0.0.1:8081", "[::1]:8081"].map(|at| at.parse().unwrap());
    let any6 = "[::]:8084".parse().unwrap();
    let _servers = [
        listen(v1, "", v1.at(8080), "own4"),
        listen(v1, "", loopback[0], "loopback4"),
        listen(v1, "", loopback[1], "loopback6"),
        listen(v1, "", v1.at6(8083), "own6"),
        listen(v1, "only6", any6, "only6"),
    ];
    for from in [client, v2, &outside] {
        for (to, name) in [
            (v1.at(8080), Some("own4")),
            (v1.at6(8080), None),
            (v1.at(8081), None),
            (v1.at6(8081), None),
            (v1.at(8083), None),
            (v1.at6(8083), Some("own6")),
            (v1.at(8084), None),
            (v1.at6(8084), Some("only6")),
        ] {
            let what = format!("from {} to {to}", from.name());
            let seen = met(from, "plain", to);
            match name {
                Some(name) => {
                    check(&seen, &what, own(from, to), to);
                    assert_eq!(seen["banner"]["version"], name, "{what}");
                    assert_eq!(seen["banner"]["local"], to.to_string(), "{what}");
                }
                None => assert!(
                    seen["error"] == "ECONNREFUSED" || seen["error"] == "ECONNRESET",
                    "{what}: {seen}"
                ),
            }
        }
    }
    // By themselves they are reached as without a mesh.
    for (to, name) in loopback.into_iter().zip(["loopback4", "loopback6"]) {
        assert_eq!(met(v1, "plain", to)["banner"]["version"], name);
    }
}

#[test]
fn an_application_that_listens_at_privileged_ports_of_loopback_keeps_its_connections() {
    let world = World::start(1).unwrap();
    let _server = Server::echo(world.v1(), 8080, "v1").unwrap();
    let client = world.client();
    // All ports that connections to the agent by IPv6 may go to.
    let program = "import socket, sys
all = []
for port in range(1, 1024):
    one = socket.socket(socket.AF_INET6)
    one.bind(('::1', port)); one.listen(10)
    all.append(one)
print('listens', flush=True)
sys.stdin.readline()
def count(one):
    one.setblocking(False)
    try: one.accept()
    except BlockingIOError: return 0
    return 1
print(sum(map(count, all)), flush=True)
";
    let (mut script, _listens) = Script::start(client, program).unwrap();
    let mut to = service6(0);
    to.set_ip(vip6(1).into());
    for _ in 0..5 {
        check(&met(client, "plain", to), "the service", client.v6().into(), to);
    }
    let own = "[::1]:80".parse().unwrap();
    assert_eq!(Client::to(own).arg("--end").arg("leave").run(client).unwrap().totals.failed, 0);
    script.say("").unwrap();
    assert_eq!(script.line().unwrap(), "1", "its own connection, and none of the mesh's");
}
