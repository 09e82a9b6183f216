//! A malicious client that writes a path so that the policy and the application read it differently.
//!
//! The application tells how Tomcat, a server behind nginx, `URL` of Node and Express read the path:
//! each attack first reaches what is protected in a workload that no policy protects.

use mesh_tests::http::Ask;

use super::{Arena, Bystander, Trace};
use crate::http::suite::{NAMESPACE, Suite, To};

/// Words of the agent's log that a denied request leaves.
const DENIED: &[&str] = &["a request is denied", NAMESPACE];

/// Targets with which real servers reached a protected handler.
const RECORD: &str = include_str!("../../paths/record.tsv");

/// Of these, each so manieth is sent through an agent.
const SAMPLE: usize = 20;

/// The action, and the operation of the only rule, of the policy of the first version.
fn policy(name: &str, action: &str, operation: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec:\n  selector: {{matchLabels: {{app: echo, version: v1}}}}\n  action: {action}\n  \
         rules: [{{to: [{{operation: {{{operation}}}}}]}}]\n"
    )
}

/// Refuses ambiguous paths to the first version.
fn refuse_ambiguous() -> String {
    format!(
        "apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\n\
         metadata: {{name: plain-paths, namespace: {NAMESPACE}}}\n\
         spec:\n  selector: {{matchLabels: {{app: echo, version: v1}}}}\n  ambiguousPaths: refuse\n"
    )
}

/// An attack: its name, the path, the reader that is deceived, and what this reads.
type Case = (&'static str, &'static str, &'static str, &'static str);

/// Makes each attack on both versions of HTTP.
#[track_caller]
fn attack_all(arena: &Arena<'_>, suite: &Suite, cases: &[Case]) {
    for (name, path, reader, read) in cases {
        for (ask, version) in [(Ask::get(path), "HTTP/1.1"), (Ask::get(path).http2(), "HTTP/2")] {
            let answer = suite.ask(To::V2.at(80), &ask);
            assert_eq!((answer.status, answer.header(reader)), (200, Some(*read)), "{answer:?}");
            arena.attack(&format!("{name} ({version})"), Trace::Log(DENIED), || {
                let answer = suite.ask(To::V1.at(80), &ask);
                assert_eq!((answer.status, answer.server()), (403, None), "{path}: {answer:?}");
            });
        }
    }
}

#[test]
fn paths_that_servers_read_in_their_own_way_do_not_leave_what_is_allowed() {
    let suite = Suite::start(&[policy("public", "ALLOW", "paths: ['/public/*']")]);
    let good = || {
        for path in ["/public/x", "/public/a%20b", "/public/a/../b;v=1"] {
            let answer = suite.ask(To::V1.at(80), &Ask::get(path));
            assert_eq!((answer.status, answer.server()), (200, Some("echo-v1")), "{answer:?}");
        }
    };
    let bystander = Bystander::between(&suite.a, &suite.b);
    let arena = Arena { by: "client", agent: &suite.b, serves: &good, bystander: &bystander };
    let (tomcat, nginx, node) = ("X-Read-By-Tomcat", "X-Read-Behind-Nginx", "X-Read-By-Node");
    attack_all(
        &arena,
        &suite,
        &[
            ("a slash within a parameter", "/public/..;%2Fpublic/admin/x", tomcat, "/admin/x"),
            ("dots with an empty parameter", "/public/..;/admin/x", tomcat, "/admin/x"),
            ("dots with a parameter", "/public/x/..;a=b/..;/admin/x", tomcat, "/admin/x"),
            ("encoded dots with a parameter", "/public/%2e%2e;x/admin/x", tomcat, "/admin/x"),
            (
                "dots that are encoded twice",
                "/public/%252e%252e/admin/x",
                nginx,
                "/public/../admin/x",
            ),
            ("a query that is encoded", "/admin/x%3f/public/x", nginx, "/admin/x?/public/x"),
            ("a host in the path", "//public/admin/x", node, "/admin/x"),
        ],
    );
}

#[test]
fn paths_that_servers_read_in_their_own_way_are_denied() {
    let suite = Suite::start(&[
        policy("no-admin", "DENY", "paths: ['/admin*', '/secret', '/api/{*}/keys']"),
        policy("all-but-admin", "ALLOW", "notPaths: ['/admin*']"),
    ]);
    let good = || {
        let answer = suite.ask(To::V1.at(80), &Ask::get("/secrets"));
        assert_eq!((answer.status, answer.server()), (200, Some("echo-v1")), "{answer:?}");
    };
    let bystander = Bystander::between(&suite.a, &suite.b);
    let arena = Arena { by: "client", agent: &suite.b, serves: &good, bystander: &bystander };
    let (tomcat, nginx) = ("X-Read-By-Tomcat", "X-Read-Behind-Nginx");
    let (node, express) = ("X-Read-By-Node", "X-Read-By-Express");
    let fastapi = "X-Read-By-FastAPI";
    attack_all(
        &arena,
        &suite,
        &[
            ("a denied path after a parameter", "/;x/admin/x", tomcat, "/admin/x"),
            ("a denied path after a host", "//h/admin/x", node, "/admin/x"),
            ("a denied path that is encoded twice", "/%2561dmin/x", nginx, "/admin/x"),
            ("a denied path in capitals", "/ADMIN/x", express, "/admin/x"),
            ("a denied path with a slash after it", "/secret/", express, "/secret"),
            ("a denied path with a line feed after it", "/secret%0a", fastapi, "/secret"),
            ("a denied template with a parameter", "/api/1/keys;v=1", tomcat, "/api/1/keys"),
        ],
    );
    let name = "a path with more readings than are judged";
    let many = "/%2561;%253b/..;%2f%252e%252e//./%2e%2e;%2525/%3fx".repeat(4);
    arena.attack(name, Trace::Log(&["a request is denied", "more ways than are judged"]), || {
        let answer = suite.ask(To::V1.at(80), &Ask::get(&many));
        assert_eq!((answer.status, answer.server()), (403, None), "{answer:?}");
        let counted = suite.b.metrics().unwrap();
        let labels = [("reason", "path_readings")];
        assert!(counted.sum("mesh_policy_verdicts_total", &labels) >= 1.0);
    });
    for (name, path) in [
        ("a path with a backslash", "/x\\..\\admin"),
        ("a path with an encoding that is none", "/%u0061dmin/x"),
    ] {
        arena.attack(name, Trace::Log(&["a request is malformed", "RFC 3986"]), || {
            let answer = suite.ask(To::V1.at(80), &Ask::get(path));
            assert_eq!((answer.status, answer.server()), (400, None), "{answer:?}");
        });
    }
    // A fragment is none of a request: the agent cuts it, and judges what it forwards.
    let answer = suite.ask(To::V1.at(80), &Ask::get("/x#/../admin"));
    assert!(answer.status == 400 || answer.seen().unwrap().path == "/x", "{answer:?}");
}

#[test]
fn ambiguous_paths_are_refused_where_a_policy_says_so() {
    let suite =
        Suite::start(&[policy("public", "ALLOW", "paths: ['/public/*']"), refuse_ambiguous()]);
    let good = || {
        let answer = suite.ask(To::V1.at(80), &Ask::get("/public/caf%C3%A9%20x"));
        assert_eq!((answer.status, answer.server()), (200, Some("echo-v1")), "{answer:?}");
    };
    let bystander = Bystander::between(&suite.a, &suite.b);
    let arena = Arena { by: "client", agent: &suite.b, serves: &good, bystander: &bystander };
    for (name, path) in [
        ("an allowed path with a parameter", "/public/x;y"),
        ("an allowed path with dots", "/public/x/../y"),
        ("an allowed path with a slash that is encoded", "/public/x%2fy"),
    ] {
        arena.attack(name, Trace::Log(&["a request is denied", "plain-paths"]), || {
            let answer = suite.ask(To::V1.at(80), &Ask::get(path));
            assert_eq!((answer.status, answer.server()), (403, None), "{answer:?}");
        });
    }
    let labels = [("reason", "path_ambiguous"), ("policy", &format!("{NAMESPACE}/plain-paths"))];
    let counted = suite.b.metrics().unwrap().sum("mesh_policy_verdicts_total", &labels);
    assert!(counted >= 3.0, "{counted}");
}

#[test]
fn recorded_paths_to_protected_handlers_do_not_pass_an_agent() {
    let suite = Suite::start(&[policy("public", "ALLOW", "paths: ['/public/*']")]);
    let targets = RECORD.lines().skip(1).filter_map(|line| line.split('\t').next());
    // A target that is no ASCII is escaped in the record; a fragment is cut before the path is judged.
    let targets = targets.filter(|target| !target.contains("\\x") && !target.contains('#'));
    let asks: Vec<_> = targets.step_by(SAMPLE).map(|target| Ask::get(target).fresh()).collect();
    assert!(asks.len() > 50, "{}", asks.len());
    for (ask, answer) in asks.iter().zip(suite.all(To::V1.at(80), &asks)) {
        let is_refused = matches!(answer.status, 400 | 403) && answer.server().is_none();
        assert!(is_refused, "{}: {answer:?}", ask.path);
    }
    let answer = suite.ask(To::V1.at(80), &Ask::get("/public/x"));
    assert_eq!((answer.status, answer.server()), (200, Some("echo-v1")), "{answer:?}");
}
