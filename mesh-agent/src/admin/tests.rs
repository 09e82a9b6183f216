//! The server, over a real socket.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::model::condition::{Condition, Location, Locations, Reason};
use crate::model::http::rules::{HttpRule, HttpRules};
use crate::model::http::table::Table;
use crate::model::http::{Kind, Match, Rule, Timeouts};
use crate::model::id::ResourceName;
use crate::model::service::{AppProtocol, Service, ServicePort, TargetPort};
use crate::model::snapshot::{Backend, Endpoint, Endpoints, Split, Target};
use crate::model::workload::{Place, Workload};
use crate::task::scope::Scope;
use crate::telemetry::{Options, Target as LogTarget};

fn echo() -> (Arc<Workload>, Arc<Service>) {
    let workload = Workload {
        name: ResourceName::new("demo", "echo-v1"),
        identity: SpiffeId::new("cluster.local", "demo", "echo").unwrap(),
        node: Some("node-b".into()),
        addresses: vec!["10.0.2.10".parse().unwrap()],
        labels: BTreeMap::new(),
        ports: vec![],
        probes: Vec::new(),
        ready: true,
        place: Place::Unplaced,
    };
    let service = Service {
        name: ResourceName::new("demo", "echo"),
        hostname: "echo.demo.svc.cluster.local".into(),
        addresses: vec!["10.96.0.10".parse().unwrap()],
        ports: vec![ServicePort {
            name: "tcp".to_owned(),
            port: 80,
            target: TargetPort::Number(8080),
            protocol: AppProtocol::Unset,
        }],
        selector: BTreeMap::new(),
    };
    (Arc::new(workload), Arc::new(service))
}

fn snapshot() -> Snapshot {
    let (workload, service) = echo();
    let endpoint =
        Endpoint { address: "10.0.2.10:8080".parse().unwrap(), workload: Arc::clone(&workload) };
    let backend = |weight| Backend {
        service: service.name.clone(),
        port: 80,
        weight,
        endpoints: Endpoints::Resolved {
            service: Arc::clone(&service),
            endpoints: [endpoint.clone()].into(),
        },
    };
    let rule = HttpRule {
        route: Arc::new(ResourceName::new("shop", "canary")),
        index: 1,
        rule: Arc::new(Rule {
            name: Some("testers".to_owned()),
            matches: vec![Match::all()],
            filters: Vec::new(),
            backends: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
            persistence: None,
            split_by: None,
        }),
        backends: vec![backend(9)],
        mirrors: vec![Backend { endpoints: Endpoints::Invalid, ..backend(1) }],
    };
    let rules =
        HttpRules { kind: Kind::Http, rules: vec![rule], table: Arc::new(Table::default()) };
    let consumer = Split { route: None, backends: vec![backend(1)], http: Some(Arc::new(rules)) };
    let default = Split { route: None, backends: vec![backend(1)], http: None };
    let target = Target {
        service: Arc::clone(&service),
        port: 80,
        default,
        by_namespace: HashMap::from([("shop".into(), consumer)]),
    };
    Snapshot {
        revision: 3,
        workloads: [(workload.name.clone(), workload)].into(),
        by_address: HashMap::new(),
        by_port: HashMap::new(),
        contested: HashMap::new(),
        services: [("10.96.0.10:80".parse().unwrap(), Arc::new(target))].into(),
        placements: Arc::default(),
        policies: HashMap::new(),
        externals: Vec::new(),
        acceleration: vec![(
            Location { file: std::path::Path::new("policy.yaml").into(), document: 1, line: 1 },
            ResourceName::new("demo", "fast"),
        )],
        locations: Locations::from_iter([(
            "Workload",
            ResourceName::new("demo", "copy"),
            Location { file: std::path::Path::new("copy.yaml").into(), document: 3, line: 7 },
        )]),
        conditions: vec![Condition {
            location: Location {
                file: std::path::Path::new("mesh.yaml").into(),
                document: 2,
                line: 9,
            },
            subject: "TCPRoute demo/split".to_owned(),
            field: "spec.rules[0]".to_owned(),
            reason: Reason::BackendNotFound,
            message: "there is no Service demo/gone".to_owned(),
        }],
    }
}

fn state() -> State {
    let snapshot = Arc::new(snapshot());
    let telemetry = Telemetry::new(Options {
        access_log: LogTarget::Off,
        access_log_queue_bytes: 1,
        access_log_rate: 0,
        max_series: 1,
        version: "1.2.3",
    });
    State {
        findings: Arc::new(Vec::new),
        no_acceleration: Arc::new(|| None),
        coverage: Arc::new(Vec::new),
        certificates: Arc::new(|| {
            let info = CertificateInfo {
                pem: "PEM".to_owned(),
                name: "O=mesh".to_owned(),
                serial_number: "17".to_owned(),
                valid_from: UNIX_EPOCH,
                expires: UNIX_EPOCH + Duration::from_hours(1),
            };
            Certificates {
                held: vec![CertificateSummary {
                    identity: echo().0.identity.clone(),
                    chain: vec![info.clone()],
                    renews: UNIX_EPOCH,
                }],
                roots: vec![info],
                authority: AuthoritySummary {
                    kind: "embedded",
                    trust_domain: "cluster.local".to_owned(),
                    valid: Some((UNIX_EPOCH, UNIX_EPOCH + Duration::from_hours(2))),
                    renewals: 3,
                    failures: 1,
                },
            }
        }),
        ready: Ready::new(),
        snapshot: Arc::new(move || Arc::clone(&snapshot)),
        telemetry: telemetry.unwrap(),
        version: "1.2.3",
    }
}

/// Serves `state` in the background until the scope is drained.
fn start(state: State) -> (SocketAddr, Scope) {
    start_with(Surface::All, state)
}

fn start_with(surface: Surface, state: State) -> (SocketAddr, Scope) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let scope = Scope::new("admin");
    let ours = scope.clone();
    scope.spawn(async move { serve(Listener::Tcp(listener), surface, state, ours).await.unwrap() });
    (address, scope)
}

/// Status, content type and body.
async fn ask(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let content = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap();
    (status, content.to_owned(), body.to_owned())
}

async fn ask_json(address: SocketAddr, path: &str) -> Value {
    let (status, content, body) = ask(address, &format!("GET {path}")).await;
    assert_eq!((status, &*content), (200, "application/json"));
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn each_path_answers_as_its_readers_expect() {
    let (address, scope) = start(state());
    for path in ["/metrics", "/stats/prometheus"] {
        let (status, content, body) = ask(address, &format!("GET {path}")).await;
        assert_eq!(status, 200);
        assert_eq!(content, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert!(body.contains("mesh_build_info{version=\"1.2.3\"} 1\n"), "{body}");
    }
    assert_eq!(ask(address, "GET /healthz").await.0, 200);
    assert_eq!(ask(address, "POST /metrics").await.0, 405);
    let (status, _, body) = ask(address, "GET /nothing").await;
    assert_eq!(status, 404);
    assert!(body.contains("/config_dump"), "{body}");
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let state = state();
    let gate = state.ready.gate("first snapshot");
    let (address, scope) = start(state);
    for path in ["/readyz", "/healthz/ready"] {
        let (status, _, body) = ask(address, &format!("GET {path}")).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        let expect = json!({"ready": false, "missing": ["first snapshot"], "unprotected": []});
        assert_eq!((status, body), (503, expect));
    }
    gate.pass();
    assert_eq!(
        ask_json(address, "/readyz").await,
        json!({"ready": true, "missing": [], "unprotected": []})
    );
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn conditions_say_where_and_what() {
    let (address, scope) = start(state());
    let expect = json!([{
        "file": "mesh.yaml", "document": 2, "line": 9, "subject": "TCPRoute demo/split",
        "field": "spec.rules[0]", "reason": "BackendNotFound",
        "message": "there is no Service demo/gone",
    }]);
    assert_eq!(ask_json(address, "/conditions").await, expect);
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn what_the_kernel_lacks_is_a_condition_of_who_asks_for_it() {
    let lacks = || Some("no such tracepoint".into());
    let (address, scope) = start(State { no_acceleration: Arc::new(lacks), ..state() });
    let conditions = ask_json(address, "/conditions").await;
    assert_eq!(conditions[1]["subject"], "MeshPolicy demo/fast");
    assert_eq!(conditions[1]["file"], "policy.yaml");
    assert_eq!(conditions[1]["reason"], "UnsupportedValue");
    assert!(conditions[1]["message"].as_str().unwrap().contains("no such tracepoint"));
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn what_only_this_node_finds_is_a_condition_of_its_document() {
    let found = |name: &str| Finding {
        subject: format!("Workload demo/{name}"),
        field: "spec.netns",
        reason: Reason::Conflicted,
        message: "another has it".to_owned(),
    };
    let findings = move || vec![found("copy"), found("gone")];
    let (address, scope) = start(State { findings: Arc::new(findings), ..state() });
    let conditions = ask_json(address, "/conditions").await;
    let expect = |file: &str, document: u8, line: u8, name: &str| {
        json!({
            "file": file, "document": document, "line": line, "field": "spec.netns",
            "subject": format!("Workload demo/{name}"), "reason": "Conflicted",
            "message": "another has it",
        })
    };
    assert_eq!(conditions[1], expect("copy.yaml", 3, 7, "copy"));
    // Its document has just been removed.
    assert_eq!(conditions[2], expect("", 0, 0, "gone"));
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn the_dump_has_the_shape_of_ztunnels() {
    let (address, scope) = start(state());
    let dump = ask_json(address, "/config_dump").await;
    let certificate = json!({
        "pem": "PEM", "serialNumber": "17", "validFrom": "1970-01-01T00:00:00.000Z",
        "expirationTime": "1970-01-01T01:00:00.000Z",
    });
    let own =
        json!({"service": "demo/echo", "port": 80, "weight": 1, "valid": true, "endpoints": 1});
    let expect = json!({
        "version": "1.2.3",
        "revision": 3,
        "workloads": [{
            "workloadIps": ["10.0.2.10"], "protocol": "HBONE", "uid": "//Workload/demo/echo-v1",
            "name": "echo-v1", "namespace": "demo", "trustDomain": "cluster.local",
            "serviceAccount": "echo", "workloadName": "echo-v1", "workloadType": "pod",
            "canonicalName": "echo-v1", "canonicalRevision": "latest", "node": "node-b",
            "status": "Healthy", "clusterId": "",
        }],
        "services": [{
            "name": "echo", "namespace": "demo", "hostname": "echo.demo.svc.cluster.local",
            "vips": ["/10.96.0.10"], "ports": {"80": 8080},
            "endpoints": {"//Workload/demo/echo-v1": {
                "workloadUid": "//Workload/demo/echo-v1", "port": {"80": 8080},
                "status": "Healthy",
            }},
            "routes": [
                {"port": 80, "clientNamespace": null, "route": null, "backends": [own]},
                {"port": 80, "clientNamespace": "shop", "route": null, "backends": [own], "http": [{
                    "route": "HTTPRoute shop/canary", "rule": 1, "name": "testers", "matches": 1,
                    "backends": [{
                        "service": "demo/echo", "port": 80, "weight": 9, "valid": true,
                        "endpoints": 1,
                    }],
                    "mirrors": [{
                        "service": "demo/echo", "port": 80, "weight": 1, "valid": false,
                        "endpoints": 0,
                    }],
                }]},
            ],
        }],
        "certificates": [{
            "identity": "spiffe://cluster.local/ns/demo/sa/echo", "state": "Available",
            "certChain": [certificate], "rootCerts": [certificate],
        }],
    });
    assert_eq!(dump, expect);
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_disconnected() {
    let (address, scope) = start(state());
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(20), silent.read_to_string(&mut text))
        .await
        .expect("the server closes it")
        .unwrap();
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn certificates_are_shown_with_what_is_left_of_them() {
    let (address, scope) = start(state());
    let report = ask_json(address, "/certs").await;
    let item = json!({
        "name": "O=mesh", "serialNumber": "17", "validFrom": "1970-01-01T00:00:00.000Z",
        "expires": "1970-01-01T01:00:00.000Z", "secondsLeft": 0,
    });
    assert_eq!(report["roots"], json!([item]));
    let held = &report["certificates"][0];
    assert_eq!(held["identity"], "spiffe://cluster.local/ns/demo/sa/echo");
    assert_eq!((&held["serialNumber"], &held["renewsInSeconds"]), (&json!("17"), &json!(0)));
    assert_eq!(
        report["authority"],
        json!({
            "kind": "embedded", "trustDomain": "cluster.local", "secondsLeft": 0,
            "expires": "1970-01-01T02:00:00.000Z", "renewals": 3, "failures": 1,
        })
    );
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn scrapers_see_metrics_and_health_and_nothing_else() {
    let (address, scope) = start_with(Surface::Probes, state());
    for path in ["/metrics", "/healthz", "/readyz"] {
        let (status, _head, _body) = ask(address, &format!("GET {path}")).await;
        assert_ne!(status, 404, "{path}");
    }
    for path in ["/certs", "/config_dump", "/conditions"] {
        let (status, _head, body) = ask(address, &format!("GET {path}")).await;
        assert_eq!(status, 404, "{path}");
        assert!(!body.contains("/certs"), "{body}");
    }
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
}
