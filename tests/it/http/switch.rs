//! Blue and green: one edit, and all requests go to the other version.

use mesh_tests::http::{Ask, Load, Tally};

use super::suite::{Suite, To, route};

/// Requests of each client that are looked at after a switch.
const LOOKED_AT: u64 = 50;

fn to(version: &str) -> String {
    route(&format!("  - backendRefs: [{{name: {version}, port: 8080}}]"))
}

/// By weights, as a rollout ends.
fn weights(v1: u32, v2: u32) -> String {
    route(&format!(
        "
  - backendRefs:
    - {{name: echo-v1, port: 8080, weight: {v1}}}
    - {{name: echo-v2, port: 8080, weight: {v2}}}"
    ))
}

/// The answers to a client since the last mark: each time a version with 200.
#[track_caller]
fn marked(load: &mut Load) -> Tally {
    let tally = load.mark().unwrap();
    assert_eq!((tally.failed(), tally.errors.len()), (0, 0), "{tally:?}");
    assert_eq!(tally.servers.values().sum::<u64>(), tally.requests, "{tally:?}");
    tally
}

/// Clients that send one request after the other on one connection each.
fn clients(suite: &Suite) -> Vec<Load> {
    let ask = Ask::post("/", "hello").times(1, 1);
    let asks = [ask.clone(), ask.clone(), ask.clone().http2(), ask.clone().http2(), ask.fresh()];
    let start = |ask: &Ask| Load::start(&suite.client, To::Echo.at(80), ask).unwrap();
    asks.each_ref().map(start).into()
}

/// Checks that every request that is sent from now on is answered by `version`, on connections that were
/// there before as well.
fn all_go_to(clients: &mut [Load], version: &str) {
    for client in clients {
        // Requests that ended before now, and then, as there is one at a time, the one that was on its way.
        marked(client);
        while marked(client).requests == 0 {}
        let mut looked_at = 0;
        while looked_at < LOOKED_AT {
            let tally = marked(client);
            assert!(tally.servers.keys().all(|server| server == version), "{version}: {tally:?}");
            looked_at += tally.requests;
        }
    }
}

#[test]
fn a_switch_is_whole_when_it_is_in_force_and_fails_no_request() {
    let suite = Suite::start(&[to("echo-v1")]);
    let mut clients = clients(&suite);
    all_go_to(&mut clients, "echo-v1");
    let steps = [
        (to("echo-v2"), "echo-v2"),
        (to("echo-v1"), "echo-v1"),
        (weights(0, 1), "echo-v2"),
        (weights(1, 0), "echo-v1"),
    ];
    for (route, version) in steps {
        suite.apply(&[route]);
        all_go_to(&mut clients, version);
    }
    for client in clients {
        let rest = client.stop().unwrap();
        assert_eq!((rest.failed(), rest.errors.len()), (0, 0), "{rest:?}");
    }
    assert!(suite.a.ready());
}
