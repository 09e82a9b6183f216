//! Traffic that routes leave alone, and changes of routes.

use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::http::{self, Ask, Load};
use mesh_tests::process::DEADLINE;

use super::suite::{HTTP, NAMESPACE, PLAIN, Suite, To, route};

/// A TCP server on the plain port of the first version.
fn plain(suite: &Suite, args: &[&str]) -> Server {
    let listen = format!("[::]:{PLAIN}");
    Server::start(&suite.versions[0], &[args, &["--listen", &listen]].concat()).unwrap()
}

/// A route of port 9090, of which it is not said what is spoken.
fn plain_route() -> String {
    let rules = "  - backendRefs: [{name: echo-v1, port: 9090}]";
    http::route::http(NAMESPACE, "plain", "name: echo-v1, port: 9090", rules)
}

#[test]
fn a_port_without_rules_stays_tcp() {
    let suite = Suite::start(&[route("  - backendRefs: [{name: echo-v2, port: 8080}]")]);
    let _server = plain(&suite, &["echo", "--name", "first"]);
    let seen = Client::to(To::V1.at(PLAIN)).echo("GET / HTTP/1.1\r\n\r\n").run(&suite.client);
    assert_eq!(seen.unwrap().single().unwrap().version(), Some("first"));
}

#[test]
fn a_server_may_speak_first_on_a_port_with_rules() {
    let suite = Suite::start(&[plain_route()]);
    let _server = plain(&suite, &["echo", "--name", "first"]);
    let seen = Client::to(To::V1.at(PLAIN)).echo("hello").run(&suite.client).unwrap();
    assert_eq!(seen.single().unwrap().version(), Some("first"));
}

#[test]
fn a_client_may_speak_something_else_on_a_port_with_rules() {
    let suite = Suite::start(&[plain_route()]);
    let _server = plain(&suite, &["echo"]);
    let client = Client::to(To::V1.at(PLAIN)).arg("--send").arg("\u{16}\u{3}\u{1} no HTTP at all");
    client.run(&suite.client).unwrap().single().unwrap();
}

#[test]
fn http_is_recognized_on_a_port_of_which_nothing_is_said() {
    let rules = "  - backendRefs: [{name: echo-v2, port: 8080}]";
    let suite =
        Suite::start(&[http::route::http(NAMESPACE, "plain", "name: echo-v1, port: 9090", rules)]);
    for ask in [Ask::get("/"), Ask::get("/").http2()] {
        let answer = suite.ask(To::V1.at(PLAIN), &ask);
        assert_eq!((answer.status, answer.server()), (200, Some("echo-v2")), "{answer:?}");
    }
}

#[test]
fn what_goes_to_a_pods_own_address_has_no_route() {
    let suite = Suite::start(&[route(
        "
  - matches: [{path: {type: Exact, value: /nothing-else}}]
    backendRefs: [{name: echo-v1, port: 8080}]",
    )]);
    assert_eq!(suite.ask(To::Echo.at(80), &Ask::get("/")).status, 404);
    for (pod, name) in suite.versions.iter().zip(["echo-v1", "echo-v2"]) {
        let answer = suite.ask(pod.at(HTTP), &Ask::get("/"));
        assert_eq!((answer.status, answer.server()), (200, Some(name)));
    }
}

#[test]
fn a_switch_under_load_loses_no_request() {
    let to = |version: &str| route(&format!("  - backendRefs: [{{name: {version}, port: 8080}}]"));
    let suite = Suite::start(&[to("echo-v1")]);
    for ask in [Ask::post("/", "hello").times(1, 8), Ask::post("/", "hello").times(1, 8).http2()] {
        let mut load = Load::start(&suite.client, To::Echo.at(80), &ask).unwrap();
        for version in ["echo-v2", "echo-v1"] {
            suite.write(&[to(version)]);
            // Connections that are open follow as well.
            eventually(&format!("all requests to go to {version}"), DEADLINE, || {
                let tally = load.mark().unwrap();
                assert_eq!(tally.errors.len(), 0, "{tally:?}");
                assert!(tally.statuses.keys().all(|status| *status == 200), "{tally:?}");
                (tally.servers.len() == 1 && tally.servers.contains_key(version)).then_some(())
            })
            .unwrap();
        }
        let rest = load.stop().unwrap();
        assert_eq!(rest.errors.len(), 0, "{rest:?}");
    }
    assert!(suite.a.ready());
}
