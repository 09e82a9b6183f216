//! The laboratory itself, without a mesh.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use mesh_tests::apps::{Client, Server, transfer};
use mesh_tests::capture::{Capture, records};
use mesh_tests::expect::eventually;
use mesh_tests::lab::Lab;
use mesh_tests::netns::Netns;
use mesh_tests::node::Node;
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::report::Stage;
use mesh_tests::{cgroup, sweep};

/// A client on one node and a server on another.
fn two_nodes() -> (Node, Pod, Pod) {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let pods = (a.pod("client").unwrap(), b.pod("server").unwrap());
    (b, pods.0, pods.1)
}

/// The remains of a lab on this host.
fn remains(id: &str) -> Vec<String> {
    let mut found = Netns::names(&sweep::netns_prefix(id));
    let cgroup = cgroup::mount().unwrap().join(sweep::cgroup_name(id));
    let paths = [cgroup, sweep::state(id), Path::new(sweep::FOLDER).join(id)];
    found.extend(paths.iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
    found
}

#[test]
fn pods_of_two_nodes_reach_each_other() {
    let (_node, client, server) = two_nodes();
    let _echo = Server::echo(&server, 8080, "v1").unwrap();
    for (to, seen_as) in [
        (Client::to(server.at(8080)), client.at(0).ip()),
        (Client::to(server.at6(8080)), client.at6(0).ip()),
        (Client::to(server.at(8080)).mapped(), client.at(0).ip()),
    ] {
        let connection = to.echo("hello").run(&client).unwrap().single().unwrap();
        let banner = connection.banner.unwrap();
        assert_eq!(connection.stage, Stage::Done);
        assert_eq!(banner.version, "v1");
        assert_eq!(banner.peer, banner.peername);
        assert_eq!(banner.peer.ip().to_canonical(), seen_as);
        assert_eq!(banner.peer.port(), connection.local.unwrap().port());
        assert_eq!(banner.local.port(), connection.peername.unwrap().port());
    }
}

#[test]
fn processes_of_a_pod_are_in_its_cgroup_and_its_namespace() {
    let (_node, _client, server) = two_nodes();
    let echo = Server::echo(&server, 8080, "v1").unwrap();
    let pid = echo.process().pid();
    let listed = std::fs::read_to_string(server.cgroup().join("cgroup.procs")).unwrap();
    assert_eq!(listed.trim(), pid.to_string());
    let inode = |path: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let named = inode(server.netns().path().to_str().unwrap());
    assert_eq!(inode(&format!("/proc/{pid}/ns/net")), named);
    echo.stop().unwrap();
}

#[test]
fn labs_do_not_see_each_other() {
    let (node, client, server) = two_nodes();
    let (other_node, other_client, other_server) = two_nodes();
    assert_eq!(server.v4(), other_server.v4());
    assert_ne!(node.name(), other_node.name());
    let _echo = Server::echo(&server, 8080, "one").unwrap();
    let _other = Server::echo(&other_server, 8080, "two").unwrap();
    let ask = |from: &Pod| {
        let seen = Client::to(server.at(8080)).echo("hello").run(from).unwrap().single().unwrap();
        seen.version().map(str::to_owned)
    };
    assert_eq!(ask(&client).as_deref(), Some("one"));
    assert_eq!(ask(&other_client).as_deref(), Some("two"));
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mut id = String::new();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let (node, _client, server) = two_nodes();
        id = node.lab().id().to_owned();
        let _echo = Server::echo(&server, 8080, "v1").unwrap();
        assert_ne!(remains(&id), Vec::<String>::new());
        panic!("a test fails");
    }));
    assert_eq!(*panic.unwrap_err().downcast::<&str>().unwrap(), "a test fails");
    assert_eq!(remains(&id), Vec::<String>::new());
}

#[test]
fn a_new_lab_removes_one_whose_owner_is_dead() {
    let (node, _client, server) = two_nodes();
    let echo = Server::echo(&server, 8080, "v1").unwrap();
    let id = node.lab().id();
    // The first process of the host lives, but did not start at this time.
    std::fs::write(Path::new(sweep::FOLDER).join(id), "1 18446744073709551615\n").unwrap();
    let _lab = Lab::new().unwrap();
    assert_eq!(remains(id), Vec::<String>::new());
    assert!(echo.stop().is_err(), "its processes were killed");
}

#[test]
fn errors_have_the_name_of_their_errno() {
    let (_node, client, server) = two_nodes();
    let refused = Client::to(server.at(9)).run(&client).unwrap();
    assert_eq!(refused.connections[0].error.as_deref(), Some("ECONNREFUSED"));
    assert_eq!(refused.totals.errors.keys().collect::<Vec<_>>(), ["connect ECONNREFUSED"]);
    let reset = Server::start(&server, &["reset", "--bytes", "5"]).unwrap();
    let to = Client::to(server.at(reset.addr.port())).arg("--send").arg("hello");
    let outcome = to.run(&client).unwrap();
    assert_eq!(outcome.totals.errors.keys().collect::<Vec<_>>(), ["exchange ECONNRESET"]);
}

#[test]
fn either_side_may_close_its_direction_first() {
    let (_node, client, server) = two_nodes();
    let sizes = ["--up", "3000000", "--down", "2000000"];
    let digest = Server::start(&server, &["digest", "--bytes", "2000000", "--log"]).unwrap();
    let sent = transfer(&client, server.at(digest.addr.port()), &sizes).unwrap();
    assert_eq!((sent.error, sent.received, sent.confirmed), (None, 2_000_000, Some(true)));
    let source = Server::start(&server, &["source", "--bytes", "2000000", "--log"]).unwrap();
    let args = [sizes.as_slice(), &["--closer", "server"]].concat();
    let sent = transfer(&client, server.at6(source.addr.port()), &args).unwrap();
    assert_eq!((sent.error, sent.received, sent.confirmed), (None, 2_000_000, None));
    let (first, second) = (digest.served().unwrap(), source.served().unwrap());
    assert_eq!((first.received, second.received), (3_000_000, 3_000_000));
    assert_eq!(first.digest, second.digest);
}

#[test]
fn traffic_and_held_connections_answer_marks() {
    let (_node, client, server) = two_nodes();
    let echo = Server::echo(&server, 8080, "v1").unwrap();
    let mut traffic = Client::to(server.at(8080)).echo("x").traffic(&client).unwrap();
    let (mut held, opened) =
        Client::to(server.at6(8080)).echo("y").times(50, 10).hold(&client).unwrap();
    assert_eq!((opened.connections, opened.failed, opened.versions["v1"]), (50, 0, 50));
    let again = held.mark().unwrap();
    assert_eq!((again.connections, again.failed), (50, 0));
    let before = eventually("traffic", DEADLINE, || {
        Some(traffic.mark().unwrap()).filter(|totals| totals.connections > 0)
    });
    assert_eq!(before.unwrap().failed, 0);
    drop(echo);
    let lost = held.mark().unwrap();
    assert_eq!((lost.connections, lost.failed), (50, 50));
    assert_eq!(held.stop().unwrap().connections, 0);
    traffic.stop().unwrap();
}

#[test]
fn a_capture_reads_what_is_not_encrypted() {
    let (node, client, server) = two_nodes();
    let _echo = Server::echo(&server, 8080, "v1").unwrap();
    let capture = Capture::start(node.lab().fabric()).unwrap();
    for addr in [server.at(8080), server.at6(8080)] {
        let outcome = Client::to(addr).echo("open secret").run(&client).unwrap();
        assert_eq!(outcome.totals.failed, 0);
    }
    let wire = capture.stop().unwrap();
    assert!(wire.shows(b"open secret"));
    assert!(!wire.shows(b"another secret"));
    let streams: Vec<_> = wire.of_port(8080).collect();
    let sent = streams.iter().filter(|stream| stream.to.port() == 8080);
    assert_eq!(streams.len(), 4, "two directions of two connections");
    assert!(sent.clone().all(|stream| stream.bytes == b"open secret" && stream.lost == 0));
    assert!(sent.clone().all(|stream| records(&stream.bytes).is_err()));
    assert_eq!(wire.beside_port(8080).count(), 0);
}
