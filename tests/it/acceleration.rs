//! Connections inside of a node that take a shorter way than TCP: what they must keep of TCP.

use std::net::SocketAddr;
use std::process::Command;

use mesh_tests::apps::{Client, Server, Traffic, transfer};
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{Machines, World, verdicts, vip4};
use mesh_tests::mesh::{Mesh, MeshPolicy};
use mesh_tests::pod::Pod;
use mesh_tests::process::{DEADLINE, Process, inside, run};
use mesh_tests::report::{Event, Transfer};

/// The bytes that may wait in the shorter way, and those that TCP holds besides by default: 8 MiB,
/// and 10 MiB.
const MOST_HELD: u64 = 20 << 20;
/// Pages that a flood may take of the kernel's memory: the above, and 4,096 × 1.1 KiB.
const MOST_PAGES: u64 = (32 << 20) / 4096;

fn accelerated(machines: &Machines, way: &str) -> Mesh {
    machines.mesh().policy(&MeshPolicy::new("short").acceleration(way))
}

/// Two workloads on node `b`, `v1` and `v2`, that want acceleration.
fn start() -> World {
    let machines = Machines::new(2).unwrap();
    let mesh = accelerated(&machines, "sockmap");
    machines.start(&mesh).unwrap()
}

/// The bytes that the pod's interface has sent: those that take the shorter way are not among them.
fn on_the_wire(pod: &Pod) -> u64 {
    let mut command = inside(pod.netns(), pod.cgroup()).unwrap();
    let text = run(command.args(["exec", "cat", "/proc/net/dev"])).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
    line.split_whitespace().nth(8).unwrap().parse().unwrap()
}

/// The bytes that the pod's loopback has carried.
fn on_loopback(pod: &Pod) -> u64 {
    let mut command = inside(pod.netns(), pod.cgroup()).unwrap();
    let text = run(command.args(["exec", "cat", "/proc/net/dev"])).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    line.split_whitespace().nth(8).unwrap().parse().unwrap()
}

/// Whether a connection of the pod to a port has a limit to its pace.
fn is_paced(pod: &Pod, port: u16) -> bool {
    let mut command = inside(pod.netns(), pod.cgroup()).unwrap();
    let filter = format!("dport = {port}");
    let text = run(command.args(["exec", "ss", "-tinH", &filter])).unwrap();
    let (_before, pace) = text.split_once("pacing_rate ").unwrap_or_else(|| panic!("{text}"));
    // The pace, and after a slash its limit if there is one.
    pace.split_whitespace().next().unwrap().contains('/')
}

/// Pages that TCP takes of the kernel's memory, in all namespaces.
fn tcp_pages() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

fn press(pod: &Pod, pressure: &str, to: SocketAddr, args: &[&str]) -> Process {
    pod.start(["press", pressure, "--to", &to.to_string()].iter().chain(args)).unwrap()
}

#[track_caller]
fn report(process: &Process) -> Transfer {
    match process.event().unwrap() {
        Event::Transfer(transfer) => transfer,
        other => panic!("an application said {other:?}"),
    }
}

#[track_caller]
fn assert_complete(seen: &Transfer) {
    assert_eq!((seen.confirmed, &seen.error), (Some(true), &None), "{seen:?}");
}

fn digest<'a>(bytes: &'a str, port: &'a str) -> [&'a str; 5] {
    ["digest", "--bytes", bytes, "--listen", port]
}

#[test]
fn bytes_take_the_shorter_way_in_order_to_the_end() {
    let world = start();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let _server = Server::start(v2, &digest("16777216", "[::]:8080")).unwrap();
    for to in [v2.at(8080), v2.at6(8080)] {
        let before = on_the_wire(v1);
        let seen = transfer(v1, to, &["--up", "16777216", "--down", "16777216"]).unwrap();
        assert_complete(&seen);
        assert_eq!(seen.received, 16_777_216);
        let carried = on_the_wire(v1) - before;
        assert!(carried < 8 << 20, "{carried} bytes of 16 MiB were on the wire");
    }
    assert_eq!(verdicts(&world.b, "direct").unwrap().to_string(), "2");
    // TCP has not seen these bytes, and yet they are counted.
    let lines = eventually("the reports of both", DEADLINE, || {
        let lines = world.b.access_log().ok()?;
        let ours = lines
            .into_iter()
            .filter(|line| line["path"] == "direct" && line["reporter"] == "source");
        let ours: Vec<_> = ours.collect();
        (ours.len() == 2).then_some(ours)
    })
    .unwrap();
    for line in lines {
        let up = line["bytes_received"].as_u64().unwrap();
        let down = line["bytes_sent"].as_u64().unwrap();
        assert_eq!(up, 16_777_216, "{line}");
        // The confirmation follows.
        assert!((16_777_217..16_777_400).contains(&down), "{line}");
    }
}

#[test]
fn the_way_to_the_agent_and_from_it_is_shorter_too() {
    let world = start();
    let (client, v1) = (world.client(), world.v1());
    let _server = Server::start(v1, &digest("16777216", "[::]:8080")).unwrap();
    let before = [client, v1].map(on_loopback);
    for to in [v1.at(8080), v1.at6(8080)] {
        let seen = transfer(client, to, &["--up", "16777216", "--down", "16777216"]).unwrap();
        assert_complete(&seen);
        assert_eq!(seen.received, 16_777_216);
    }
    for (pod, before) in [client, v1].into_iter().zip(before) {
        let carried = on_loopback(pod) - before;
        assert!(carried < 32 << 20, "{}: {carried} bytes of 64 MiB by TCP", pod.name());
    }
}

/// Runs a few lines of Perl in a pod, for socket options that the standard library lacks. `$s` is a
/// socket that is connected to `to` after `before` was run on it; what is printed is returned.
fn script(pod: &Pod, to: SocketAddr, before: &str, after: &str) -> String {
    let (ip, port) = (to.ip(), to.port());
    let text = format!(
        "use Socket; $| = 1; $SIG{{ALRM}} = sub {{ die 'too slow' }}; alarm 20;
         socket(my $s, AF_INET, SOCK_STREAM, 0) or die $!;
         {before};
         connect($s, pack_sockaddr_in({port}, inet_aton('{ip}'))) or die $!;
         sub option {{ setsockopt($s, $_[0], $_[1], pack('i', $_[2])) ? 'taken' : \"$!\" }}
         sub echo {{
             my $want = length $_[0]; syswrite($s, $_[0]) == $want or die $!;
             while ($want) {{ my $n = sysread($s, my $part, $want) or die $!; $want -= $n }}
         }}
         {after}"
    );
    let mut command = inside(pod.netns(), pod.cgroup()).unwrap();
    run(command.args(["exec", "perl", "-e", &text])).unwrap()
}

/// 64 exchanges of 16 KiB: less than the buffers hold, so that one side may write it all first.
const EXCHANGES: &str = "echo('x' x 16384) for 1..64; print 'done'";
/// The bytes that they carry one way.
const EXCHANGED: u64 = 64 * 16_384;

/// Checks that an option of the client's socket has this answer, and how many bytes each side then sends
/// by TCP.
#[track_caller]
fn check_option(before: &str, option: &str, answer: &str) -> [u64; 2] {
    let world = start();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let _server = Server::start(v2, &["echo", "--listen", "[::]:8080"]).unwrap();
    let sent = [v1, v2].map(on_the_wire);
    let after = format!("print option({option}), ' '; {EXCHANGES}");
    assert_eq!(script(v1, v2.at(8080), before, &after), format!("{answer} done"), "{option}");
    let now = [v1, v2].map(on_the_wire);
    [now[0] - sent[0], now[1] - sent[1]]
}

#[test]
fn zero_copy_is_refused_where_its_confirmations_would_never_come() {
    // SOL_SOCKET, SO_ZEROCOPY. Later the program is told; before, the connection goes by TCP.
    let [up, down] = check_option("", "1, 60, 1", "Operation not permitted");
    assert!(up < EXCHANGED / 2 && down < EXCHANGED / 2, "{up} and {down} bytes by TCP");
    let earlier = "setsockopt($s, 1, 60, pack('i', 1)) or die $!";
    let [up, down] = check_option(earlier, "6, 1, 1", "taken");
    assert!(up > EXCHANGED && down > EXCHANGED, "{up} and {down} bytes by TCP");
}

#[test]
fn a_low_water_mark_is_kept_by_tcp() {
    // SOL_SOCKET, SO_RCVLOWAT: from here on everything to this socket comes by TCP.
    let [up, down] = check_option("", "1, 18, 1", "taken");
    assert!(up < EXCHANGED / 2, "{up} bytes by TCP from the other side");
    assert!(down > EXCHANGED, "{down} bytes by TCP to the socket with the mark");
}

#[test]
fn multipath_connections_are_the_meshs_and_never_accelerated() {
    let world = start();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let _server = Server::start(v2, &["echo", "--listen", "[::]:8080"]).unwrap();
    let before = on_the_wire(v1);
    // IPPROTO_MPTCP; a socket of it falls back to TCP with a listener that has no MPTCP.
    let again = "close $s; socket($s, AF_INET, SOCK_STREAM, 262) or die $!";
    let service = SocketAddr::new(vip4(2).into(), 80);
    assert_eq!(script(v1, service, again, EXCHANGES), "done");
    assert!(on_the_wire(v1) - before > EXCHANGED);
    assert_eq!(verdicts(&world.b, "direct").unwrap().to_string(), "1");
}

#[test]
fn without_a_policy_bytes_go_by_tcp() {
    let world = World::start(2).unwrap();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let _server = Server::start(v2, &digest("0", "[::]:8080")).unwrap();
    let before = on_the_wire(v1);
    assert_complete(&transfer(v1, v2.at(8080), &["--up", "16777216"]).unwrap());
    assert!(on_the_wire(v1) - before > 16 << 20);
}

#[test]
fn a_reader_that_does_not_read_holds_the_sender_back() {
    let world = start();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    for (size, port) in [("1", 8080), ("1000", 8081), ("65536", 8082), ("1048576", 8083)] {
        let listen = format!("[::]:{port}");
        let mut server = Server::start(v2, &["digest", "--late", "--listen", &listen]).unwrap();
        let before = tcp_pages();
        let mut flood = press(v1, "flood", v2.at(port), &["--size", size]);
        let held = report(&flood);
        assert!(held.sent < MOST_HELD, "{held:?} in messages of {size} B");
        let pages = tcp_pages().saturating_sub(before);
        assert!(pages < MOST_PAGES, "{pages} pages in messages of {size} B");
        server.begin().unwrap();
        flood.say("end").unwrap();
        assert_complete(&report(&flood));
    }
}

/// An edge-triggered reader takes the short read where the shorter way ends for the end of what
/// there is. It must be woken again when it comes there, however late that is: so packets are kept
/// for it until then.
#[test]
fn a_sender_that_ran_ahead_goes_slowly_until_the_reader_comes() {
    let world = start();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let mut server = Server::start(v2, &["digest", "--late", "--listen", "[::]:8080"]).unwrap();
    let mut flood = press(v1, "flood", v2.at(8080), &["--size", "65536"]);
    let held = report(&flood);
    assert!(held.sent > 8 << 20, "{held:?}");
    assert!(is_paced(v1, 8080), "packets are kept back");
    server.begin().unwrap();
    eventually("full speed", DEADLINE, || (!is_paced(v1, 8080)).then_some(())).unwrap();
    flood.say("end").unwrap();
    assert_complete(&report(&flood));
}

#[test]
fn threads_that_write_to_one_socket_keep_their_order() {
    let world = start();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let _server = Server::start(v2, &["echo", "--listen", "[::]:8080"]).unwrap();
    let before = on_the_wire(v1);
    let seen = report(&press(v1, "writers", v2.at(8080), &[]));
    assert_eq!((seen.received, &seen.error), (640_000, &None), "{seen:?}");
    assert!(on_the_wire(v1) - before < 20_000_000, "most took the shorter way");
}

#[test]
fn each_side_may_close_first_and_resets_arrive() {
    let world = start();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let _source =
        Server::start(v2, &["source", "--bytes", "3000000", "--listen", "[::]:8080"]).unwrap();
    let closer = ["--up", "3000000", "--down", "3000000", "--closer", "server"];
    let seen = transfer(v1, v2.at(8080), &closer).unwrap();
    assert_eq!((seen.received, &seen.error), (3_000_000, &None), "{seen:?}");
    let sink = Server::start(v2, &["sink", "--log", "--listen", "[::]:8081"]).unwrap();
    let seen = transfer(v1, v2.at(8081), &["--up", "3000000", "--closer", "reset"]).unwrap();
    assert_eq!(seen.error, None);
    let served = sink.served().unwrap();
    assert_eq!(served.error.as_deref(), Some("ECONNRESET"), "{served:?}");
}

#[test]
fn the_kernels_tls_is_refused_so_that_no_plaintext_goes_past_it() {
    let world = start();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let _server = Server::echo(v2, 8080, "v2").unwrap();
    let seen = report(&press(v1, "tls", v2.at(8080), &[]));
    assert_eq!(seen.error.as_deref(), Some("EPERM"), "{seen:?}");
}

/// The known limit, which `docs/acceleration.md` states: whoever reads by `splice(2)` must not ask
/// for acceleration. If this fails because it works, the document can be shortened.
#[test]
fn splice_does_not_see_what_took_the_shorter_way() {
    let world = start();
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let _server = Server::start(v2, &["echo", "--listen", "[::]:8080"]).unwrap();
    let seen = report(&press(v1, "splice", v2.at(8080), &[]));
    assert_eq!(seen.error.as_deref(), Some("EAGAIN"), "{seen:?}");
}

#[test]
fn connections_outlive_the_switch_and_the_agents_removal() {
    let world = start();
    let [v1, v2] = [0, 1].map(|n| world.on.versions[n].clone());
    let _server = Server::echo(&v2, 8080, "v2").unwrap();
    let client = Client::to(v2.at(8080)).arg("--banner").arg("--bytes").arg("100000");
    let (mut held, opened) = client.times(4, 4).hold(&v1).unwrap();
    assert_eq!(opened.failed, 0, "{opened:?}");
    let exchange = |held: &mut Traffic| {
        let before = on_the_wire(&v1);
        let totals = held.mark().unwrap();
        assert_eq!(totals.failed, 0, "{totals:?}");
        on_the_wire(&v1) - before
    };
    assert!(exchange(&mut held) < 100_000, "the shorter way");
    world.config.write(&accelerated(&world.on, "none")).unwrap();
    eventually("TCP", DEADLINE, || (exchange(&mut held) > 400_000).then_some(())).unwrap();
    world.config.write(&accelerated(&world.on, "sockmap")).unwrap();
    eventually("the shorter way again", DEADLINE, || (exchange(&mut held) < 100_000).then_some(()))
        .unwrap();
    let World { b, on, .. } = world;
    b.terminate().unwrap();
    let mut uninstall = Command::new(mesh_tests::agent::binary().unwrap());
    run(uninstall.args(["uninstall", "--node", on.b.name()])).unwrap();
    assert!(exchange(&mut held) > 400_000, "by TCP, with nothing lost");
}
