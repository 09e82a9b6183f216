//! The host of a request: one, on every path through the agents, whoever reads it.

use std::net::SocketAddr;

use mesh_tests::http::{self, Answer, Ask, Seen, field};
use mesh_tests::pod::Pod;

use super::suite::{HTTP, NAMESPACE, Suite, To, route};

/// All requests of `echo` go to the first version; of these, some hosts are denied.
fn suite() -> Suite {
    let policy = format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: no-admin, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: echo, version: v1}}}}
  action: DENY
  rules: [{{to: [{{operation: {{hosts: [admin.example, 'admin.example:*']}}}}]}}]
"
    );
    Suite::start(&[route("  - backendRefs: [{name: echo-v1, port: 8080}]"), policy])
}

/// A client whose requests the first agent routes, and one without an agent, whose requests the second
/// agent judges: each way is one engine's alone.
struct Way<'a> {
    from: &'a Pod,
    to: SocketAddr,
}

impl Way<'_> {
    fn ask(&self, ask: &Ask) -> Answer {
        http::ask(self.from, self.to, std::slice::from_ref(ask)).unwrap().remove(0)
    }
}

fn ways<'a>(suite: &'a Suite, outside: &'a Pod) -> [Way<'a>; 2] {
    [
        Way { from: &suite.client, to: To::Echo.at(80) },
        Way { from: outside, to: suite.versions[0].at(HTTP) },
    ]
}

/// A request line with fields, and no more.
fn request(line: &str, fields: &str) -> Ask {
    Ask::all(&format!("{line}\r\n{fields}\r\n"))
}

/// Checks that the status is `status`, and whether a server has seen it.
#[track_caller]
fn check(way: &Way<'_>, ask: &Ask, status: u16) {
    let answer = way.ask(ask);
    assert_eq!((answer.status, &answer.error), (status, &None), "{ask:?}: {answer:?}");
    assert_eq!(answer.body.contains("X-Served-By"), status == 200, "{answer:?}");
}

/// The server's view of the last request.
#[track_caller]
fn seen(suite: &Suite, way: &Way<'_>, ask: &Ask) -> Seen {
    check(way, ask, 200);
    suite.servers[0].seen().unwrap()
}

#[test]
fn an_absolute_target_is_the_host() {
    let suite = suite();
    let outside = suite.node.pod("outside").unwrap();
    let line = |target: &str| format!("GET {target} HTTP/1.1");
    for way in ways(&suite, &outside) {
        let seen = seen(
            &suite,
            &way,
            &request(&line("http://other.example/a?b"), "Host: admin.example\r\n"),
        );
        assert_eq!((seen.authority.as_deref(), &*seen.path), (Some("other.example"), "/a?b"));
        assert_eq!(seen.headers.iter().filter(|(name, _)| name == "Host").count(), 1, "{seen:?}");
        for target in
            ["http://admin.example/", "HTTP://ADMIN.example:80", "https://admin.example/a"]
        {
            check(&way, &request(&line(target), "Host: echo\r\n"), 403);
        }
        for target in ["http://u@echo/", "ftp://echo/", "echo:80", "*", "http://echo:x/"] {
            check(&way, &request(&line(target), "Host: echo\r\n"), 400);
        }
    }
}

#[test]
fn a_request_that_names_no_host_or_several_is_refused() {
    let suite = suite();
    let outside = suite.node.pod("outside").unwrap();
    let plain = "GET / HTTP/1.1";
    for way in ways(&suite, &outside) {
        for fields in [
            "",
            "Host: echo\r\nHost: admin.example\r\n",
            "Host: echo\r\nhost: echo\r\n",
            "Host: echo, admin.example\r\n",
            "Host: echo,admin.example\r\n",
            "Host: admin.example@echo\r\n",
            "Host: %61dmin.example\r\n",
            "Host: echo/admin\r\n",
            "Host: [::1\r\n",
            "Host: echo:x\r\n",
        ] {
            check(&way, &request(plain, fields), 400);
            // No plain request, with the same answer.
            check(&way, &request(plain, &format!("{fields}TE: trailers\r\n")), 400);
        }
        check(&way, &request("GET http://echo/ HTTP/1.1", ""), 400);
        // HTTP/1.0 may name none: the application is told whom the client has connected to.
        let old = seen_without_host(&suite, &way);
        assert!(old.parse::<SocketAddr>().is_ok(), "{old}");
    }
}

/// The host that the server sees of a request of HTTP/1.0 that names none.
fn seen_without_host(suite: &Suite, way: &Way<'_>) -> String {
    let answer = way.ask(&Ask::all("GET / HTTP/1.0\r\n\r\n"));
    assert!(answer.body.starts_with("HTTP/1.0 200 "), "{answer:?}");
    suite.servers[0].seen().unwrap().authority.unwrap()
}

#[test]
fn a_connection_takes_nothing_off_that_is_for_all() {
    let suite = suite();
    let outside = suite.node.pod("outside").unwrap();
    let fields = |host: &str| {
        format!(
            "Host: {host}\r\nConnection: host, authorization, Cookie, x-forwarded-for, x-hop\r\n\
             Authorization: a\r\nCookie: b\r\nX-Forwarded-For: c\r\nX-Hop: d\r\n"
        )
    };
    for way in ways(&suite, &outside) {
        check(&way, &request("GET / HTTP/1.1", &fields("admin.example")), 403);
        let seen = seen(&suite, &way, &request("GET / HTTP/1.1", &fields("echo")));
        assert_eq!(seen.authority.as_deref(), Some("echo"));
        let found = ["authorization", "cookie", "x-forwarded-for", "x-hop"]
            .map(|name| field(&seen.headers, name).map(str::to_owned));
        let expect = [Some("a"), Some("b"), Some("c"), None];
        assert_eq!(found, expect.map(|value| value.map(str::to_owned)));
    }
    let length = "POST / HTTP/1.1\r\nHost: echo\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello";
    for way in ways(&suite, &outside) {
        assert_eq!(seen(&suite, &way, &Ask::all(length)).body, "hello");
    }
}

#[test]
fn a_request_of_http2_has_one_authority() {
    let suite = suite();
    let outside = suite.node.pod("outside").unwrap();
    for way in ways(&suite, &outside) {
        let ask = |authority: &str, host: &str| {
            Ask::get("/").http2().host(authority).header("host", host)
        };
        let answer = way.ask(&ask("echo", "ECHO:80"));
        let seen = answer.seen().unwrap();
        assert_eq!((seen.authority.as_deref(), field(&seen.headers, "host")), (Some("echo"), None));
        for (authority, host) in
            [("echo", "admin.example"), ("admin.example", "echo"), ("echo", "a b")]
        {
            let answer = way.ask(&ask(authority, host));
            assert_eq!((answer.status, answer.server()), (400, None), "{answer:?}");
        }
        let answer = way.ask(&Ask::get("/").http2().host("ADMIN.example:80"));
        assert_eq!((answer.status, answer.server()), (403, None), "{answer:?}");
    }
}
