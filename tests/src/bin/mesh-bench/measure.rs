//! The rounds: everything is measured once in each, for all contenders one after the other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::agent::Agent;
use mesh_tests::process::DEADLINE;

use crate::LabIds;
use crate::args::Plan;
use crate::carriage::Counters;
use crate::cpu::{self, Reading, Usage};
use crate::load::{BEGIN, Report};
use crate::pod::InPod;
use crate::screen::Screen;
use crate::slot::Slot;
use crate::workload::{Contender, Path, Workload};

/// How long the machine is watched at rest, before each round.
const REST: Duration = Duration::from_secs(1);

/// How long a trial of a contender takes.
const TRIAL: Duration = Duration::from_millis(200);

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub round: usize,
    pub path: Path,
    pub workload: Workload,
    pub contender: Contender,
    /// The observation, or why there is none.
    pub seen: Result<Seen, String>,
}

/// The observation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// By the client.
    pub report: Report,
    /// Of the processors.
    pub usage: Usage,
    /// The machine's use before this round, while nothing was measured: processors.
    pub rest: f64,
}

/// Measures everything. A measurement that fails is not the end of the others.
pub(crate) fn run(plan: &Plan, slots: &[Slot], ids: &LabIds, screen: &mut Screen) -> Vec<Sample> {
    let mut samples = Vec::new();
    let count = plan.cells.len();
    if count == 0 {
        return samples;
    }
    for round in 0..plan.rounds {
        screen.live(&format!("round {}/{}  at rest", round + 1, plan.rounds));
        let rest = cpu::at_rest(REST).map_err(|error| format!("{error:#}"));
        for (number, &(path, workload)) in plan.cells.iter().enumerate() {
            for slot in in_turn(slots, round + number) {
                let contender = slot.contender;
                if slot.target_of(path, workload).is_none() || ids.gone() {
                    continue;
                }
                let (path_name, name) = (path.name(), workload.name());
                screen.live(&format!(
                    "round {}/{}  {:>2}/{count}  {path_name}/{name}  {}",
                    round + 1,
                    plan.rounds,
                    number + 1,
                    contender.name()
                ));
                let seen = rest.clone().and_then(|rest| {
                    let seen = measure(plan.length, slot, (path, workload), rest);
                    seen.map_err(|error| format!("{error:#}"))
                });
                samples.push(Sample { round, path, workload, contender, seen });
            }
        }
    }
    screen.live("");
    samples
}

/// All slots, each time beginning with another one: none is always the first after a pause.
fn in_turn(slots: &[Slot], turn: usize) -> impl Iterator<Item = &Slot> {
    let (last, first) = slots.split_at(turn % slots.len());
    first.iter().chain(last)
}

/// Checks that every contender is what it is called, so that a run that measures something else
/// ends before it begins.
///
/// # Errors
///
/// One of them is not: its agent's own words are in the error.
pub(crate) fn verify(plan: &Plan, slots: &[Slot]) -> Result<()> {
    for slot in slots {
        let name = slot.contender.name();
        for path in Path::ALL.into_iter().filter(|path| slot.contender.has(*path)) {
            if !plan.cells.iter().any(|(measured, _)| *measured == path) {
                continue;
            }
            let tried = measure(TRIAL, slot, (path, path.trial()), 0.0);
            tried.map(drop).with_context(|| {
                let said = slot.agent().map(warnings).unwrap_or_default();
                format!(
                    "{name} is not ready on {}; --without {name} leaves it out{said}",
                    path.name()
                )
            })?;
        }
    }
    Ok(())
}

/// The warnings of an agent.
fn warnings(agent: &Agent) -> String {
    let log = agent.log();
    let lines = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    lines.fold(String::new(), |said, line| said + "\n  its agent said: " + line.trim())
}

fn measure(
    length: Duration,
    slot: &Slot,
    (path, workload): (Path, Workload),
    rest: f64,
) -> Result<Seen> {
    let to = slot.target_of(path, workload).context("no such path")?.to_string();
    let seconds = length.as_secs_f64().to_string();
    let beside = slot.beside(path, workload).map(|addr| addr.to_string());
    let mut args = vec!["load", workload.name(), "--to", &to, "--seconds", &seconds];
    args.extend(beside.iter().flat_map(|addr| ["--beside", addr]));
    let counters = Counters::now(slot)?;
    let client = InPod::start(slot.client(), &args)?;
    let line = client.line(DEADLINE)?;
    ensure!(line == BEGIN, "a client said {line:?} before it began");
    let before = Reading::now(slot)?;
    let line = client.line(length + DEADLINE)?;
    Reading::settled(slot)?;
    let usage = before.since(slot)?;
    let report = serde_json::from_str(&line).with_context(|| format!("a client said {line:?}"))?;
    counters.check(slot, (path, workload), &report)?;
    Ok(Seen { report, usage, rest })
}
