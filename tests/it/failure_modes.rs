//! The kernel's actions while the agent does not answer: killed, hung, or not there yet.

use std::time::{Duration, Instant};

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::capture::Capture;
use mesh_tests::expect::eventually;
use mesh_tests::fixture::verdicts;
use mesh_tests::mesh::{MeshPolicy, Workload};
use mesh_tests::pair::{ECHO, PORT, Pair, hello};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::Script;
use nix::sys::signal::Signal;
use serde_json::Value;

/// How long the kernel may take to notice an agent that hangs.
const NOTICED: Duration = Duration::from_millis(2_500);

/// A pair with a policy for everybody, both agents, and another pod beside the client.
struct World {
    pair: Pair,
    beside: Pod,
    a: Agent,
    _b: Agent,
    _servers: Vec<Server>,
}

fn policy() -> MeshPolicy {
    MeshPolicy::new("all")
}

fn start(policy: &MeshPolicy) -> World {
    let pair = Pair::new().unwrap();
    let beside = pair.a.pod("beside").unwrap();
    let mesh = pair.mesh().workload(&Workload::of(&beside).port(PORT));
    pair.config.write(&mesh.policy(policy)).unwrap();
    let (a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let servers = [&pair.echo, &beside].map(|pod| Server::echo(pod, PORT, pod.name()).unwrap());
    let world = World { beside, a, _b: b, _servers: servers.into(), pair };
    assert_eq!((world.far(), world.near()), (None, None));
    world
}

impl World {
    /// The error of a connection to the other node.
    fn far(&self) -> Option<String> {
        error(&hello(), &self.pair.client)
    }

    /// The error of a connection to the pod beside.
    fn near(&self) -> Option<String> {
        error(&Client::to(self.beside.at(PORT)).echo("hello"), &self.pair.client)
    }
}

/// Listens, without capabilities, at all of these that are free, and waits until it is killed.
const HOLD: &str = "
import ctypes, socket, sys
capset = ctypes.CDLL(None).capset
assert capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
held = []
for address, port in ADDRESSES:
    v6 = ':' in address
    one = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # IPV6_V6ONLY; IPV6_FREEBIND or IP_FREEBIND.
    if v6: one.setsockopt(41, 26, 1)
    one.setsockopt(*((41, 78) if v6 else (0, 15)), 1)
    try:
        one.bind((address, port)); one.listen(1)
        held.append(one)
    except OSError: one.close()
print(len(held), flush=True)
sys.stdin.read()
";

/// Has a process of a pod hold addresses and ports, a list in Python; all that are free.
pub(crate) fn hold(pod: &Pod, addresses: &str) -> Script {
    let (script, held) = Script::start(pod, &HOLD.replace("ADDRESSES", addresses)).unwrap();
    assert_ne!(held, "0");
    script
}

/// Leaves a pod four ports to choose from, and returns all ports at which the agent could listen there, for
/// [`hold`]. Only of IPv6, so that its processes can still connect by IPv4.
pub(crate) fn few_ports(pod: &Pod, first: u16) -> String {
    let range = format!("{first} {}", first + 3);
    pod.netns().sysctl(&[("net/ipv4/ip_local_port_range", &range)]).unwrap();
    format!("[('::', port) for port in (15001, 15006, 15008, *range({first}, {first} + 4))]")
}

fn error(client: &Client, pod: &Pod) -> Option<String> {
    client.run(pod).unwrap().totals.errors.into_keys().next()
}

const DENIED: Option<&str> = Some("connect EPERM");

/// Kills the agent of the client's node, checks what connections meet then, and that a successor
/// finds everything as it was.
#[track_caller]
fn check_killed(policy: &MeshPolicy, far: Option<&str>, near: Option<&str>) {
    let World { pair, beside, a, _b, _servers } = start(policy);
    a.kill();
    let far_error = || error(&hello(), &pair.client);
    let near_error = || error(&Client::to(beside.at(PORT)).echo("hello"), &pair.client);
    // At once: the first connection meets it already.
    assert_eq!((far_error().as_deref(), near_error().as_deref()), (far, near), "{policy:?}");
    let successor = pair.agent(&pair.a, &[]).unwrap();
    assert_eq!((far_error(), near_error()), (None, None), "{policy:?}");
    drop(successor);
}

#[test]
fn closed_denies_all_that_is_the_meshs() {
    check_killed(&policy().failure("closed"), DENIED, DENIED);
}

#[test]
fn static_goes_on_with_what_the_kernel_decides_alone() {
    check_killed(&policy().failure("static"), DENIED, None);
}

#[test]
fn open_goes_past_the_agent() {
    check_killed(&policy().failure("open"), None, None);
}

#[test]
fn open_is_the_default_and_strict_makes_it_static() {
    check_killed(&policy(), None, None);
    check_killed(&policy().mtls("STRICT"), DENIED, None);
}

#[test]
fn open_does_not_take_plaintext_where_it_is_not_acceptable() {
    check_killed(&policy().mtls("STRICT").failure("open"), DENIED, None);
}

/// Stops the agent as a debugger would, and checks that connections meet the failure mode within two
/// seconds and a little, and the agent again when it goes on.
#[track_caller]
fn check_hung(policy: &MeshPolicy, far: Option<&str>) {
    let mut world = start(policy);
    let counter = if far.is_some() { "failed_closed" } else { "failed_open" };
    world.a.signal(Signal::SIGSTOP).unwrap();
    let start = Instant::now();
    // A connection that the kernel still hands to the agent waits, as it would for a busy one.
    let quick = hello().arg("--timeout").arg("1");
    eventually("the failure mode", DEADLINE, || {
        let begun = start.elapsed();
        let met = error(&quick, &world.pair.client);
        let expected = met.as_deref() == far;
        assert!(expected || begun < NOTICED, "{met:?} after {begun:?}");
        expected.then_some(())
    })
    .unwrap();
    assert_eq!(world.near().as_deref(), None);
    world.a.signal(Signal::SIGCONT).unwrap();
    eventually("the agent to be asked again", DEADLINE, || {
        let before = verdicts(&world.a, counter).unwrap();
        (world.far().is_none() && verdicts(&world.a, counter).unwrap() <= before).then_some(())
    })
    .unwrap();
}

#[test]
fn a_hung_agent_is_noticed_within_two_seconds() {
    check_hung(&policy().failure("static"), DENIED);
    check_hung(&policy().failure("open"), None);
}

#[test]
fn restarts_leave_no_moment_in_the_open() {
    let World { pair, a, _b, _servers, .. } = start(&policy().mtls("STRICT"));
    let wire = Capture::start(pair.lab.fabric()).unwrap();
    let secret = Client::to(ECHO).echo("never in the open").times(100_000, 4);
    let traffic = secret.traffic(&pair.client).unwrap();
    let mut agent = Some(a);
    for kill in [true, false, true] {
        let old = agent.take().unwrap();
        if kill {
            old.kill();
        } else {
            old.terminate().unwrap();
        }
        agent = Some(pair.agent(&pair.a, &[]).unwrap());
        assert_eq!(error(&hello(), &pair.client), None);
    }
    let totals = traffic.stop().unwrap();
    // Connections that the dead agent carried are cut, those that come while there is none are
    // denied; all else works.
    for error in totals.errors.keys() {
        let cut = ["ECONNRESET", "unexpected end", "ECONNREFUSED"];
        assert!(error == "connect EPERM" || cut.iter().any(|cut| error.ends_with(cut)), "{error}");
    }
    assert!(totals.connections > totals.failed);
    let wire = wire.stop().unwrap();
    assert!(!wire.shows(b"never in the open"));
    assert_eq!(wire.of_port(PORT).count(), 0);
    assert!(wire.of_port(15008).count() > 0);
}

#[test]
fn a_workload_that_cannot_be_served_yet_has_its_failure_mode() {
    for (mode, expect) in [("static", DENIED), ("open", None)] {
        let pair = Pair::new().unwrap();
        pair.config.write(&pair.mesh().policy(&policy().failure(mode))).unwrap();
        // No port is left: there can be no listener in this namespace.
        let squatter = hold(&pair.client, &few_ports(&pair.client, 41_000));
        let (_a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
        let _echo = Server::echo(&pair.echo, PORT, "v1").unwrap();
        // A socket that is bound has its port already, of those that are free for IPv4.
        let bound = hello().arg("--bind").arg(&pair.client.v4().to_string());
        assert_eq!(error(&bound, &pair.client).as_deref(), expect, "{mode}");
        drop(squatter);
        let met = || error(&hello(), &pair.client);
        // When they are free, the workload is served as any other.
        eventually("the workload to be served", DEADLINE, || {
            let error = met();
            let lines = b.access_log().ok()?;
            let meshed = |line: &Value| line["connection_security_policy"] == "mutual_tls";
            (error.is_none() && lines.iter().any(meshed)).then_some(())
        })
        .unwrap();
    }
}
