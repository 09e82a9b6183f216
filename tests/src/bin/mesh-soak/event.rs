//! Things that happen to nodes and workloads.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use mesh_tests::apps::Server;
use mesh_tests::expect::eventually;
use mesh_tests::pair::PORT;
use mesh_tests::process::DEADLINE;
use nix::sys::signal::Signal;
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::world::World;

/// The longest time for which the nodes are cut off from each other.
const CUT_MS: u64 = 2_000;

/// Agents that have been replaced and may still drain.
const DRAINING: usize = 4;

/// An agent says so when a successor has taken over.
const REPLACED: &str = "a successor serves the node: this agent drains";

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
}

impl Event {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Successor, Self::Restart, Self::Kill, Self::Pod, Self::Cut, Self::Edit];

    /// Whether it explains that connections fail while it happens.
    pub(crate) const fn breaks(self) -> bool {
        matches!(self, Self::Kill | Self::Pod)
    }

    /// Has it happen, and waits until all works again.
    #[expect(clippy::disallowed_methods, reason = "a link is cut for a time")]
    pub(crate) fn happen(self, world: &mut World, dice: &mut StdRng) -> Result<()> {
        match self {
            Self::Successor => follow(world)?,
            Self::Restart => {
                world.a.signal(Signal::SIGTERM)?;
                follow(world)?;
            }
            Self::Kill => {
                let next = world.kill_and_start()?;
                world.a = next;
            }
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
        }
        world.serves()
    }
}

/// Starts another agent, which takes over.
fn follow(world: &mut World) -> Result<()> {
    let before = world.a.log().matches(REPLACED).count();
    let next = world.successor()?;
    let replaced = || (next.log().matches(REPLACED).count() > before).then_some(());
    eventually("the agent to be replaced", DEADLINE, replaced)
        .with_context(|| next.log().lines().rev().take(20).collect::<Vec<_>>().join("\n"))?;
    world.former.push(std::mem::replace(&mut world.a, next));
    while world.former.len() > DRAINING {
        world.former.remove(0).ended()?;
    }
    Ok(())
}
