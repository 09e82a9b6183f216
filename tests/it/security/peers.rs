//! A malicious peer node: has a node's key, and so identities of the workloads that run there.

use std::net::IpAddr;

use http::Request;
use mesh_tests::apps::Server;
use mesh_tests::mesh::{AuthorizationPolicy, Rule, Workload};
use mesh_tests::pair::{PORT, Pair, TRUST_DOMAIN, spiffe};
use mesh_tests::peers::{Caller, HBONE_PORT, Said, connect};
use mesh_tests::report::Banner;

use super::strangers::{client, root, serves};
use super::{Arena, Bystander, Trace};

fn ask(pair: &Pair, caller: &Caller, request: Request<()>) -> anyhow::Result<Said> {
    caller.call(pair.client.netns(), IpAddr::V4(pair.echo.v4()), request, b"hello")
}

#[test]
fn a_node_speaks_for_its_own_workloads_only() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "peer node", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    let node = pair.authority.steal(pair.a.name()).unwrap();
    let to = || connect(&pair.echo.at(PORT).to_string(), None).unwrap();
    for (name, account) in [
        ("the identity of a workload of another node", "echo"),
        ("an identity that runs nowhere", "nobody"),
    ] {
        arena.attack(name, Trace::Access(&["identity", "is not scheduled on node"]), || {
            let leaf = node.leaf(&spiffe(account)).unwrap();
            let caller = Caller::new(Some(&leaf), &root(&pair)).unwrap();
            ask(&pair, &caller, to()).unwrap_err();
        });
    }
    // A node may not make other nodes, and a leaf may not sign.
    let chain = "a node that it has made itself";
    arena.attack(chain, Trace::Access(&["identity", "chain is not valid"]), || {
        let other = node.node(pair.b.name()).unwrap();
        let leaf = other.leaf(&spiffe("echo")).unwrap();
        let caller = Caller::new(Some(&leaf), &root(&pair)).unwrap();
        ask(&pair, &caller, to()).unwrap_err();
    });
}

#[test]
fn a_tunnel_leads_to_its_workload_only() {
    let pair = Pair::new().unwrap();
    let neighbor = pair.b.pod("neighbor").unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _servers = [&pair.echo, &neighbor].map(|pod| Server::echo(pod, PORT, "v1").unwrap());
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "peer node", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    let get = Request::get(format!("http://{}/", pair.echo.at(PORT))).body(()).unwrap();
    for (name, request) in [
        ("a tunnel to another pod", connect(&neighbor.at(PORT).to_string(), None).unwrap()),
        ("a tunnel to the workload's loopback", connect("127.0.0.1:8080", None).unwrap()),
        (
            "a tunnel to the agent's own port of tunnels",
            connect(&pair.echo.at(HBONE_PORT).to_string(), None).unwrap(),
        ),
        (
            "a tunnel to the agent's own port for what goes out",
            connect(&pair.echo.at(15001).to_string(), None).unwrap(),
        ),
        ("a tunnel to a name", connect("echo.demo.svc.cluster.local:8080", None).unwrap()),
        ("a tunnel to the cloud's metadata", connect("169.254.169.254:80", None).unwrap()),
        ("another method than CONNECT", get),
    ] {
        arena.attack(name, Trace::Access(&["protocol", "client"]), || {
            let said = ask(&pair, &caller, request).unwrap();
            assert_eq!((said.status, said.body.len()), (400, 0), "{name}");
        });
    }
}

#[test]
fn a_peer_says_what_it_likes_and_is_not_believed() {
    let pair = Pair::new().unwrap();
    let other = pair.a.pod("other").unwrap();
    let mesh = pair.mesh().workload(&Workload::of(&other).account("other"));
    let guest = format!("{TRUST_DOMAIN}/ns/demo/sa/other");
    let policy = AuthorizationPolicy::deny("no-other").rule(Rule::default().principals(&[&guest]));
    pair.config.write(&mesh.authorization(&policy)).unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "peer node", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    let caller = Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    let to = pair.echo.at(PORT).to_string();
    // It is let in as who it is, and the application sees where it comes from.
    let own = pair.client.v4().to_string();
    let name = "the address of another workload as its own";
    arena.attack(name, Trace::Access(&[&own, "\"source_workload\":\"client\""]), || {
        let forged = format!("for=\"{}:4711\";host=echo.demo", other.v4());
        let said = ask(&pair, &caller, connect(&to, Some(&forged)).unwrap()).unwrap();
        let end = said.body.iter().position(|byte| *byte == b'\n').unwrap();
        let banner: Banner = serde_json::from_slice(&said.body[..end]).unwrap();
        assert_eq!(banner.peer.ip().to_canonical(), IpAddr::V4(pair.client.v4()));
    });
    let name = "an identity that a policy denies";
    arena.attack(name, Trace::Access(&["denied", "demo/no-other"]), || {
        let node = pair.authority.steal(pair.a.name()).unwrap();
        let leaf = node.leaf(&spiffe("other")).unwrap();
        let caller = Caller::new(Some(&leaf), &root(&pair)).unwrap();
        assert_eq!(ask(&pair, &caller, connect(&to, None).unwrap()).unwrap().status, 403);
    });
}
