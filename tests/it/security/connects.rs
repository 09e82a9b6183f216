//! A malicious pod that connects in a loop to whatever refuses it: each flood is summed, so that it
//! costs no event and no line of another workload, and its own log has a bound.

use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::agent::Agent;
use mesh_tests::apps::Server;
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{Machines, TRUST_DOMAIN, World, vip4};
use mesh_tests::mesh::{AuthorizationPolicy, MeshPolicy, Rule, Service};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::pods::{error, python, serves};
use super::{Arena, Bystander, Trace};

/// Connections of each flood.
const FLOOD: usize = 100_000;

/// Connections of the other workload, while the flood goes on.
const OTHERS: usize = 50;

/// Lines in a second of one workload, beyond a burst, of connections that the kernel refuses: events,
/// and sums by destination and without.
const LINES_PER_SECOND: usize = 20 + 8 + 8;

/// Lines at once.
const BURST: usize = 100;

/// Connects in a loop, from so many processes, and prints how often that was refused.
const PROGRAM: &str = r"
import errno, os, random, socket, sys
REFUSALS = (errno.EPERM, errno.ECONNREFUSED)
def flood(count):
    refused = 0
    for n in range(count):
        s = socket.socket(FAMILY, KIND, PROTOCOL)
        s.setblocking(BLOCKING)
        refused += s.connect_ex(TO(n)) in REFUSALS
        s.close()
    return refused
ends = []
for _ in range(PROCESSES):
    end, own = os.pipe()
    if os.fork() == 0:
        os.write(own, b'%d' % flood(COUNT // PROCESSES))
        os._exit(0)
    os.close(own)
    ends.append(end)
print(sum(int(os.read(end, 20)) for end in ends))
";

/// One flood.
#[derive(Clone, Copy)]
struct Flood<'a> {
    family: &'a str,
    kind: &'a str,
    protocol: u32,
    blocks: bool,
    processes: usize,
    count: usize,
    /// An address of Python, for connection `n`.
    to: &'a str,
}

impl Default for Flood<'_> {
    fn default() -> Self {
        Self {
            family: "socket.AF_INET",
            kind: "socket.SOCK_STREAM",
            protocol: 0,
            blocks: true,
            processes: 1,
            count: FLOOD,
            to: "",
        }
    }
}

impl Flood<'_> {
    /// Runs it in `pod`; returns how many connections were refused.
    fn run(&self, pod: &Pod) -> usize {
        let program = PROGRAM
            .replace("FAMILY", self.family)
            .replace("KIND", self.kind)
            .replace("PROTOCOL", &self.protocol.to_string())
            .replace("BLOCKING", if self.blocks { "True" } else { "False" })
            .replace("PROCESSES", &self.processes.to_string())
            .replace("COUNT", &self.count.to_string())
            .replace("TO(n)", self.to);
        python(pod, &program).trim().parse().unwrap()
    }
}

/// `v1` takes the client alone; `v2` floods, and `v3` is another workload of the same node.
fn world(policy: &MeshPolicy) -> (World, Vec<Server>) {
    let machines = Machines::new(3).unwrap();
    let client = format!("{TRUST_DOMAIN}/ns/demo/sa/client");
    let only = AuthorizationPolicy::allow("guests").select("version", "v1");
    let only = only.rule(Rule::default().principals(&[&client]));
    let nobody = Service::new("nobody").at(vip4(9)).port(80, 8080).select("app", "nobody");
    let mesh = machines.mesh().authorization(&only).service(&nobody).policy(policy);
    let world = machines.start(&mesh).unwrap();
    let servers = world.serve().unwrap();
    for pod in &world.on.versions[1..] {
        let denied = error(pod, world.v1().at(8080)).unwrap();
        assert!(denied.ends_with(" EPERM"), "{denied}");
        eventually("the first denial to be told", DEADLINE, || {
            (Told::of(&world.b, pod, "denied") == Told::each(1)).then_some(())
        })
        .unwrap();
    }
    (world, servers)
}

/// Connections that a pod opened and that failed in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    /// As the metrics count them.
    counted: usize,
    /// As the lines of the access log add up.
    logged: usize,
    /// Those lines.
    lines: usize,
}

impl Told {
    fn of(agent: &Agent, pod: &Pod, failure: &str) -> Self {
        let source = ("source_workload", pod.name());
        let labels = [source, ("reason", failure), ("reporter", "source")];
        let counted = count(agent, "istio_tcp_connections_failed_total", &labels);
        let lines = agent.access_log().unwrap();
        let own =
            |line: &&Value| line["source_workload"] == pod.name() && line["failure"] == failure;
        let own = lines.iter().filter(own).map(|line| line["connections"].as_u64().unwrap());
        let own: Vec<_> = own.collect();
        let logged = usize::try_from(own.iter().sum::<u64>()).unwrap();
        Self { counted, logged, lines: own.len() }
    }

    /// `connections`, each with a line of its own.
    const fn each(connections: usize) -> Self {
        Self { counted: connections, logged: connections, lines: connections }
    }

    const fn since(self, former: Self) -> Self {
        Self {
            counted: self.counted - former.counted,
            logged: self.logged - former.logged,
            lines: self.lines - former.lines,
        }
    }
}

/// A sum of the metrics, which all count whole things.
fn count(agent: &Agent, name: &str, labels: &[(&str, &str)]) -> usize {
    let sum = agent.metrics().unwrap().sum(name, labels);
    sum.to_string().parse().unwrap()
}

fn lost(agent: &Agent) -> usize {
    let names = ["mesh_kernel_events_lost_total", "mesh_access_log_dropped_total"];
    names.iter().map(|name| count(agent, name, &[])).sum()
}

/// Runs `flood` in `v2` while `v3` is denied [`OTHERS`] times, a while apart. Returns how many
/// connections of the flood were refused, and how long it took.
fn beside(world: &World, flood: &Flood<'_>) -> (usize, Duration) {
    let [v1, v2, v3] = [0, 1, 2].map(|n| &world.on.versions[n]);
    let program = format!(
        "import socket, time\nfor _ in range({OTHERS}):\n s = socket.socket()\n \
         assert s.connect_ex(('{}', 8080)) == 1\n s.close()\n time.sleep(0.05)\n",
        v1.v4()
    );
    let began = Instant::now();
    let refused = thread::scope(|scope| {
        let victim = scope.spawn(|| python(v3, &program));
        let refused = flood.run(v2);
        victim.join().unwrap();
        refused
    });
    (refused, began.elapsed())
}

/// Runs `flood` in `v2` beside denied connections of `v3`, and checks what is told of both.
#[track_caller]
fn check(world: &World, flood: &Flood<'_>, failure: &str) {
    check_both(world, failure, || beside(world, flood));
}

/// Checks what is told of a flood of `v2` that `act` runs, and of the denied connections of `v3`.
#[track_caller]
fn check_both(world: &World, failure: &str, act: impl FnOnce() -> (usize, Duration)) {
    let (agent, [v2, v3]) = (&world.b, [1, 2].map(|n| &world.on.versions[n]));
    let flooded = || Told::of(agent, v2, failure);
    let denied = || Told::of(agent, v3, "denied");
    let (before, denied_before) = (flooded(), denied());
    let (refused, lasted) = act();
    assert_eq!(refused, FLOOD, "all of them");
    let flood = || {
        let told = flooded().since(before);
        (told.counted == refused && told.logged == refused).then_some(told)
    };
    let flood = eventually("exact sums of the flood", DEADLINE, flood);
    let flood = flood.unwrap_or_else(|error| panic!("{error}: {:?} of {refused}", flooded()));
    let other = || (denied().since(denied_before) == Told::each(OTHERS)).then_some(());
    eventually("a line of its own for each of the other's", DEADLINE, other)
        .unwrap_or_else(|error| panic!("{error}: {:?} after {denied_before:?}", denied()));
    let most = BURST + LINES_PER_SECOND * usize::try_from(lasted.as_secs() + 3).unwrap();
    assert!(flood.lines <= most, "{} lines in {lasted:?}", flood.lines);
    assert!(lasted < Duration::from_mins(1), "{lasted:?}");
    assert_eq!(lost(agent), 0);
}

#[test]
fn floods_of_denied_connections_cost_no_other_workload_anything() {
    let (world, _servers) = world(&MeshPolicy::new("all"));
    let v1 = world.v1();
    let bystander = Bystander::between(&world.a, &world.b);
    let arena =
        Arena { by: "pod", agent: &world.b, serves: &|| serves(&world), bystander: &bystander };
    let v4 = format!("('{}', 8080)", v1.v4());
    let v6 = format!("('{}', 8080)", v1.v6());
    let mapped = format!("('::ffff:{}', 8080)", v1.v4());
    let by_service = format!("('{}', 80)", vip4(1));
    let ports = format!("('{}', 1024 + n % 60000)", v1.v4());
    let plain = Flood::default();
    let inet6 = Flood { family: "socket.AF_INET6", ..plain };
    for (name, flood) in [
        ("a flood of denied connections, by IPv4", Flood { to: &v4, ..plain }),
        ("a flood of denied connections, by IPv6", Flood { to: &v6, ..inet6 }),
        ("a flood of denied connections, by mapped addresses", Flood { to: &mapped, ..inet6 }),
        ("a flood of denied connections, by the service", Flood { to: &by_service, ..plain }),
        ("a flood of denied connections, by MPTCP", Flood { to: &v4, protocol: 262, ..plain }),
        (
            "a flood of denied connections, by sockets that do not wait",
            Flood { to: &v4, blocks: false, ..plain },
        ),
        (
            "a flood of denied connections, from many processes",
            Flood { to: &v4, processes: 8, ..plain },
        ),
        ("a flood of denied connections, to every port", Flood { to: &ports, ..plain }),
    ] {
        arena.attack(name, Trace::Access(&["denied", "\"source_workload\":\"v2\""]), || {
            check(&world, &flood, "denied");
        });
    }
}

#[test]
fn floods_of_other_refusals_cost_no_other_workload_anything() {
    let (world, _servers) = world(&MeshPolicy::new("all"));
    let egress = "apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\n\
                  metadata: {name: egress, namespace: demo}\nspec: {egress: registry-only}\n";
    world.config.write_file("egress.yaml", egress).unwrap();
    let outside = world.on.b.pod("outside").unwrap();
    let v3 = &world.on.versions[2];
    eventually("the rule", DEADLINE, || {
        error(v3, outside.at(8080)).filter(|met| met.ends_with(" EPERM"))
    })
    .unwrap();
    let bystander = Bystander::between(&world.a, &world.b);
    let arena =
        Arena { by: "pod", agent: &world.b, serves: &|| serves(&world), bystander: &bystander };
    let one = format!("('{}', 8080)", outside.v4());
    let one6 = format!("('{}', 8080)", outside.v6());
    let closed = format!("('{}', 9999)", v3.v4());
    let nobody = format!("('{}', 80)", vip4(9));
    let plain = Flood::default();
    let inet6 = Flood { family: "socket.AF_INET6", ..plain };
    let all = "('198.18.%d.%d' % (n >> 8 & 255, n & 255), 1 + n % 65535)";
    for (name, failure, flood) in [
        ("a flood to the outside, by IPv4", "egress", Flood { to: &one, ..plain }),
        ("a flood to the outside, by IPv6", "egress", Flood { to: &one6, ..inet6 }),
        ("a flood to everywhere outside", "egress", Flood { to: all, processes: 4, ..plain }),
        ("a flood to a closed port of a neighbor", "connect", Flood { to: &closed, ..plain }),
        ("a flood to a service without endpoints", "no_endpoint", Flood { to: &nobody, ..plain }),
    ] {
        let source = "\"source_workload\":\"v2\"";
        arena.attack(name, Trace::Access(&[failure, source]), || check(&world, &flood, failure));
    }
    // Datagrams are not looked at: there is nothing to tell.
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let lines = || {
        let lines = world.b.access_log().unwrap();
        lines.iter().filter(|line| line["source_workload"] == v2.name()).count()
    };
    let before = lines();
    let to = format!("('{}', 8080)", v1.v4());
    let datagrams = Flood { kind: "socket.SOCK_DGRAM", to: &to, ..plain };
    assert_eq!(datagrams.run(v2), 0);
    assert_eq!(lines(), before);
}

#[test]
fn a_flood_while_the_agent_hangs_is_told_when_it_goes_on() {
    let (world, _servers) = world(&MeshPolicy::new("all").failure("closed"));
    let [v2, v3] = [1, 2].map(|n| &world.on.versions[n]);
    let bystander = Bystander::between(&world.a, &world.b);
    let arena =
        Arena { by: "pod", agent: &world.b, serves: &|| serves(&world), bystander: &bystander };
    let neighbor = format!("('{}', 8080)", v3.v4());
    let flood = Flood { to: &neighbor, ..Flood::default() };
    let name = "a flood of connections while the agent hangs";
    let words = ["no_agent", "\"source_workload\":\"v2\""];
    arena.attack(name, Trace::Access(&words), || {
        let act = || {
            kill(world.b.pid(), Signal::SIGSTOP).unwrap();
            let noticed = eventually("the failure mode", DEADLINE, || {
                let program = format!(
                    "import socket\nprint(socket.socket().connect_ex(('{}', 8080)))",
                    v2.v4()
                );
                (python(v3, &program).trim() == "1").then_some(())
            });
            let done = beside(&world, &flood);
            kill(world.b.pid(), Signal::SIGCONT).unwrap();
            noticed.unwrap();
            done
        };
        check_both(&world, "no_agent", act);
    });
}

#[test]
fn a_flood_from_outside_of_the_mesh_is_bounded() {
    let (world, _servers) = world(&MeshPolicy::new("strict").mtls("STRICT"));
    let [stranger, other] = ["stranger", "other"].map(|name| world.on.a.pod(name).unwrap());
    let agent = &world.b;
    let bystander = Bystander::between(&world.a, &world.b);
    let arena = Arena { by: "network", agent, serves: &|| serves(&world), bystander: &bystander };
    let plaintext = |from: &Pod, count: usize| {
        let program = format!(
            "import socket\nfor _ in range({count}):\n s = socket.socket()\n s.settimeout(10)\n \
             try:\n  s.connect(('{}', 8080))\n  s.recv(1)\n except OSError: pass\n s.close()\n",
            world.v1().v4()
        );
        python(from, &program);
    };
    let lines = |from: &Pod| {
        let address = format!("{}:", from.v4());
        let own = |line: &&Value| {
            line["downstream_remote_address"].as_str().is_some_and(|at| at.starts_with(&address))
        };
        agent.access_log().unwrap().iter().filter(own).count()
    };
    let labels = [("reason", "plaintext"), ("reporter", "destination")];
    let refused = || count(agent, "istio_tcp_connections_failed_total", &labels);
    let (flood, before) = (3000, refused());
    let name = "a flood of plaintext connections from outside of the mesh";
    arena.attack(name, Trace::Access(&["plaintext", "demo/strict"]), || {
        let began = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| plaintext(&stranger, flood));
            plaintext(&other, OTHERS);
        });
        let all = || (refused() - before == flood + OTHERS).then_some(());
        eventually("exact sums", DEADLINE, all).unwrap();
        let whole = || (lines(&other) == OTHERS).then_some(());
        eventually("the other's lines", DEADLINE, whole).unwrap();
        let most = 200 + 100 * usize::try_from(began.elapsed().as_secs() + 1).unwrap();
        let lines = lines(&stranger);
        assert!(lines <= most, "{lines} lines of {flood}");
        assert_eq!(lost(agent), 0);
    });
}

#[test]
fn a_flood_of_allowed_direct_connections_is_bounded() {
    let (world, _servers) = world(&MeshPolicy::new("all"));
    let [v1, v2, v3] = [0, 1, 2].map(|n| &world.on.versions[n]);
    let agent = &world.b;
    let bystander = Bystander::between(&world.a, &world.b);
    let arena = Arena { by: "pod", agent, serves: &|| serves(&world), bystander: &bystander };
    let flood = 20_000;
    let labels =
        [("source_workload", "v2"), ("destination_workload", "v3"), ("reporter", "source")];
    let closed = || count(agent, "istio_tcp_connections_closed_total", &labels);
    // Both ends of each have a line, or are counted as without.
    let told = || {
        let single = |line: &&Value| {
            line["source_workload"] == "v2"
                && line["path"] == "direct"
                && line["failure"].is_null()
                && line["connections"] == 1
        };
        let lines = agent.access_log().unwrap().iter().filter(single).count();
        let rest = count(agent, "mesh_access_log_limited_total", &[("source_workload", "v2")]);
        (lines, rest)
    };
    // Reset at the end, so that the loop does not run out of ports.
    let program = format!(
        "import socket, struct\nfor _ in range({flood}):\n s = socket.socket()\n \
         s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n \
         s.connect(('{}', 8080))\n s.close()\n",
        v3.v4()
    );
    let to = format!("('{}', 8080)", v1.v4());
    let denied = Flood { count: OTHERS, to: &to, ..Flood::default() };
    let name = "a flood of direct connections that are allowed";
    arena.attack(name, Trace::Access(&["direct", "\"source_workload\":\"v2\""]), || {
        let began = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| python(v2, &program));
            assert_eq!(denied.run(v3), OTHERS);
        });
        eventually("exact sums", DEADLINE, || (closed() == flood).then_some(())).unwrap();
        let whole = || Some(told()).filter(|(lines, rest)| lines + rest == 2 * flood);
        let (lines, _rest) = eventually("a line or a count for each", DEADLINE, whole).unwrap();
        let most = 2000 + 1000 * usize::try_from(began.elapsed().as_secs() + 1).unwrap();
        assert!(lines <= most, "{lines} lines");
        // One was denied before.
        let own = || (Told::of(agent, v3, "denied") == Told::each(OTHERS + 1)).then_some(());
        eventually("the other's lines", DEADLINE, own).unwrap();
        assert_eq!(lost(agent), 0);
    });
}
