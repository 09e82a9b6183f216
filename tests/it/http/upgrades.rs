//! Requests to switch protocols, where requests are judged or routed: what follows a switch, nobody sees.

use std::net::SocketAddr;

use mesh_tests::expect::eventually;
use mesh_tests::fixture::TRUST_DOMAIN;
use mesh_tests::http::{self, Answer, Ask, field};
use mesh_tests::process::DEADLINE;
use mesh_tests::script::Script;

use super::suite::{HTTP, NAMESPACE, Suite, To, policy, route};

/// The service whose requests are routed, and judged then, and the workload whose requests are judged.
const BOTH: [SocketAddr; 2] = [To::Echo.at(80), To::V1.at(80)];

/// All requests of `echo` go to the first version, which allows all of them, one by one.
fn suite(more: &[String]) -> Suite {
    let policy = format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: all, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: echo, version: v1}}}}
  rules: [{{to: [{{operation: {{methods: ['*']}}}}]}}]
"
    );
    let route = route("  - backendRefs: [{name: echo-v1, port: 8080}]");
    Suite::start(&[&[route, policy], more].concat())
}

/// The protocols that requests to the first version may switch to.
fn allowed(protocols: &str) -> String {
    format!(
        "apiVersion: nodemesh.dev/v1alpha1
kind: MeshPolicy
metadata: {{name: upgrades, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: echo, version: v1}}}}
  upgrades: [{protocols}]
"
    )
}

fn switch(protocol: &str) -> Ask {
    Ask::get("/chat").upgrade(protocol, "any bytes")
}

/// Checks that the server has switched, to this protocol.
#[track_caller]
fn switched(answer: &Answer, protocol: &str) {
    assert_eq!(
        (answer.status, answer.header("upgrade"), answer.echoed.as_deref()),
        (101, Some(protocol), Some("any bytes")),
        "{answer:?}"
    );
    assert_eq!(answer.error, None);
}

/// Checks that the server was asked as if nothing had been said of another protocol.
#[track_caller]
fn ignored(answer: &Answer) {
    assert_eq!((answer.status, &answer.error), (200, &None), "{answer:?}");
    let seen = answer.seen().unwrap();
    for name in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(field(&seen.headers, name), None, "{seen:?}");
    }
}

#[test]
fn web_sockets_alone_are_switched_to() {
    let suite = suite(&[]);
    for to in BOTH {
        for protocol in ["websocket", "WebSocket"] {
            switched(&suite.ask(to, &switch(protocol)), protocol);
        }
        switched(&suite.ask(to, &switch("h2c, websocket,foo")), "websocket");
        for protocol in ["h2c", "H2C", "foo", "TLS/1.0, HTTP/2.0", "websocket/13"] {
            ignored(&suite.ask(to, &switch(protocol)));
        }
        let prior = switch("h2c").header("HTTP2-Settings", "AAMAAABk");
        ignored(&suite.ask(to, &prior.header("Connection", "HTTP2-Settings")));
        // RFC 9110, section 7.8: without the connection option, or before its content, it is none.
        let ask =
            Ask { headers: vec![("Upgrade".to_owned(), "websocket".to_owned())], ..switch("") };
        ignored(&suite.ask(to, &ask));
        ignored(&suite.ask(to, &Ask { body: "hello".to_owned(), ..switch("websocket") }));
    }
    let counted = || {
        let of = |agent: &mesh_tests::agent::Agent, result: &str| {
            agent.metrics().unwrap().sum("mesh_http_upgrades_total", &[("result", result)])
        };
        // A request that the first agent lets through is judged by the second.
        let a = of(&suite.a, "switched") >= 3.0 && of(&suite.a, "removed") >= 6.0;
        (a && of(&suite.b, "switched") >= 6.0 && of(&suite.b, "removed") >= 6.0).then_some(())
    };
    eventually("the upgrades to be counted", DEADLINE, counted).unwrap();
}

#[test]
fn a_document_says_what_else_may_be_switched_to() {
    let suite = suite(&[allowed("Foo/1, bar")]);
    for to in BOTH {
        switched(&suite.ask(to, &switch("foo/1")), "foo/1");
        switched(&suite.ask(to, &switch("websocket, bar")), "bar");
        ignored(&suite.ask(to, &switch("websocket")));
        ignored(&suite.ask(to, &switch("foo")));
    }
}

#[test]
fn nothing_may_be_switched_to_where_nothing_is_listed() {
    let suite = suite(&[allowed("")]);
    for to in BOTH {
        ignored(&suite.ask(to, &switch("websocket")));
    }
}

#[test]
fn the_endpoint_that_is_asked_decides() {
    let all = route("  - backendRefs: [{name: echo, port: 8080}]");
    let suite = Suite::start(&[all, allowed("")]);
    let answers = suite.all(BOTH[0], &[switch("websocket").fresh().times(40, 1)]);
    let (yes, no): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 101);
    assert!(!yes.is_empty() && !no.is_empty(), "{} and {}", yes.len(), no.len());
    for answer in yes {
        switched(answer, "websocket");
    }
    for answer in no {
        ignored(answer);
        assert_eq!(answer.server(), Some("echo-v1"));
    }
}

#[test]
fn a_server_switches_to_nothing_that_it_was_not_asked_for() {
    // By the first agent alone, and by the second alone, to which the client comes without one.
    let routed = Suite::start(&[route("  - backendRefs: [{name: echo-v1, port: 8080}]")]);
    let judged = suite(&[]);
    let outside = judged.node.pod("outside").unwrap();
    for (from, to) in [(&routed.client, BOTH[0]), (&outside, judged.versions[0].at(HTTP))] {
        let ask = |ask: &Ask| http::ask(from, to, std::slice::from_ref(ask)).unwrap().remove(0);
        // The first of them is a plain request, the others are not: each engine has to refuse it.
        for asked in [
            Ask::get("/switch/websocket"),
            Ask::get("/switch/websocket").header("TE", "trailers"),
            Ask { path: "/switch/h2c".to_owned(), ..switch("websocket") },
            Ask { path: "/switch/websocket".to_owned(), ..switch("h2c") },
        ] {
            let answer = ask(&asked);
            assert_eq!((answer.status, &answer.echoed), (502, &None), "{asked:?}: {answer:?}");
            assert_eq!(ask(&Ask::get("/")).status, 200);
        }
    }
}

#[test]
fn a_connection_whose_upgrade_is_ignored_goes_on_and_ends_in_order() {
    let suite = suite(&[]);
    let first =
        "GET /status/201 HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let last = "GET /status/202 HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n";
    let outside = suite.node.pod("outside").unwrap();
    for (from, to) in [(&suite.client, BOTH[0]), (&outside, suite.versions[0].at(HTTP))] {
        let ask = Ask::raw(&[first, last].concat());
        let answer = http::ask(from, to, &[ask]).unwrap().remove(0);
        let statuses = answer.body.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3));
        assert_eq!(statuses.collect::<Vec<_>>(), ["201", "202"], "{answer:?}");
        assert_eq!(answer.error, None);
    }
}

/// Switches protocols, has so many bytes sent back, and says how it ends.
const CHAT: &str = "
import socket
s = socket.create_connection(('10.96.0.10', 80))
s.sendall(b'GET /chat HTTP/1.1\\r\\nHost: echo\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n')
head = b''
while b'\\r\\n\\r\\n' not in head:
    head += s.recv(1000)
assert b' 101 ' in head, head
s.sendall(b'x' * 100000)
left = 100000
while left:
    left -= len(s.recv(left))
print('switched', flush=True)
try:
    print('more' if s.recv(1) else 'ended', flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
";

/// A connection that a request has switched is still that connection, and what policies say of it holds:
/// between nodes, and within one.
#[test]
fn what_was_switched_to_ends_when_its_client_may_not_connect_any_more() {
    let to_v1 = || route("  - backendRefs: [{name: echo-v1, port: 8080}]");
    let suite = Suite::start(&[to_v1()]);
    let clients = [(&suite.a, &suite.client, "client"), (&suite.b, &suite.versions[1], "echo")];
    let open = clients.map(|(agent, pod, account)| {
        let (script, first) = Script::start(pod, CHAT).unwrap();
        assert_eq!(first, "switched", "{account}");
        (agent, pod, account, script)
    });
    let principal = |account: &str| format!("'{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{account}'");
    let both = ["client", "echo"].map(principal).join(", ");
    let denied = policy("no", "DENY", &format!("{{from: [{{source: {{principals: [{both}]}}}}]}}"));
    suite.write(&[to_v1(), denied]);
    for (agent, pod, account, mut script) in open {
        assert_eq!(script.line().unwrap(), "ConnectionResetError", "{account}");
        let is_it = |line: &serde_json::Value| {
            let sent = line["bytes_sent"].as_u64();
            line["source_workload"] == pod.name() && sent.is_some_and(|sent| sent >= 100_000)
        };
        agent.logged("the line of what it has carried", is_it).unwrap();
    }
}
