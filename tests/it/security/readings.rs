//! A malicious client of an application whose requests are judged or routed: it tries to be read in one
//! way here and in another there, or by nobody at all.

use std::net::SocketAddr;

use mesh_tests::http::{self, Answer, Ask};

use super::{Arena, Bystander, Trace};
use crate::http::suite::{NAMESPACE, Suite, To, policy, route};

/// HTTP/2 that begins (RFC 9113, section 3.4), with SETTINGS that say nothing.
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0";

/// All requests of `echo` go to the first version, where some are allowed; and none of one host.
fn suite(transport: &str) -> Suite {
    let of = |name: &str, action: &str, operation: &str| {
        policy(name, action, &format!("{{to: [{{operation: {{{operation}}}}}]}}"))
    };
    let allowed = of("readers", "ALLOW", "methods: [GET, POST], paths: ['/status/*', '/switch/*']");
    let denied = of("no-admin", "DENY", "hosts: [admin.example]");
    let role = "{when: [{key: 'request.headers[x-role]', values: [admin]}]}, \
                {when: [{key: 'request.headers[x-any]', values: ['*']}]}, \
                {when: [{key: 'request.headers[host]', values: [secret.example]}]}";
    let role = policy("no-role", "DENY", role);
    let route = route("  - backendRefs: [{name: echo-v1, port: 8080}]");
    Suite::start_with(&[route, allowed, denied, role], &["--transport", transport])
}

/// A frame of HTTP/2 of stream 1: HEADERS with these fields, as literals, and the end of the request.
fn headers(fields: &[(&str, &str)]) -> String {
    let text = |text: &str| format!("{}{text}", char::from(u8::try_from(text.len()).unwrap()));
    let line = |(name, value): &(&str, &str)| ["\0".to_owned(), text(name), text(value)].concat();
    let block = fields.iter().map(line).collect::<Vec<_>>().concat();
    let length = char::from(u8::try_from(block.len()).unwrap());
    assert!(length.is_ascii(), "a longer one would be no text");
    format!("\0\0{length}\u{1}\u{5}\0\0\0\u{1}{block}")
}

/// A request of HTTP/1.1.
fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\n{fields}\r\n")
}

/// Checks that a client which asks to switch was answered as if it had not, and that what follows is not read
/// as something else.
#[track_caller]
fn stays(name: &str, answer: &Answer) -> String {
    // The next bytes are no request: the connection may end with a reset. It ends.
    let is_over = matches!(answer.error.as_deref(), None | Some("ECONNRESET" | "EPIPE"));
    assert!(is_over && !answer.body.contains("HTTP/1.1 101"), "{name}: {answer:?}");
    let secrets = answer.body.matches("\"path\":\"/admin").count();
    assert_eq!(secrets, 0, "{name}: {answer:?}");
    format!("{:?} {:?}", answer.body.lines().next(), answer.error)
}

/// Requests to switch, before HTTP/2 for a path that is not allowed.
fn switches() -> Vec<(&'static str, String)> {
    let admin = [(":method", "GET"), (":scheme", "http"), (":path", "/admin"), (":authority", "a")];
    let after = [PREFACE, &headers(&admin)].concat();
    let ask =
        |fields: &str| request("GET /status/200", &format!("Host: echo\r\n{fields}")) + &after;
    vec![
        (
            "HTTP/2 after an upgrade",
            ask(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            ),
        ),
        (
            "the same in capitals, on lines of their own",
            ask("CONNECTION: x\r\nconnection: UPGRADE\r\nUPGRADE: x\r\nupgrade: H2C\r\n"),
        ),
        (
            "HTTP/2 behind other protocols of an upgrade",
            ask("Connection: Upgrade\r\nUpgrade: foo/1, h2c;q=1, HTTP/2.0,h2c\r\n"),
        ),
        ("an upgrade to TLS", ask("Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n")),
        (
            "an upgrade whose request has content",
            request(
                "POST /status/200",
                "Host: echo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n",
            ) + "hello"
                + &after,
        ),
        (
            "an upgrade that HTTP/1.0 asks for",
            format!(
                "GET /status/200 HTTP/1.0\r\nHost: echo\r\nConnection: Upgrade, keep-alive\r\nUpgrade: websocket\r\n\r\n{after}"
            ),
        ),
        (
            "HTTP/2 after a request of HTTP/1.1",
            request("GET /status/200", "Host: echo\r\n") + &after,
        ),
    ]
}

/// Requests that name several hosts, or none: each is answered with 400.
fn hosts() -> Vec<(&'static str, String)> {
    let ask = |target: &str, fields: &str| request(&format!("GET {target}"), fields);
    vec![
        ("a second host", ask("/status/200", "Host: echo\r\nHost: admin.example\r\n")),
        ("a first host", ask("/status/200", "Host: admin.example\r\nhost: echo\r\n")),
        ("no host", ask("/status/200", "")),
        ("a host that is a list", ask("/status/200", "Host: echo,admin.example\r\n")),
        ("a host with a user", ask("/status/200", "Host: echo@admin.example\r\n")),
        ("a host that is encoded", ask("/status/200", "Host: %61dmin.example\r\n")),
        ("a target with a user", ask("http://echo@admin.example/status/200", "Host: echo\r\n")),
        ("a target that is an authority", ask("admin.example:80", "Host: echo\r\n")),
    ]
}

/// Requests for a host that is denied: each is answered with 403.
fn denied() -> Vec<(&'static str, String)> {
    let ask = |target: &str, fields: &str| request(&format!("GET {target}"), fields);
    vec![
        ("a target with a denied host", ask("http://admin.example/status/200", "Host: echo\r\n")),
        ("a target with a port", ask("HTTPS://ADMIN.example:1/status/200", "Host: echo\r\n")),
        ("a denied host with a dot at its end", ask("/status/200", "Host: admin.example.\r\n")),
        ("a dot before its port", ask("/status/200", "Host: Admin.Example.:80\r\n")),
        ("a target with a dot", ask("http://admin.example./status/200", "Host: echo\r\n")),
        (
            "a denied host that is named as a hop's",
            ask("/status/200", "Host: admin.example\r\nConnection: Host\r\n"),
        ),
    ]
}

/// Headers with a value that is denied: each is answered with 403.
fn denied_headers() -> Vec<(&'static str, String)> {
    let ask = |fields: &str| request("GET /status/200", &format!("Host: echo\r\n{fields}"));
    vec![
        ("a denied header", ask("X-Role: admin\r\n")),
        ("a denied header on two lines", ask("X-Role: admin\r\nx-role: admin\r\n")),
        ("a denied header and another", ask("X-Role: admin\r\nX-Role: user\r\n")),
        ("a denied header that is empty first", ask("X-Role:\r\nX-Role: admin\r\n")),
        ("a denied header in a list", ask("X-Role: user , admin\r\n")),
        ("a denied header as CGI names it", ask("X_Role: admin\r\n")),
        ("a header that is denied whatever it is, and empty", ask("X-Any:\r\n")),
        (
            "a host that is denied as a header",
            request("GET /status/200", "Host: secret.example\r\n"),
        ),
    ]
}

/// Attacks the agents of `suite`, whose transport between them is `transport`.
fn attack(transport: &str) {
    let suite = suite(transport);
    // Another identity, of another namespace.
    let other = || {
        let ask = [Ask::get("/status/200")];
        let answer = http::ask(&suite.consumer, To::V1.at(80), &ask).unwrap().remove(0);
        assert_eq!((answer.status, answer.server()), (200, Some("echo-v1")), "{answer:?}");
    };
    let named = |name: &str, way: &str| format!("{name}, where requests are {way}, by {transport}");
    let ways: [(&str, SocketAddr, &_); 2] =
        [("judged", To::V1.at(80), &suite.b), ("routed", To::Echo.at(80), &suite.a)];
    let bystander = Bystander::between(&suite.a, &suite.b);
    for (way, to, agent) in ways {
        let arena = Arena { by: "client", agent, serves: &other, bystander: &bystander };
        for (name, bytes) in switches() {
            let ask = Ask::raw(&bytes).timeout_ms(10_000);
            let removed = Trace::Count("mesh_http_upgrades_total", &[("result", "removed")]);
            let trace = if bytes.contains("pgrade") { removed } else { Trace::Told };
            arena.attack(&named(name, way), trace, || stays(name, &suite.ask(to, &ask)));
        }
        for (name, bytes) in hosts() {
            let labels = [("response_code", "400"), ("source_workload", "client")];
            let trace = Trace::Count("istio_requests_total", &labels);
            arena.attack(&named(name, way), trace, || {
                let answer = suite.ask(to, &Ask::all(&bytes));
                assert_eq!((answer.status, &answer.error), (400, &None), "{name}: {answer:?}");
                assert!(!answer.body.contains("X-Served-By"), "{name}: {answer:?}");
            });
        }
        let tunnel = request("CONNECT echo:8080", "Host: echo:8080\r\n");
        let trace = Trace::Count("istio_requests_total", &[("response_code", "405")]);
        arena.attack(&named("a tunnel to the application", way), trace, || {
            let answer = suite.ask(to, &Ask::all(&tunnel));
            assert_eq!((answer.status, &answer.error), (405, &None), "{answer:?}");
        });
        let trace = Trace::Count("istio_requests_total", &[("response_code", "400")]);
        arena.attack(&named("HTTP/2 whose authority and host differ", way), trace, || {
            let ask = Ask::get("/status/200").http2().header("host", "admin.example");
            assert_eq!(suite.ask(to, &ask).status, 400);
        });
        // The destination's policies say so, whatever is routed.
        let arena = Arena { agent: &suite.b, ..arena };
        for (policy, attacks) in [("no-admin", denied()), ("no-role", denied_headers())] {
            let policy = [("policy", &*format!("{NAMESPACE}/{policy}"))];
            let denies = Trace::Count("mesh_policy_verdicts_total", &policy);
            for (name, bytes) in attacks {
                arena.attack(&named(name, way), denies, || {
                    let answer = suite.ask(to, &Ask::all(&bytes));
                    assert_eq!((answer.status, &answer.error), (403, &None), "{name}: {answer:?}");
                });
            }
        }
        let policy = [("policy", &*format!("{NAMESPACE}/no-role"))];
        let denies = Trace::Count("mesh_policy_verdicts_total", &policy);
        arena.attack(&named("a host that is denied as a header, by HTTP/2", way), denies, || {
            let ask = Ask::get("/status/200").http2().host("secret.example");
            assert_eq!(suite.ask(to, &ask).status, 403);
        });
        let refused = Trace::Count("mesh_http_upgrades_total", &[("result", "refused")]);
        for (name, ask) in [
            ("a server that switches unasked", Ask::get("/switch/h2c")),
            (
                "a server that switches to another",
                Ask::get("/switch/h2c").upgrade("websocket", "x"),
            ),
        ] {
            arena.attack(&named(name, way), refused, || {
                let answer = suite.ask(to, &ask);
                // The application's connection has ended, and the client's does too.
                let is_refused = answer.status == 502 || answer.error.is_some();
                assert!(is_refused && answer.echoed.is_none(), "{name}: {answer:?}");
            });
        }
    }
}

#[test]
fn requests_have_one_reading_by_the_native_transport() {
    attack("native");
}

#[test]
fn requests_have_one_reading_by_hbone() {
    attack("hbone");
}
