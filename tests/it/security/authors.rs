//! A malicious author of documents: writes into the configuration directory.

use std::fs;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mesh_tests::apps::{Client, Server};
use mesh_tests::cgroup;
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{Machines, World, service};
use mesh_tests::mesh::{Mesh, MeshPolicy, Workload};
use mesh_tests::node::Node;
use mesh_tests::pair::{ECHO, PORT, Pair, hello};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::Script;
use nix::sys::stat::Mode;

use super::pods::{error, serves};
use super::{Arena, Bounds, Bystander, Trace};

/// The attacker's file: of documents with one name the first file's is in force, and the rest of
/// the mesh was there before.
const FILE: &str = "zz-evil.yaml";

/// Within this an agent has read 3 MB of documents. A debug build works for 6 s at one of 1.4 MB, which
/// it reads three times, and both agents do so on a machine that others load too.
const READING: Duration = Duration::from_mins(3);

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
    let (a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let good = || assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    let bystander = Bystander::between(&a, &b);
    let arena = Arena { by: "author", agent: &a, serves: &good, bystander: &bystander };
    for (name, text, words) in evil() {
        arena.attack(name, Trace::Condition(words), || {
            pair.config.write_file(FILE, &text).unwrap();
        });
    }
    let name = "a document that is no text";
    arena.attack(name, Trace::Condition(&[FILE, "UTF-8"]), || {
        fs::write(pair.config.path().join(FILE), [0xff, 0xfe, 0x00]).unwrap();
    });
    let name = "a pipe in the place of a document";
    arena.attack(name, Trace::Condition(&[FILE]), || {
        fs::remove_file(pair.config.path().join(FILE)).unwrap();
        nix::unistd::mkfifo(&pair.config.path().join(FILE), Mode::S_IRUSR).unwrap();
    });
}

#[test]
fn a_policy_with_a_mistake_lets_nothing_pass() {
    let pair = Pair::new().unwrap();
    let (a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    // The policy is for a workload that does not matter here: what is served is served.
    let beside = pair.b.pod("beside").unwrap();
    let _beside = Server::echo(&beside, PORT, "v1").unwrap();
    let workload = Workload::of(&beside).label("app", "beside").port(PORT);
    pair.config.write(&pair.mesh().workload(&workload)).unwrap();
    let to = beside.at(PORT);
    eventually("the workload", DEADLINE, || {
        let seen = Client::to(to).echo("x").run(&pair.client).ok()?.totals;
        (seen.failed == 0).then_some(())
    })
    .unwrap();
    let good = || assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    let bystander = Bystander::between(&a, &b);
    let arena = Arena { by: "author", agent: &a, serves: &good, bystander: &bystander };
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
    let name = "an authorization policy with a typo in its kind";
    arena.attack(name, Trace::Condition(&["AuthorizationPolcy", "did you mean"]), || {
        let spec = "{selector: {matchLabels: {app: beside}}, action: DENY, rules: [{}]}";
        let text = document("security.istio.io/v1", "AuthorizationPolcy", spec);
        pair.config.write_file(FILE, &text).unwrap();
    });
    let refused = || Client::to(to).echo("x").run(&pair.client).unwrap().totals.failed == 1;
    assert!(refused());
    // As an agent has it that starts with it.
    drop(b);
    let _b = pair.agent(&pair.b, &[]).unwrap();
    assert!(refused());
    assert_eq!(Client::to(ECHO).echo("x").run(&pair.client).unwrap().totals.failed, 0);
}

#[test]
fn more_files_than_are_read_take_down_nothing() {
    let pair = Pair::new().unwrap();
    let (a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let good = || assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    let bystander = Bystander::between(&a, &b);
    let arena = Arena { by: "author", agent: &a, serves: &good, bystander: &bystander };
    let path = |n: usize| pair.config.path().join(format!("00-{n}.yaml"));
    arena.attack("more files than are read", Trace::Condition(&["LimitExceeded", "files"]), || {
        for n in 0..10_000 {
            fs::File::create(path(n)).unwrap();
        }
    });
    eventually("an agent that is not ready", DEADLINE, || (!a.ready()).then_some(())).unwrap();
    (0..10_000).for_each(|n| fs::remove_file(path(n)).unwrap());
    eventually("an agent that is ready", DEADLINE, || a.ready().then_some(())).unwrap();
    good();
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
    let bystander = Bystander::between(&world.a, &world.b);
    let arena = Arena { by: "author", agent: &world.b, serves: &good, bystander: &bystander };
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
    let arena = Arena { by: "author", agent: &b, serves: &good, bystander: &bystander };
    let told = b.conditions().unwrap().to_string();
    assert!(["aaa", "aab", "zzz"].iter().all(|it| told.contains(&format!("Workload {it}/copy"))));
    arena.attack("the same once more", Trace::Condition(&["Workload aac/copy", "demo/v1"]), || {
        let text = copy(&on.b, "aac", &netns);
        config.write_file("aac.yaml", &text).unwrap();
        refuses(&outside, to);
    });
}

/// Numbers as the items of a list.
fn joined(numbers: RangeInclusive<u32>, item: impl Fn(u32) -> String) -> String {
    numbers.map(item).collect::<Vec<_>>().join(", ")
}

/// Units of a namespace on a host, each with as many ports as a workload may have: 66 × 1,024 ports
/// are more than the kernel's map of arrivals holds, and with two addresses more than it has
/// destinations.
fn units(host: &Node) -> String {
    let root = cgroup::mount().unwrap();
    let [v4, v6] = host.addresses();
    let ports: String = joined(1..=1_024, |n| format!("{{name: p{n}, port: {}}}", 20_000 + n));
    let unit = |n: u32| {
        let folder = host.cgroup().join(format!("unit{n}"));
        fs::create_dir(&folder).unwrap();
        let below = folder.strip_prefix(&root).unwrap().display().to_string();
        format!(
            "---\napiVersion: nodemesh.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: unit{n}, namespace: evil}}\n\
             spec: {{node: {}, addresses: ['{v4}', '{v6}'], cgroup: {below}, ports: [{ports}]}}\n",
            host.name()
        )
    };
    (0..66).map(unit).collect()
}

/// A policy with a mode for each port, of a workload of another host.
fn port_modes() -> String {
    let ports: String = joined(1..=65_535, |port| format!("{port}: {{mode: DISABLE}}"));
    format!(
        "apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\n\
         metadata: {{name: ports, namespace: evil}}\n\
         spec: {{selector: {{matchLabels: {{app: evil}}}}, portLevelMtls: {{{ports}}}}}\n---\n\
         apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\n\
         metadata: {{name: evil, namespace: evil, labels: {{app: evil}}}}\n\
         spec: {{node: x, addresses: [192.0.2.9]}}\n"
    )
}

#[test]
fn a_namespace_does_not_take_all_entries_of_the_kernel() {
    let machines = Machines::new(1).unwrap();
    let mesh = machines.mesh().policy(&MeshPolicy::new("strict").root().mtls("STRICT"));
    let world = machines.start(&mesh).unwrap();
    let _servers = world.serve().unwrap();
    let outside = world.on.b.pod("outside").unwrap();
    let good = || serves(&world);
    let bystander = Bystander::between(&world.a, &world.b);
    let arena = Arena { by: "author", agent: &world.b, serves: &good, bystander: &bystander };
    // 67,000 ports are text, documents, and entries as they are wanted and as they are, some 30 MiB. The
    // workload that comes has listeners for each of the agent's threads, and each of the 66 units four of its
    // own.
    let bounds = Bounds { memory_bytes: 64 << 20, descriptors: 640, descriptors_after: 640 };
    let units = units(&world.on.b);
    for (name, text, words) in [
        (
            "a policy with a mode for each port",
            port_modes(),
            &["LimitExceeded", "MeshPolicy evil/ports", "at most 128"],
        ),
        (
            "units with more ports than the kernel's map holds",
            units,
            &["LimitExceeded", "Workload evil/", "the kernel's map INBOUND"],
        ),
    ] {
        let late = world.on.b.pod(&format!("late{}", text.len())).unwrap();
        let _server = Server::echo(&late, 8080, "late").unwrap();
        arena.within(bounds).attack(name, Trace::Condition(words), || {
            world.config.write_file("evil.yaml", &text).unwrap();
            let has = |text: &str| words.iter().all(|word| text.contains(word));
            let told = || has(&world.b.conditions().ok()?.to_string()).then_some(());
            eventually("the condition", READING, told).unwrap();
            // A workload of another namespace comes when all entries are taken.
            let yaml = Mesh::new("shop").workload(&Workload::of(&late).account("late")).yaml();
            world.config.write_file("shop.yaml", &yaml).unwrap();
            let refused = || error(&outside, late.at(8080)).map(drop);
            eventually("the workload's enrollment", DEADLINE, refused).unwrap();
            refuses(&outside, [late.at(8080), late.at6(8080)]);
            let line = || {
                // The client's agent may read the documents later.
                let _until_then_refused = error(world.client(), late.at(8080));
                let lines = world.b.access_log().ok()?;
                let is_late = |line: &&serde_json::Value| {
                    line["destination_workload"] == late.name()
                        && line["connection_security_policy"] == "mutual_tls"
                };
                lines.iter().find(is_late).map(drop)
            };
            eventually("a connection by mutual TLS", DEADLINE, line).unwrap();
        });
        let in_force = || {
            let metrics = world.b.metrics().ok()?;
            let [refused, applied, latest] =
                ["mesh_kernel_entries_refused", "mesh_applied_revision", "mesh_snapshot_revision"]
                    .map(|name| metrics.sum(name, &[]));
            (refused < 1.0 && applied >= latest).then_some(())
        };
        eventually("the latest documents to be in force", DEADLINE, in_force).unwrap();
    }
}

/// Mounts a file system, and answers nothing.
const SILENT: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
fuse = os.open("/dev/fuse", os.O_RDWR)
data = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
at = AT.encode()
if libc.mount(b"silent", at, b"fuse.silent", 0, data):
    raise OSError(ctypes.get_errno(), "mount", AT)
print("mounted", flush=True)
sys.stdin.readline()
"#;

/// A file system that answers nothing. Dropping it unmounts it: whoever waits there is told then.
struct Silent {
    at: PathBuf,
    _server: Script,
}

impl Silent {
    fn mount(on: &Pod, at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        let program = format!("AT = '{}'\n{SILENT}", at.display());
        let (server, mounted) = Script::start(on, &program).unwrap();
        assert_eq!(mounted, "mounted");
        Self { at: at.to_owned(), _server: server }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        Command::new("umount").args(["--force", "--lazy"]).arg(&self.at).status().unwrap();
    }
}

#[test]
fn a_file_system_that_does_not_answer_holds_up_nobody() {
    let pair = Pair::new().unwrap();
    let (a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let good = || assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    let bystander = Bystander::between(&a, &b);
    let arena = Arena { by: "author", agent: &b, serves: &good, bystander: &bystander };
    let at = pair.lab.state().join("silent");
    let _silent = Silent::mount(&pair.client, &at);
    let silent = (0..12).map(|n| {
        let path = at.join(format!("netns-{n}"));
        format!(
            "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: silent-{n}, namespace: demo-a}}\n\
             spec: {{node: {}, addresses: ['10.200.0.{n}'], netns: {}}}\n",
            pair.b.name(),
            path.display()
        )
    });
    let late = pair.b.pod("late").unwrap();
    let mesh = silent.fold(pair.mesh(), Mesh::raw).workload(&Workload::of(&late).account("late"));
    let words = ["demo-a/silent-0", "its file system does not answer"];
    // The listeners of one workload more.
    let bounds = Bounds { descriptors_after: 64, ..Bounds::default() };
    let name = "a network namespace that cannot be looked for";
    arena.within(bounds).attack(name, Trace::Log(&words), || {
        pair.config.write(&mesh).unwrap();
        let enrolled = || {
            let log = b.log();
            log.lines().any(|it| it.contains("enrolled") && it.contains("/late")).then_some(())
        };
        eventually("another workload to be enrolled", DEADLINE, enrolled).unwrap();
    });
}
