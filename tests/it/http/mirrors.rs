//! Copies of requests, whose answers nobody waits for.

use mesh_tests::apps::Server;
use mesh_tests::http::Ask;

use super::suite::{PLAIN, Suite, To, route};

/// A rule to `echo-v1`, with a mirror.
fn suite(mirror: &str) -> Suite {
    Suite::start(&[route(&format!(
        "
  - filters: [{{type: RequestMirror, requestMirror: {mirror}}}]
    backendRefs: [{{name: echo-v1, port: 8080}}]"
    ))])
}

#[test]
fn a_mirror_gets_a_copy() {
    let suite = suite("{backendRef: {name: echo-v2, port: 8080}}");
    for ask in [Ask::post("/a?b=c", "hello"), Ask::post("/a?b=c", "hello").http2()] {
        let answer = suite.ask(To::Echo.at(80), &ask.header("X-A", "b"));
        assert_eq!((answer.status, answer.server()), (200, Some("echo-v1")), "{answer:?}");
        let [original, copy] = suite.servers.each_ref().map(|server| server.seen().unwrap());
        assert_eq!([&original.path, &copy.path], ["/a?b=c"; 2]);
        assert_eq!([&original.body, &copy.body], ["hello"; 2]);
        assert_eq!([&original.method, &copy.method], ["POST"; 2]);
        assert!(
            copy.headers
                .iter()
                .any(|(name, value)| name.eq_ignore_ascii_case("x-a") && value == "b")
        );
    }
}

#[test]
fn a_mirror_gets_its_share() {
    let suite = suite("{percent: 25, backendRef: {name: echo-v2, port: 8080}}");
    let tally = suite.tally(To::Echo.at(80), &Ask::get("/").times(400, 8));
    assert_eq!(tally.servers["echo-v1"], 400, "{tally:?}");
    let [_, mirror] = suite.servers;
    let mut copies = 0_u64;
    // Five standard deviations below 100 are 57.
    while copies < 57 {
        assert_eq!(mirror.seen().unwrap().path, "/");
        copies += 1;
    }
    copies += u64::try_from(mirror.finish().unwrap().len()).unwrap();
    assert!((57..=143).contains(&copies), "{copies}");
}

/// Checks that requests are answered as if there was no mirror.
#[track_caller]
fn unnoticed(suite: &Suite) {
    let ask = Ask::post("/", "hello").times(50, 5).timeout_ms(5_000);
    let tally = suite.tally(To::Echo.at(80), &ask);
    assert_eq!((tally.servers.get("echo-v1"), tally.errors.len()), (Some(&50), 0), "{tally:?}");
}

#[test]
fn a_mirror_where_nobody_listens_is_not_noticed() {
    unnoticed(&suite("{backendRef: {name: echo-v2, port: 9090}}"));
}

#[test]
fn a_mirror_without_endpoints_is_not_noticed() {
    unnoticed(&suite("{backendRef: {name: empty, port: 8080}}"));
}

#[test]
fn a_mirror_that_does_not_answer_is_not_noticed() {
    let suite = suite("{backendRef: {name: echo-v2, port: 9090}}");
    let listen = format!("[::]:{PLAIN}");
    let _sink = Server::start(&suite.versions[1], &["sink", "--listen", &listen]).unwrap();
    unnoticed(&suite);
}
