//! The command line: what it says when something is wrong, and its exit status.

use std::path::Path;
use std::process::{Command, Output};

use mesh_tests::agent;
use mesh_tests::mesh::{ConfigDir, Mesh, Route, Service};
use serde_json::Value;

/// Runs `mesh-agent` with `args`; the exit status, and what it said on both outputs.
fn run(args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(agent::binary().unwrap());
    let Output { status, stdout, stderr } = command.args(args).output().unwrap();
    let text = [stdout, stderr].map(|out| String::from_utf8(out).unwrap()).concat();
    (status.code(), text)
}

/// Expects an exit status, and that each of `parts` is said.
#[track_caller]
fn check(args: &[&str], code: i32, parts: &[&str]) -> String {
    let (status, text) = run(args);
    assert_eq!(status, Some(code), "{args:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{args:?} does not say `{part}`:\n{text}");
    }
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A service, and a route of it to nowhere whose third document has a typing error.
fn broken() -> String {
    let echo = Service::new("echo").at([10, 96, 0, 10]).select("app", "echo").port(80, 8080);
    let route = Route::new("echo", 80).to("echo", 80, 1);
    let mesh = Mesh::new("demo").service(&echo).route(&route);
    let yaml = mesh.raw("apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: demo}\nspec:\n  ports:\n  - port: eighty\n");
    yaml.yaml()
}

#[test]
fn a_good_configuration_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let config = ConfigDir::create(folder.path().join("config")).unwrap();
    let echo = Service::new("echo").at([10, 96, 0, 10]).select("app", "echo").port(80, 8080);
    config.write(&Mesh::new("demo").service(&echo)).unwrap();
    let args = ["check", "--offline", "--config", text(config.path())];
    check(&args, 0, &["read 1 document with 0 workloads and 1 service: 0 faults, 0 warnings"]);
    let json = check(&[&args[..], &["--json"]].concat(), 0, &[]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["good"], &json["services"]), (&true.into(), &1.into()));
}

#[test]
fn a_bad_configuration_is_named_by_file_line_document_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let config = ConfigDir::create(folder.path().join("config")).unwrap();
    config.write_file("bad.yaml", &broken()).unwrap();
    let line = 1 + broken().lines().position(|line| line.contains("eighty")).unwrap();
    let args = ["check", "--offline", "--config", text(config.path())];
    let place = format!("bad.yaml:{line} (document 3)");
    check(&args, 1, &[&place, "Service demo/x", "spec.ports[0].port", "1 fault"]);
    let json = check(&[&args[..], &["--json"]].concat(), 1, &[]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["good"], false);
    let [condition] = json["conditions"].as_array().unwrap().as_slice() else { panic!("{json}") };
    assert!(condition["file"].as_str().unwrap().ends_with("bad.yaml"));
    assert_eq!((&condition["line"], &condition["document"]), (&line.into(), &3.into()));
    assert_eq!(
        (&condition["field"], &condition["reason"]),
        (&"spec.ports[0].port".into(), &"Invalid".into())
    );
}

#[test]
fn a_machine_is_checked_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = ConfigDir::create(folder.path().join("config")).unwrap();
    let ca = folder.path().join("ca");
    check(&["ca", "init", "--trust-domain", "demo.example", "--dir", text(&ca)], 0, &[]);
    let args = ["check", "--allow-empty", "--node", "a", "--config", text(config.path()), "--ca"];
    let good = [
        "pass  kernel:",
        "pass  cgroup v2:",
        "pass  authority: embedded, trust domain demo.example",
    ];
    check(&[&args[..], &[text(&ca)]].concat(), 0, &good);
    let missing = folder.path().join("missing");
    check(&[&args[..], &[text(&missing)]].concat(), 1, &["fail  authority:", "missing/root.crt"]);
}

/// A workload of the node `n` in the network namespace at `netns`.
fn placed(name: &str, netns: &str) -> String {
    format!(
        "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\n\
         metadata: {{name: {name}, namespace: demo}}\n\
         spec: {{node: n, addresses: [10.0.0.1], netns: {netns}}}\n"
    )
}

#[test]
fn places_that_two_workloads_have_or_that_are_not_there_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let config = ConfigDir::create(folder.path().join("config")).unwrap();
    let ca = folder.path().join("ca");
    check(&["ca", "init", "--dir", text(&ca)], 0, &[]);
    let args = ["check", "--node", "n", "--config", text(config.path()), "--ca", text(&ca)];
    let nowhere = folder.path().join("nowhere");
    let mesh = Mesh::new("demo").raw(placed("one", "/proc/self/ns/net"));
    config.write(&mesh.clone().raw(placed("late", text(&nowhere)))).unwrap();
    let late = format!(
        "warn  workload demo/late: PlaceNotFound: its place is not on this node: {}",
        text(&nowhere)
    );
    check(&args, 0, &["pass  workload demo/one: found", &late]);
    config.write(&mesh.raw(placed("two", "/proc/thread-self/ns/net"))).unwrap();
    let two = "fail  workload demo/two: Conflicted: Workload demo/one has this place already";
    check(&args, 1, &["pass  workload demo/one: found", two]);
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let args = ["check", "--offline", "--config", "/nowhere/mesh"];
    check(&args, 2, &["/nowhere/mesh (--config", "No such file"]);
}

#[test]
fn a_folder_without_documents_is_a_fault_unless_it_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("README.md"), "apiVersion: v1\n").unwrap();
    std::fs::write(folder.path().join("none.yaml"), "# nothing yet\n---\n").unwrap();
    let args = ["check", "--offline", "--config", text(folder.path())];
    let told = format!("{} holds no document in a file *.yaml or *.yml", folder.path().display());
    check(&args, 1, &[&told, "--allow-empty", "read 0 documents"]);
    check(&[&args[..], &["--allow-empty"]].concat(), 0, &["is empty", "0 faults"]);
}

#[test]
fn a_path_of_a_setting_that_cannot_be_used_is_named_with_the_setting_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let config = ConfigDir::create(folder.path().join("config")).unwrap();
    let ca = folder.path().join("ca");
    check(&["ca", "init", "--dir", text(&ca)], 0, &[]);
    let socket = folder.path().join("admin.sock");
    let bpffs = folder.path().join("bpf");
    let good = ["--node", "a", "--config", text(config.path()), "--ca", text(&ca)];
    let good = [&good[..], &["--admin-socket", text(&socket), "--bpffs", text(&bpffs)]].concat();
    for (flag, value, expect) in [
        ("--cgroup", "/nowhere/cgroup", "leave --cgroup out"),
        ("--cgroup", "/proc", "it is no cgroup of version 2; make the cgroup, name another one"),
        ("--access-log", "/nowhere/mesh.log", "--access-log: make its folder"),
        ("--config", "/nowhere/config", "--config: name a folder that the agent may read"),
        ("--ca", "/nowhere/ca", "--ca"),
        ("--admin-socket", "/proc/nowhere/admin.sock", "--admin-socket: name a file"),
        ("--bpffs", "/proc/nowhere", "--bpffs: name the folder of a BPF filesystem"),
    ] {
        // A flag that is given twice is an error of its own.
        let kept = good.chunks(2).filter(|pair| pair[0] != flag).flatten();
        let args: Vec<_> = ["run"].into_iter().chain(kept.copied()).chain([flag, value]).collect();
        check(&args, 1, &[value, expect]);
        // It was mounted for this agent, which has pinned nothing.
        let left = std::fs::read_dir(&bpffs).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{flag} {value}");
    }
}

#[test]
fn an_authority_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["ca", "init", "--trust-domain", "demo.example", "--dir", text(folder.path())];
    check(&args, 0, &[]);
    let key = std::fs::read(folder.path().join("root.key")).unwrap();
    check(&args, 1, &[text(folder.path()), "root.crt"]);
    assert_eq!(std::fs::read(folder.path().join("root.key")).unwrap(), key);
}

#[test]
fn an_agent_without_its_authority_says_where_it_looked_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let config = ConfigDir::create(folder.path().join("config")).unwrap();
    let ca = folder.path().join("ca");
    let config = text(config.path());
    let socket = folder.path().join("admin.sock");
    let mut args = vec!["run", "--node", "a", "--config", config, "--ca", text(&ca)];
    args.extend(["--admin-socket", text(&socket)]);
    check(&args, 1, &["opening the authority", text(&ca), "mesh-agent ca"]);
}

#[test]
fn flags_that_are_wrong_are_named() {
    check(&["run", "--node", "a", "--confg", "x"], 2, &["--confg", "--config"]);
    check(&["run", "--config", "x"], 2, &["--node <NAME>"]);
    check(&["run", "--node", "a/b", "--config", "x"], 1, &["--node `a/b` is not"]);
    check(
        &["run", "--node", "a", "--config", "x", "--drain-timeout", "1h"],
        2,
        &["--drain-timeout"],
    );
    check(&["uninstall", "--node", ".."], 1, &["--node `..` is not"]);
}

#[test]
fn a_trust_domain_that_is_none_or_another_than_the_roots_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = ConfigDir::create(folder.path().join("config")).unwrap();
    let ca = folder.path().join("ca");
    check(
        &["ca", "init", "--trust-domain", "Demo.example", "--dir", text(&ca)],
        2,
        &["lower-case"],
    );
    check(&["ca", "init", "--trust-domain", "demo.example", "--dir", text(&ca)], 0, &[]);
    let args = ["check", "--allow-empty", "--config", text(config.path()), "--ca", text(&ca)];
    let with = |flag, value| [&args[..], &[flag, value]].concat();
    check(&with("--trust-domain", "spiffe://demo"), 2, &["--trust-domain", "without `spiffe://`"]);
    check(&with("--trust-domain-aliases", "a,B"), 2, &["--trust-domain-aliases", "`B` is no name"]);
    let other = "root.crt is for the trust domain `demo.example`, and --trust-domain is `prod`";
    check(&with("--trust-domain", "prod"), 1, &["fail  authority:", other]);
    check(&with("--trust-domain", "demo.example"), 0, &[]);
}

#[test]
fn flags_without_a_value_are_given_in_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let config = ConfigDir::create(folder.path().join("config")).unwrap();
    let echo = Service::new("echo").at([10, 96, 0, 10]).select("app", "echo").port(80, 8080);
    config.write(&Mesh::new("demo").service(&echo)).unwrap();
    for (value, code) in [("1", 0), ("true", 0), ("yes", 0), ("0", 1), ("maybe", 2)] {
        let mut command = Command::new(agent::binary().unwrap());
        // Without an authority, `check` fails unless it looks at the documents alone.
        command.args(["check", "--config", text(config.path()), "--ca", "/nowhere"]);
        let output = command.env("MESH_OFFLINE", value).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{value}: {output:?}");
    }
}

#[test]
fn help_has_every_flag() {
    let flags = |names: &[&'static str]| names.to_vec();
    for (command, expect) in [
        (
            vec!["run"],
            flags(&[
                "--node",
                "--config",
                "--ca",
                "--cgroup",
                "--bpffs",
                "--admin",
                "--admin-socket",
                "--authority",
                "--ca-address",
                "--metrics",
                "--access-log",
                "--threads",
                "--drain-timeout",
                "--log",
                "--kernel-log",
            ]),
        ),
        (
            vec!["check"],
            flags(&["--config", "--ca", "--node", "--cgroup", "--bpffs", "--offline", "--json"]),
        ),
        (vec!["uninstall"], flags(&["--node", "--bpffs"])),
        (vec!["ca", "init"], flags(&["--dir", "--trust-domain", "--days"])),
        (vec!["ca", "node"], flags(&["--dir", "--node", "--out", "--days", "--csr"])),
        (vec!["ca", "csr"], flags(&["--node", "--out"])),
        (vec!["ca", "show"], flags(&["--dir"])),
    ] {
        check(&[&command[..], &["--help"]].concat(), 0, &expect);
    }
    check(&["--help"], 0, &["run", "check", "ca", "uninstall"]);
}
