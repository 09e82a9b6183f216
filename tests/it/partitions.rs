//! Packets that are lost without a word: between two nodes for a while, or of one tunnel for good.

use std::collections::BTreeSet;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server, transfer};
use mesh_tests::expect::eventually;
use mesh_tests::node::Node;
use mesh_tests::pair::{ECHO, PORT, Pair, hello};
use mesh_tests::peers::HBONE_PORT;
use mesh_tests::process::{DEADLINE, run};

/// How long two nodes do not reach each other.
const PARTITION: Duration = Duration::from_secs(10);

/// After which new connections succeed again, at the latest: once a peer can be reached, or where a
/// tunnel's packets alone are lost.
const RECOVERY: Duration = Duration::from_secs(2);

/// A client that does not wait for long: it says what it has met within a second.
fn impatient() -> Client {
    hello().arg("--timeout").arg("1")
}

/// Lets what goes from one node to the pods of another vanish, or arrive again.
fn set_route(from: &Node, to: &Node, verb: &str) {
    let [v4, _] = to.addresses();
    let index = v4.to_string().rsplit('.').next().unwrap().to_owned();
    let way = if verb == "blackhole" { String::new() } else { format!(" via {v4}") };
    let kind = if verb == "blackhole" { "blackhole " } else { "" };
    from.netns().ip(&format!("route replace {kind}10.{index}.0.0/16{way}")).unwrap();
}

/// Cuts two nodes from each other, or lets them reach each other.
fn set_link(pair: &Pair, verb: &str) {
    set_route(&pair.a, &pair.b, verb);
    set_route(&pair.b, &pair.a, verb);
}

/// How many tunnels an agent has opened.
fn opened(agent: &Agent) -> String {
    agent.metrics().unwrap().sum("mesh_tunnels_opened_total", &[]).to_string()
}

/// Asserts that new connections succeed within [`RECOVERY`], and from then on.
#[track_caller]
fn recovers(pair: &Pair, since: Instant) {
    eventually("a new connection", DEADLINE, || {
        (impatient().run(&pair.client).unwrap().totals.failed == 0).then_some(())
    })
    .unwrap();
    let lasted = since.elapsed();
    assert!(lasted <= RECOVERY, "new connections succeed after {} s", lasted.as_secs_f32());
    let totals = hello().times(50, 4).run(&pair.client).unwrap().totals;
    assert_eq!(totals.failed, 0, "{:?}", totals.errors);
}

/// Agents with one data thread each, which share what a peer is reached by.
fn agents(pair: &Pair, transport: &str) -> (Agent, Agent) {
    let args = ["--threads", "1", "--transport", transport];
    (pair.agent(&pair.a, &args).unwrap(), pair.agent(&pair.b, &args).unwrap())
}

/// A partition between two nodes costs no more than its `length`.
#[track_caller]
fn check_partition(transport: &str, length: Duration) {
    let pair = Pair::new().unwrap();
    let (a, _b) = agents(&pair, transport);
    let _echo = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let (mut held, before) = hello().hold(&pair.client).unwrap();
    assert_eq!((before.connections, before.failed), (1, 0));
    set_link(&pair, "blackhole");
    let cut = Instant::now();
    let mut attempts = 0;
    while cut.elapsed() < length {
        assert_eq!(impatient().run(&pair.client).unwrap().totals.failed, 1, "nobody is there");
        attempts += 1;
    }
    assert!(attempts >= 5, "{attempts} attempts");
    set_link(&pair, "via");
    recovers(&pair, Instant::now());
    let after = held.mark().unwrap();
    assert_eq!(after.failed, 0, "an open connection: {:?}", after.errors);
    // However many ask for it, a second one is opened once.
    assert!(["1", "2"].contains(&&*opened(&a)), "{} tunnels", opened(&a));
}

#[test]
fn a_partition_costs_no_more_than_its_time() {
    // TCP alone would keep the connection too.
    check_partition("native", 3 * PARTITION);
}

#[test]
fn a_partition_costs_no_more_than_its_time_over_hbone() {
    check_partition("hbone", PARTITION);
}

/// A transfer that is under way when two nodes are cut from each other goes on after that.
#[track_caller]
fn check_transfer(transport: &str) {
    let pair = Pair::new().unwrap();
    let (a, _b) = agents(&pair, transport);
    let listen = format!("[::]:{PORT}");
    let deaf = ["digest", "--late", "--bytes", "1000", "--listen", &listen];
    let mut server = Server::start(&pair.echo, &deaf).unwrap();
    thread::scope(|scope| {
        // More than all the buffers on its way take.
        let sending =
            scope.spawn(|| transfer(&pair.client, ECHO, &["--up", "48000000", "--down", "1000"]));
        eventually("a tunnel", DEADLINE, || (opened(&a) != "0").then_some(())).unwrap();
        set_link(&pair, "blackhole");
        let cut = Instant::now();
        server.begin().unwrap();
        while cut.elapsed() < PARTITION {
            assert_eq!(impatient().run(&pair.client).unwrap().totals.failed, 1, "nobody is there");
        }
        set_link(&pair, "via");
        let seen = sending.join().unwrap().unwrap();
        assert_eq!((seen.error, seen.confirmed), (None, Some(true)));
    });
}

#[test]
fn a_transfer_goes_on_after_a_partition() {
    check_transfer("native");
}

#[test]
fn a_transfer_goes_on_after_a_partition_over_hbone() {
    check_transfer("hbone");
}

/// The local ports of the tunnels that a pod's agent has opened.
fn tunnel_ports(pair: &Pair) -> BTreeSet<u16> {
    let mut command = Command::new("ip");
    let to_agent = format!("dport = :{HBONE_PORT}");
    command.args(["netns", "exec", pair.client.netns().name(), "ss", "-Htn", &to_agent]);
    let lines = run(&mut command).unwrap();
    let local = |line: &str| line.split_whitespace().nth(3)?.rsplit(':').next()?.parse().ok();
    lines.lines().filter_map(local).collect()
}

/// Loses every packet of one tunnel, as when a firewall on the way has forgotten it.
#[track_caller]
fn check_dead_tunnel(transport: &str) {
    let pair = Pair::new().unwrap();
    let (a, _b) = agents(&pair, transport);
    let _echo = Server::echo(&pair.echo, PORT, "v1").unwrap();
    for n in 1..=3 {
        assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0, "{n}");
        assert_eq!(opened(&a), n.to_string());
        for port in tunnel_ports(&pair) {
            pair.a.netns().ip(&format!("rule add ipproto tcp sport {port} blackhole")).unwrap();
        }
        let lost = Instant::now();
        let totals = hello().times(8, 8).run(&pair.client).unwrap().totals;
        assert_eq!(totals.failed, 0, "{n}: {:?}", totals.errors);
        let lasted = lost.elapsed();
        assert!(lasted <= RECOVERY, "{n}: {} s", lasted.as_secs_f32());
        // For all of them one.
        assert_eq!(opened(&a), (n + 1).to_string());
    }
}

#[test]
fn a_dead_tunnel_is_replaced_at_once() {
    check_dead_tunnel("native");
}

#[test]
fn a_dead_tunnel_is_replaced_at_once_over_hbone() {
    check_dead_tunnel("hbone");
}
