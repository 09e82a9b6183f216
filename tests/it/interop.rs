//! HBONE with a peer of other libraries: Python's `ssl` and `h2`, written from the convention alone
//! (`tests/peers/hbone.py`). Both ways, and each refusal that the convention names.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mesh_tests::agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::http::{self, Ask};
use mesh_tests::pair::{ECHO, PORT, Pair, hello, spiffe};
use mesh_tests::pki::{Identity, Signer, expired};
use mesh_tests::pod::Pod;
use mesh_tests::process::{DEADLINE, Killed, inside, run};
use mesh_tests::script::PYTHON;
use serde_json::Value;

/// The peer, in the pod of one side, as the agent of that side would be.
struct Peer<'a> {
    pair: &'a Pair,
    pod: &'a Pod,
}

impl Peer<'_> {
    /// Puts an identity where the program finds it: the arguments that name it.
    fn show(&self, identity: Option<&Identity>) -> Vec<String> {
        let state = self.pair.lab.state();
        let mut args = vec![
            "--root".to_owned(),
            self.pair.authority.root().join("root.crt").display().to_string(),
        ];
        let Some(identity) = identity else { return args };
        for (flag, name, text) in [
            ("--cert", "peer.crt", identity.chain_pem()),
            ("--key", "peer.key", identity.key_pem()),
        ] {
            let path = state.join(name);
            fs::write(&path, text).unwrap();
            args.extend([flag.to_owned(), path.display().to_string()]);
        }
        args
    }

    fn command(&self, role: &str, identity: Option<&Identity>, more: &[&str]) -> Command {
        let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers/hbone.py");
        let mut command = inside(self.pod.netns(), self.pod.cgroup()).unwrap();
        command.args(["exec", "--", PYTHON]).arg(program).arg(role);
        command.args(self.show(identity)).args(more).stdin(Stdio::null());
        command
    }

    /// Calls the server's agent, and returns what came of it.
    fn call(&self, identity: Option<&Identity>, more: &[&str]) -> Value {
        let to = self.pair.echo.v4().to_string();
        let authority = self.pair.echo.at(PORT).to_string();
        let usual = ["--to", &to, "--authority", &authority, "--send", "hello"];
        let said = run(&mut self.command("call", identity, &[&usual, more].concat())).unwrap();
        serde_json::from_str(said.lines().last().unwrap()).unwrap()
    }
}

/// A leaf of the client's node, as that node's agent would make it.
fn leaf(pair: &Pair, account: &str) -> Identity {
    pair.authority.steal(pair.a.name()).unwrap().leaf(&spiffe(account)).unwrap()
}

#[test]
fn the_peer_reaches_an_application_through_the_agent() {
    let pair = Pair::new().unwrap();
    let b = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let peer = Peer { pair: &pair, pod: &pair.client };
    let own = leaf(&pair, "client");
    let said = peer.call(Some(&own), &["--expect", &spiffe("echo")]);
    assert_eq!((&said["status"], &said["version"]), (&"200".into(), &"TLSv1.3".into()), "{said}");
    assert_eq!((&said["alpn"], &said["peer"][0]), (&"h2".into(), &spiffe("echo").into()));
    assert!(said["body"].as_str().unwrap().ends_with("hello"), "{said}");
    let line = b.logged("the tunnel", |line| line["failure"].is_null()).unwrap();
    assert_eq!(line["source_principal"], spiffe("client"));
    // Statuses as the convention has them.
    let refused = |more: &[&str]| peer.call(Some(&own), more)["status"].clone();
    let neighbor = pair.b.pod("neighbor").unwrap().at(PORT).to_string();
    assert_eq!(refused(&["--authority", &neighbor]), "400", "another pod than was dialed");
    assert_eq!(refused(&["--authority", "nonsense"]), "400");
    assert_eq!(refused(&["--method", "GET"]), "400");
    let closed = pair.echo.at(9).to_string();
    assert_eq!(refused(&["--authority", &closed]), "503", "nobody listens");
}

#[test]
fn the_agent_refuses_the_peer_as_the_convention_says() {
    let pair = Pair::new().unwrap();
    let mut revoke = Command::new(agent::binary().unwrap());
    let stolen = pair.authority.node("stolen").unwrap();
    revoke.args(["ca", "revoke", "--dir"]).arg(pair.authority.root());
    run(revoke.arg("--certificate").arg(stolen.join("node.crt"))).unwrap();
    let list = pair.lab.state().join("ca").join(pair.b.name()).join("crl.pem");
    fs::copy(pair.authority.root().join("crl.pem"), list).unwrap();
    let b = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let peer = Peer { pair: &pair, pod: &pair.client };
    let node = pair.authority.steal(pair.a.name()).unwrap();
    let foreign = Signer::foreign_root("demo.example").unwrap();
    let id = spiffe("client");
    let good = || Some(leaf(&pair, "client"));
    // OpenSSL's name of the alert that it was sent.
    for (identity, more, alert) in [
        (None, &[][..], "ALERT_CERTIFICATE_REQUIRED"),
        (Some(foreign.leaf(&id).unwrap()), &[], "ALERT_UNKNOWN_CA"),
        (Some(node.leaf_with(&id, expired).unwrap()), &[], "CERTIFICATE_EXPIRED"),
        (
            Some(pair.authority.steal("stolen").unwrap().leaf(&id).unwrap()),
            &[],
            "CERTIFICATE_REVOKED",
        ),
        (
            Some(node.leaf("spiffe://other.example/ns/demo/sa/client").unwrap()),
            &[],
            "CERTIFICATE_UNKNOWN",
        ),
        (Some(leaf(&pair, "echo")), &[], "CERTIFICATE_UNKNOWN"),
        (good(), &["--tls", "1.2"], "PROTOCOL_VERSION"),
        (good(), &["--alpn", "http/1.1"], "NO_APPLICATION_PROTOCOL"),
    ] {
        let said = peer.call(identity.as_ref(), more);
        let refused = said["refused"].as_str().unwrap_or_default();
        assert!(refused.contains(alert), "{alert}: {said}");
    }
    // rustls lets a client without ALPN finish; it gets no tunnel.
    let said = peer.call(good().as_ref(), &["--alpn", ""]);
    assert_ne!(said["status"], "200", "{said}");
    assert_eq!(peer.call(good().as_ref(), &[])["status"], "200");
    let failed = b.metrics().unwrap().sum("mesh_handshakes_failed_total", &[("side", "server")]);
    assert!(failed >= 9.0);
}

/// A peer in the place of the server's agent.
struct Serving {
    child: Killed,
    log: PathBuf,
}

impl Serving {
    fn start(pair: &Pair, identity: &Identity, more: &[&str]) -> Self {
        let peer = Peer { pair, pod: &pair.echo };
        let log = pair.lab.state().join("peer.log");
        let out = fs::File::create(&log).unwrap();
        let mut command = peer.command("serve", Some(identity), more);
        let child = Killed(command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap());
        let serving = Self { child, log };
        serving.said(|line| line["listening"] == 15008);
        serving
    }

    /// The first thing that it says and that is as `wanted`.
    fn said(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let find = || {
            let text = fs::read_to_string(&self.log).ok()?;
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).find(&wanted)
        };
        eventually(&format!("what the peer {} says", self.child.pid()), DEADLINE, find).unwrap()
    }
}

#[test]
fn an_application_reaches_the_peer_through_the_agent() {
    let pair = Pair::new().unwrap();
    let _a = pair.agent(&pair.a, &[]).unwrap();
    let own = pair.authority.steal(pair.b.name()).unwrap().leaf(&spiffe("echo")).unwrap();
    let serving = Serving::start(&pair, &own, &[]);
    // The peer sends back what it gets.
    let seen = Client::to(ECHO).arg("--send").arg("hello").run(&pair.client).unwrap();
    let seen = seen.single().unwrap();
    assert_eq!(seen.error, None, "{seen:?}");
    let tunnel = serving.said(|line| line["authority"].is_string());
    assert_eq!(tunnel["authority"], pair.echo.at(PORT).to_string());
    assert_eq!(tunnel["pseudo"], serde_json::json!([":authority", ":method"]));
    assert_eq!(tunnel["peer"][0], spiffe("client"));
}

/// The agent of the client meets a peer that shows `identity`, and refuses it.
#[track_caller]
fn check_refused(identity: impl Fn(&Pair) -> Identity, more: &[&str], expect: [&str; 2]) {
    let pair = Pair::new().unwrap();
    let a = pair.agent(&pair.a, &[]).unwrap();
    let _serving = Serving::start(&pair, &identity(&pair), more);
    let seen = hello().run(&pair.client).unwrap().totals;
    assert_eq!(seen.failed, 1);
    let [failure, cause] = expect;
    let line = a.logged("the refusal", |line| line["failure"] == failure).unwrap();
    assert!(line.to_string().contains(cause), "{line}");
}

#[test]
fn the_agent_does_not_talk_to_a_peer_that_is_someone_else() {
    let someone = |pair: &Pair| {
        pair.authority.steal(pair.b.name()).unwrap().leaf(&spiffe("someone")).unwrap()
    };
    check_refused(someone, &[], ["identity", "expected spiffe://demo.example/ns/demo/sa/echo"]);
}

#[test]
fn the_agent_does_not_talk_to_a_peer_of_another_authority() {
    let foreign =
        |_: &Pair| Signer::foreign_root("demo.example").unwrap().leaf(&spiffe("echo")).unwrap();
    check_refused(foreign, &[], ["identity", "not signed by a trusted root"]);
}

#[test]
fn the_agent_does_not_talk_to_a_peer_that_has_expired() {
    let old = |pair: &Pair| {
        let node = pair.authority.steal(pair.b.name()).unwrap();
        node.leaf_with(&spiffe("echo"), expired).unwrap()
    };
    check_refused(old, &[], ["identity", "has expired"]);
}

#[test]
fn the_agent_does_not_talk_to_a_peer_without_h2() {
    check_refused(own, &["--alpn", ""], ["tls", "ALPN"]);
}

#[test]
fn the_agent_does_not_talk_to_a_peer_of_tls_1_2() {
    check_refused(own, &["--tls", "1.2"], ["tls", ""]);
}

/// The identity that the agent of `echo`'s node would show.
fn own(pair: &Pair) -> Identity {
    pair.authority.steal(pair.b.name()).unwrap().leaf(&spiffe("echo")).unwrap()
}

#[test]
fn a_status_of_the_peer_is_an_error() {
    // As ztunnel answers, and Envoy.
    check_refused(own, &["--status", "401"], ["denied", "401"]);
    check_refused(own, &["--status", "403"], ["denied", "403"]);
    check_refused(own, &["--status", "503"], ["connect", "503"]);
    check_refused(own, &["--status", "504"], ["timeout", "504"]);
}

/// A request meets a peer that answers `CONNECT` with `status`, where requests are routed.
#[track_caller]
fn check_request(status: &str, expect: (u16, &str)) {
    let pair = Pair::new().unwrap();
    let rules = format!("  - backendRefs: [{{name: echo, port: {}}}]", ECHO.port());
    let parent = format!("name: echo, port: {}", ECHO.port());
    pair.config.write(&pair.mesh().raw(http::route::http("demo", "all", &parent, &rules))).unwrap();
    // The peer serves one tunnel at a time.
    let a = pair.agent(&pair.a, &["--threads", "1"]).unwrap();
    let _serving = Serving::start(&pair, &own(&pair), &["--status", status]);
    let plain = Ask::get("/");
    // One that is read by hyper too.
    for ask in [plain.clone(), plain.header("TE", "trailers")] {
        let answer = http::ask(&pair.client, ECHO, &[ask]).unwrap().remove(0);
        let said = answer.header("proxy-status").unwrap_or_default();
        assert_eq!((answer.status, said.contains(expect.1)), (expect.0, true), "{answer:?}");
    }
    let denied = [("response_code", status_text(expect.0)), ("reporter", "source")];
    let counted = || {
        let sum = a.metrics().unwrap().sum("istio_requests_total", &denied);
        (sum >= 2.0).then_some(())
    };
    eventually("the requests to be counted", DEADLINE, counted).unwrap();
}

const fn status_text(status: u16) -> &'static str {
    match status {
        403 => "403",
        504 => "504",
        _ => "503",
    }
}

#[test]
fn a_denial_of_the_peer_is_one_of_the_request() {
    check_request("401", (403, "http_request_denied"));
    check_request("403", (403, "http_request_denied"));
    check_request("504", (504, "http_response_timeout"));
    check_request("503", (503, "connection_refused"));
}
