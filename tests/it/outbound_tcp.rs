//! Bytes, ends and resets of TCP connections through two agents.

use mesh_tests::apps::{Client, Server, transfer};
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{World, lines, service};
use mesh_tests::process::DEADLINE;
use mesh_tests::report::Stage;
use serde_json::Value;

/// Starts `service` on the port of `v1` behind port `n` of the service, with a report of each
/// connection.
fn serve(world: &World, n: u16, service: &[&str]) -> Server {
    let listen = format!("[::]:{}", 8080 + n);
    let args = [service, &["--log", "--listen", &listen]].concat();
    Server::start(world.v1(), &args).unwrap()
}

/// The failure in a line of the access log.
fn failure(line: &Value) -> [&str; 3] {
    ["failure", "failure_side", "retry"].map(|field| line[field].as_str().unwrap_or("none"))
}

/// Checks that both agents logged `count` connections, all of which ended as `expect` says.
#[track_caller]
fn logged(world: &World, count: usize, expect: [[&str; 3]; 2]) {
    for (agent, expect) in [&world.a, &world.b].into_iter().zip(expect) {
        let lines = lines(agent, count).unwrap();
        assert_eq!(lines.len(), count, "{}: {lines:#?}", agent.node().name());
        for line in &lines {
            assert_eq!(failure(line), expect, "{line}");
        }
    }
}

/// How a connection ends that went well.
const WELL: [&str; 3] = ["none"; 3];

#[test]
fn every_byte_arrives_both_ways_whoever_closes_first() {
    let world = World::start(1).unwrap();
    let sizes = [1, 1024, 64 * 1024 + 1, 16 * 1024 * 1024];
    for (n, size) in (0..).zip(sizes) {
        let bytes = u64::to_string(&size);
        let check = |port: u16, server: &str, closer: &str, confirmed: Option<bool>| {
            let server = serve(&world, port, &[server, "--bytes", &bytes]);
            let args = ["--up", &bytes, "--down", &bytes, "--closer", closer];
            let seen = transfer(world.client(), service(port), &args).unwrap();
            assert_eq!((seen.error, seen.confirmed), (None, confirmed), "{size} by {closer}");
            assert_eq!((seen.sent, seen.received), (size, size));
            let served = server.served().unwrap();
            assert_eq!((served.error, served.received), (None, size));
            served.digest
        };
        // The client confirms what the server says it has read; the second server says the same.
        let confirmed = check(n, "digest", "client", Some(true));
        assert_eq!(check(n + 4, "source", "server", None), confirmed);
    }
    logged(&world, 8, [WELL, WELL]);
    for line in world.a.access_log().unwrap() {
        let received = line["bytes_received"].as_u64().unwrap();
        assert!(sizes.contains(&received), "{line}");
        assert!(line["bytes_sent"].as_u64().unwrap() >= received, "{line}");
    }
}

#[test]
fn a_gibibyte_arrives() {
    let world = World::start(1).unwrap();
    let _server = serve(&world, 0, &["digest"]);
    let args = ["--up", "1073741824", "--timeout", "600"];
    let seen = transfer(world.client(), service(0), &args).unwrap();
    assert_eq!((seen.error, seen.confirmed), (None, Some(true)));
    assert_eq!(lines(&world.b, 1).unwrap()[0]["bytes_received"], 1_073_741_824_u64);
}

#[test]
fn a_server_may_speak_first() {
    let world = World::start(1).unwrap();
    let _server = serve(&world, 0, &["version", "--name", "first"]);
    let seen = Client::to(service(0)).arg("--banner").run(world.client()).unwrap().single();
    assert_eq!(seen.unwrap().version(), Some("first"));
    logged(&world, 1, [WELL, WELL]);
}

/// Whether the client has ended the connection with a reset, which is no failure.
fn is_clients_reset(line: &Value) -> bool {
    let details = line["connection_termination_details"].as_str().unwrap_or_default();
    line["failure"].is_null() && details.starts_with("client_reset")
}

/// Waits for `count` lines of each agent, which are all of resets by clients.
#[track_caller]
fn logged_resets(world: &World, count: usize) {
    for agent in [&world.a, &world.b] {
        for line in lines(agent, count).unwrap() {
            assert!(is_clients_reset(&line), "{line}");
        }
    }
}

#[test]
fn a_clients_reset_is_a_reset_at_the_server() {
    let world = World::start(1).unwrap();
    let server = serve(&world, 0, &["echo"]);
    let client = Client::to(service(0)).arg("--bytes").arg("1000").arg("--end").arg("reset");
    let outcome = client.times(100, 8).run(world.client()).unwrap();
    assert_eq!(outcome.totals.failed, 0, "{:?}", outcome.totals.errors);
    for _ in 0..100 {
        let served = server.served().unwrap();
        assert_eq!((served.received, served.error.as_deref()), (1000, Some("ECONNRESET")));
    }
    logged_resets(&world, 100);
}

#[test]
fn a_reset_with_bytes_on_the_way_is_a_reset_at_the_server() {
    let world = World::start(1).unwrap();
    // Both directions are full of bytes that nobody reads.
    for (n, bytes) in [(0, "0"), (1, "100000000")] {
        let server = serve(&world, n, &["digest", "--bytes", bytes]);
        let args = ["--up", "1000000", "--closer", "reset"];
        assert_eq!(transfer(world.client(), service(n), &args).unwrap().error, None);
        let served = server.served().unwrap();
        assert!(
            matches!(served.error.as_deref(), Some("ECONNRESET" | "EPIPE")),
            "{served:?} while sending {bytes}"
        );
    }
}

#[test]
fn a_reset_at_once_is_never_an_orderly_end() {
    let world = World::start(1).unwrap();
    let server = serve(&world, 0, &["sink"]);
    let client = Client::to(service(0)).arg("--end").arg("reset").times(200, 8);
    assert_eq!(client.run(world.client()).unwrap().totals.failed, 0);
    for line in lines(&world.a, 200).unwrap() {
        assert!(is_clients_reset(&line), "{line}");
    }
    eventually("no open connection", DEADLINE, || {
        (world.b.metrics().ok()?.sum("mesh_connections_open", &[]) < 0.5).then_some(())
    })
    .unwrap();
    // Those that were cut before the server was asked do not reach it.
    for served in server.finish().unwrap() {
        assert_eq!(served.error.as_deref(), Some("ECONNRESET"), "{served:?}");
    }
}

#[test]
fn a_client_that_dies_after_its_last_byte_is_a_reset_at_the_server() {
    let world = World::start(1).unwrap();
    let server = serve(&world, 0, &["digest", "--bytes", "100000000"]);
    let args = ["--up", "1000", "--closer", "dead"];
    assert_eq!(transfer(world.client(), service(0), &args).unwrap().error, None);
    let served = server.served().unwrap();
    // As without a mesh: what nobody has read when the reset comes may be lost.
    assert!(matches!(served.error.as_deref(), Some("ECONNRESET" | "EPIPE")), "{served:?}");
    logged_resets(&world, 1);
}

#[test]
fn a_servers_reset_is_a_reset_at_the_client() {
    let world = World::start(1).unwrap();
    let _server = serve(&world, 0, &["reset", "--bytes", "1000"]);
    let client = Client::to(service(0)).arg("--bytes").arg("100000").times(100, 8);
    let outcome = client.run(world.client()).unwrap();
    for (error, count) in &outcome.totals.errors {
        // Linux tells a writer of the reset with either name.
        assert!(["exchange ECONNRESET", "exchange EPIPE"].contains(&error.as_str()), "{error}");
        assert!(*count > 0);
    }
    assert_eq!(outcome.totals.failed, 100);
    let reset = ["reset", "upstream", "if_idempotent"];
    logged(&world, 100, [reset, reset]);
}

#[test]
fn a_closed_port_is_an_error_at_the_client_and_safe_to_retry() {
    let world = World::start(1).unwrap();
    let outcome = Client::to(service(0)).echo("x").times(20, 4).run(world.client()).unwrap();
    assert_eq!(outcome.totals.failed, 20);
    for connection in &outcome.connections {
        // The agent has taken the connection before it knows; no byte of an answer comes.
        assert!(connection.stage <= Stage::Banner, "{connection:?}");
        assert_eq!(connection.error.as_deref(), Some("ECONNRESET"), "{connection:?}");
    }
    let refused = ["connect", "upstream", "safe"];
    logged(&world, 20, [refused, refused]);
}

#[test]
fn two_thousand_connections_are_held_at_once() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    let client = Client::to(service(0)).echo("held").times(2000, 200).arg("--timeout").arg("50");
    let (mut held, opened) = client.hold(world.client()).unwrap();
    assert_eq!((opened.connections, opened.failed), (2000, 0), "{:?}", opened.errors);
    let open = world.a.metrics().unwrap().sum("mesh_connections_open", &[("reporter", "source")]);
    assert_eq!(open.to_string(), "2000");
    let again = held.mark().unwrap();
    assert_eq!((again.connections, again.failed), (2000, 0), "{:?}", again.errors);
    assert_eq!(held.stop().unwrap().connections, 2000);
    logged(&world, 2000, [WELL, WELL]);
}

#[test]
fn many_short_connections_all_go_well() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    let outcome = Client::to(service(0)).echo("short").times(2000, 16).run(world.client()).unwrap();
    assert_eq!(outcome.totals.failed, 0, "{:?}", outcome.totals.errors);
    logged(&world, 2000, [WELL, WELL]);
}

#[test]
fn clients_that_leave_at_once_and_servers_that_close_at_once_are_no_failures() {
    let world = World::start(1).unwrap();
    let sink = serve(&world, 0, &["sink"]);
    let _closing = serve(&world, 1, &["close"]);
    let leave = Client::to(service(0)).arg("--end").arg("leave").times(100, 8);
    assert_eq!(leave.run(world.client()).unwrap().totals.failed, 0);
    for _ in 0..100 {
        let served = sink.served().unwrap();
        assert_eq!((served.received, served.error), (0, None));
    }
    let closed = Client::to(service(1)).times(100, 8).run(world.client()).unwrap();
    assert_eq!(closed.totals.failed, 0, "{:?}", closed.totals.errors);
    logged(&world, 200, [WELL, WELL]);
    for agent in [&world.a, &world.b] {
        eventually("no open connection", DEADLINE, || {
            (agent.metrics().ok()?.sum("mesh_connections_open", &[]) < 0.5).then_some(())
        })
        .unwrap();
    }
}
