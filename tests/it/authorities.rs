//! Issuers of workloads' certificates: files of another PKI, Istio's certificate service, and what happens
//! when the authority is down, lies, or has revoked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mesh_tests::agent::{self, Agent};
use mesh_tests::apps::Server;
use mesh_tests::expect::eventually;
use mesh_tests::istio_ca::{ADDRESS, IstioCa, Manner};
use mesh_tests::node::Node;
use mesh_tests::pair::{PORT, Pair, TRUST_DOMAIN, hello, spiffe};
use mesh_tests::pki::{Authority, Signer};
use mesh_tests::process::{DEADLINE, run};
use serde_json::Value;

/// The shortest life that an agent asks for, in seconds: it renews after two thirds of it.
const TTL: &str = "10";

/// Within this every certificate has been renewed, on a machine that is busy.
const RENEWED: Duration = Duration::from_secs(20);

const TOKEN: &str = "a.projected.token";

/// The flags of an agent whose authority is Istio's, with what they name in the lab's folder.
struct Istio {
    args: Vec<String>,
    token: PathBuf,
}

impl Istio {
    fn new(pair: &Pair) -> Self {
        Self::with_ttl(pair, TTL)
    }

    /// The agent asks for certificates of so many seconds.
    fn with_ttl(pair: &Pair, ttl: &str) -> Self {
        let (token, roots) =
            (pair.lab.state().join("token"), pair.authority.root().join("root.crt"));
        fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let flags = [
            ("--authority", "istio".to_owned()),
            ("--ca-address", format!("https://{ADDRESS}")),
            ("--ca-token", token.display().to_string()),
            ("--ca-roots", roots.display().to_string()),
            ("--ca-cluster", "lab".to_owned()),
            ("--trust-domain", TRUST_DOMAIN.to_owned()),
            ("--leaf-ttl", ttl.to_owned()),
        ];
        let args = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        Self { args, token }
    }

    fn agent(&self, pair: &Pair, node: &Node) -> Agent {
        let args: Vec<_> = self.args.iter().map(String::as_str).collect();
        pair.agent(node, &args).unwrap()
    }
}

/// The authority in a node's namespace; it signs with the mesh's root.
fn authority(pair: &Pair, node: &Node) -> IstioCa {
    let root = fs::read_to_string(pair.authority.root().join("root.crt")).unwrap();
    let signer = pair.authority.steal_root().unwrap();
    IstioCa::start(node.netns(), signer, root).unwrap()
}

/// The line in which the agent tells its developers `what`.
fn said(agent: &Agent, what: &str) -> String {
    let find = || agent.log().lines().find(|line| line.contains(what)).map(str::to_owned);
    eventually(&format!("`{what}` in the log"), RENEWED, find).unwrap()
}

/// The output of `mesh-agent certs`.
fn certs(agent: &Agent, more: &[&str]) -> String {
    let mut command = Command::new(agent::binary().unwrap());
    run(command.arg("certs").arg("--admin-socket").arg(agent.admin_socket()).args(more)).unwrap()
}

/// The serial number of the certificate that an agent uses for `account`.
fn serial(agent: &Agent, account: &str) -> String {
    let report: Value = serde_json::from_str(&certs(agent, &["--json"])).unwrap();
    let all = report["certificates"].as_array().unwrap().clone();
    let held = all.into_iter().find(|held| held["identity"] == spiffe(account).as_str());
    held.unwrap()["serialNumber"].as_str().unwrap().to_owned()
}

fn below(agent: &Agent, percent: &str) -> f64 {
    let labels = [("of", "workload"), ("percent", percent)];
    agent.metrics().unwrap().sum("mesh_certificates_below_life", &labels)
}

fn renewals(agent: &Agent, result: &str) -> f64 {
    agent.metrics().unwrap().sum("mesh_certificate_renewals_total", &[("result", result)])
}

#[test]
fn istios_authority_signs_renews_and_may_be_away_for_a_while() {
    let pair = Pair::new().unwrap();
    let istio = Istio::new(&pair);
    let [first, _second] = [authority(&pair, &pair.a), authority(&pair, &pair.b)];
    let (a, _b) = (istio.agent(&pair, &pair.a), istio.agent(&pair, &pair.b));
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    assert!(certs(&a, &[]).starts_with("authority istio, trust domain demo.example;"));

    let asked = &first.asked()[0];
    assert_eq!((asked.token.as_str(), asked.cluster.as_str()), (TOKEN, "lab"));
    assert_eq!((asked.identity.as_str(), asked.seconds), (&*spiffe("client"), 10));

    let traffic = hello().traffic(&pair.client).unwrap();
    let before = serial(&a, "client");
    // The kubelet replaces the token before it expires.
    fs::write(&istio.token, "another.token").unwrap();
    eventually("a renewed certificate", RENEWED, || (serial(&a, "client") != before).then_some(()))
        .unwrap();
    assert_eq!(first.asked().last().unwrap().token, "another.token");

    // Away: what there is stays in use, and the metrics say how long it will do.
    first.change(Manner::Refuse(14, "istiod is being upgraded"));
    eventually("an alarm", RENEWED, || (below(&a, "25") > 0.0).then_some(())).unwrap();
    eventually("a failure", RENEWED, || (renewals(&a, "failed") > 0.0).then_some(())).unwrap();
    let said = said(&a, "istiod is being upgraded");
    assert!(said.contains("those in use stay until they expire"), "{said}");
    first.change(Manner::Honest);
    eventually("no alarm", RENEWED, || (below(&a, "25") == 0.0).then_some(())).unwrap();
    let all = traffic.stop().unwrap();
    assert!(all.connections > 0);
    assert_eq!(all.failed, 0, "{:?}", all.errors);
}

/// The life of certificates of an authority that gives less than it is asked for, in seconds.
const SHORT: u64 = 6;

#[test]
fn certificates_that_are_shorter_than_asked_for_are_renewed_in_time() {
    let pair = Pair::new().unwrap();
    let istio = Istio::with_ttl(&pair, "3600");
    let authorities = [authority(&pair, &pair.a), authority(&pair, &pair.b)];
    for authority in &authorities {
        authority.change(Manner::Short(SHORT));
    }
    let (a, b) = (istio.agent(&pair, &pair.a), istio.agent(&pair, &pair.b));
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    // No tunnel is longer than its certificates: each needs the next ones.
    let traffic = hello().traffic(&pair.client).unwrap();
    for agent in [&a, &b] {
        eventually("three renewals", DEADLINE, || {
            (renewals(agent, "renewed") >= 3.0).then_some(())
        })
        .unwrap();
    }
    let all = traffic.stop().unwrap();
    assert!(all.connections > 0);
    assert_eq!(all.failed, 0, "{:?}", all.errors);
    // In time, and not all the time.
    for authority in &authorities {
        let asked = authority.asked();
        assert!(asked.iter().all(|asked| asked.seconds == 3600) && asked.len() < 20, "{asked:?}");
    }
}

/// An agent of the client's node whose authority behaves so has no certificate, says why, and
/// recovers when it behaves.
#[track_caller]
fn check_lie(manner: Manner, expect: &str) {
    let pair = Pair::new().unwrap();
    let istio = Istio::new(&pair);
    let lying = authority(&pair, &pair.a);
    lying.change(manner);
    let a = istio.agent(&pair, &pair.a);
    let said = said(&a, "cannot be enrolled yet");
    assert!(said.contains(expect), "{said}");
    assert!(!certs(&a, &[]).contains("sa/client"));
    lying.change(Manner::Honest);
    eventually("a certificate", DEADLINE, || certs(&a, &[]).contains("sa/client").then_some(()))
        .unwrap();
}

#[test]
fn an_authority_that_vouches_for_somebody_else_is_not_believed() {
    check_lie(Manner::ForOther("spiffe://demo.example/ns/demo/sa/admin"), "sa/admin");
}

#[test]
fn an_authority_whose_signature_leads_nowhere_is_not_believed() {
    check_lie(Manner::OtherRoot, "peers would refuse the certificate in the answer");
}

#[test]
fn an_authority_that_answers_nonsense_is_not_believed() {
    check_lie(Manner::Chain(&["nonsense", "more of it"]), "holds no certificate in PEM");
}

#[test]
fn an_authority_that_refuses_is_quoted() {
    check_lie(Manner::Refuse(16, "who are you?"), "who are you?");
}

#[test]
fn the_token_is_sent_to_nobody_who_is_not_the_authority() {
    let pair = Pair::new().unwrap();
    let istio = Istio::new(&pair);
    let stranger = Signer::foreign_root(TRUST_DOMAIN).unwrap();
    let stranger = IstioCa::start(pair.a.netns(), stranger, String::new()).unwrap();
    let a = istio.agent(&pair, &pair.a);
    let said = said(&a, "cannot be enrolled yet");
    assert!(said.contains("gave no certificate"), "{said}");
    assert_eq!(stranger.asked(), []);
}

/// Writes what a PKI would: roots, and a leaf that lives as long as `signer` says.
fn write_leaf(dir: &Path, signer: &Signer, account: &str) {
    let leaf = signer.leaf(&spiffe(account)).unwrap();
    let folder = dir.join("demo");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{account}.key")), leaf.key_pem()).unwrap();
    fs::write(folder.join(format!("{account}.crt")), leaf.chain_pem()).unwrap();
}

#[test]
fn certificates_of_a_pki_that_is_there_already_are_used_and_followed() {
    let pair = Pair::new().unwrap();
    let signer = pair.authority.steal_root().unwrap();
    let dirs = ["pki-a", "pki-b"].map(|name| pair.lab.state().join(name));
    for (dir, account) in dirs.iter().zip(["client", "echo"]) {
        write_leaf(dir, &signer, account);
        fs::copy(pair.authority.root().join("root.crt"), dir.join("root.crt")).unwrap();
    }
    let start = |node: &Node, dir: &Path| {
        let args = ["--authority", "files", "--trust-domain", TRUST_DOMAIN, "--leaf-ttl", TTL];
        let options = agent::Options { ca: dir, config: pair.config.path(), args: &args };
        Agent::start(node, &options).unwrap()
    };
    let (a, _b) = (start(&pair.a, &dirs[0]), start(&pair.b, &dirs[1]));
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let seen = hello().run(&pair.client).unwrap().totals;
    assert_eq!((seen.connections, seen.failed), (1, 0), "{:?}", seen.errors);
    let before = serial(&a, "client");
    write_leaf(&dirs[0], &signer, "client");
    eventually("the next certificate", RENEWED, || (serial(&a, "client") != before).then_some(()))
        .unwrap();
    assert!(certs(&a, &[]).starts_with("authority files, trust domain demo.example;"));
    let seen = hello().run(&pair.client).unwrap().totals;
    assert_eq!((seen.connections, seen.failed), (1, 0), "{:?}", seen.errors);
}

#[test]
fn a_node_that_is_revoked_is_refused_and_the_others_are_not() {
    let pair = Pair::new().unwrap();
    // It looks at its files every quarter of a certificate's life, and every 30 s at the latest.
    let args = ["--leaf-ttl", TTL];
    let (_a, b) = (pair.agent(&pair.a, &args).unwrap(), pair.agent(&pair.b, &args).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let seen = hello().run(&pair.client).unwrap().totals;
    assert_eq!(seen.failed, 0, "{:?}", seen.errors);

    let folder = |node: &Node| pair.lab.state().join("ca").join(node.name());
    let mut revoke = Command::new(agent::binary().unwrap());
    revoke.args(["ca", "revoke", "--dir"]).arg(pair.authority.root());
    let done = run(revoke.arg("--certificate").arg(folder(&pair.a).join("node.crt"))).unwrap();
    assert!(done.contains("Revoked O=nodemesh, OU=node, CN="), "{done}");
    let list = fs::read(pair.authority.root().join("crl.pem")).unwrap();
    fs::write(folder(&pair.b).join("crl.pem"), list).unwrap();
    said(&b, "new files are in use");

    // The tunnel that is open was made with a certificate that is revoked now.
    said(&b, "a peer's tunnel is ended");
    let seen = hello().run(&pair.client).unwrap().totals;
    assert_eq!(seen.failed, 1, "{:?}", seen.errors);
    let failed = [("side", "server"), ("reason", "identity")];
    assert!(b.metrics().unwrap().sum("mesh_handshakes_failed_total", &failed) > 0.0);
    assert!(said(&b, "refused a peer's agent").contains("has been revoked"));
}

#[test]
fn a_root_is_replaced_and_no_connection_ends() {
    let pair = Pair::new().unwrap();
    let args = ["--leaf-ttl", TTL];
    let (a, b) = (pair.agent(&pair.a, &args).unwrap(), pair.agent(&pair.b, &args).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let traffic = hello().traffic(&pair.client).unwrap();
    let (mut held, opened) = hello().times(3, 3).hold(&pair.client).unwrap();
    assert_eq!((opened.connections, opened.failed), (3, 0));

    let new = Authority::init(&pair.lab.state().join("new"), TRUST_DOMAIN).unwrap();
    let roots = |authorities: &[&Authority]| -> String {
        let read =
            |authority: &&Authority| fs::read_to_string(authority.root().join("root.crt")).unwrap();
        authorities.iter().map(read).collect()
    };
    let folder = |node: &Node| pair.lab.state().join("ca").join(node.name());
    let adopted = |count: usize| {
        for agent in [&a, &b] {
            eventually("the new files", RENEWED, || {
                (agent.log().matches("new files are in use").count() >= count).then_some(())
            })
            .unwrap();
        }
    };
    // Both are trusted; then the new one signs; then the old one goes.
    for node in [&pair.a, &pair.b] {
        fs::write(folder(node).join("root.crt"), roots(&[&pair.authority, &new])).unwrap();
    }
    adopted(1);
    for node in [&pair.a, &pair.b] {
        let signed = new.node(node.name()).unwrap();
        for name in ["node.key", "node.crt"] {
            fs::copy(signed.join(name), folder(node).join(name)).unwrap();
        }
    }
    eventually("certificates of the new root", RENEWED, || {
        let dump = certs(&a, &["--json"]);
        let report: Value = serde_json::from_str(&dump).unwrap();
        let issuers = report["certificates"][0]["issuers"].to_string();
        let signed = fs::read(folder(&pair.a).join("node.crt")).unwrap();
        let shown = certificate_serial(&signed);
        issuers.contains(&shown).then_some(())
    })
    .unwrap();
    for node in [&pair.a, &pair.b] {
        fs::write(folder(node).join("root.crt"), roots(&[&new])).unwrap();
    }
    eventually("one root", RENEWED, || {
        let one = |agent: &Agent| {
            let report: Value = serde_json::from_str(&certs(agent, &["--json"])).unwrap();
            report["roots"].as_array().unwrap().len() == 1
        };
        (one(&a) && one(&b)).then_some(())
    })
    .unwrap();
    // A connection of now, by a tunnel that is made now, and those of before.
    assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    assert_eq!(held.mark().unwrap().failed, 0);
    let all = traffic.stop().unwrap();
    assert!(all.connections > 0);
    assert_eq!(all.failed, 0, "{:?}", all.errors);
}

/// The serial number of a certificate in PEM, in hexadecimal.
fn certificate_serial(pem: &[u8]) -> String {
    let mut command = Command::new(agent::binary().unwrap());
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("root.crt"), pem).unwrap();
    // Without a key it fails, after it has printed what is there.
    let output = command.args(["ca", "show", "--dir"]).arg(folder.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rest = text.split("serial ").nth(1).unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}
