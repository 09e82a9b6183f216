//! Clients that others have written, each with a reading of HTTP of its own.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mesh_tests::http::Ask;
use mesh_tests::process::{inside, run};

use super::suite::{Suite, To, route};

/// Both versions, as often.
const HALVES: &str = "
  - backendRefs: [{name: echo-v1, port: 8080}, {name: echo-v2, port: 8080}]";

/// Requests of one client: that one of two versions has none of them is one chance in 2^99.
const COUNT: &str = "100";

/// The output of a program that runs at the client. `cargo xtask setup` installs what is not there.
#[track_caller]
fn client(suite: &Suite, command: &[&str]) -> String {
    let mut inside = inside(suite.client.netns(), suite.client.cgroup()).unwrap();
    inside.args(["exec", "--"]).args(command);
    run(&mut inside).unwrap_or_else(|error| {
        panic!("{command:?} (`cargo xtask setup` installs what is missing): {error:#}")
    })
}

/// The script with this name.
fn script(name: &str) -> String {
    format!("{}/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Checks that both versions have answered, as a client of `command` says.
#[track_caller]
fn both(suite: &Suite, command: &[&str]) {
    let to = To::Echo.at(80);
    let (host, port) = (to.ip().to_string(), to.port().to_string());
    let said = client(suite, &[command, &[&*host, &*port, COUNT]].concat());
    let servers: BTreeSet<String> = serde_json::from_str(&said).unwrap();
    assert_eq!(servers.into_iter().collect::<Vec<_>>(), ["echo-v1", "echo-v2"]);
}

fn url(to: SocketAddr, path: &str) -> String {
    format!("http://{to}{path}")
}

#[test]
fn pythons_http_client_goes_through() {
    let suite = Suite::start(&[route(HALVES)]);
    both(&suite, &["/usr/bin/python3", &script("python_http.py")]);
}

#[test]
fn pythons_h2_goes_through() {
    let suite = Suite::start(&[route(HALVES)]);
    both(&suite, &["/usr/bin/python3", &script("python_h2.py")]);
}

#[test]
fn nodes_http_and_http2_go_through() {
    let suite = Suite::start(&[route(HALVES)]);
    both(&suite, &["node", &script("node.mjs")]);
}

#[test]
fn curl_goes_through_in_either_version() {
    let suite = Suite::start(&[route(
        "
  - matches: [{headers: [{name: User, value: tester}]}]
    backendRefs: [{name: echo-v2, port: 8080}]
  - backendRefs: [{name: echo-v1, port: 8080}]",
    )]);
    let to = To::Echo.at(80);
    let (a, b) = (url(to, "/a"), url(to, "/b"));
    let curl = |more: &[&str]| {
        client(
            &suite,
            &[&["curl", "--silent", "--show-error", "--fail", "--max-time", "20"], more].concat(),
        )
    };
    // One connection for both. Debian 12's curl cannot ask twice with prior knowledge of HTTP/2,
    // whoever answers.
    let connects = ["--output", "/dev/null", "--write-out", "%{num_connects} ", &a];
    let again = ["--output", "/dev/null", &b];
    assert_eq!(curl(&[&connects[..], &again[..]].concat()), "1 0 ");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let tester = curl(&[version, "-H", "User: tester", &a]);
        assert!(tester.contains(r#""server":"echo-v2""#), "{tester}");
        let seen = curl(&[version, "--data", "hello", &a]);
        assert!(seen.contains(r#""body":"hello""#) && seen.contains("echo-v1"), "{seen}");
        // Long enough to be announced by `Expect`, and without a length.
        let long = "z".repeat(100_000);
        let seen = curl(&[version, "-H", "Expect: 100-continue", "--data", &long, &a]);
        assert!(seen.contains(&long), "{version}");
        let seen = curl(&[version, "-H", "Transfer-Encoding: chunked", "--data", "hello", &a]);
        assert!(seen.contains(r#""body":"hello""#), "{seen}");
        let head = curl(&[version, "--head", &a]);
        assert!(head.contains(" 200") && !head.contains("\"server\""), "{head}");
        assert_eq!(curl(&[version, &url(to, "/bytes?n=2000000")]).len(), 2_000_000);
    }
}

#[test]
fn h2load_and_wrk_go_through() {
    let suite = Suite::start(&[route(HALVES)]);
    let to = url(To::Echo.at(80), "/status/200");
    for version in [&["--h1"][..], &["-m", "10"]] {
        let said =
            client(&suite, &[&["h2load", "-n", "2000", "-c", "8"], version, &[&*to]].concat());
        let well =
            "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(said.contains(well), "{said}");
    }
    let said = client(&suite, &["wrk", "-t", "1", "-c", "8", "-d", "1", &to]);
    let is_bad = said.contains("Socket errors") || said.contains("Non-2xx");
    assert!(!is_bad && said.contains("requests in "), "{said}");
}

/// Checks that each case of a script comes out as it must, and that nobody else has noticed.
#[track_caller]
fn robust(name: &str, least: u64) {
    let suite = Suite::start(&[route("  - backendRefs: [{name: echo-v1, port: 8080}]")]);
    let to = To::Echo.at(80);
    let (host, port) = (to.ip().to_string(), to.port().to_string());
    let said = client(&suite, &["/usr/bin/python3", &script(name), &host, &port]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(said["cases"].as_u64() >= Some(least), "{said}");
    assert_eq!(said["failures"], serde_json::json!([]));
    let tally = suite.tally(to, &Ask::get("/status/204").times(100, 4));
    assert_eq!(tally.statuses.keys().collect::<Vec<_>>(), [&204], "{tally:?}");
}

#[test]
fn peers_that_break_http1_are_answered_as_they_must_be() {
    robust("http1_robustness.py", 60);
}

#[test]
fn peers_that_break_http2_are_answered_as_they_must_be() {
    robust("http2_robustness.py", 70);
}
