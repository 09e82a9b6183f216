//! Attackers that use the time in which an agent is killed, hung or starting: to get past a policy that
//! the kernel cannot judge alone.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::thread;

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::mesh::{AuthorizationPolicy, Mesh, MeshPolicy, Rule, Workload};
use mesh_tests::node::Node;
use mesh_tests::pair::{PORT, Pair, hello};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::Script;
use nix::sys::signal::Signal;

use super::{Arena, Bystander, Trace};

/// The fault of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    Killed,
    Hung,
    Starting,
}

/// The kernel's count of arrivals that it lets nobody have, without the agent.
const DROPPED: Trace<'static> =
    Trace::Count("mesh_kernel_arrivals_total", &[("verdict", "refused")]);

/// An agent that is taken away again and again.
struct Victim<'a> {
    pair: &'a Pair,
    node: &'a Node,
    args: &'a [&'a str],
    /// The first one, whose files all successors write to.
    files: Agent,
    running: RefCell<Option<Agent>>,
}

impl<'a> Victim<'a> {
    fn start(pair: &'a Pair, node: &'a Node, args: &'a [&'a str]) -> Self {
        let mut files = pair.agent(node, args).unwrap();
        files.signal(Signal::SIGKILL).unwrap();
        files.ended().unwrap();
        let running = RefCell::new(Some(pair.agent(node, args).unwrap()));
        Self { pair, node, args, files, running }
    }

    /// Has `attempt` made, again and again, while the agent is away. It says the error that it met,
    /// and may never meet none. Of an agent that hangs, the kernel learns within a second: until
    /// then a connection waits for it.
    fn away(&self, outage: Outage, attempt: &dyn Fn() -> Option<String>) {
        let refused = || {
            let met = attempt();
            assert_ne!(met, None, "served without an agent that is {outage:?}");
            met.filter(|met| met.ends_with(" EPERM") || met.ends_with(" ECONNREFUSED"))
        };
        let mut agent = self.running.borrow_mut().take().unwrap();
        match outage {
            Outage::Killed => {
                agent.kill();
                assert_ne!(refused(), None, "at once");
                agent = self.successor();
            }
            Outage::Hung => {
                agent.signal(Signal::SIGSTOP).unwrap();
                eventually("the kernel to notice", DEADLINE, refused).unwrap();
                agent.signal(Signal::SIGCONT).unwrap();
            }
            Outage::Starting => {
                agent.kill();
                let (pair, node, args) = (self.pair, self.node, self.args);
                agent = thread::scope(|scope| {
                    let starting = scope.spawn(move || pair.agent(node, args).unwrap());
                    while !starting.is_finished() {
                        assert_ne!(attempt(), None, "served without an agent that is ready");
                    }
                    starting.join().unwrap()
                });
            }
        }
        *self.running.borrow_mut() = Some(agent);
    }

    fn successor(&self) -> Agent {
        self.pair.agent(self.node, self.args).unwrap()
    }
}

/// The error that a connection meets; `None`: an answer.
fn error(from: &Pod, to: SocketAddr) -> Option<String> {
    let client = Client::to(to).echo("x").arg("--timeout").arg("1");
    client.run(from).unwrap().totals.errors.into_keys().next()
}

/// A policy about requests of the workloads with the label `judged`: what is no HTTP is refused,
/// and without the agent nobody can tell.
const BY_REQUEST: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: by-request, namespace: demo}
spec:
  selector: {matchLabels: {judged: 'yes'}}
  action: DENY
  rules: [{to: [{operation: {paths: ['/admin*']}}]}]
";

/// A broken policy of the workloads with the label `broken`, which fail open by their own word.
const BROKEN: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: broken, namespace: demo}
spec:
  selector: {matchLabels: {broken: 'yes'}}
  action: Deny
";

/// The pair, with more pods: `judged` and `broken` on the client's node, `far` and `who` on the
/// server's, of which `who` denies the client by its identity.
struct World {
    pair: Pair,
    judged: Pod,
    broken: Pod,
    far: Pod,
    who: Pod,
    outside: Pod,
    _servers: Vec<Server>,
}

fn world() -> World {
    let pair = Pair::new().unwrap();
    let [judged, broken, outside] = ["judged", "broken", "outside"].map(|n| pair.a.pod(n).unwrap());
    let [far, who] = ["far", "who"].map(|name| pair.b.pod(name).unwrap());
    let workload = |pod: &Pod, label| Workload::of(pod).account("server").label(label, "yes");
    let client = Rule::default().principals(&["cluster.local/ns/demo/sa/client"]);
    let mesh = pair
        .mesh()
        .workload(&workload(&judged, "judged").port(PORT).probe(PORT + 1))
        .workload(&workload(&far, "judged").port(PORT))
        .workload(&workload(&broken, "broken").port(PORT))
        .workload(&workload(&who, "who").port(PORT))
        .policy(&MeshPolicy::new("broken").select("broken", "yes").failure("open"))
        .authorization(&AuthorizationPolicy::deny("who").select("who", "yes").rule(client))
        .raw(BY_REQUEST)
        .raw(BROKEN);
    pair.config.write(&mesh).unwrap();
    let pods = [&pair.echo, &judged, &broken, &far, &who];
    let servers = pods.map(|pod| Server::echo(pod, PORT, pod.name()).unwrap()).into();
    World { judged, broken, far, who, outside, _servers: servers, pair }
}

#[test]
fn an_agent_that_is_away_lets_nobody_past_a_policy_on_its_node() {
    let world = world();
    let pair = &world.pair;
    let b = pair.agent(&pair.b, &[]).unwrap();
    let _probed = Server::echo(&world.judged, PORT + 1, "probed").unwrap();
    let victim = Victim::start(pair, &pair.a, &[]);
    let serves = || assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    let bystander = Bystander::between(&victim.files, &b);
    let arena = Arena { by: "pod", agent: &victim.files, serves: &serves, bystander: &bystander };
    let host = pair.a.cgroup().join("host");
    std::fs::create_dir(&host).unwrap();
    let from_host = |port| {
        let client = Client::to(world.judged.at(port)).echo("x").arg("--timeout").arg("1");
        client.run_in(pair.a.netns(), &host).unwrap().totals.errors.into_keys().next()
    };
    let neighbor = || error(&pair.client, world.judged.at(PORT));
    let by_v6 = || error(&pair.client, world.judged.at6(PORT));
    let stranger = || error(&world.outside, world.judged.at(PORT));
    let process = || {
        // The probe of the workload's health goes on all the while.
        assert_eq!(from_host(PORT + 1), None);
        from_host(PORT)
    };
    let denied = Trace::Access(&["no_agent", "\"destination_workload\":\"judged\""]);
    for outage in [Outage::Killed, Outage::Hung, Outage::Starting] {
        for (who, trace, attempt) in [
            ("a neighbor", denied, &neighbor as &dyn Fn() -> Option<String>),
            ("a neighbor by IPv6", denied, &by_v6),
            ("a stranger of its node", DROPPED, &stranger),
            ("a process of the host", DROPPED, &process),
        ] {
            let name = format!("{who} past a policy about requests, the agent is {outage:?}");
            arena.attack(&name, trace, || victim.away(outage, attempt));
        }
    }
    let name = "a broken policy of a workload that fails open, the agent is Killed";
    arena.attack(name, DROPPED, || {
        victim.away(Outage::Killed, &|| error(&world.outside, world.broken.at(PORT)));
    });
    let name = "an identity that is denied elsewhere, in plaintext past its own agent";
    arena.attack(name, Trace::Access(&["no_agent", "\"destination_workload\":\"who\""]), || {
        victim.away(Outage::Killed, &|| error(&pair.client, world.who.at(PORT)));
    });
}

#[test]
fn an_agent_that_is_away_lets_nobody_past_a_policy_from_other_nodes() {
    for transport in ["native", "hbone"] {
        let world = world();
        let pair = &world.pair;
        let args = ["--transport", transport];
        let a = pair.agent(&pair.a, &args).unwrap();
        let victim = Victim::start(pair, &pair.b, &args);
        let serves = || assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
        let bystander = Bystander::between(&a, &victim.files);
        let arena =
            Arena { by: "pod", agent: &victim.files, serves: &serves, bystander: &bystander };
        for outage in [Outage::Killed, Outage::Hung, Outage::Starting] {
            let name = format!("a stranger of another node, {transport}, the agent is {outage:?}");
            arena.attack(&name, DROPPED, || {
                victim.away(outage, &|| error(&world.outside, world.far.at(PORT)));
            });
        }
        // Its own agent is there, and finds no tunnel to the other one: nor anything else.
        let peer = Arena { by: "pod", agent: &a, serves: &serves, bystander: &bystander };
        let name = format!("a workload of another node by its agent, {transport}");
        peer.attack(&name, Trace::Access(&["\"destination_workload\":\"far\"", "failure"]), || {
            let agent = victim.running.borrow_mut().take().unwrap();
            agent.kill();
            assert_ne!(error(&pair.client, world.far.at(PORT)), None);
            *victim.running.borrow_mut() = Some(victim.successor());
        });
    }
}

#[test]
fn to_fail_open_past_a_policy_has_to_be_asked_for() {
    let world = world();
    let pair = &world.pair;
    let open = "apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\n\
                metadata: {name: open, namespace: demo}\n\
                spec: {selector: {matchLabels: {judged: 'yes'}}, failureMode: open}\n";
    pair.config.write_file("open.yaml", open).unwrap();
    let agent = pair.agent(&pair.a, &[]).unwrap();
    let conditions = agent.conditions().unwrap().to_string();
    assert!(conditions.contains("FailsOpen") && conditions.contains("demo/by-request"));
    // With the agent, the policy holds.
    assert_ne!(error(&world.outside, world.judged.at(PORT)), None);
    agent.kill();
    for pod in [&world.outside, &pair.client] {
        assert_eq!(error(pod, world.judged.at(PORT)), None);
    }
}

/// Connects in a loop, and counts who answers.
const KNOCKS: &str = r#"
import socket, sys, threading
served = refused = 0
def knock():
    global served, refused
    while True:
        with socket.socket() as client:
            client.settimeout(5)
            try:
                client.connect(TO)
                if client.recv(16): served += 1
                else: refused += 1
            except OSError:
                refused += 1
threading.Thread(target=knock, daemon=True).start()
print("knocks", flush=True)
for line in sys.stdin:
    print(served, refused, flush=True)
"#;

#[test]
fn nobody_comes_in_while_a_workload_changes_its_account_or_its_name() {
    let pair = Pair::new().unwrap();
    let stranger = pair.a.pod("stranger").unwrap();
    let mesh = |name: &str, account: &str| {
        let echo = Workload::of(&pair.echo).named(name).account(account);
        let mesh = Mesh::new("demo").workload(&Workload::of(&pair.client).account("client"));
        mesh.workload(&echo).policy(&MeshPolicy::new("strict").mtls("STRICT"))
    };
    pair.config.write(&mesh("echo", "echo")).unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let program = format!("TO = ('{}', {PORT})\n{KNOCKS}", pair.echo.v4());
    let (mut script, _) = Script::start(&stranger, &program).unwrap();
    for (n, (name, account)) in
        [("echo", "b"), ("echo", "c"), ("other", "c"), ("echo", "d")].into_iter().enumerate()
    {
        pair.config.write(&mesh(name, account)).unwrap();
        let enrolled = || {
            let log = agent.log();
            let lines = log.lines().filter(|it| it.contains("enrolled") && it.contains("identity"));
            (lines.count() >= n + 2).then_some(())
        };
        eventually("the workload to be enrolled again", DEADLINE, enrolled).unwrap();
    }
    script.say("").unwrap();
    let counts = script.line().unwrap();
    let (served, refused) = counts.split_once(' ').unwrap();
    assert_eq!(served, "0", "of {refused} strangers");
    assert_ne!(refused, "0");
}
