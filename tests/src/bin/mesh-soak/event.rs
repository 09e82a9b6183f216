//! Things that happen to nodes and workloads.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use mesh_tests::apps::Server;
use mesh_tests::expect::eventually;
use mesh_tests::pair::PORT;
use mesh_tests::process::DEADLINE;
use nix::sys::signal::Signal;
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::authority;
use crate::world::World;

/// The longest time for which the nodes are cut off from each other.
const CUT_MS: u64 = 2_000;

/// The longest time for which a clock is wrong, after its agent has noticed.
const WRONG_MS: u64 = 3_000;

/// Agents that have been replaced and may still drain.
const DRAINING: usize = 4;

/// Logged by an agent that a successor has replaced.
const REPLACED: &str = "a successor serves the node: this agent drains";

/// Logged by an agent that has noticed that its clock was set.
const NOTICED: &str = "the clock was set";

/// By how much a clock is off without a failure, in milliseconds. Two nodes differ by twice as much at
/// most, which is less than what is left of a certificate's life when it is renewed
/// ([`LEAF_TTL`](crate::world::LEAF_TTL)): 60 s × (1 - 2/3 × 1.1) = 16 s.
const SKEW_MS: i64 = 5_000;

/// By how much a clock is wrong whose agent keeps the connections that are open, in seconds: back by 9
/// days, or ahead by 20 hours, as `--expired-peer-timeout` is a day.
const STEP_S: RangeInclusive<i64> = -9 * 86_400..=20 * 3_600;

/// By how much a clock is ahead whose agent ends connections to other nodes: more than a day, and less
/// than the 90 days of a node's certificate.
const LEAP_S: RangeInclusive<i64> = 25 * 3_600..=60 * 86_400;

/// A step of less is not one that certificates of a minute do not survive.
const LEAST_STEP_S: u64 = 3_600;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Event {
    /// Another agent of the clients' node takes over.
    Successor,
    /// The agent is asked to stop, and another one is started.
    Restart,
    /// The agent is killed, and another one is started.
    Kill,
    /// The pod of a server has another network namespace.
    Pod,
    /// The nodes are cut off from each other for a moment.
    Cut,
    /// Documents change.
    Edit,
    /// A node has another certificate, and all of its workloads.
    Rotate,
    /// The mesh has another root.
    Root,
    /// A node's clock is set, to within seconds of the right time, and stays so.
    Skew,
    /// A node's clock is back by an hour to 9 days, or ahead by 1 to 20 hours, for some seconds.
    Step,
    /// A node's clock is ahead by 1 to 60 days, for some seconds.
    Leap,
}

/// Traffic, by what it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// New connections to the other node.
    Far,
    /// New connections within the node.
    Near,
    /// Requests that are routed to the other node.
    Requests,
    /// Connections to the other node that were open before.
    HeldFar,
    /// Connections within the node that were open before.
    HeldNear,
}

impl Event {
    /// All of them.
    pub(crate) const ALL: [Self; 11] = [
        Self::Successor,
        Self::Restart,
        Self::Kill,
        Self::Pod,
        Self::Cut,
        Self::Edit,
        Self::Rotate,
        Self::Root,
        Self::Skew,
        Self::Step,
        Self::Leap,
    ];

    /// Whether it explains that traffic of this kind fails while it happens: all that goes through an
    /// agent that is killed, all that goes to a pod that is gone, and, while the clocks of two nodes
    /// differ by more than certificates live, whatever needs a new tunnel between them.
    pub(crate) const fn explains(self, kind: Kind) -> bool {
        match self {
            Self::Kill => true,
            Self::Pod => matches!(kind, Kind::Near | Kind::HeldNear),
            Self::Step => matches!(kind, Kind::Far | Kind::Requests),
            Self::Leap => matches!(kind, Kind::Far | Kind::Requests | Kind::HeldFar),
            Self::Successor
            | Self::Restart
            | Self::Cut
            | Self::Edit
            | Self::Rotate
            | Self::Root
            | Self::Skew => false,
        }
    }

    /// Has it happen, and says when it was over: from then on all should work again.
    #[expect(clippy::disallowed_methods, reason = "a link is cut for a time")]
    pub(crate) fn happen(self, world: &mut World, dice: &mut StdRng) -> Result<Instant> {
        match self {
            Self::Successor => follow(world)?,
            Self::Restart => {
                world.a.signal(Signal::SIGTERM)?;
                follow(world)?;
            }
            Self::Kill => world.kill_and_start()?,
            Self::Pod => {
                if let Some(server) = world.near.take() {
                    server.stop()?;
                }
                world.near_pod.restart()?;
                world.near = Some(Server::echo(&world.near_pod, PORT, "v1")?);
            }
            Self::Cut => {
                let link = |state: &str| {
                    world.pair.lab.fabric().ip(&format!("link set {} {state}\n", world.link))
                };
                link("down")?;
                std::thread::sleep(Duration::from_millis(dice.random_range(50..CUT_MS)));
                link("up")?;
            }
            Self::Edit => world.edit()?,
            Self::Rotate => authority::rotate(world, dice.random_range(0..2))?,
            Self::Root => authority::replace_root(world)?,
            Self::Skew => {
                let node = dice.random_range(0..2);
                world.skew(node, dice.random_range(-SKEW_MS..=SKEW_MS))?;
            }
            Self::Step => return step(world, dice, STEP_S),
            Self::Leap => return step(world, dice, LEAP_S),
        }
        Ok(Instant::now())
    }
}

/// Starts another agent, which takes over.
fn follow(world: &mut World) -> Result<()> {
    let before = world.a.log_bytes();
    let next = world.successor()?;
    let replaced = || next.log_from(before).contains(REPLACED).then_some(());
    eventually("the agent to be replaced", DEADLINE, replaced)
        .with_context(|| next.log().lines().rev().take(20).collect::<Vec<_>>().join("\n"))?;
    let former = world.replace(next);
    world.former.push(former);
    while world.former.len() > DRAINING {
        world.former.remove(0).ended()?;
    }
    Ok(())
}

/// Has the clock of one node be wrong by a number of seconds from `range`, and right again.
#[expect(clippy::disallowed_methods, reason = "a clock is wrong for a time")]
fn step(world: &mut World, dice: &mut StdRng, range: RangeInclusive<i64>) -> Result<Instant> {
    let node = dice.random_range(0..2);
    let by_s = loop {
        let by_s = dice.random_range(range.clone());
        if by_s.unsigned_abs() >= LEAST_STEP_S {
            break by_s;
        }
    };
    eprintln!("          the clock of node {node} is set by {:.1} h", hours(by_s));
    world.set_clock(node, by_s * 1_000, NOTICED)?;
    std::thread::sleep(Duration::from_millis(dice.random_range(0..WRONG_MS)));
    world.exchange()?;
    let corrected = Instant::now();
    world.set_clock(node, 0, NOTICED)?;
    Ok(corrected)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn hours(seconds: i64) -> f64 {
    seconds as f64 / 3_600.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(event: Event, expect: &[Kind]) {
        let kinds = [Kind::Far, Kind::Near, Kind::Requests, Kind::HeldFar, Kind::HeldNear];
        let explained: Vec<_> = kinds.into_iter().filter(|kind| event.explains(*kind)).collect();
        assert_eq!(explained, expect, "{event:?}");
    }

    #[test]
    fn an_event_explains_what_it_breaks() {
        use Kind::{Far, HeldFar, HeldNear, Near, Requests};
        for event in Event::ALL {
            match event {
                Event::Kill => check(event, &[Far, Near, Requests, HeldFar, HeldNear]),
                Event::Pod => check(event, &[Near, HeldNear]),
                Event::Step => check(event, &[Far, Requests]),
                Event::Leap => check(event, &[Far, Requests, HeldFar]),
                other => check(other, &[]),
            }
        }
    }
}
