//! Permissions that an agent that runs still has.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use mesh_tests::agent::Agent;
use mesh_tests::apps::Server;
use mesh_tests::pair::{PORT, Pair, hello};

/// `CAP_NET_ADMIN`, `CAP_SYS_ADMIN`, `CAP_PERFMON` and `CAP_BPF`, as `/proc` prints them.
const NEEDED: u64 = 1 << 12 | 1 << 21 | 1 << 38 | 1 << 39;

/// The lines of `/proc/<pid>/task/<tid>/status` that begin with `field`, of all threads.
fn threads(agent: &Agent, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
    let values = tasks.map(|task| {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    });
    values.collect()
}

#[test]
fn an_agent_keeps_what_it_needs_and_still_serves() {
    let pair = Pair::new().unwrap();
    let (a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    for agent in [&a, &b] {
        for field in ["CapEff", "CapPrm", "CapBnd"] {
            for held in threads(agent, field) {
                assert_eq!(u64::from_str_radix(&held, 16).unwrap(), NEEDED, "{field}");
            }
        }
        for field in ["CapInh", "CapAmb"] {
            for held in threads(agent, field) {
                assert_eq!(u64::from_str_radix(&held, 16).unwrap(), 0, "{field}");
            }
        }
        let all = threads(agent, "NoNewPrivs");
        assert!(all.len() > 2 && all.iter().all(|value| value == "1"), "{all:?}");
        // 2: a filter is in force (proc_pid_status(5)).
        assert!(threads(agent, "Seccomp").iter().all(|mode| mode == "2"));
        // No core is dumped, so that no key is in one: then the files of `/proc` are root's, and
        // nobody may trace it who may not trace everybody.
        let limits = fs::metadata(format!("/proc/{}/environ", agent.pid())).unwrap();
        assert_eq!((limits.uid(), limits.mode() & 0o777), (0, 0o400));
    }
}

#[test]
fn the_admin_socket_is_its_owners_and_goes_with_the_agent() {
    let pair = Pair::new().unwrap();
    let a = pair.agent(&pair.a, &[]).unwrap();
    let socket = a.admin_socket();
    let held = fs::metadata(&socket).unwrap();
    assert_eq!((held.mode() & 0o777, held.uid()), (0o600, 0));
    assert!(a.terminate().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn a_leafs_key_is_in_no_file() {
    let pair = Pair::new().unwrap();
    let a = pair.agent(&pair.a, &[]).unwrap();
    let opened = fs::read_dir(format!("/proc/{}/fd", a.pid())).unwrap();
    let names = opened.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let keys: Vec<_> = names.filter(|name| name.extension().is_some_and(|e| e == "key")).collect();
    assert_eq!(keys, Vec::<std::path::PathBuf>::new());
    // The key that it was given stays the only one below the lab's folder.
    let mut found = Vec::new();
    let mut folders = vec![pair.lab.state().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read(&path)
                .is_ok_and(|bytes| bytes.windows(11).any(|window| window == b"PRIVATE KEY"))
            {
                found.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    assert_eq!(found, ["node.key", "node.key", "root.key"]);
}
