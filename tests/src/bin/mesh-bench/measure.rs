//! The rounds: everything is measured once in each, for all contenders one after the other.

use anyhow::{Context as _, Result, ensure};
use mesh_tests::process::DEADLINE;

use crate::LabIds;
use crate::args::Plan;
use crate::cpu::{Reading, Usage};
use crate::load::{BEGIN, Report};
use crate::pod::InPod;
use crate::screen::Screen;
use crate::slot::Slot;
use crate::workload::{Contender, Path, Workload};

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub round: usize,
    pub path: Path,
    pub workload: Workload,
    pub contender: Contender,
    /// What was seen, or why there is nothing.
    pub seen: Result<Seen, String>,
}

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// By the client.
    pub report: Report,
    /// Of the processors.
    pub usage: Usage,
}

/// Measures everything. A measurement that fails is not the end of the others.
pub(crate) fn run(plan: &Plan, slots: &[Slot], ids: &LabIds, screen: &mut Screen) -> Vec<Sample> {
    let mut samples = Vec::new();
    let count = plan.cells.len();
    for round in 0..plan.rounds {
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
                let seen = measure(plan, slot, path, workload);
                let seen = seen.map_err(|error| format!("{error:#}"));
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

fn measure(plan: &Plan, slot: &Slot, path: Path, workload: Workload) -> Result<Seen> {
    let to = slot.target_of(path, workload).context("no such path")?.to_string();
    let seconds = plan.length.as_secs_f64().to_string();
    let args = ["load", workload.name(), "--to", &to, "--seconds", &seconds];
    let client = InPod::start(slot.client(), &args)?;
    let line = client.line(DEADLINE)?;
    ensure!(line == BEGIN, "a client said {line:?} before it began");
    let before = Reading::now(slot)?;
    let line = client.line(plan.length + DEADLINE)?;
    let usage = before.since(slot)?;
    let report = serde_json::from_str(&line).with_context(|| format!("a client said {line:?}"))?;
    Ok(Seen { report, usage })
}
