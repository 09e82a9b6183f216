//! Messages of an agent to its service manager, which listens as systemd does.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use mesh_tests::agent::{Agent, Options};
use mesh_tests::pair::Pair;
use mesh_tests::process::DEADLINE;
use mesh_tests::tracer::stop_thread;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

/// `WatchdogSec=`: the agent gives a sign of life at half of it.
const WATCHDOG: Duration = Duration::from_secs(1);

/// The manager's socket.
struct Manager(UnixDatagram);

impl Manager {
    /// The variables of the next message, or `None` after a second without one.
    fn next(&self) -> Option<Vec<(String, String)>> {
        let mut bytes = [0; 4096];
        let n = self.0.recv(&mut bytes).ok()?;
        let text = std::str::from_utf8(&bytes[..n]).unwrap();
        let pairs = text.lines().map(|line| line.split_once('=').unwrap());
        Some(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Waits for a message with this variable; returns all that it says.
    #[track_caller]
    fn until(&self, name: &str, value: &str) -> Vec<(String, String)> {
        let began = Instant::now();
        let mut seen = vec![];
        while began.elapsed() < DEADLINE {
            let Some(message) = self.next() else { continue };
            if message.iter().any(|(n, v)| n == name && v.contains(value)) {
                return message;
            }
            seen.push(message);
        }
        panic!("no {name}={value}: {seen:?}")
    }
}

fn monotonic_usec() -> u128 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_micros()
}

#[test]
fn the_service_manager_is_told_how_the_agent_does() {
    let pair = Pair::new().unwrap();
    let path = pair.lab.state().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(WATCHDOG)).unwrap();
    let manager = Manager(socket);
    let ca = pair.lab.state().join("ca").join(pair.a.name());
    let args = ["--watchdog-timeout", "0", "--threads", "2"];
    let options = Options { ca: &ca, config: pair.config.path(), args: &args };
    let usec = WATCHDOG.as_micros().to_string();
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", &usec)];
    let mut agent = Agent::spawn_with(&pair.a, &options, &variables).unwrap();
    let started = manager.until("READY", "1");
    assert!(agent.ready(), "{started:?}\n{}", agent.log());
    let status = format!("node {}: 1 workload", pair.a.name());
    assert!(started.contains(&("STATUS".to_owned(), status.clone())), "{started:?}");

    // Signs of life, before the manager loses its patience.
    let began = Instant::now();
    for n in 1..=4 {
        manager.until("WATCHDOG", "1");
        assert!(began.elapsed() < WATCHDOG * n, "{n} after {:?}", began.elapsed());
    }

    let before = monotonic_usec();
    agent.signal(Signal::SIGHUP).unwrap();
    let reloading = manager.until("RELOADING", "1");
    let since = reloading.iter().find(|(name, _)| name == "MONOTONIC_USEC").unwrap();
    let since: u128 = since.1.parse().unwrap();
    assert!((before..=monotonic_usec()).contains(&since), "{before} {since}");
    manager.until("READY", "1");
    agent.says("reloaded").unwrap();

    // A vital thread hangs: the agent says which one, and then gives no sign of life.
    let tracer = stop_thread(&agent, "data-1").unwrap();
    manager.until("STATUS", "not ready: thread data-1 running");
    let hangs = Instant::now();
    while manager.next().is_some() {
        assert!(hangs.elapsed() < DEADLINE, "it gives signs of life");
    }
    drop(tracer);
    manager.until("STATUS", &status);
    manager.until("WATCHDOG", "1");

    agent.signal(Signal::SIGTERM).unwrap();
    manager.until("STOPPING", "1");
    assert_eq!(agent.ended().unwrap().code(), Some(0));
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}
