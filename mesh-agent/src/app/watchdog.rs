//! Watches the agent's threads, from a thread that waits for nothing: tells the kernel that the agent
//! works, says in its readiness which thread does not, and ends a process of which one hangs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::app::notify::Pulse;
use crate::datapath::Kernel;
use crate::sys::stacks;
use crate::task::clock;
use crate::task::ready::{Gate, Ready};
use crate::task::turns::{STALL, TURN, Turns, Watcher};
use crate::telemetry::log;

/// How long a vital thread may poll no task before the agent stops to beat, so that the workloads'
/// failure modes apply. Long enough for a node that is merely busy.
const STUCK: Duration = Duration::from_secs(5);

/// How long threads may take to say what they do.
const STACKS: Duration = Duration::from_secs(1);

/// How long the log may take to take the stacks. The process ends then, whatever hangs.
const REPORT: Duration = Duration::from_secs(10);

/// Events that wait to be logged. The log may hang as anything else may: further ones are dropped.
const QUEUE: usize = 64;

/// The stack of the thread that watches, which calls a few functions.
const STACK_BYTES: usize = 64 << 10;

/// A watchdog. Dropping it ends the watch, and the heartbeat with it.
#[derive(Debug)]
pub(super) struct Watchdog {
    is_over: Arc<AtomicBool>,
    beats: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Something for the log.
#[derive(Debug)]
enum Event {
    /// A thread had no turn for [`STALL`].
    Stalls(usize),
    /// It has turns again, after so long.
    Recovers(usize, Duration),
    /// A vital thread polled no task for [`STUCK`].
    Stuck(usize),
    /// The kernel refuses the heartbeat.
    Refused(io::Error),
    /// The process ends because of this thread, when the sender is dropped or [`REPORT`] is over.
    Hangs(usize, SyncSender<()>),
}

/// The thread that watches.
struct Watch {
    kernel: Arc<Kernel>,
    pulse: Pulse,
    turns: Turns,
    gates: Vec<Option<Gate>>,
    /// A vital thread that polls no task for so long hangs. `None`: the process goes on.
    limit: Option<Duration>,
    log: SyncSender<Event>,
    is_over: Arc<AtomicBool>,
    beats: Arc<AtomicBool>,
}

/// Starts to watch `turns`. The kernel and the pulse are told while no vital thread is stuck.
///
/// # Errors
///
/// A thread cannot be started.
pub(super) fn start(
    (kernel, pulse): (Arc<Kernel>, Pulse),
    turns: Turns,
    ready: &Ready,
    limit: Option<Duration>,
) -> io::Result<Watchdog> {
    let (log, events) = sync_channel(QUEUE);
    let is_over = Arc::new(AtomicBool::new(false));
    let mut gates: Vec<_> = turns.stalled().iter().map(|_| None).collect();
    for thread in turns.vital() {
        let gate = ready.gate(format!("thread {} running", turns.name(thread)));
        gate.pass();
        if let Some(place) = gates.get_mut(thread) {
            *place = Some(gate);
        }
    }
    let told = turns.clone();
    let logging = thread::Builder::new().name("watchdog-log".to_owned());
    // It ends when the other one has, unless the log hangs.
    drop(logging.spawn(move || report(&events, &told, limit))?);
    let beats = Arc::new(AtomicBool::new(true));
    let (over, beating) = (Arc::clone(&is_over), Arc::clone(&beats));
    let watch = Watch { kernel, pulse, turns, gates, limit, log, is_over: over, beats: beating };
    let watching = thread::Builder::new().name("watchdog".to_owned()).stack_size(STACK_BYTES);
    let thread = watching.spawn(move || watch.run())?;
    Ok(Watchdog { is_over, beats, thread: Some(thread) })
}

impl Watchdog {
    /// Tells the kernel no more that the agent works: another one does that.
    pub(super) fn stop_beating(&self) {
        self.beats.store(false, Ordering::Relaxed);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It cannot panic, and waits for nothing.
            let _ended: thread::Result<()> = thread.join();
        }
    }
}

impl Watch {
    fn run(self) {
        let mut watcher = Watcher::new(self.turns.clone());
        let (mut last, mut is_refused) = (clock::monotonic(), false);
        while !self.is_over.load(Ordering::Relaxed) {
            let now = clock::monotonic();
            let mut is_stuck = false;
            for found in watcher.step(now.saturating_sub(last)) {
                if found.stall.reaches(STALL) {
                    self.tell(Event::Stalls(found.thread));
                } else if found.stall.recovers(STALL) {
                    self.tell(Event::Recovers(found.thread, found.stall.before));
                }
                let Some(gate) = self.gates.get(found.thread).and_then(Option::as_ref) else {
                    continue;
                };
                if found.stall.now < STALL {
                    gate.pass();
                } else {
                    gate.close();
                }
                if found.hang.reaches(STUCK) {
                    self.tell(Event::Stuck(found.thread));
                }
                is_stuck |= found.hang.now >= STUCK;
                if self.limit.is_some_and(|limit| found.hang.now >= limit) {
                    self.end(found.thread);
                }
            }
            last = now;
            if !is_stuck {
                self.pulse.beat(now);
            }
            if !is_stuck && self.beats.load(Ordering::Relaxed) {
                let beaten = self.kernel.beat(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
                let was_refused = std::mem::replace(&mut is_refused, beaten.is_err());
                if let Err(error) = beaten
                    && !was_refused
                {
                    self.tell(Event::Refused(error));
                }
            }
            thread::park_timeout(TURN);
        }
    }

    fn tell(&self, event: Event) {
        // A log that takes nothing must not hold up the watch.
        let _dropped: Result<(), _> = self.log.try_send(event);
    }

    /// Ends the process, once the log has the stacks or does not take them.
    fn end(&self, thread: usize) -> ! {
        let (done, reported) = sync_channel(1);
        self.tell(Event::Hangs(thread, done));
        // Nothing is sent: it was dropped, or the time is over.
        let _either: Result<(), _> = reported.recv_timeout(REPORT);
        std::process::abort()
    }
}

/// Logs what there is to be logged, from a thread that may be held up.
fn report(events: &Receiver<Event>, turns: &Turns, limit: Option<Duration>) {
    // Past the queue, which may be full, or locked by the thread that hangs.
    log::write_directly();
    for event in events {
        match event {
            Event::Stalls(thread) => {
                tracing::warn!(
                    thread = turns.name(thread),
                    "a thread hangs, or has more to do than it can, for a second"
                );
            }
            Event::Recovers(thread, after) => {
                let (thread, after_ms) = (turns.name(thread), after.as_millis());
                tracing::info!(thread, after_ms, "a thread runs its tasks again");
            }
            Event::Stuck(thread) => {
                let thread = turns.name(thread);
                tracing::error!(thread, "a thread is stuck; workloads' failure modes apply");
            }
            Event::Refused(error) => {
                tracing::error!(%error, "the kernel does not take the heartbeat");
            }
            Event::Hangs(thread, done) => {
                let limit_secs = limit.unwrap_or_default().as_secs();
                let thread = turns.name(thread);
                tracing::error!(
                    thread,
                    limit_secs,
                    "a thread hangs (--watchdog-timeout): aborting, to be started again"
                );
                log_stacks(thread);
                drop(done);
            }
        }
    }
}

/// Logs the stacks of all threads, that of `first` before the others.
fn log_stacks(first: &str) {
    let mut all = match stacks::capture(STACKS) {
        Ok(all) => all,
        Err(error) => return tracing::error!(%error, "the threads' stacks cannot be had"),
    };
    all.sort_by_key(|stack| stack.thread != first);
    for stack in all {
        tracing::error!("stack of thread {} ({}):\n{}", stack.thread, stack.tid, stack.describe());
    }
}
