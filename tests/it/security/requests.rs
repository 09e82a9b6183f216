//! A malicious client of an application whose requests policies judge: an identity of the mesh that
//! tries to be allowed more than it is.

use mesh_tests::apps::Client;
use mesh_tests::http::Ask;

use super::{Arena, Bystander, Trace};
use crate::http::suite::{NAMESPACE, Suite, To};

/// The policies: clients may read below `/status`, and send nothing that says that it is evil.
fn policies() -> [String; 2] {
    let head = |name: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: {name}, namespace: {NAMESPACE}}}\n"
        )
    };
    let selector = "selector: {matchLabels: {app: echo, version: v1}}";
    [
        format!(
            "{}spec:\n  {selector}\n  action: ALLOW\n  rules:\n  - to: [{{operation: {{methods: \
             [GET], paths: ['/status/*']}}}}]\n",
            head("readers")
        ),
        format!(
            "{}spec:\n  {selector}\n  action: DENY\n  rules:\n  - when: [{{key: \
             'request.headers[x-evil]', values: ['*']}}]\n  - to: [{{operation: {{paths: \
             ['/status/secret*']}}}}]\n",
            head("no-evil")
        ),
    ]
}

#[test]
fn requests_that_are_written_in_another_way_are_denied() {
    let suite = Suite::start(&policies());
    let good = || {
        let answer = suite.ask(To::V1.at(80), &Ask::get("/status/200"));
        assert_eq!((answer.status, answer.server()), (200, Some("echo-v1")), "{answer:?}");
    };
    let bystander = Bystander::between(&suite.a, &suite.b);
    let arena = Arena { by: "client", agent: &suite.b, serves: &good, bystander: &bystander };
    for (name, ask) in [
        ("a path that is not allowed", Ask::get("/admin")),
        ("a path that leaves what is allowed", Ask::get("/status/../admin")),
        ("the same with dots that are encoded", Ask::get("/status/%2e%2e/admin")),
        ("the same with a slash that is encoded", Ask::get("/status/..%2fadmin")),
        ("a denied path that is encoded", Ask::get("/status/%73ecret")),
        ("a denied path with two slashes", Ask::get("/status//secret")),
        ("a denied path with a parameter", Ask::get("/status/secret;x=y")),
        ("another method", Ask::post("/status/200", "hello")),
        ("a header that is denied, in capitals", Ask::get("/status/200").header("X-EVIL", "a")),
        ("HTTP/2 to a path that is not allowed", Ask::get("/admin").http2()),
    ] {
        arena.attack(name, Trace::Log(&["a request is denied", NAMESPACE]), || {
            let answer = suite.ask(To::V1.at(80), &ask);
            assert_eq!((answer.status, answer.server()), (403, None), "{name}: {answer:?}");
            assert!(!format!("{answer:?}").contains("readers"), "{answer:?}");
        });
    }
    let name = "something that is not HTTP";
    arena.attack(name, Trace::Access(&["denied", "looks at requests"]), || {
        let met = Client::to(To::V1.at(80)).echo("\u{1}\u{2}\u{3}\u{4}").run(&suite.client);
        assert_eq!(met.unwrap().totals.failed, 1);
    });
}
