//! Permissions between identities, asked by a second implementation of HBONE.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use http::Request;
use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Outcome, Server};
use mesh_tests::cgroup;
use mesh_tests::expect::eventually;
use mesh_tests::mesh::Mesh;
use mesh_tests::pair::{ECHO, PORT, Pair, spiffe};
use mesh_tests::peers::{
    Behavior, Caller, HBONE_PORT, Impostor, Said, connect, names, server_config,
};
use mesh_tests::pki::{Identity, Signer, expired};
use mesh_tests::process::{DEADLINE, Process};
use mesh_tests::report::{Banner, Event};
use rustls::version::TLS12;
use rustls::{NamedGroup, ProtocolVersion, ServerConfig};
use rustls_pki_types::CertificateDer;
use serde_json::Value;

/// The root that the mesh's agents trust.
fn root(pair: &Pair) -> CertificateDer<'static> {
    pair.authority.steal_root().unwrap().anchor().unwrap().clone()
}

/// The identity that an agent of the client's node would show.
fn client(pair: &Pair) -> Identity {
    pair.authority.steal(pair.a.name()).unwrap().leaf(&spiffe("client")).unwrap()
}

fn call(pair: &Pair, caller: &Caller, request: Request<()>) -> anyhow::Result<Said> {
    caller.call(pair.client.netns(), IpAddr::V4(pair.echo.v4()), request, b"hello")
}

/// The request that an agent would send.
fn usual(pair: &Pair) -> Request<()> {
    connect(&pair.echo.at(PORT).to_string(), None).unwrap()
}

/// The lines of the access log, once there are `count`.
fn lines(agent: &Agent, count: usize) -> Vec<Value> {
    let what = format!("{count} lines");
    eventually(&what, DEADLINE, || agent.access_log().ok().filter(|all| all.len() >= count))
        .unwrap()
}

fn handshakes_failed(agent: &Agent, side: &str, reason: &str) -> f64 {
    let labels = [("side", side), ("reason", reason)];
    agent.metrics().unwrap().sum("mesh_handshakes_failed_total", &labels)
}

fn banner(said: &Said) -> (Banner, &[u8]) {
    let end = said.body.iter().position(|byte| *byte == b'\n').unwrap();
    (serde_json::from_slice(&said.body[..end]).unwrap(), &said.body[end + 1..])
}

#[test]
fn another_implementation_reaches_an_application() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    let forwarded = format!("for=\"{}:4711\";host=echo.demo", pair.client.v4());
    let to = pair.echo.at(PORT).to_string();
    let said = call(&pair, &caller, connect(&to, Some(&forwarded)).unwrap()).unwrap();
    assert_eq!(said.status, 200);
    let (banner, echoed) = banner(&said);
    assert_eq!((echoed, banner.version.as_str()), (b"hello".as_slice(), "v1"));
    // The claim is true, since the address is that of a workload with this identity.
    assert_eq!(
        (banner.peer.ip().to_canonical(), banner.peer.port()),
        (pair.client.v4().into(), 4711)
    );
    assert_eq!(said.tls.version, Some(ProtocolVersion::TLSv1_3));
    assert_eq!(said.tls.group, Some(NamedGroup::X25519MLKEM768));
    assert!(said.tls.suite.contains("TLS13_AES_128_GCM_SHA256"), "{:?}", said.tls);
    assert_eq!(said.tls.alpn.as_deref(), Some(b"h2".as_slice()));
    assert!(names(&said.server, &spiffe("echo")));
    let line = &lines(&agent, 1)[0];
    assert_eq!(line["source_principal"], spiffe("client"));
    assert_eq!(line["source_workload"], "client");
    assert_eq!((&line["failure"], &line["bytes_received"]), (&Value::Null, &5.into()));
}

#[test]
fn strangers_are_refused_with_a_reason() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let server = Server::start(&pair.echo, &["echo", "--listen", "[::]:8080", "--log"]).unwrap();
    let node = pair.authority.steal(pair.a.name()).unwrap();
    let foreign = Signer::foreign_root("demo.example").unwrap().node(pair.a.name()).unwrap();
    let id = spiffe("client");
    let elsewhere = "spiffe://other.example/ns/demo/sa/client";
    let cases = [
        (Some(node.leaf(elsewhere).unwrap()), "is not of the trust domain"),
        (Some(node.leaf_with(&id, expired).unwrap()), "has expired"),
        (None, "has sent no certificate"),
        (Some(foreign.leaf(&id).unwrap()), "not signed by a trusted root"),
        (Some(node.leaf(&spiffe("echo")).unwrap()), "is not scheduled on node"),
        (Some(node.leaf(&spiffe("nobody")).unwrap()), "is not scheduled on node"),
        (Some(node.leaf_with(&id, |params| params.subject_alt_names.clear()).unwrap()), "SPIFFE"),
    ];
    for (index, (identity, reason)) in cases.iter().enumerate() {
        let caller = Caller::new(identity.as_ref(), &root(&pair)).unwrap();
        let refused = call(&pair, &caller, usual(&pair)).unwrap_err();
        let line = &lines(&agent, index + 1)[index];
        let cause = line["connection_termination_details"].as_str().unwrap_or_default();
        assert!(cause.contains(reason), "{reason}: {refused:#}: {line}");
        assert_eq!(
            (&line["failure"], &line["failure_side"]),
            (&"identity".into(), &"client".into())
        );
        assert_eq!((&line["retry"], &line["upstream_host"]), (&"never".into(), &Value::Null));
    }
    assert_eq!(
        handshakes_failed(&agent, "server", "identity").to_string(),
        cases.len().to_string()
    );

    let old = Caller::with(Some(&client(&pair)), &root(&pair), &[&TLS12]).unwrap();
    call(&pair, &old, usual(&pair)).unwrap_err();
    let plain = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap().alpn(&[]);
    call(&pair, &plain, usual(&pair)).unwrap_err();
    let other = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap().alpn(&[b"http/1.1"]);
    call(&pair, &other, usual(&pair)).unwrap_err();
    for line in &lines(&agent, cases.len() + 3)[cases.len()..] {
        assert_eq!((&line["failure"], &line["failure_side"]), (&"tls".into(), &"client".into()));
    }
    assert_eq!(handshakes_failed(&agent, "server", "tls").to_string(), "3");

    // The first connection of the application is that of one who may.
    let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    assert_eq!(call(&pair, &caller, usual(&pair)).unwrap().status, 200);
    assert_eq!(server.served().unwrap().received, 5);
}

/// Waits until `agent` has taken over what `change` writes.
fn reconfigured(agent: &Agent, change: impl FnOnce()) {
    let revision = || agent.metrics().unwrap().sum("mesh_applied_revision", &[]);
    let before = revision();
    change();
    eventually("a newer revision", DEADLINE, || (revision() > before).then_some(())).unwrap();
}

#[test]
fn a_callers_second_tunnel_is_resumed_and_checked_like_the_first() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    for resumed in [false, true, true] {
        let said = call(&pair, &caller, usual(&pair)).unwrap();
        assert_eq!((said.status, said.tls.resumed), (200, resumed));
        assert_eq!(said.tls.group, Some(NamedGroup::X25519MLKEM768));
        assert!(names(&said.server, &spiffe("echo")));
    }
    for line in lines(&agent, 3) {
        assert_eq!(line["source_principal"], spiffe("client"));
    }
    let done = |resumed| {
        let labels = [("side", "server"), ("resumed", resumed)];
        agent.metrics().unwrap().sum("mesh_handshakes_total", &labels).to_string()
    };
    assert_eq!([done("false"), done("true")], ["1", "2"]);

    // The caller still has a session, and its identity is on its node no more.
    reconfigured(&agent, || {
        let yaml = pair.mesh().yaml();
        let yaml = yaml.replace("serviceAccount: client", "serviceAccount: someone");
        pair.config.write(&Mesh::new("demo").raw(yaml)).unwrap();
    });
    let refused = call(&pair, &caller, usual(&pair)).unwrap_err();
    let line = &lines(&agent, 4)[3];
    let cause = line["connection_termination_details"].as_str().unwrap_or_default();
    assert!(cause.contains("is not scheduled on node"), "{refused:#}: {line}");
    assert_eq!((&line["failure"], &line["failure_side"]), (&"identity".into(), &"client".into()));
    assert_eq!(handshakes_failed(&agent, "server", "identity").to_string(), "1");
}

#[test]
fn an_agents_second_tunnel_is_resumed_and_checked_like_the_first() {
    // One data thread: each has tunnels of its own.
    let fake = Fake::start(&["--threads", "1"]);
    let good = Fake::good(&fake.pair);
    fake.check(Arc::clone(&good), Behavior::GoAway, ("protocol", "safe", ""));
    let resumed = || fake.server.tunnels().iter().map(|it| it.resumed).collect::<Vec<_>>();
    assert_eq!(resumed(), [false, true]);
    reconfigured(&fake.agent, || {
        let yaml = fake.pair.mesh().yaml().replace(fake.pair.b.name(), "elsewhere");
        fake.pair.config.write(&Mesh::new("demo").raw(yaml)).unwrap();
    });
    fake.check(good, Behavior::Echo, ("identity", "never", "is not scheduled on node"));
    assert_eq!(resumed().len(), 2, "it has not got so far");
    assert_eq!(handshakes_failed(&fake.agent, "client", "identity").to_string(), "1");
}

#[test]
fn requests_for_other_places_are_refused() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let server = Server::start(&pair.echo, &["echo", "--listen", "[::]:8080", "--log"]).unwrap();
    let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    let neighbor = pair.b.pod("neighbor").unwrap();
    let _neighbor = Server::echo(&neighbor, PORT, "neighbor").unwrap();
    let get = Request::get(format!("http://{}/", pair.echo.at(PORT))).body(()).unwrap();
    let requests = [
        connect(&neighbor.at(PORT).to_string(), None).unwrap(),
        connect("127.0.0.1:8080", None).unwrap(),
        connect(&pair.echo.at(HBONE_PORT).to_string(), None).unwrap(),
        connect(&pair.echo.at(15001).to_string(), None).unwrap(),
        connect("echo.demo.svc.cluster.local:8080", None).unwrap(),
        get,
    ];
    for (index, request) in requests.into_iter().enumerate() {
        let asked = format!("{request:?}");
        let said = call(&pair, &caller, request).unwrap();
        assert_eq!((said.status, said.body.len()), (400, 0), "{asked}");
        let line = &lines(&agent, index + 1)[index];
        assert_eq!(
            (&line["failure"], &line["failure_side"]),
            (&"protocol".into(), &"client".into())
        );
        assert_eq!((&line["upstream_host"], &line["retry"]), (&Value::Null, &"never".into()));
    }
    assert_eq!(call(&pair, &caller, usual(&pair)).unwrap().status, 200);
    assert_eq!(server.served().unwrap().received, 5, "the first that the application saw");
}

#[test]
fn a_forged_origin_is_not_believed() {
    let pair = Pair::new().unwrap();
    let other = pair.a.pod("other").unwrap();
    let workload = mesh_tests::mesh::Workload::of(&other).account("other");
    pair.config.write(&pair.mesh().workload(&workload)).unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    let to = pair.echo.at(PORT).to_string();
    for (index, forged) in
        [other.v4().to_string(), pair.echo.v4().to_string(), "192.0.2.1".to_owned()]
            .iter()
            .enumerate()
    {
        let request = connect(&to, Some(&format!("for=\"{forged}:4711\""))).unwrap();
        let said = call(&pair, &caller, request).unwrap();
        let (banner, _echoed) = banner(&said);
        assert_eq!(banner.peer.ip().to_canonical(), pair.client.v4(), "{forged}");
        assert_ne!(banner.peer.port(), 4711);
        let line = &lines(&agent, index + 1)[index];
        let seen = SocketAddr::new(pair.client.v4().into(), banner.peer.port());
        assert_eq!(line["downstream_remote_address"], seen.to_string());
        assert_eq!(line["source_workload"], "client");
    }
}

/// The mesh of an [`Impostor`] in the place of the destination's agent.
struct Fake {
    server: Impostor,
    agent: Agent,
    pair: Pair,
}

impl Fake {
    fn start(args: &[&str]) -> Self {
        let pair = Pair::new().unwrap();
        let agent = pair.agent(&pair.a, args).unwrap();
        let good = Self::good(&pair);
        let server = Impostor::start(pair.echo.netns(), good, Behavior::Echo).unwrap();
        Self { server, agent, pair }
    }

    fn good(pair: &Pair) -> Arc<ServerConfig> {
        let echo = pair.authority.steal(pair.b.name()).unwrap().leaf(&spiffe("echo")).unwrap();
        server_config(&echo, &root(pair), &[b"h2"]).unwrap()
    }

    /// The application's view and the access log of its connection, once the agent tries
    /// again: it leaves a peer that has just failed alone.
    fn try_again(&self) -> (Outcome, Value) {
        let to = Client::to(ECHO).arg("--send").arg("hello");
        eventually("a connection that is not held", DEADLINE, || {
            let (before, held) = (self.agent.access_log().unwrap().len(), self.held());
            let seen = to.run(&self.pair.client).unwrap();
            let line = lines(&self.agent, before + 1)[before].clone();
            (self.held().to_bits() == held.to_bits()).then_some((seen, line))
        })
        .unwrap()
    }

    /// Connections that have failed at once.
    fn held(&self) -> f64 {
        self.agent.metrics().unwrap().sum("mesh_dials_held_total", &[])
    }

    /// The application sees a reset, and the access log as its last line what is expected.
    #[track_caller]
    fn check(&self, config: Arc<ServerConfig>, behavior: Behavior, expect: (&str, &str, &str)) {
        self.server.change(config, behavior);
        let (seen, line) = self.try_again();
        // It may be told while it connects, or later.
        let error = seen.totals.errors.into_keys().next().unwrap_or_default();
        assert!(error.ends_with(" ECONNRESET"), "{error}");
        let (failure, retry, reason) = expect;
        assert_eq!((&line["failure"], &line["retry"]), (&failure.into(), &retry.into()), "{line}");
        assert_eq!(line["failure_side"], "upstream");
        let cause = line["upstream_transport_failure_reason"].as_str().unwrap_or_default();
        assert!(cause.contains(reason), "{reason}: {line}");
    }

    #[track_caller]
    fn works(&self) {
        self.server.change(Self::good(&self.pair), Behavior::Echo);
        let (seen, _line) = self.try_again();
        assert_eq!(seen.totals.errors.into_keys().collect::<Vec<_>>(), Vec::<String>::new());
    }
}

#[test]
fn a_destination_that_is_someone_else_is_refused() {
    let fake = Fake::start(&[]);
    let pair = &fake.pair;
    let node = pair.authority.steal(pair.b.name()).unwrap();
    let foreign = Signer::foreign_root("demo.example").unwrap().node(pair.b.name()).unwrap();
    let elsewhere = pair.authority.steal(pair.a.name()).unwrap();
    let id = spiffe("echo");
    for (identity, reason) in [
        (node.leaf(&spiffe("client")).unwrap(), "expected spiffe://demo.example/ns/demo/sa/echo"),
        (
            node.leaf("spiffe://other.example/ns/demo/sa/echo").unwrap(),
            "the peer is spiffe://other.",
        ),
        (node.leaf_with(&id, expired).unwrap(), "has expired"),
        (foreign.leaf(&id).unwrap(), "not signed by a trusted root"),
        (elsewhere.leaf(&id).unwrap(), "is not scheduled on node"),
    ] {
        let config = server_config(&identity, &root(pair), &[b"h2"]).unwrap();
        fake.check(config, Behavior::Echo, ("identity", "never", reason));
    }
    let echo = node.leaf(&id).unwrap();
    let plain = server_config(&echo, &root(pair), &[]).unwrap();
    fake.check(plain, Behavior::Echo, ("tls", "safe", "ALPN"));
    // A server that trusts somebody else refuses the agent.
    let stranger = Signer::foreign_root("stranger.example").unwrap();
    let picky = server_config(&echo, stranger.anchor().unwrap(), &[b"h2"]).unwrap();
    fake.check(picky, Behavior::Echo, ("identity", "never", "refused this side's certificate"));
    assert_eq!(handshakes_failed(&fake.agent, "client", "identity").to_string(), "6");
    assert_eq!(handshakes_failed(&fake.agent, "client", "tls").to_string(), "1");
    let streams = fake.server.tunnels().iter().map(|tunnel| tunnel.streams.len()).sum::<usize>();
    assert_eq!(streams, 0, "no stream reached any of them");
    fake.works();
}

#[test]
fn a_destination_that_refuses_is_not_asked_by_each_connection() {
    let fake = Fake::start(&[]);
    let node = fake.pair.authority.steal(fake.pair.b.name()).unwrap();
    let other = node.leaf(&spiffe("client")).unwrap();
    let wrong = server_config(&other, &root(&fake.pair), &[b"h2"]).unwrap();
    fake.server.change(wrong, Behavior::Echo);
    let to = Client::to(ECHO).arg("--send").arg("hello").times(50, 50);
    assert_eq!(to.run(&fake.pair.client).unwrap().totals.failed, 50);
    for line in lines(&fake.agent, 50) {
        assert_eq!((&line["failure"], &line["retry"]), (&"identity".into(), &"never".into()));
        let cause = line["upstream_transport_failure_reason"].as_str().unwrap_or_default();
        assert!(cause.contains("expected spiffe://demo.example/ns/demo/sa/echo"), "{line}");
    }
    let asked = handshakes_failed(&fake.agent, "client", "identity");
    assert_eq!((asked + fake.held()).to_string(), "50");
    assert!(asked < 20.0, "{asked}");
    fake.works();
}

#[test]
fn a_peer_that_floods_is_cut_off_and_another_gets_in() {
    let pair = Pair::new().unwrap();
    let other = pair.a.pod("other").unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    assert_eq!(call(&pair, &caller, usual(&pair)).unwrap().status, 200);
    // A peer that says nothing keeps its place until a deadline.
    let to = SocketAddr::new(pair.echo.v4().into(), HBONE_PORT);
    let knock = || TcpStream::connect(to).unwrap();
    let silent: Vec<_> = other.netns().run(|| (0..400).map(|_| knock()).collect()).unwrap();
    let refused = |limit| {
        let metrics = agent.metrics().unwrap();
        metrics.sum("mesh_handshakes_refused_total", &[("limit", limit)])
    };
    let peer = || refused("peer_rate") + refused("peer_under_way");
    eventually("most of them to be refused", DEADLINE, || (peer() >= 200.0).then_some(())).unwrap();
    assert_eq!((refused("total_rate") + refused("total_under_way")).to_string(), "0");
    let stranger = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    let own = stranger.call(other.netns(), to.ip(), usual(&pair), b"hello");
    assert!(own.is_err(), "it has no place left");
    assert_eq!(call(&pair, &caller, usual(&pair)).unwrap().status, 200);
    let mentioned = agent.log().matches("handshakes are refused").count();
    assert!((1..10).contains(&mentioned), "{mentioned}");
    // Places are given back.
    drop(silent);
    let again = || stranger.call(other.netns(), to.ip(), usual(&pair), b"hello").ok();
    assert_eq!(eventually("a place", DEADLINE, again).unwrap().status, 200);
}

#[test]
fn a_destination_that_misbehaves_fails_one_connection() {
    let fake = Fake::start(&[]);
    let good = Fake::good(&fake.pair);
    let check = |behavior, expect| fake.check(Arc::clone(&good), behavior, expect);
    check(Behavior::Garbage, ("protocol", "safe", ""));
    fake.works();
    check(Behavior::Status(503), ("connect", "safe", "status 503"));
    fake.works();
    // As ztunnel answers where a policy denies.
    check(Behavior::Status(401), ("denied", "never", "status 401"));
    check(Behavior::Status(504), ("timeout", "safe", "status 504"));
    check(Behavior::Status(400), ("protocol", "never", "status 400"));
    fake.works();
}

#[test]
fn a_destination_that_says_goodbye_at_once_fails_one_connection() {
    let fake = Fake::start(&[]);
    fake.check(Fake::good(&fake.pair), Behavior::GoAway, ("protocol", "safe", ""));
    assert_eq!(fake.server.tunnels().len(), 2, "it is tried on another tunnel once");
    fake.works();
}

#[test]
fn tunnels_are_shared_within_an_identity_and_never_between_two() {
    // One data thread: each has tunnels of its own.
    let fake = Fake::start(&["--threads", "1"]);
    let pair = &fake.pair;
    let other = pair.a.pod("other").unwrap();
    let workload = mesh_tests::mesh::Workload::of(&other).account("other");
    pair.config.write(&pair.mesh().workload(&workload)).unwrap();
    let id = spiffe("other");
    eventually("the other workload to be enrolled", DEADLINE, || {
        let metrics = fake.agent.metrics().unwrap();
        let expiry = metrics.sum("mesh_certificate_expiry_seconds", &[("identity", &id)]);
        let applied = metrics.sum("mesh_applied_revision", &[]);
        (expiry > 0.0 && applied >= 2.0).then_some(())
    })
    .unwrap();
    let to = Client::to(ECHO).arg("--send").arg("hello").times(2, 2);
    for pod in [&pair.client, &other] {
        let (_held, opened) = to.hold(pod).unwrap();
        assert_eq!((opened.connections, opened.failed), (2, 0));
        assert_eq!(to.run(pod).unwrap().totals.failed, 0);
    }
    let tunnels = fake.server.tunnels();
    assert_eq!(tunnels.len(), 2, "{tunnels:?}");
    let of = |account: &str| {
        let id = spiffe(account);
        let shown = tunnels.iter().filter(|tunnel| names(&tunnel.client, &id));
        shown.map(|tunnel| tunnel.streams.len()).collect::<Vec<_>>()
    };
    assert_eq!((of("client"), of("other")), (vec![4], vec![4]));
    for (authority, forwarded) in tunnels.iter().flat_map(|tunnel| &tunnel.streams) {
        assert_eq!(*authority, pair.echo.at(PORT).to_string());
        assert!(forwarded.as_ref().unwrap().ends_with(";host=echo.demo.svc.cluster.local"));
    }
    let shown: BTreeSet<_> =
        tunnels.iter().flat_map(|tunnel| &tunnel.streams).map(|stream| &stream.1).collect();
    assert_eq!(shown.len(), 8, "each stream has its own client: {shown:?}");
}

#[test]
fn workloads_of_one_namespace_do_not_share_tunnels_either() {
    let fake = Fake::start(&["--threads", "1"]);
    let pair = &fake.pair;
    let mounted = cgroup::mount().unwrap();
    let [address, _v6] = pair.a.addresses();
    let units = ["one", "two"].map(|name| (name, pair.a.cgroup().join("pods").join(name)));
    let mut mesh = pair.mesh();
    for (name, folder) in &units {
        std::fs::create_dir(folder).unwrap();
        mesh = mesh.raw(format!(
            "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: {name}, namespace: demo}}\nspec:\n  node: {}\n  \
             addresses: [{address}]\n  serviceAccount: {name}\n  cgroup: {}\n",
            pair.a.name(),
            folder.strip_prefix(&mounted).unwrap().display()
        ));
    }
    pair.config.write(&mesh).unwrap();
    let to = ECHO.to_string();
    let args = ["connect", "--to", &to, "--send", "hello"];
    for (name, folder) in &units {
        let works = || {
            let app = Process::app(pair.a.netns(), folder, args).unwrap();
            let Some(Event::Totals(totals)) = app.finish().unwrap().pop() else { panic!("{name}") };
            (totals.failed == 0).then_some(())
        };
        // A connection that is not captured yet reaches nobody, so that the server sees two.
        eventually("a connection to be captured and answered", DEADLINE, works).unwrap();
        works().expect("the next as well");
    }
    let tunnels = fake.server.tunnels();
    for (name, _folder) in &units {
        let id = spiffe(name);
        let shown = tunnels.iter().filter(|tunnel| names(&tunnel.client, &id));
        let streams: Vec<_> = shown.map(|tunnel| tunnel.streams.len()).collect();
        assert_eq!(streams, [2], "{name}: {tunnels:?}");
    }
    assert_eq!(tunnels.len(), 2, "{tunnels:?}");
}
