//! A reader of the agent's own log that has stopped, while a client causes lines without end.

use std::io::{PipeReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::agent::{Agent, Options};
use mesh_tests::expect::eventually;
use mesh_tests::http::Ask;
use mesh_tests::process::DEADLINE;
use mesh_tests::tracer::stop_thread;
use nix::sys::signal::Signal;

use super::{Arena, Bystander, Trace};
use crate::http::suite::{Suite, To, policy};

/// Longer than the time after which the agent aborts if a thread of it waits.
const FLOOD: Duration = Duration::from_secs(4);

/// Each denied request has a line in this log; the agent aborts if a thread of it hangs for two seconds.
const ARGS: &[&str] = &["--watchdog-timeout", "2", "--log", "info,mesh_agent::proxy=debug"];

/// A suite whose second agent logs into a pipe that nobody reads.
fn start() -> (Suite, Agent, PipeReader) {
    let rules = "{to: [{operation: {paths: ['/status/*']}}]}";
    let mut suite = Suite::start(&[policy("readers", "ALLOW", rules)]);
    suite.b.signal(Signal::SIGKILL).unwrap();
    suite.b.ended().unwrap();
    let ca = suite.node.lab().state().join("ca").join(suite.node.name());
    let options = Options { ca: &ca, config: suite.config.path(), args: ARGS };
    let (agent, log) = Agent::start_unread(&suite.node, &options).unwrap();
    (suite, agent, log)
}

/// Sends requests that are denied until lines of the log were dropped, and for [`FLOOD`].
fn flood(suite: &Suite, agent: &Agent) {
    let ask = Ask::get(&format!("/denied/{}", "a".repeat(8000))).times(200, 4);
    let began = Instant::now();
    let dropped = || agent.metrics().unwrap().sum("mesh_log_dropped_total", &[]);
    while began.elapsed() < FLOOD || dropped() < 1.0 {
        assert!(began.elapsed() < DEADLINE, "no line was dropped");
        let tally = suite.tally(To::V1.at(80), &ask);
        assert_eq!(tally.statuses, [(403, 200)].into(), "{tally:?}");
    }
}

#[test]
fn a_reader_of_the_log_that_has_stopped_holds_up_nobody() {
    let (suite, agent, mut log) = start();
    let good = || {
        let answer = suite.ask(To::V1.at(80), &Ask::get("/status/200"));
        assert_eq!((answer.status, answer.server()), (200, Some("echo-v1")), "{answer:?}");
        assert!(agent.ready());
    };
    let bystander = Bystander::between(&suite.a, &agent);
    let arena = Arena { by: "client", agent: &agent, serves: &good, bystander: &bystander };
    let dropped = Trace::Count("mesh_log_dropped_total", &[]);
    arena.attack("denied requests while nobody reads the log", dropped, || flood(&suite, &agent));
    let stalls = agent.metrics().unwrap().sum("mesh_thread_stalls_total", &[]);
    assert!(stalls < 1.0, "{stalls} stalls");

    let read = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&read);
    let reading = thread::spawn(move || {
        let mut page = vec![0; 4096];
        while let Ok(length @ 1..) = log.read(&mut page) {
            into.lock().unwrap().extend_from_slice(&page[..length]);
        }
    });
    let text = || String::from_utf8(read.lock().unwrap().clone()).unwrap();
    let told = || text().contains("lines of this log are lost").then_some(());
    eventually("the log to say how many lines are lost", DEADLINE, told).unwrap();
    assert!(agent.terminate().unwrap().success());
    reading.join().unwrap();
    let text = text();
    assert!(text.lines().last().unwrap().contains("stopped"), "{text}");
    let longest = text.lines().map(str::len).max().unwrap();
    assert!(longest < 2048, "a line has {longest} bytes");
}

#[test]
fn an_agent_whose_log_nobody_reads_ends_in_time() {
    let (suite, agent, _log) = start();
    flood(&suite, &agent);
    assert!(agent.terminate().unwrap().success());
}

/// The watchdog's report is not read either.
#[test]
fn an_agent_that_hangs_while_nobody_reads_its_log_aborts() {
    let (suite, mut agent, _log) = start();
    flood(&suite, &agent);
    let tracer = stop_thread(&agent, "data-0").unwrap();
    let is_over = || agent.get("/healthz").is_err().then_some(());
    eventually("the end of the agent", DEADLINE, is_over).unwrap();
    drop(tracer);
    assert_eq!(agent.ended().unwrap().signal(), Some(Signal::SIGABRT as i32));
}
