//! The metrics as a scraper reads them.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use super::testing::{documented, end, parties};
use super::*;
use crate::bounds::Use;
use crate::failure::{Failure, Retry, Side};
use crate::telemetry::labels::LABELS;
use crate::telemetry::metrics::{ALL, Metric, Type};

const LABEL_TEXT: &str = concat!(
    r#"reporter="source",source_workload="client",source_workload_namespace="demo","#,
    r#"source_principal="spiffe://cluster.local/ns/demo/sa/client",source_app="app","#,
    r#"source_version="v1",source_cluster="unknown",source_canonical_service="app","#,
    r#"source_canonical_revision="v1",destination_workload="echo","#,
    r#"destination_workload_namespace="demo","#,
    r#"destination_principal="spiffe://cluster.local/ns/demo/sa/echo",destination_app="app","#,
    r#"destination_version="v2",destination_cluster="unknown",destination_canonical_service="app","#,
    r#"destination_canonical_revision="v2",destination_service="echo.demo.svc.cluster.local","#,
    r#"destination_service_name="echo",destination_service_namespace="demo","#,
    r#"request_protocol="tcp",connection_security_policy="mutual_tls""#,
);

fn telemetry() -> Telemetry {
    Telemetry::new(Options {
        access_log: Target::Off,
        access_log_queue_bytes: 10_000,
        access_log_rate: 0,
        max_series: 10,
        version: "1.2.3",
    })
    .unwrap()
}

/// The samples of `name`, sorted.
fn samples(telemetry: &Telemetry, name: &str) -> Vec<String> {
    let text = telemetry.encode();
    let is = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    let mut lines: Vec<_> = text.lines().filter(is).map(str::to_owned).collect();
    lines.sort();
    lines
}

fn check(telemetry: &Telemetry, name: &str, expect: &[&str]) {
    let expect: Vec<_> = expect.iter().map(|rest| format!("{name}{rest}")).collect();
    assert_eq!(samples(telemetry, name), expect);
}

/// A connection that failed.
fn failed(kind: Kind) -> ConnectionEnd {
    ConnectionEnd { failure: Some(Failure::new(kind, Side::Upstream, Retry::Safe)), ..end() }
}

#[test]
fn one_event_is_counted_once_in_each_metric() {
    let telemetry = telemetry();
    let (well, badly) = (telemetry.opened(&parties()), telemetry.opened(&parties()));
    let open = |source| {
        [r#"{reporter="destination"} 0"#.to_owned(), format!(r#"{{reporter="source"}} {source}"#)]
    };
    check(&telemetry, "mesh_connections_open", &open(2).each_ref().map(String::as_str));
    telemetry.connection(well, &end());
    telemetry.connection(badly, &failed(Kind::Connect));
    check(&telemetry, "mesh_connections_open", &open(0).each_ref().map(String::as_str));

    let ok = format!(r#"{{{LABEL_TEXT},response_flags="-"}} "#);
    let uf = format!(r#"{{{LABEL_TEXT},response_flags="UF"}} "#);
    for (name, opened, failed) in [
        ("istio_tcp_connections_opened_total", 2, None),
        ("istio_tcp_connections_closed_total", 1, Some(1)),
        ("istio_tcp_sent_bytes_total", 2000, Some(2000)),
        ("istio_tcp_received_bytes_total", 10, Some(10)),
    ] {
        let mut expect = vec![format!("{ok}{opened}")];
        expect.extend(failed.map(|failed| format!("{uf}{failed}")));
        check(&telemetry, name, &expect.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let expect = format!(r#"{{{LABEL_TEXT},response_flags="UF",reason="connect"}} 1"#);
    check(&telemetry, "istio_tcp_connections_failed_total", &[&expect]);
}

/// One that the kernel has summed counts as often as it says.
#[test]
fn a_sum_counts_all_its_connections() {
    let telemetry = telemetry();
    let denied = Failure::new(Kind::Denied, Side::Mesh, Retry::Never);
    telemetry.kernel_only(&ConnectionEnd { failure: Some(denied), ..end() }, 7);
    let text = LABEL_TEXT;
    check(
        &telemetry,
        "istio_tcp_connections_opened_total",
        &[&format!(r#"{{{text},response_flags="-"}} 7"#)],
    );
    check(
        &telemetry,
        "istio_tcp_connections_failed_total",
        &[&format!(r#"{{{text},response_flags="DENY",reason="denied"}} 7"#)],
    );
    let expect =
        r#"{reporter="source",source_workload="client",source_workload_namespace="demo"} 7"#;
    check(&telemetry, "mesh_access_log_limited_total", &[expect]);
}

/// The view of an agent that was restarted meanwhile.
#[test]
fn a_direct_connection_that_was_opened_before_is_counted_when_it_ends() {
    let telemetry = telemetry();
    let direct = |failure| {
        let mut end = ConnectionEnd { failure, ..end() };
        end.parties.security = Security::Kernel;
        end
    };
    telemetry.kernel_closed(&direct(None), 1);
    let text = LABEL_TEXT.replace("mutual_tls", "kernel");
    let counted = |name, flags, expect| {
        let expect = format!(r#"{{{text},response_flags="{flags}"}} {expect}"#);
        assert!(samples(&telemetry, name).iter().any(|line| line.ends_with(&expect)), "{name}");
    };
    counted("istio_tcp_connections_opened_total", "-", 0);
    counted("istio_tcp_connections_closed_total", "-", 1);
    counted("istio_tcp_sent_bytes_total", "-", 2000);
    counted("istio_tcp_received_bytes_total", "-", 10);
    assert_eq!(telemetry.open_connections(), 0);
    telemetry.kernel_opened(&direct(None).parties, 1);
    let denied = Failure::new(Kind::Denied, Side::Mesh, Retry::Never);
    telemetry.kernel_only(&direct(Some(denied)), 1);
    counted("istio_tcp_connections_opened_total", "-", 2);
    counted("istio_tcp_connections_closed_total", "DENY", 1);
    let expect = format!(r#"{{{text},response_flags="DENY",reason="denied"}} 1"#);
    check(&telemetry, "istio_tcp_connections_failed_total", &[&expect]);
    assert_eq!(telemetry.open_connections(), 0);
}

#[test]
fn a_series_that_is_dropped_is_an_internal_failure() {
    let telemetry = telemetry();
    drop(telemetry.opened(&parties()));
    let expect = format!(r#"{{{LABEL_TEXT},response_flags="DC",reason="internal"}} 1"#);
    check(&telemetry, "istio_tcp_connections_failed_total", &[&expect]);
    assert_eq!(telemetry.open_connections(), 0);
}

#[test]
fn the_agents_own_numbers_are_what_was_set() {
    let telemetry = telemetry();
    telemetry.set_snapshot(7, 3);
    telemetry.set_applied_revision(6);
    telemetry.policy_closed(4);
    telemetry.handshake_failed(Role::Server, Kind::Tls);
    telemetry.handshake_done(Role::Client, true);
    telemetry.handshake_refused(Limit::TotalRate);
    telemetry.request_answered(200, "backend");
    telemetry.dial_held();
    telemetry.upgrade(Upgrade::Removed);
    telemetry.unkept(Unkept::Room);
    let tunnel = telemetry.tunnel_opened(Protocol::Native);
    drop(telemetry.tunnel_opened(Protocol::Native));
    check(&telemetry, "mesh_snapshot_revision", &[" 7"]);
    check(&telemetry, "mesh_applied_revision", &[" 6"]);
    check(&telemetry, "mesh_conditions", &[" 3"]);
    check(&telemetry, "mesh_policy_closed_connections_total", &[" 4"]);
    let open = [r#"{protocol="hbone"} 0"#, r#"{protocol="native"} 1"#];
    check(&telemetry, "mesh_tunnels_open", &open);
    let opened = [r#"{protocol="hbone"} 0"#, r#"{protocol="native"} 2"#];
    check(&telemetry, "mesh_tunnels_opened_total", &opened);
    let done = [
        r#"{side="client",resumed="false"} 0"#,
        r#"{side="client",resumed="true"} 1"#,
        r#"{side="server",resumed="false"} 0"#,
        r#"{side="server",resumed="true"} 0"#,
    ];
    check(&telemetry, "mesh_handshakes_total", &done);
    let refused = [
        r#"{limit="node_rate"} 0"#,
        r#"{limit="node_under_way"} 0"#,
        r#"{limit="peer_rate"} 0"#,
        r#"{limit="peer_under_way"} 0"#,
        r#"{limit="total_rate"} 1"#,
        r#"{limit="total_under_way"} 0"#,
    ];
    check(&telemetry, "mesh_handshakes_refused_total", &refused);
    check(&telemetry, "mesh_dials_held_total", &[" 1"]);
    let upgrades =
        [r#"{result="refused"} 0"#, r#"{result="removed"} 1"#, r#"{result="switched"} 0"#];
    check(&telemetry, "mesh_http_upgrades_total", &upgrades);
    let unkept = [r#"{reason="copies"} 0"#, r#"{reason="long"} 0"#, r#"{reason="room"} 1"#];
    check(&telemetry, "mesh_http_unkept_total", &unkept);
    check(&telemetry, "mesh_handshakes_failed_total", &[r#"{side="server",reason="tls"} 1"#]);
    check(&telemetry, "mesh_build_info", &[r#"{version="1.2.3"} 1"#]);
    drop(tunnel);
    let open = [r#"{protocol="hbone"} 0"#, r#"{protocol="native"} 0"#];
    check(&telemetry, "mesh_tunnels_open", &open);
}

fn with_everything() -> Telemetry {
    let telemetry = telemetry();
    telemetry.kernel_closed(&end(), 2);
    let series = telemetry.opened(&parties());
    telemetry.connection(series, &failed(Kind::Reset));
    telemetry.handshake_failed(Role::Client, Kind::Timeout);
    telemetry.request_answered(200, "backend");
    let requests = telemetry.requests(&parties());
    requests.answered(RequestKind::well(200), Duration::from_millis(3));
    let policy = Some(ResourceName::new("demo", "only-web"));
    telemetry.policy_said(Said { policy, rule: Some(2), reason: "rule_denies" }, 1);
    telemetry.register_source(Source::Kernel(Box::new(|| KernelCounters {
        connects: vec![("pass", 5), ("proxy", 6)],
        arrivals: vec![("captured", 7)],
        events_lost: 8,
        refused: vec![("INBOUND", 9)],
    })));
    telemetry.register_source(Source::Coverage(Box::new(|| {
        let workload = ResourceName::new("demo", "echo");
        vec![CoverageCount { workload, direction: "outbound", how: "agent", count: 4 }]
    })));
    telemetry.register_source(Source::Threads(Box::new(|| {
        vec![Stalled { thread: "data-0".into(), lasts: Duration::from_millis(1_200), count: 2 }]
    })));
    telemetry.register_source(Source::Sockets(Box::new(|| {
        let mut refused = [[0; bounds::Limit::ALL.len()]; 5];
        refused[Use::Tunnel as usize][bounds::Limit::Client as usize] = 6;
        let memory = bounds::Memory { most_bytes: 600, promised_bytes: [0, 0, 0, 0, 400] };
        bounds::Counts { most: 100, held: [1, 2, 3, 4, 5], refused, accept_failures: 7, memory }
    })));
    let admin = ("127.0.0.1:15000".parse().unwrap(), true);
    telemetry.register_source(Source::Admin(Box::new(move || vec![admin])));
    telemetry.register_source(Source::Certificates(Box::new(|| {
        let id = SpiffeId::new("cluster.local", "demo", "echo").unwrap();
        CertificateCounters {
            expiries: vec![(id, UNIX_EPOCH + Duration::from_secs(9))],
            authority: Some(UNIX_EPOCH + Duration::from_secs(8)),
            below: vec![("workload", "25", 3)],
            renewed: 5,
            failed: 2,
        }
    })));
    telemetry
}

#[test]
fn sources_are_asked_at_each_scrape() {
    let telemetry = with_everything();
    let expect = [r#"{verdict="pass"} 5"#, r#"{verdict="proxy"} 6"#];
    check(&telemetry, "mesh_kernel_connects_total", &expect);
    check(&telemetry, "mesh_kernel_arrivals_total", &[r#"{verdict="captured"} 7"#]);
    telemetry.events_malformed(2);
    check(&telemetry, "mesh_kernel_events_lost_total", &[" 10"]);
    check(&telemetry, "mesh_kernel_entries_refused", &[r#"{map="INBOUND"} 9"#]);
    let expect = [r#"{identity="spiffe://cluster.local/ns/demo/sa/echo"} 9"#];
    check(&telemetry, "mesh_certificate_expiry_seconds", &expect);
    let expect =
        [r#"{workload="echo",workload_namespace="demo",direction="outbound",how="agent"} 4"#];
    check(&telemetry, "mesh_coverage_connections_total", &expect);
    check(&telemetry, "mesh_authority_expiry_seconds", &[" 8"]);
    check(&telemetry, "mesh_thread_stalled_milliseconds", &[r#"{thread="data-0"} 1200"#]);
    check(&telemetry, "mesh_thread_stalls_total", &[r#"{thread="data-0"} 2"#]);
    check(&telemetry, "mesh_sockets_limit", &[" 100"]);
    check(&telemetry, "mesh_admin_listening", &[r#"{address="127.0.0.1:15000"} 1"#]);
    check(&telemetry, "mesh_memory_promised_limit_bytes", &[" 600"]);
    let expect = [
        r#"{used="handshake"} 1"#,
        r#"{used="outbound"} 2"#,
        r#"{used="plaintext"} 3"#,
        r#"{used="stream"} 4"#,
        r#"{used="tunnel"} 5"#,
    ];
    check(&telemetry, "mesh_sockets_open", &expect);
    let refused = r#"{used="tunnel",limit="client"} 6"#;
    let page = telemetry.encode();
    assert!(page.contains(&format!("mesh_sockets_refused_total{refused}\n")), "{page}");
    check(&telemetry, "mesh_accept_failures_total", &[" 7"]);
    let expect = [r#"{policy="demo/only-web",rule="2",reason="rule_denies"} 1"#];
    check(&telemetry, "mesh_policy_verdicts_total", &expect);
    check(&telemetry, "mesh_certificates_below_life", &[r#"{of="workload",percent="25"} 3"#]);
    let expect = [r#"{result="failed"} 2"#, r#"{result="renewed"} 5"#];
    check(&telemetry, "mesh_certificate_renewals_total", &expect);
}

/// The view of a scraper, not of the catalog.
#[test]
fn the_names_labels_and_types_printed_are_those_of_the_catalog() {
    let text = with_everything().encode();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for metric in ALL {
        let (family, kind) = match metric.kind {
            Type::Counter => (metric.name.strip_suffix("_total").unwrap(), "counter"),
            Type::Gauge => (metric.name, "gauge"),
            Type::Info => (metric.name.strip_suffix("_info").unwrap(), "info"),
            Type::Histogram => (metric.name, "histogram"),
        };
        let name = match metric.kind {
            Type::Histogram => format!("{}_count", metric.name),
            _ => metric.name.to_owned(),
        };
        let header = format!("# TYPE {family} {kind}\n");
        assert_eq!(text.matches(&header).count(), 1, "{header}");
        let line = text
            .lines()
            .find(|line| line.split(['{', ' ']).next() == Some(&*name))
            .unwrap_or_else(|| panic!("{name} has no sample"));
        let common = metric.name.starts_with("istio_").then_some(LABELS).into_iter().flatten();
        for label in common.chain(metric.labels.iter().copied()) {
            assert!(line.contains(&format!("{label}=\"")), "{label}: {line}");
        }
    }
    let names = text.lines().filter(|line| !line.starts_with('#'));
    for name in names.map(|line| line.split(['{', ' ']).next().unwrap()) {
        let suffixes = ["_bucket", "_sum", "_count"];
        let family = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        let known = |metric: &Metric| match metric.kind {
            Type::Histogram => metric.name == family,
            _ => metric.name == name,
        };
        assert!(ALL.iter().any(known), "{name} is not in the catalog");
    }
}

#[test]
fn the_documentation_is_the_catalog() {
    let page = include_str!("../../../docs/metrics.md");
    let kind = |kind| match kind {
        Type::Counter => "counter",
        Type::Gauge => "gauge",
        Type::Info => "info",
        Type::Histogram => "histogram",
    };
    let mut expect: BTreeMap<&str, Vec<String>> = ALL
        .iter()
        .map(|metric| {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            (metric.name, vec![kind(metric.kind).to_owned(), labels.join(", ")])
        })
        .collect();
    let mut rows = documented(page);
    let labels =
        LABELS.iter().chain(&["response_flags", "reason", "response_code", "grpc_response_status"]);
    for label in labels {
        assert!(rows.remove(label).is_some(), "the label `{label}` is not documented");
    }
    for (name, cells) in rows {
        let cells: Vec<_> = cells.iter().take(2).map(|cell| (*cell).to_owned()).collect();
        assert_eq!(expect.remove(name), Some(cells), "{name}");
    }
    assert!(expect.is_empty(), "not documented: {expect:?}");
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let telemetry = Telemetry::new(Options {
        access_log: Target::File(path.clone()),
        access_log_queue_bytes: 10_000,
        access_log_rate: 0,
        max_series: 10,
        version: "1.2.3",
    })
    .unwrap();
    for _ in 0..3 {
        let series = telemetry.opened(&parties());
        telemetry.connection(series, &end());
    }
    telemetry.close().await;
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(text.starts_with(r#"{"start_time":"2026-02-28T23:59:59.250Z""#), "{text}");
    check(&telemetry, "mesh_access_log_dropped_total", &[" 0"]);
}
