//! Agents whose clock is set while they serve.

use std::process::Command;
use std::time::{Duration, SystemTime};

use mesh_tests::agent::{Agent, Options};
use mesh_tests::apps::{Client, Server};
use mesh_tests::clock::WallClock;
use mesh_tests::expect::eventually;
use mesh_tests::lab::Lab;
use mesh_tests::node::Node;
use mesh_tests::pair::{ECHO, PORT, Pair, hello};
use mesh_tests::process::{self, DEADLINE};

const HOUR_MS: i64 = 3_600_000;

/// A step is looked for every two seconds, and a peer that refused is left alone for up to a second.
const HEALED: Duration = Duration::from_secs(15);

/// An agent of `node` with `clock`.
fn start(pair: &Pair, node: &Node, clock: &WallClock) -> Agent {
    let ca = pair.lab.state().join("ca").join(node.name());
    let options = Options { ca: &ca, config: pair.config.path(), args: &[] };
    let variables = clock.variables();
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    Agent::spawn_with(node, &options, &variables).unwrap().started().unwrap()
}

/// Sets the clock, and waits until the agent has noticed.
fn set(agent: &Agent, clock: &WallClock, ahead_ms: i64) {
    let before = agent.log_bytes();
    clock.set(ahead_ms).unwrap();
    eventually("the agent to notice its clock", DEADLINE, || {
        agent.log_from(before).contains("the clock was set").then_some(())
    })
    .unwrap();
}

#[test]
fn a_process_has_a_clock_of_its_own() {
    let lab = Lab::new().unwrap();
    let clock = WallClock::new(&lab.node("a").unwrap()).unwrap();
    for ahead_s in [0, 90_000, -90_000] {
        clock.set(ahead_s * 1_000).unwrap();
        let shown = process::run(Command::new("date").arg("+%s").envs(clock.variables())).unwrap();
        let machine = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed();
        let ahead = shown.trim().parse::<i64>().unwrap() - machine;
        assert!((ahead - ahead_s).abs() <= 2, "{ahead} instead of {ahead_s}");
    }
}

#[test]
fn connections_outlast_a_clock_that_is_wrong_and_new_ones_work_once_it_is_right() {
    let pair = Pair::new().unwrap();
    let clocks = [WallClock::new(&pair.a).unwrap(), WallClock::new(&pair.b).unwrap()];
    let agents = [start(&pair, &pair.a, &clocks[0]), start(&pair, &pair.b, &clocks[1])];
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let fails = || hello().run(&pair.client).unwrap().totals.failed > 0;
    assert!(!fails());
    let (mut held, opened) = Client::to(ECHO).echo("held").times(2, 2).hold(&pair.client).unwrap();
    assert_eq!((opened.connections, opened.failed), (2, 0));
    for (agent, clock) in agents.iter().zip(&clocks) {
        for ahead_ms in [3 * HOUR_MS, -50 * HOUR_MS] {
            set(agent, clock, ahead_ms);
            // By a clock that is ahead the peer's certificate has expired. One that is back leaves the
            // tunnel as it is.
            assert!(fails() || ahead_ms < 0, "{ahead_ms} ms");
            set(agent, clock, 0);
            eventually("new connections", HEALED, || (!fails()).then_some(())).unwrap();
            assert_eq!(held.mark().unwrap().errors.into_iter().next(), None);
        }
    }
}
