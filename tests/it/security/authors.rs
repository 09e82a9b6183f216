//! A malicious author of documents: writes into the configuration directory.

use std::net::SocketAddr;
use std::path::Path;

use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{Machines, World, service};
use mesh_tests::mesh::MeshPolicy;
use mesh_tests::node::Node;
use mesh_tests::pair::{ECHO, PORT, Pair, hello};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use nix::sys::stat::Mode;

use super::pods::{error, serves};
use super::{Arena, Trace};

/// The attacker's file: of documents with one name the first file's is in force, and the rest of
/// the mesh was there before.
const FILE: &str = "zz-evil.yaml";

/// A document with this head and this spec.
fn document(version: &str, kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: evil, namespace: demo}}\n\
         spec: {spec}\n"
    )
}

/// Ten references to ten references, ten deep.
fn bomb() -> String {
    let levels = (1..10).map(|level| {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        format!("a{level}: &a{level} [{below}]\n")
    });
    let first = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    std::iter::once(first).chain(levels).collect()
}

/// Documents with something wrong, and what is said of each.
fn evil() -> Vec<(&'static str, String, &'static [&'static str])> {
    let route = "gateway.networking.k8s.io/v1";
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let path = "x".repeat(100_000);
    vec![
        ("references that multiply", bomb(), &[FILE][..]),
        ("a document that is ten thousand levels deep", deep, &[FILE]),
        (
            "a document of an unknown kind",
            document("evil.example/v1", "Backdoor", "{}"),
            &["Backdoor", "are not read"],
        ),
        (
            "the name of a workload that there is",
            "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\n\
             metadata: {name: echo, namespace: demo}\nspec: {addresses: [192.0.2.1]}\n"
                .to_owned(),
            &["Conflicted"],
        ),
        (
            "the host's own namespace as a workload's",
            document(
                "nodemesh.dev/v1alpha1",
                "Workload",
                "{addresses: [192.0.2.9], node: x, netns: ../../proc/1/ns/net}",
            ),
            &["netns"],
        ),
        (
            "a pattern that is longer than any should be",
            document(
                route,
                "HTTPRoute",
                &format!(
                    "{{parentRefs: [{{kind: Service, name: echo, group: ''}}], rules: [{{matches: \
                     [{{path: {{type: RegularExpression, value: '({path}){{1000}}'}}}}]}}]}}"
                ),
            ),
            &["spec.rules[0].matches[0]"],
        ),
        (
            "a weight beyond all bounds",
            document(
                route,
                "TCPRoute",
                "{parentRefs: [{kind: Service, name: echo, group: ''}], rules: [{backendRefs: \
                 [{name: echo, port: 80, weight: 4294967296}]}]}",
            ),
            &["weight"],
        ),
        (
            "a policy that would open what others close, with a mistake",
            document("security.istio.io/v1", "MeshPolicy", "{mtls: {mode: DISABLE}}"),
            &["are not read"],
        ),
    ]
}

#[test]
fn documents_do_not_take_down_what_is_good() {
    let pair = Pair::new().unwrap();
    let (a, _b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let good = || assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    let arena = Arena { by: "author", agent: &a, serves: &good };
    for (name, text, words) in evil() {
        arena.attack(name, Trace::Condition(words), || {
            pair.config.write_file(FILE, &text).unwrap();
        });
    }
    let name = "a document that is no text";
    arena.attack(name, Trace::Condition(&[FILE, "UTF-8"]), || {
        std::fs::write(pair.config.path().join(FILE), [0xff, 0xfe, 0x00]).unwrap();
    });
    let name = "a pipe in the place of a document";
    arena.attack(name, Trace::Condition(&[FILE]), || {
        std::fs::remove_file(pair.config.path().join(FILE)).unwrap();
        nix::unistd::mkfifo(&pair.config.path().join(FILE), Mode::S_IRUSR).unwrap();
    });
}

#[test]
fn a_policy_with_a_mistake_lets_nothing_pass() {
    let pair = Pair::new().unwrap();
    let (a, _b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    // The policy is for a workload that does not matter here: what is served is served.
    let beside = pair.b.pod("beside").unwrap();
    let _beside = Server::echo(&beside, PORT, "v1").unwrap();
    let workload = mesh_tests::mesh::Workload::of(&beside).label("app", "beside").port(PORT);
    pair.config.write(&pair.mesh().workload(&workload)).unwrap();
    let to = beside.at(PORT);
    eventually("the workload", DEADLINE, || {
        let seen = Client::to(to).echo("x").run(&pair.client).ok()?.totals;
        (seen.failed == 0).then_some(())
    })
    .unwrap();
    let good = || assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    let arena = Arena { by: "author", agent: &a, serves: &good };
    let name = "an authorization policy that cannot be read";
    let spec = "{selector: {matchLabels: {app: beside}}, acton: ALLOW, rules: [{}]}";
    arena.attack(name, Trace::Condition(&["acton", "are refused"]), || {
        let text = document("security.istio.io/v1", "AuthorizationPolicy", spec);
        pair.config.write_file(FILE, &text).unwrap();
        eventually("a refusal", DEADLINE, || {
            let seen = Client::to(to).echo("x").run(&pair.client).ok()?.totals;
            (seen.failed == 1).then_some(())
        })
        .unwrap();
    });
    assert_eq!(Client::to(ECHO).echo("x").run(&pair.client).unwrap().totals.failed, 0);
}

/// A workload of another namespace, first by name, in the place of a pod; it takes plaintext.
fn copy(node: &Node, namespace: &str, place: &Path) -> String {
    let (node, place) = (node.name(), place.display());
    format!(
        "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\n\
         metadata: {{name: copy, namespace: {namespace}}}\n\
         spec: {{node: {node}, addresses: [192.0.2.9], netns: {place}}}\n---\n\
         apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\n\
         metadata: {{name: open, namespace: {namespace}}}\n\
         spec: {{mtls: {{mode: DISABLE}}, failureMode: open}}\n"
    )
}

/// Asserts that a pod outside of the mesh does not reach an application in plaintext.
fn refuses(outside: &Pod, to: [SocketAddr; 2]) {
    for to in to {
        assert_ne!(error(outside, to), None, "plaintext is taken at {to}");
    }
}

#[test]
fn a_place_is_not_taken_from_its_workload() {
    let machines = Machines::new(1).unwrap();
    let mesh = machines.mesh().policy(&MeshPolicy::new("strict").mtls("STRICT"));
    let world = machines.start(&mesh).unwrap();
    let _servers = world.serve().unwrap();
    let outside = world.on.b.pod("outside").unwrap();
    let to = [world.v1().at(8080), world.v1().at6(8080)];
    let good = || serves(&world);
    let arena = Arena { by: "author", agent: &world.b, serves: &good };
    let netns = world.v1().netns().path();
    let link = world.on.lab.state().join("link");
    std::os::unix::fs::symlink(&netns, &link).unwrap();
    for (name, namespace, place) in [
        ("a workload in the place of another", "zzz", &netns),
        ("the same, first by name", "aaa", &netns),
        ("the same, by another path", "aab", &link),
    ] {
        let trace = Trace::Condition(&["Conflicted", "spec.netns", "demo/v1 has this place"]);
        arena.attack(name, trace, || {
            let text = copy(&world.on.b, namespace, place);
            world.config.write_file(&format!("{namespace}.yaml"), &text).unwrap();
            let subject = format!("Workload {namespace}/copy");
            let told = || world.b.conditions().ok()?.to_string().contains(&subject).then_some(());
            eventually("the condition", DEADLINE, told).unwrap();
            refuses(&outside, to);
        });
    }
    // Nor by the next agent, which reads all documents at once.
    let World { a: _a, b, config, on } = world;
    b.kill();
    let b = on.agent(&on.b, &config).unwrap();
    let good = || assert_eq!(error(&on.client, service(0)), None);
    let arena = Arena { by: "author", agent: &b, serves: &good };
    let told = b.conditions().unwrap().to_string();
    assert!(["aaa", "aab", "zzz"].iter().all(|it| told.contains(&format!("Workload {it}/copy"))));
    arena.attack("the same once more", Trace::Condition(&["Workload aac/copy", "demo/v1"]), || {
        let text = copy(&on.b, "aac", &netns);
        config.write_file("aac.yaml", &text).unwrap();
        refuses(&outside, to);
    });
}
