//! Reports of agents about connections: metrics, the access log, health.

use std::collections::BTreeSet;

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server, transfer};
use mesh_tests::expect::eventually;
use mesh_tests::pair::{ECHO, PORT, Pair, hello, spiffe};
use mesh_tests::process::DEADLINE;
use nix::sys::signal::Signal;
use serde_json::Value;

/// The bytes that the client of the transfer sends.
const UP: u64 = 300_000;

/// The bytes that the server sends, without its confirmation.
const DOWN: u64 = 200_000;

fn sum(agent: &Agent, name: &str, labels: &[(&str, &str)]) -> f64 {
    agent.metrics().unwrap().sum(name, labels)
}

/// Fields of the access log in the documentation.
fn documented() -> BTreeSet<&'static str> {
    let text = include_str!("../../docs/access-log.md");
    let table = text.split("## Failures").next().unwrap();
    table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

/// One transfer, as the line of `agent` and its metrics tell it.
fn check(agent: &Agent, reporter: &str, down: u64) -> Value {
    let line = agent.logged("the transfer", |line| line["reporter"] == reporter).unwrap();
    let fields: BTreeSet<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, documented());
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (text("source_workload"), text("source_workload_namespace")),
        ("client".to_owned(), "demo".to_owned())
    );
    assert_eq!(text("source_principal"), spiffe("client"));
    assert_eq!(text("destination_workload"), "echo");
    assert_eq!(text("destination_principal"), spiffe("echo"));
    assert_eq!(text("connection_security_policy"), "mutual_tls");
    assert_eq!((text("response_flags").as_str(), &line["failure"]), ("-", &Value::Null));
    assert_eq!(
        (line["bytes_received"].as_u64(), line["bytes_sent"].as_u64()),
        (Some(UP), Some(down))
    );
    let (source, destination) = (spiffe("client"), spiffe("echo"));
    let labels = [
        ("reporter", reporter),
        ("source_workload", "client"),
        ("source_workload_namespace", "demo"),
        ("source_principal", &source),
        ("source_canonical_service", "client"),
        ("destination_workload", "echo"),
        ("destination_principal", &destination),
        ("destination_app", "echo"),
        ("request_protocol", "tcp"),
        ("connection_security_policy", "mutual_tls"),
        ("response_flags", "-"),
    ];
    let count = |name: &str| sum(agent, name, &labels).to_string();
    assert_eq!(count("istio_tcp_received_bytes_total"), UP.to_string());
    assert_eq!(count("istio_tcp_sent_bytes_total"), down.to_string());
    assert_eq!(count("istio_tcp_connections_opened_total"), "1");
    assert_eq!(count("istio_tcp_connections_closed_total"), "1");
    line
}

#[test]
fn both_ends_report_a_transfer_with_its_bytes() {
    let pair = Pair::new().unwrap();
    let (a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let port = PORT.to_string();
    let bytes = DOWN.to_string();
    let listen = format!("[::]:{port}");
    let args = ["digest", "--bytes", &bytes, "--listen", &listen];
    let _server = Server::start(&pair.echo, &args).unwrap();
    let (up, down) = (UP.to_string(), DOWN.to_string());
    let sent = transfer(&pair.client, ECHO, &["--up", &up, "--down", &down]).unwrap();
    assert_eq!((sent.error, sent.confirmed), (None, Some(true)));

    // The confirmation is a line of JSON after the bytes; both ends must agree on its length.
    let line = a.logged("the transfer", |line| line["reporter"] == "source").unwrap();
    let all = line["bytes_sent"].as_u64().unwrap();
    assert!((1..200).contains(&(all - DOWN)), "{all}");
    let source = check(&a, "source", all);
    let destination = check(&b, "destination", all);
    assert_eq!(source["downstream_local_address"], ECHO.to_string());
    assert_eq!(source["destination_service"], "echo.demo.svc.cluster.local");
    for line in [&source, &destination] {
        assert_eq!(line["upstream_host"], pair.echo.at(PORT).to_string());
        let client = line["downstream_remote_address"].as_str().unwrap();
        assert!(client.starts_with(&format!("{}:", pair.client.v4())), "{client}");
    }
    assert_eq!(source["downstream_remote_address"], destination["downstream_remote_address"]);
    assert_eq!(source["trace_id"].as_str().map(str::len), Some(32), "{source}");
    assert_eq!(source["trace_id"], destination["trace_id"]);
    let service = [("destination_service", "echo.demo.svc.cluster.local")];
    assert_eq!(sum(&a, "istio_tcp_connections_opened_total", &service).to_string(), "1");
}

#[test]
fn all_that_is_opened_is_closed() {
    let pair = Pair::new().unwrap();
    let (a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let echo = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let (held, opened) = hello().times(20, 10).hold(&pair.client).unwrap();
    assert_eq!((opened.connections, opened.failed), (20, 0));
    for (agent, reporter) in [(&a, "source"), (&b, "destination")] {
        let open = sum(agent, "mesh_connections_open", &[("reporter", reporter)]);
        assert_eq!(open.to_string(), "20");
    }
    held.stop().unwrap();
    assert_eq!(hello().times(30, 10).run(&pair.client).unwrap().totals.failed, 0);
    // Nobody listens: these fail, and are closed as well.
    echo.stop().unwrap();
    assert_eq!(Client::to(ECHO).echo("x").times(5, 5).run(&pair.client).unwrap().totals.failed, 5);
    for (agent, reporter) in [(&a, "source"), (&b, "destination")] {
        let all = [("reporter", reporter)];
        eventually("every connection to be closed", DEADLINE, || {
            let closed = sum(agent, "istio_tcp_connections_closed_total", &all);
            (closed.to_string() == "55").then_some(())
        })
        .unwrap();
        let count = |name: &str| sum(agent, name, &all).to_string();
        assert_eq!(count("istio_tcp_connections_opened_total"), "55");
        assert_eq!(count("istio_tcp_connections_failed_total"), "5");
        assert_eq!(count("mesh_connections_open"), "0");
        // Lines are written a little later.
        let logged = || (agent.access_log().unwrap().len() == 55).then_some(());
        eventually("every line", DEADLINE, logged).unwrap();
        assert_eq!(sum(agent, "mesh_task_panics_total", &[]).to_string(), "0");
    }
}

#[test]
fn an_agent_tells_whether_it_lives_and_is_ready() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.a, &[]).unwrap();
    let (status, body) = agent.get("/readyz").unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &body["ready"], &body["missing"]),
        (200, &true.into(), &Value::Array(vec![]))
    );
    assert_eq!(agent.get("/healthz").unwrap(), (200, "ok\n".to_owned()));
    assert_eq!(agent.get("/nothing").unwrap().0, 404);
    let page = agent.get("/metrics").unwrap().1;
    assert!(page.ends_with("# EOF\n"), "{page}");
    for verdict in ["pass", "proxy", "no_memory"] {
        let sample = format!("mesh_kernel_connects_total{{verdict=\"{verdict}\"}} ");
        assert!(page.contains(&sample), "{sample}\n{page}");
    }
    assert_eq!(agent.get("/stats/prometheus").unwrap().0, 200);
    agent.terminate().unwrap();
}

/// A peer's agent that is there and does nothing: the log says who and what is concerned.
#[track_caller]
fn check_silence(transport: &str) {
    let pair = Pair::new().unwrap();
    let args = ["--transport", transport, "--peer-timeout", "20"];
    let (a, mut b) = (pair.agent(&pair.a, &args).unwrap(), pair.agent(&pair.b, &args).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let (_held, opened) = hello().hold(&pair.client).unwrap();
    assert_eq!(opened.failed, 0);
    b.signal(Signal::SIGSTOP).unwrap();
    let said = eventually("the line of the log", DEADLINE, || {
        let log = a.log();
        log.lines().find(|line| line.contains("a peer's agent does not answer")).map(str::to_owned)
    })
    .unwrap();
    b.signal(Signal::SIGCONT).unwrap();
    let (client, echo, peer) = (spiffe("client"), spiffe("echo"), pair.echo.at(15008));
    for word in [&*client, &echo, &peer.to_string(), "silent_ms=", "opens another"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn an_agent_that_does_not_answer_is_named_by_the_native_transport() {
    check_silence("native");
}

#[test]
fn an_agent_that_does_not_answer_is_named_by_hbone() {
    check_silence("hbone");
}
