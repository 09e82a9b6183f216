//! The benchmark: what the mesh costs, measured against direct traffic between the same pods in the
//! same run.
//!
//! `docs/performance.md` says what is measured and how to read it.

mod workload;
mod args;
mod http;
mod threads;
mod serve;
mod load;
mod pod;
mod pair;
mod routed;
mod slot;
mod cpu;
mod carriage;
mod measure;
mod memory;
mod unread;
mod hostile;
mod config;
mod result;
mod machine;
mod screen;
mod table;
mod markdown;
mod plot;
mod show;

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

use crate::args::{Args, Plan, Role};
use crate::machine::{Machine, Noise};
use crate::memory::Memory;
use crate::result::{Outcome, Run};
use crate::screen::Screen;
use crate::slot::Slot;
use crate::unread::Unread;
use crate::workload::{Contender, Path};

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

/// The messages that the main thread waits for.
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
        Some(Role::Deaf) => serve::run_deaf().map(|()| Message::Done(Ok(true))),
        Some(Role::Fill(fill)) => unread::run(fill).map(|()| Message::Done(Ok(true))),
        Some(Role::Victim(victim)) => load::run_victim(victim).map(|()| Message::Done(Ok(true))),
        Some(Role::Attack(attack)) => hostile::run(attack).map(|()| Message::Done(Ok(true))),
        Some(Role::Sink(sink)) => hostile::run_sink(sink).map(|()| Message::Done(Ok(true))),
        Some(Role::Show(show)) => show::run(show).map(|()| Message::Done(Ok(true))),
        Some(Role::Config(config)) => {
            let config = config.clone();
            on_a_thread(move |ids| config::run(&config, &ids).map(|()| true))
        }
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

fn run(args: Args) -> Result<Message> {
    let plan = args.plan()?;
    on_a_thread(move |ids| bench(&args, plan, &ids))
}

/// Measures on a thread of its own, so that a signal can end it in the middle.
fn on_a_thread(measure: impl FnOnce(LabIds) -> Result<bool> + Send + 'static) -> Result<Message> {
    // Blocked before there are other threads, which inherit that; children do not.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().context("cannot block signals")?;
    let (sender, messages) = channel();
    let ids = LabIds::new();
    let (done, labs) = (Sender::clone(&sender), ids.clone());
    thread::spawn(move || {
        // The other end is gone only when the process is ending.
        drop(done.send(Message::Done(measure(labs))));
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
        sweep::leave()?;
    }
    Ok(message)
}

/// Measures, and shows what was measured. Returns whether nothing is missing.
fn bench(args: &Args, mut plan: Plan, ids: &LabIds) -> Result<bool> {
    let begin = Instant::now();
    let mut screen = Screen::new(args.json);
    let machine = Machine::read()?;
    let files = raise_limits()?;
    plan.contenders.retain(|contender| match pair::program(*contender) {
        None => true,
        Some(Ok(version)) => {
            screen.note(&version);
            true
        }
        Some(Err(package)) => {
            let name = contender.name();
            screen.note(&format!(
                "{name} is not installed: measuring without it (apt-get install {package})"
            ));
            false
        }
    });
    screen.live("starting nodes, pods, servers and agents");
    let slots = plan.contenders.iter().map(|contender| Slot::create(*contender, ids));
    let slots = slots.collect::<Result<Vec<_>>>()?;
    let memory = memories(&plan, &slots, files, &mut screen)?;
    measure::verify(&plan, &slots)?;
    let unread = unread_all(&plan, &slots, &mut screen)?;
    let samples = measure::run(&plan, &slots, ids, &mut screen);
    let hostile = hostile::measure_all(&plan, ids, &mut screen)?;
    ensure!(!ids.gone(), INTERRUPTED);
    let mut rows = result::rows(&samples, &plan.contenders);
    rows.extend(memory.iter().flat_map(result::memory_rows));
    rows.extend(result::unread_rows(&unread));
    rows.extend(hostile::rows(&hostile));
    let noise = Noise::of(&samples, &hostile::foreign(&hostile), machine.cpus);
    let run = Run {
        arguments: std::env::args().skip(1).collect(),
        rounds: plan.rounds,
        seconds: plan.length.as_secs_f64(),
        release: !cfg!(debug_assertions),
    };
    let lost = [result::losses(&samples), hostile::losses(&hostile)].concat();
    let outcome = Outcome { machine, run, noise, rows, lost };
    screen.line(&format!("measured in {:.0} s", begin.elapsed().as_secs_f64()));
    table::show_outcome(&screen, &outcome);
    if let Some(path) = &args.plot {
        show::draw(&outcome, path)?;
    }
    if args.json {
        let all = serde_json::to_string(&outcome).context("a result is valid JSON")?;
        writeln!(std::io::stdout(), "{all}").context("cannot print the result")?;
    }
    Ok(outcome.lost.is_empty())
}

/// Measures the agents' memory for open connections. Before all else, because what an allocator has
/// kept from other work would hide what connections need; first those that need none.
fn memories(
    plan: &Plan,
    slots: &[Slot],
    files: u64,
    screen: &mut Screen,
) -> Result<Vec<(Contender, Memory)>> {
    let mut all = Vec::new();
    for &path in &plan.memory {
        for slot in slots.iter().filter(|slot| slot.agent().is_some()) {
            let contender = slot.contender;
            if !contender.has(path) {
                continue;
            }
            let (path_name, name) = (path.name(), contender.name());
            let held = memory::affordable(plan.held, files, contender.files());
            screen.live(&format!("memory  {held} connections of {name}, {path_name}"));
            if held < plan.held {
                screen.note(&format!("{held} connections are all that {files} open files allow"));
            }
            let memory = Memory::measure(slot, path, held);
            let memory =
                memory.with_context(|| format!("cannot measure memory of {name}, {path_name}"))?;
            all.push((contender, memory));
        }
    }
    Ok(all)
}

/// Measures what waits for those who do not read.
fn unread_all(
    plan: &Plan,
    slots: &[Slot],
    screen: &mut Screen,
) -> Result<Vec<(Contender, Unread)>> {
    let mut all = Vec::new();
    for slot in slots.iter().filter(|slot| plan.unread && slot.contender.has(Path::SameNode)) {
        for size in [unread::LARGE, unread::SMALL] {
            let name = slot.contender.name();
            screen.live(&format!("unread  messages of {size} bytes, {name}"));
            let unread = Unread::measure(slot, size);
            let unread =
                unread.with_context(|| format!("cannot measure what waits under {name}"))?;
            all.push((slot.contender, unread));
        }
    }
    Ok(all)
}

/// Files that a child may need: an agent that carries connections inside of its node lets one client
/// have a quarter of all, 4 × 10,000 = 40,000.
const FILES: u64 = 65_536;

/// Lets our children open as many files as they need, or as we may. Returns how many that is.
fn raise_limits() -> Result<u64> {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read a limit")?;
    // With CAP_SYS_RESOURCE, which root in a container may not have (setrlimit(2)).
    if hard < FILES && setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES).is_ok() {
        return Ok(FILES);
    }
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    raised.context("cannot raise the limit of open files")?;
    Ok(hard)
}
