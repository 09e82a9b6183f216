//! Floods against a node, and the latency of its other workloads meanwhile.
//!
//! Each round measures each flood twice, once without a mesh and once with one, and each time first
//! the calm, then the flood, with the same connections of the same victims.

mod arena;
mod attack;
mod figures;
mod tables;
mod watch;

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::flood::{Flood, Party};
use mesh_tests::process::DEADLINE;

use crate::LabIds;
use crate::args::Plan;
use crate::load::{BEGIN, VictimReport};
use crate::screen::Screen;
use crate::workload::Contender;
use arena::{Arena, Victim};
use attack::FloodReport;
use watch::{AgentUsage, Watch};

pub(crate) use attack::{Attack, Sink, run, run_sink};
pub(crate) use figures::{foreign, is_hostile, losses, rows};
pub(crate) use tables::tables;

/// How all names of this section begin.
pub(crate) const NAME: &str = "hostile";

/// The contenders, in the order of their columns.
const CONTENDERS: [Contender; 2] = [Contender::Direct, Contender::Mesh];

/// A flood and its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    flood: Flood,
    party: Party,
}

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    round: usize,
    contender: Contender,
    cell: Cell,
    /// The figures, or the reason why there are none.
    seen: Result<Seen, String>,
}

/// The figures of one measurement.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// In the order of [`Victim::ALL`].
    victims: [VictimReport; 3],
    flood: FloodReport,
    /// The attacked node's agent, if there is one.
    agent: Option<AgentUsage>,
    /// Processors that others used.
    foreign: f64,
}

impl Cell {
    /// All cells whose name contains `pattern`.
    pub(crate) fn matching(pattern: &str) -> Vec<Self> {
        let cells = Flood::ALL.into_iter().flat_map(|flood| {
            flood.parties().iter().map(move |party| Self { flood, party: *party })
        });
        cells.filter(|cell| cell.to_string().contains(pattern)).collect()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}/{}/{}", self.flood, self.party)
    }
}

/// Measures all floods of a plan. One that fails does not end the others.
///
/// # Errors
///
/// A lab cannot be made, or the victims are not served without a flood.
pub(crate) fn measure_all(plan: &Plan, ids: &LabIds, screen: &mut Screen) -> Result<Vec<Sample>> {
    if plan.hostile.is_empty() {
        return Ok(Vec::new());
    }
    screen.live("starting nodes, pods, servers and agents for floods");
    let arenas = CONTENDERS.map(|contender| Arena::create(contender, ids));
    let [direct, mesh] = arenas;
    let arenas = [direct?, mesh?];
    let mut samples = Vec::new();
    let count = plan.hostile.len();
    for round in 0..plan.rounds {
        for (number, &cell) in plan.hostile.iter().enumerate() {
            for turn in 0..arenas.len() {
                // Neither contender is always the first.
                let arena = &arenas[(turn + round + number) % arenas.len()];
                if ids.gone() {
                    return Ok(samples);
                }
                screen.live(&format!(
                    "round {}/{}  {:>2}/{count}  {cell}  {}",
                    round + 1,
                    plan.rounds,
                    number + 1,
                    arena.contender.name()
                ));
                let seen = measure(arena, cell, plan.length);
                let seen = seen.map_err(|error| format!("{error:#}"));
                samples.push(Sample { round, contender: arena.contender, cell, seen });
            }
        }
    }
    screen.live("");
    Ok(samples)
}

/// Measures a flood: the calm before it, and as long a time of it.
fn measure(arena: &Arena, cell: Cell, length: Duration) -> Result<Seen> {
    arena.settle();
    let mut victims = Vec::new();
    for victim in Victim::ALL {
        victims.push(arena.victim(victim)?);
    }
    for victim in &victims {
        let line = victim.line(DEADLINE).context("a victim is not served before the flood")?;
        ensure!(line == BEGIN, "a victim said {line:?} before it began");
    }
    for victim in &mut victims {
        victim.say("calm")?;
    }
    pass(length);
    for victim in &mut victims {
        victim.say("between")?;
    }
    let mut attack = arena.attack(cell)?;
    let line = attack.line(DEADLINE)?;
    ensure!(line == BEGIN, "an attacker said {line:?} before it began");
    let (watch, begin) = (Watch::start(arena)?, Instant::now());
    for victim in &mut victims {
        victim.say("disturbed")?;
    }
    pass(length);
    for victim in &mut victims {
        victim.say("over")?;
    }
    let usage = watch.stop(arena)?;
    attack.say("end")?;
    let flood = report(&attack.line(DEADLINE)?)?;
    let mut reports = Vec::new();
    for victim in &victims {
        reports.push(report(&victim.line(DEADLINE).context("a victim does not end")?)?);
    }
    let victims = reports.try_into();
    let victims = victims.map_err(|reports: Vec<_>| {
        anyhow::anyhow!("{} victims reported after {:?}", reports.len(), begin.elapsed())
    })?;
    Ok(Seen { victims, flood, agent: usage.agent, foreign: usage.foreign })
}

fn report<T: serde::de::DeserializeOwned>(line: &str) -> Result<T> {
    serde_json::from_str(line).with_context(|| format!("a program in a pod said {line:?}"))
}

#[expect(clippy::disallowed_methods, reason = "a measurement takes its time")]
fn pass(length: Duration) {
    std::thread::sleep(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_finds_floods_and_parties() {
        let check = |pattern: &str, expect: usize| {
            assert_eq!(Cell::matching(pattern).len(), expect, "{pattern}");
        };
        check("hostile", 24);
        check("hostile/tunnels", 1);
        check("hostile/streams/workload", 1);
        check("stranger", 7);
        check("workload", 8);
        check("peer", 9);
        check("nothing", 0);
    }
}
