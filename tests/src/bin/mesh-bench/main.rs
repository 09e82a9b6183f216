//! The benchmark: what the mesh costs, measured against direct traffic between the same pods in the
//! same run.
//!
//! `docs/benchmarks.md` says what is measured and how to read it.

mod workload;
mod args;
mod http;
mod threads;
mod serve;
mod load;
mod pod;
mod haproxy;
mod slot;
mod cpu;
mod measure;
mod memory;
mod result;
mod machine;
mod screen;
mod table;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use mesh_tests::sweep;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::args::{Args, Plan, Role};
use crate::machine::{Machine, Noise};
use crate::memory::Memory;
use crate::screen::Screen;
use crate::slot::Slot;
use crate::workload::Contender;

/// The labs that there are, for those who end us. Taken away when we are to end.
#[derive(Clone, Debug)]
pub(crate) struct LabIds(Arc<Mutex<Option<Vec<String>>>>);

impl LabIds {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Some(Vec::new()))))
    }

    /// Adds a lab.
    ///
    /// # Errors
    ///
    /// We are to end.
    pub(crate) fn add(&self, id: &str) -> Result<()> {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.as_mut().context(INTERRUPTED)?.push(id.to_owned());
        Ok(())
    }

    /// Whether we are to end, so that what happens to the labs is no news.
    pub(crate) fn gone(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn take(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

/// Why there is no result, if a signal ended us.
const INTERRUPTED: &str = "interrupted";

/// What the main thread waits for.
#[derive(Debug)]
enum Message {
    /// All is measured; whether nothing is missing.
    Done(Result<bool>),
    /// Somebody wants us to end.
    Signal(Signal),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match &args.role {
        Some(Role::Serve) => serve::run().map(|()| Message::Done(Ok(true))),
        Some(Role::Load(load)) => load::run(load).map(|()| Message::Done(Ok(true))),
        None => run(args),
    };
    match ended {
        Ok(Message::Done(Ok(true))) => ExitCode::SUCCESS,
        Ok(Message::Done(Ok(false))) => ExitCode::FAILURE,
        Ok(Message::Done(Err(error))) | Err(error) => {
            // A failed write to stderr has nowhere to be reported.
            drop(writeln!(std::io::stderr(), "mesh-bench: {error:#}"));
            ExitCode::FAILURE
        }
        // As a shell tells of a program that a signal ended.
        Ok(Message::Signal(signal)) => {
            ExitCode::from(128 + u8::try_from(signal as i32).unwrap_or(0))
        }
    }
}

/// Measures on a thread of its own, so that a signal can end it in the middle.
fn run(args: Args) -> Result<Message> {
    let plan = args.plan()?;
    // Blocked before there are other threads, which inherit that; children do not.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().context("cannot block signals")?;
    let (sender, messages) = channel();
    let ids = LabIds::new();
    let (done, labs) = (Sender::clone(&sender), ids.clone());
    thread::spawn(move || {
        // The other end is gone only when the process is ending.
        drop(done.send(Message::Done(bench(&args, plan, &labs))));
    });
    thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            drop(sender.send(Message::Signal(signal)));
        }
    });
    let message = messages.recv().context("nobody measures")?;
    if matches!(message, Message::Signal(_)) {
        for id in ids.take() {
            sweep::remove(&id)?;
        }
    }
    Ok(message)
}

/// Measures, and shows what was measured. Returns whether nothing is missing.
fn bench(args: &Args, mut plan: Plan, ids: &LabIds) -> Result<bool> {
    let begin = Instant::now();
    let mut screen = Screen::new(args.json);
    let machine = Machine::read()?;
    raise_limits()?;
    if plan.contenders.contains(&Contender::Haproxy) {
        if let Some(version) = haproxy::version() {
            screen.note(&version);
        } else {
            screen.note("haproxy is not installed: measuring without it (apt-get install haproxy)");
            plan.contenders.retain(|contender| *contender != Contender::Haproxy);
        }
    }
    screen.live("starting nodes, pods, servers and agents");
    let slots = plan.contenders.iter().map(|contender| Slot::create(*contender, ids));
    let slots = slots.collect::<Result<Vec<_>>>()?;
    // First, because what an allocator has kept from other work would hide what connections need.
    let mesh = slots.iter().find(|slot| slot.contender == Contender::Mesh);
    let memory = match mesh {
        Some(slot) if plan.memory => {
            screen.live(&format!("memory of {} connections", memory::CONNECTIONS));
            Some(Memory::measure(slot).context("cannot measure memory")?)
        }
        _ => None,
    };
    let samples = measure::run(&plan, &slots, ids, &mut screen);
    ensure!(!ids.gone(), INTERRUPTED);
    let mut rows = result::rows(&samples, &plan.contenders);
    rows.extend(memory.iter().flat_map(result::memory_rows));
    let losses = result::losses(&samples);
    let noise = Noise::of(&samples, machine.cpus);

    screen.line(&machine.to_string());
    screen.line(&format!(
        "{} rounds of {} s, {:.0} s in all",
        plan.rounds,
        plan.length.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    ));
    table::show(&screen, &rows, &plan.contenders);
    table::show_memory(&screen, &rows, memory::CONNECTIONS);
    screen.line("");
    let verdict = noise.verdict(machine.cpus);
    screen.line(&if noise.busy { screen.red(&verdict) } else { verdict });
    for loss in &losses {
        screen.line(&screen.red(&loss.to_string()));
    }
    if args.json {
        let all = json!({ "machine": machine, "noise": noise, "rows": rows, "lost": losses });
        writeln!(std::io::stdout(), "{all}").context("cannot print the result")?;
    }
    Ok(losses.is_empty())
}

/// Lets our children open as many files as we may.
fn raise_limits() -> Result<()> {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read a limit")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}
