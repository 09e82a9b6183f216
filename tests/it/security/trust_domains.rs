//! Attackers that hide behind the name of a trust domain: in a policy that names another than the mesh's,
//! or in a certificate of an alias.

use std::fs;
use std::net::IpAddr;

use mesh_tests::apps::Server;
use mesh_tests::mesh::{AuthorizationPolicy, Mesh, Rule, Workload};
use mesh_tests::pair::{PORT, Pair, hello, spiffe};
use mesh_tests::peers::{Caller, connect};
use mesh_tests::pki::{Identity, Signer};
use mesh_tests::pod::Pod;

use super::strangers::root;
use super::{Arena, Bystander, Trace};

/// Stands for the trust domain of the lab, `demo.example`.
const ALIAS: &str = "old.example";

/// The arguments of an agent that knows the alias.
const ARGS: &[&str] = &["--trust-domain-aliases", ALIAS];

/// The pair, with a pod `guest` beside the client that no policy is about.
fn world(policies: &[AuthorizationPolicy]) -> (Pair, Pod) {
    let pair = Pair::new().unwrap();
    let guest = pair.a.pod("guest").unwrap();
    let mesh = pair.mesh().workload(&Workload::of(&guest).account("guest"));
    let mesh = policies.iter().fold(mesh, Mesh::authorization);
    pair.config.write(&mesh).unwrap();
    (pair, guest)
}

/// A policy that denies these principals.
fn deny(name: &str, principals: &[&str]) -> AuthorizationPolicy {
    AuthorizationPolicy::deny(name).rule(Rule::default().principals(principals))
}

/// An identity in the alias, as an authority that is no node of the mesh signs it.
fn alias(pair: &Pair, account: &str) -> Identity {
    let id = format!("spiffe://{ALIAS}/ns/demo/sa/{account}");
    pair.authority.steal_root().unwrap().leaf(&id).unwrap()
}

/// The status that a caller with this identity gets from the agent of the application.
fn call(pair: &Pair, identity: &Identity) -> anyhow::Result<u16> {
    let caller = Caller::new(Some(identity), &root(pair))?;
    let request = connect(&pair.echo.at(PORT).to_string(), None)?;
    let said = caller.call(pair.client.netns(), IpAddr::V4(pair.echo.v4()), request, b"hello")?;
    Ok(said.status)
}

#[test]
fn cluster_local_in_a_policy_is_the_meshs_own_trust_domain() {
    for transport in ["native", "hbone"] {
        let denied = ["cluster.local/ns/demo/sa/client"];
        let (pair, guest) = world(&[deny("by-pointer", &denied)]);
        let args = ["--transport", transport];
        let a = pair.agent(&pair.a, &args).unwrap();
        let b = pair.agent(&pair.b, &args).unwrap();
        let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
        let serves = || assert_eq!(hello().run(&guest).unwrap().totals.failed, 0);
        let bystander = Bystander::between(&a, &b);
        let arena = Arena { by: "peer node", agent: &b, serves: &serves, bystander: &bystander };
        let name = format!("an identity that is denied as one of cluster.local, {transport}");
        arena.attack(&name, Trace::Access(&["denied", "demo/by-pointer"]), || {
            assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 1);
        });
    }
}

#[test]
fn cluster_local_in_a_policy_is_the_same_within_a_node() {
    let denied = ["cluster.local/ns/demo/sa/client"];
    let (pair, guest) = world(&[deny("by-pointer", &denied).select("to", "guest")]);
    let beside = pair.a.pod("beside").unwrap();
    let workload = Workload::of(&beside).account("beside").label("to", "guest").port(PORT);
    let mesh = pair.mesh().workload(&Workload::of(&guest).account("guest")).workload(&workload);
    pair.config
        .write(&mesh.authorization(&deny("by-pointer", &denied).select("to", "guest")))
        .unwrap();
    let (a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&beside, PORT, "v1").unwrap();
    let ask = |pod: &Pod| {
        let client = mesh_tests::apps::Client::to(beside.at(PORT)).echo("x");
        client.run(pod).unwrap().totals.errors.into_keys().next()
    };
    let serves = || assert_eq!(ask(&guest), None);
    let bystander = Bystander::between(&a, &b);
    let arena = Arena { by: "pod", agent: &a, serves: &serves, bystander: &bystander };
    let name = "a neighbor that is denied as one of cluster.local";
    arena.attack(name, Trace::Access(&["denied", "demo/by-pointer"]), || {
        assert!(ask(&pair.client).unwrap().ends_with(" EPERM"));
    });
}

#[test]
fn an_alias_is_no_way_past_a_policy() {
    let own = "demo.example/ns/demo/sa/client";
    let other = format!("{ALIAS}/ns/demo/sa/echo");
    let wild = format!("{ALIAS}/ns/other/*");
    let (pair, _guest) = world(&[deny("by-name", &[own, &other, &wild])]);
    let b = pair.agent(&pair.b, ARGS).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let node = pair.authority.steal(pair.a.name()).unwrap();
    let serves = || {
        let guest = node.leaf(&spiffe("guest")).unwrap();
        assert_eq!(call(&pair, &guest).unwrap(), 200);
        assert_eq!(call(&pair, &alias(&pair, "guest")).unwrap(), 200);
    };
    let bystander = Bystander::of_pair(&pair, &b);
    let arena = Arena { by: "peer node", agent: &b, serves: &serves, bystander: &bystander };
    let root = pair.authority.steal_root().unwrap();
    for (name, identity) in [
        ("an identity that is denied, in an alias", alias(&pair, "client")),
        (
            "an identity that is denied in an alias, in the mesh's own trust domain",
            root.leaf(&spiffe("echo")).unwrap(),
        ),
        (
            "a namespace that is denied in an alias, in the mesh's own trust domain",
            root.leaf("spiffe://demo.example/ns/other/sa/any").unwrap(),
        ),
    ] {
        arena.attack(name, Trace::Access(&["denied", "demo/by-name"]), || {
            assert_eq!(call(&pair, &identity).unwrap(), 403);
        });
    }
}

#[test]
fn an_alias_lets_nobody_of_another_root_in() {
    let (pair, _guest) = world(&[]);
    // A root that names a third trust domain is trusted too: for that one.
    let third = Signer::foreign_root("third.example").unwrap();
    let ca = pair.lab.state().join("ca").join(pair.b.name()).join("root.crt");
    let mut roots = fs::read_to_string(&ca).unwrap();
    roots.push_str(&pem::encode(&pem::Pem::new("CERTIFICATE", third.anchor().unwrap().to_vec())));
    fs::write(&ca, roots).unwrap();
    let b = pair.agent(&pair.b, ARGS).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let serves = || assert_eq!(call(&pair, &alias(&pair, "client")).unwrap(), 200);
    let bystander = Bystander::of_pair(&pair, &b);
    let arena = Arena { by: "network", agent: &b, serves: &serves, bystander: &bystander };
    let id = format!("spiffe://{ALIAS}/ns/demo/sa/client");
    let foreign = |domain| Signer::foreign_root(domain).unwrap().leaf(&id).unwrap();
    let node = pair.authority.steal(pair.a.name()).unwrap();
    for (name, identity, reason) in [
        (
            "an alias, by a root of the attacker's own",
            foreign(ALIAS),
            "not signed by a trusted root",
        ),
        (
            "an alias, by a root that has the mesh's name",
            foreign("demo.example"),
            "not signed by a trusted root",
        ),
        (
            "an alias, by a root that is trusted for another trust domain",
            third.leaf(&id).unwrap(),
            "not signed by a trusted root",
        ),
        (
            "an alias, by a node of the mesh that does not run it",
            node.leaf(&format!("spiffe://{ALIAS}/ns/demo/sa/nobody")).unwrap(),
            "is not scheduled on node",
        ),
        (
            "an identity of cluster.local, which is a word of policies alone",
            pair.authority
                .steal_root()
                .unwrap()
                .leaf("spiffe://cluster.local/ns/demo/sa/client")
                .unwrap(),
            "is not of the trust domain",
        ),
    ] {
        arena.attack(name, Trace::Access(&["identity", reason]), || {
            call(&pair, &identity).unwrap_err();
        });
    }
}

#[test]
fn a_policy_about_another_mesh_is_told() {
    let (pair, _guest) = world(&[]);
    let a = pair.agent(&pair.a, &[]).unwrap();
    let b = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let serves = || assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    let bystander = Bystander::between(&a, &b);
    let arena = Arena { by: "author", agent: &a, serves: &serves, bystander: &bystander };
    let name = "a denial of nobody: a principal of another trust domain";
    arena.attack(name, Trace::Condition(&["NoMatchingPrincipal", "demo/elsewhere"]), || {
        let policy = deny("elsewhere", &["other.example/ns/demo/sa/client"]);
        let guest = Workload::of(&pair.a.pod("late").unwrap()).account("late");
        pair.config.write(&pair.mesh().workload(&guest).authorization(&policy)).unwrap();
    });
}
