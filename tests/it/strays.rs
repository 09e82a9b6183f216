//! Units whose processes are in other network namespaces, where the mesh cannot serve them; and an agent
//! that is outside of the cgroup that it is to watch.

use std::process::Command;

use mesh_tests::agent::{self, Agent};
use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::netns::Netns;
use mesh_tests::pair::Pair;
use mesh_tests::process::{DEADLINE, inside, run};
use mesh_tests::script::Script;
use serde_json::Value;

use super::bare_metal::{DB, WEB, start_after, start_with};

/// The workloads of `/readyz` that are not protected, and whether it is ready.
fn unprotected(agent: &Agent) -> (u16, Vec<Value>) {
    let (status, body) = agent.get("/readyz").unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    (status, body["unprotected"].as_array().unwrap().clone())
}

#[test]
fn a_units_process_in_another_namespace_is_told_and_gets_no_plaintext() {
    let (hosts, stray) = start_after(|host| host.pod("stray").unwrap());
    let job = hosts.unit("job");
    assert_eq!(unprotected(&hosts.a), (200, vec![]));
    let waits = "print('here', flush=True)\ninput()";
    let (script, _here) = Script::start_in(stray.netns(), &job, waits).unwrap();
    let told = || (unprotected(&hosts.a).1 == ["Workload demo/job: OtherNamespace"]).then_some(());
    eventually("the agent to say so", DEADLINE, told).unwrap();
    assert_eq!(unprotected(&hosts.a).0, 200, "all others are served");
    let conditions = hosts.a.conditions().unwrap();
    let condition =
        conditions.as_array().unwrap().iter().find(|it| it["reason"] == "OtherNamespace");
    let condition = condition.unwrap_or_else(|| panic!("{conditions}"));
    assert_eq!(
        (&condition["subject"], &condition["field"]),
        (&"Workload demo/job".into(), &"spec.cgroup".into())
    );
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("spec.netns"), "{message}");
    hosts.a.says("not protected").unwrap();

    // Its identity is `STRICT`: nothing goes out in plaintext, and nothing is served.
    let to = hosts.host.addresses()[0];
    let client = Client::to((to, DB).into()).echo("x");
    let met = client.run_in(stray.netns(), &job).unwrap().totals.errors;
    assert_eq!(met.keys().collect::<Vec<_>>(), ["connect EPERM"]);
    let server =
        Server::start_in(stray.netns(), &job, &["echo", "--listen", "[::]:7777", "--name", "x"]);
    assert!(server.is_err(), "it serves what nobody looks at");
    // Others of that namespace are none of the mesh's business, and a unit of the node's is as before.
    let mut open = Server::start_in(
        stray.netns(),
        stray.cgroup(),
        &["echo", "--listen", "[::]:7777", "--name", "x"],
    );
    assert!(open.is_ok(), "{:?}", open.as_mut().err());
    assert_eq!(hosts.met(&hosts.unit("web"), (to, DB).into()), None);

    drop(script);
    let gone = || unprotected(&hosts.a).1.is_empty().then_some(());
    eventually("the condition to go", DEADLINE, gone).unwrap();
}

#[test]
fn a_workload_whose_place_is_not_there_is_told_until_it_is() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.a, &[]).unwrap();
    assert_eq!(agent.conditions().unwrap(), serde_json::json!([]));
    // The lab removes what is named so.
    let name = pair.client.netns().name().replace("client", "late");
    let late = format!(
        "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\n\
         metadata: {{name: late, namespace: demo}}\n\
         spec: {{node: {}, addresses: [10.0.0.1], netns: /run/netns/{name}}}\n",
        pair.a.name()
    );
    pair.config.write(&pair.mesh().raw(late)).unwrap();
    let told = || {
        let conditions = agent.conditions().unwrap();
        let told = conditions.as_array().unwrap().first()?.clone();
        Some((told["subject"].clone(), told["reason"].clone(), told["field"].clone()))
    };
    let told = eventually("the agent to say so", DEADLINE, told).unwrap();
    assert_eq!(told, ("Workload demo/late".into(), "PlaceNotFound".into(), "spec.netns".into()));
    // It may be there at any time: nobody has to do anything.
    assert_eq!(unprotected(&agent), (200, vec![]));
    let _late = Netns::create(&name).unwrap();
    let gone = || (agent.conditions().unwrap() == serde_json::json!([])).then_some(());
    eventually("the condition to go", DEADLINE, gone).unwrap();
}

/// Where plaintext is allowed and the workload fails open, that holds for such a process as well.
#[test]
fn a_permissive_units_process_in_another_namespace_uses_plaintext() {
    let (hosts, stray) = start_with("PERMISSIVE", |host| host.pod("stray").unwrap());
    let job = hosts.unit("job");
    let client = Client::to((hosts.host.addresses()[0], WEB).into()).echo("x");
    let seen = client.run_in(stray.netns(), &job).unwrap().totals;
    assert_eq!((seen.connections, seen.failed), (1, 0), "{:?}", seen.errors);
    let past = |line: &Value| line["path"] == "bypass" && line["source_workload"] == "job";
    hosts.a.logged("what has gone past the agent", past).unwrap();
    // The database has a policy that would not be asked.
    let client = Client::to((hosts.host.addresses()[0], DB).into()).echo("x");
    let met = client.run_in(stray.netns(), &job).unwrap().totals.errors;
    assert_eq!(met.keys().collect::<Vec<_>>(), ["connect EPERM"]);
    let args = ["echo", "--listen", "[::]:7777", "--name", "x"];
    assert!(Server::start_in(stray.netns(), &job, &args).is_ok());
}

#[test]
fn an_agent_outside_of_the_watched_cgroup_does_not_start() {
    let pair = Pair::new().unwrap();
    let beside = pair.lab.cgroup().join("beside");
    std::fs::create_dir(&beside).unwrap();
    let command = |verb: &str| {
        let mut command: Command = inside(pair.a.netns(), &beside).unwrap();
        command.arg("exec").arg("--").arg(agent::binary().unwrap()).arg(verb);
        command.arg("--node").arg(pair.a.name()).arg("--config").arg(pair.config.path());
        command.arg("--ca").arg(pair.lab.state().join("ca").join(pair.a.name()));
        command.arg("--cgroup").arg(pair.a.cgroup());
        command
    };
    let refused = run(&mut command("run")).unwrap_err().to_string();
    assert!(refused.contains("(--cgroup) does not contain this process"), "{refused}");
    assert!(refused.contains("leave --cgroup out"), "{refused}");
    let output = command("check").output().unwrap();
    std::fs::remove_dir(&beside).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("(--cgroup) does not contain"), "{said}");
}
