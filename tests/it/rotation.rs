//! Certificates that are renewed while connections come and go.

use std::time::Duration;

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::mesh::Workload;
use mesh_tests::pair::{ECHO, PORT, Pair, hello, spiffe};
use serde_json::Value;

/// The shortest life that an agent gives, in seconds: it renews after two thirds of it.
const TTL: &str = "10";

/// Within this every certificate has been renewed, on a machine that is busy.
const RENEWED: Duration = Duration::from_secs(20);

/// The serial number of the certificate that an agent uses for `account`.
fn serial(agent: &Agent, account: &str) -> Option<String> {
    let (_status, body) = agent.get("/config_dump").ok()?;
    let dump: Value = serde_json::from_str(&body).ok()?;
    let held = dump["certificates"].as_array()?.iter();
    let held = held.filter(|held| held["identity"] == spiffe(account).as_str());
    let serials: Vec<_> =
        held.filter_map(|held| held["certChain"][0]["serialNumber"].as_str()).collect();
    (serials.len() == 1).then(|| serials[0].to_owned())
}

#[test]
fn certificates_are_renewed_under_traffic() {
    let pair = Pair::new().unwrap();
    let late = pair.a.pod("late").unwrap();
    let mesh = pair.mesh().workload(&Workload::of(&late).account("late"));
    pair.config.write(&mesh).unwrap();
    let args = ["--leaf-ttl", TTL];
    let (a, b) = (pair.agent(&pair.a, &args).unwrap(), pair.agent(&pair.b, &args).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let first = [(&a, "client"), (&a, "late"), (&b, "echo")]
        .map(|(agent, account)| (agent, account, serial(agent, account).unwrap()));

    let traffic = hello().traffic(&pair.client).unwrap();
    for (agent, account, before) in &first {
        eventually("another certificate", RENEWED, || {
            serial(agent, account).filter(|now| now != before)
        })
        .unwrap();
    }
    // It has no tunnel yet: this handshake is between two renewed certificates.
    let seen = Client::to(ECHO).echo("hello").run(&late).unwrap().totals;
    assert_eq!((seen.connections, seen.failed), (1, 0), "{:?}", seen.errors);
    let all = traffic.stop().unwrap();
    assert!(all.connections > 0);
    assert_eq!(all.failed, 0, "{:?}", all.errors);
    assert!(a.terminate().unwrap().success());
    assert!(b.terminate().unwrap().success());
}
