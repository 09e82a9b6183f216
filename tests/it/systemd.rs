//! The unit file that the project ships, in the hands of a real systemd.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mesh_tests::agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::capture::Capture;
use mesh_tests::expect::eventually;
use mesh_tests::mesh::{MeshPolicy, Workload};
use mesh_tests::pair::{ECHO, PORT, Pair, hello};
use mesh_tests::process::DEADLINE;
use mesh_tests::systemd::{Systemd, UNIT};

/// Restarts under load.
const RESTARTS: usize = 20;

/// The text that must not be seen between the nodes.
const SECRET: &str = "never in the open";

/// A manager of the client's node, with an agent that drains for `drain` seconds. `lines`: more of the unit.
fn manager(pair: &Pair, drain: &str, lines: &str) -> Systemd {
    let ca = pair.lab.state().join("ca").join(pair.a.name());
    let variables = [
        ("MESH_CONFIG", pair.config.path().to_str().unwrap()),
        ("MESH_CA", ca.to_str().unwrap()),
        ("MESH_DRAIN_TIMEOUT", drain),
    ];
    Systemd::start(&pair.a, lines, &variables).unwrap()
}

/// Runs `systemctl`, and shows the logs where it fails.
#[track_caller]
fn systemctl(manager: &Systemd, verb: &str) {
    manager
        .systemctl(&[verb, UNIT])
        .unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", manager.log(), manager.agents_log()));
}

#[track_caller]
fn works(pair: &Pair) {
    assert_eq!(hello().run(&pair.client).unwrap().totals.errors.into_keys().next(), None);
}

/// The host's folders of units that have a `/tmp` of their own (`PrivateTmp=`).
fn private_folders() -> BTreeSet<PathBuf> {
    let all = ["/tmp", "/var/tmp"].into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths = all.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains(UNIT)).collect()
}

#[test]
fn the_unit_starts_reloads_and_stops() {
    let host_has = private_folders();
    let pair = Pair::new().unwrap();
    let manager = manager(&pair, "2", "WatchdogSec=1");
    let _b = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    systemctl(&manager, "start");
    let status = format!("node {}: 1 workload", pair.a.name());
    assert_eq!(manager.property("StatusText").unwrap(), status);
    works(&pair);
    // The unit's are in the manager's own folders.
    assert_eq!(private_folders(), host_has);
    let main = manager.property("MainPID").unwrap();
    systemctl(&manager, "reload");
    eventually("the reload", DEADLINE, || manager.agents_log().contains("reloaded").then_some(()))
        .unwrap();
    works(&pair);
    assert_eq!(manager.property("MainPID").unwrap(), main);
    // Signs of life come from the child, and the manager would have ended it by now without them.
    let alive = || manager.property("WatchdogTimestampMonotonic").unwrap().parse::<u64>().unwrap();
    let first = alive();
    let later = Duration::from_secs(3).as_micros();
    eventually("signs of life", DEADLINE, || (u128::from(alive() - first) > later).then_some(()))
        .unwrap();
    assert_eq!(manager.property("NRestarts").unwrap(), "0", "{}", manager.agents_log());
    // A stop is the end of everything.
    systemctl(&manager, "stop");
    assert_eq!(manager.property("ActiveState").unwrap(), "inactive");
    assert!(agent::get(&pair.a, "/readyz").is_err());
    assert!(manager.agents_log().contains("stopped"), "{}", manager.agents_log());
    assert!(!manager.log().contains("remains running after"), "{}", manager.log());
}

#[test]
fn an_agent_that_dies_is_started_again() {
    let pair = Pair::new().unwrap();
    let manager = manager(&pair, "2", "");
    systemctl(&manager, "start");
    manager.systemctl(&["kill", "--kill-who=all", "--signal=SIGKILL", UNIT]).unwrap();
    eventually("a restart", DEADLINE, || {
        let restarts = manager.property("NRestarts").unwrap();
        (restarts == "1" && manager.property("ActiveState").unwrap() == "active").then_some(())
    })
    .unwrap();
}

#[test]
fn restarts_fail_no_connection() {
    let pair = Pair::new().unwrap();
    let near = pair.a.pod("near").unwrap();
    let workload = Workload::of(&near).account("near").label("app", "near").port(PORT);
    let strict = MeshPolicy::new("all").mtls("STRICT");
    pair.config.write(&pair.mesh().workload(&workload).policy(&strict)).unwrap();
    let manager = manager(&pair, "300", "");
    let _b = pair.agent(&pair.b, &[]).unwrap();
    let _servers = [&pair.echo, &near].map(|pod| Server::echo(pod, PORT, "v1").unwrap());
    systemctl(&manager, "start");
    works(&pair);
    let wire = Capture::start(pair.lab.fabric()).unwrap();
    let (mut held, opened) = Client::to(ECHO).echo("held").hold(&pair.client).unwrap();
    assert_eq!(opened.failed, 0);
    let far = Client::to(ECHO).echo(SECRET).times(10_000_000, 4);
    let beside = Client::to(near.at(PORT)).echo(SECRET).times(10_000_000, 4);
    let traffic = [far, beside].map(|client| client.traffic(&pair.client).unwrap());
    let mut mains = vec![manager.property("MainPID").unwrap()];
    for _ in 0..RESTARTS {
        systemctl(&manager, "restart");
        assert_eq!(manager.property("ActiveState").unwrap(), "active");
        mains.push(manager.property("MainPID").unwrap());
    }
    mains.dedup();
    assert_eq!(mains.len(), RESTARTS + 1, "{mains:?}");
    assert_eq!(manager.property("NRestarts").unwrap(), "0", "{}", manager.log());
    // The first one still carries what was opened before.
    assert_eq!(held.mark().unwrap().failed, 0);
    for mut traffic in traffic {
        let until_now = traffic.mark().unwrap();
        assert!(until_now.connections > 0);
        for totals in [until_now, traffic.stop().unwrap()] {
            assert_eq!((totals.failed, totals.errors.into_keys().next()), (0, None));
        }
    }
    assert_eq!(held.stop().unwrap().failed, 0);
    let wire = wire.stop().unwrap();
    assert!(!wire.shows(SECRET.as_bytes()));
    assert_eq!(wire.of_port(PORT).count(), 0);
}
