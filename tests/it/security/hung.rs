//! Threads of the agent that hang, by whatever a peer may have found: each is stopped as a debugger
//! would do it, while the others go on.

use std::cell::RefCell;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use mesh_tests::agent::Agent;
use mesh_tests::apps::Server;
use mesh_tests::expect::eventually;
use mesh_tests::mesh::MeshPolicy;
use mesh_tests::pair::{PORT, Pair, hello};
use mesh_tests::process::DEADLINE;
use mesh_tests::tracer::stop_thread;
use nix::sys::signal::Signal;

use super::{Arena, Bounds, Bystander, Trace};

/// To print the stacks of its threads the agent reads the debug information of its own program, which a
/// debug build has 60 MiB of. The process ends then.
const STACKS: Bounds = Bounds { memory_bytes: 96 << 20, descriptors: 256, descriptors_after: 16 };

/// Whether a connection is denied.
fn is_denied(pair: &Pair) -> bool {
    let outcome = hello().arg("--timeout").arg("1").run(&pair.client).unwrap();
    outcome.totals.errors.contains_key("connect EPERM")
}

/// Runs the attack `name`: the thread that the agent calls `thread` and the kernel `comm` hangs. The
/// failure mode applies, the process aborts within `limit` seconds and says why, a successor serves.
#[track_caller]
fn check(name: &str, [thread, comm]: [&str; 2], limit: &str, seen: impl Fn(&Agent)) {
    let pair = Pair::new().unwrap();
    let policy = MeshPolicy::new("all").failure("closed");
    pair.config.write(&pair.mesh().policy(&policy)).unwrap();
    let args = ["--watchdog-timeout", limit, "--threads", "2"];
    let b = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    // All successors write to the files of the first.
    let mut files = pair.agent(&pair.a, &args).unwrap();
    files.signal(Signal::SIGKILL).unwrap();
    files.ended().unwrap();
    let successor = RefCell::new(None);
    let serves = || {
        successor.replace(Some(pair.agent(&pair.a, &args).unwrap()));
        assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    };
    serves();
    let bystander = Bystander::between(&files, &b);
    let mut agent = successor.take().unwrap();
    let arena = Arena { by: "pod", agent: &files, serves: &serves, bystander: &bystander };
    arena.within(STACKS).attack(name, Trace::Told, || {
        let tracer = stop_thread(&agent, comm).unwrap();
        seen(&agent);
        eventually("the failure mode", DEADLINE, || is_denied(&pair).then_some(())).unwrap();
        let stack = format!("stack of thread {comm} (");
        eventually("the stacks", DEADLINE, || agent.log().contains(&stack).then_some(())).unwrap();
        drop(tracer);
        assert_eq!(agent.ended().unwrap().signal(), Some(Signal::SIGABRT as i32));
        let log = agent.log();
        // A thread that cannot answer is not waited for; the others say what they do.
        let of = |thread: &str| {
            log.split("stack of thread ").find(|stack| stack.starts_with(&format!("{thread} (")))
        };
        assert!(of(comm).unwrap().contains("(the thread did not answer)"), "{log}");
        assert!(of("data-1").unwrap().contains("mesh_agent::task::worker"), "{log}");
        let said = log.lines().find(|line| line.contains("a thread hangs (")).unwrap().to_owned();
        assert!(said.contains(&format!("\"{thread}\"")), "{said}");
        said
    });
}

#[test]
fn a_data_thread_that_hangs_is_named_and_ends_the_process() {
    let name = "a data thread that hangs";
    check(name, ["data-0", "data-0"], "8", |agent| {
        let named = || {
            let (status, body) = agent.get("/readyz").ok()?;
            (status == 503 && body.contains("thread data-0 running")).then_some(())
        };
        eventually("readiness", DEADLINE, named).unwrap();
        let labels = [("thread", "data-0")];
        assert!(agent.metrics().unwrap().sum("mesh_thread_stalls_total", &labels) >= 1.0);
    });
}

#[test]
fn a_control_thread_that_hangs_ends_the_process() {
    check("the control thread that hangs", ["control", "mesh-agent"], "2", |_agent| {});
}

/// A debugger, a suspended machine: no thread is to blame.
#[test]
fn a_process_that_was_stopped_for_long_goes_on() {
    let pair = Pair::new().unwrap();
    let _b = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let mut agent = pair.agent(&pair.a, &["--watchdog-timeout", "1"]).unwrap();
    agent.signal(Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    let over = || (stopped.elapsed() > Duration::from_secs(3)).then_some(());
    eventually("three times the limit", DEADLINE, over).unwrap();
    agent.signal(Signal::SIGCONT).unwrap();
    eventually("readiness", DEADLINE, || agent.ready().then_some(())).unwrap();
    assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    assert!(!agent.log().contains("a thread hangs"), "{}", agent.log());
    assert!(agent.terminate().unwrap().success());
}
