//! Stacks of the process's threads, for the log of a process that is about to abort.
//!
//! Each thread is interrupted by a signal and writes down the addresses of its frames; whoever asked
//! makes names of them. A thread that a lock of the unwinder holds, or that the kernel does not let
//! run, writes down nothing, and is not waited for.

use std::fs;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{getpid, gettid};

/// The signal that threads are interrupted by. Nothing else uses it.
const SIGNAL: Signal = Signal::SIGUSR2;

/// The most frames of a thread: those of a task with its runtime are about 60.
const MAX_FRAMES: usize = 128;

/// The pause between two looks at what has been written down.
const LOOK: Duration = Duration::from_millis(1);

/// Where the threads write. Made before the first signal, and never freed: a thread may be late.
static SLOTS: OnceLock<Vec<Slot>> = OnceLock::new();

/// One thread's place.
struct Slot {
    tid: libc::pid_t,
    frames: [AtomicUsize; MAX_FRAMES],
    n_frames: AtomicUsize,
    is_done: AtomicBool,
}

/// The stack of one thread.
#[derive(Clone, Debug)]
pub struct Stack {
    /// The thread's number in the kernel.
    pub tid: libc::pid_t,
    /// Its name.
    pub thread: String,
    /// The addresses of its frames, the innermost first; `None`: it did not answer.
    frames: Option<Vec<usize>>,
}

/// Stacks of all threads but the calling one. Waits at most `patience` for those that do not answer.
///
/// # Errors
///
/// The threads cannot be listed, or it was called before: a process asks once.
pub fn capture(patience: Duration) -> io::Result<Vec<Stack>> {
    let own = gettid().as_raw();
    let listed = fs::read_dir("/proc/self/task")?;
    let tids = listed.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let mut tids: Vec<_> = tids.filter(|tid| *tid != own).collect();
    tids.sort_unstable();
    capture_of(&tids, patience)
}

fn capture_of(tids: &[libc::pid_t], patience: Duration) -> io::Result<Vec<Stack>> {
    let slots = tids.iter().map(|tid| Slot {
        tid: *tid,
        frames: [const { AtomicUsize::new(0) }; MAX_FRAMES],
        n_frames: AtomicUsize::new(0),
        is_done: AtomicBool::new(false),
    });
    let again = |_slots| io::Error::from(io::ErrorKind::AlreadyExists);
    SLOTS.set(slots.collect()).map_err(again)?;
    let slots = SLOTS.get().map_or(&[][..], Vec::as_slice);
    let action = SigAction::new(SigHandler::Handler(record), SaFlags::SA_RESTART, SigSet::empty());
    // JUSTIFICATION: there is no other way to run code in a thread that does not cooperate.
    // SAFETY: the handler touches atomics of memory that is never freed, and the unwinder, which reads
    // tables that are mapped for good; it leaves `errno` as it was.
    let _former = unsafe { sigaction(SIGNAL, &action) }?;
    for slot in slots {
        interrupt(slot.tid);
    }
    let mut left = patience;
    while slots.iter().any(|slot| !slot.is_done.load(Ordering::Acquire)) && !left.is_zero() {
        thread::park_timeout(LOOK);
        left = left.saturating_sub(LOOK);
    }
    Ok(slots.iter().map(Slot::read).collect())
}

/// Sends the signal to one thread. One that has ended has no stack.
fn interrupt(tid: libc::pid_t) {
    let pid = getpid().as_raw();
    // JUSTIFICATION: nix has no tgkill(2).
    // SAFETY: three integers; the kernel checks that the thread is of this process.
    let _gone = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, SIGNAL as libc::c_int) };
}

/// The handler: writes down the frames of the thread that it interrupts.
extern "C" fn record(_signal: libc::c_int) {
    let errno = Errno::last_raw();
    let tid = gettid().as_raw();
    let slots = SLOTS.get().map_or(&[][..], Vec::as_slice);
    if let Some(slot) = slots.iter().find(|slot| slot.tid == tid) {
        let mut free = slot.frames.iter();
        let each = |frame: &backtrace::Frame| {
            let Some(next) = free.next() else { return false };
            next.store(frame.ip().addr(), Ordering::Relaxed);
            slot.n_frames.fetch_add(1, Ordering::Relaxed);
            true
        };
        // JUSTIFICATION: its counterpart that is safe takes a lock, which the interrupted thread may
        // hold.
        // SAFETY: what must not run at the same time is the unwinder's cache of libraries on other
        // systems; on Linux it is the platform's own, which may run in all threads at once.
        unsafe {
            backtrace::trace_unsynchronized(each);
        }
        slot.is_done.store(true, Ordering::Release);
    }
    Errno::set_raw(errno);
}

impl Slot {
    fn read(&self) -> Stack {
        let is_done = self.is_done.load(Ordering::Acquire);
        let frames = self.frames.iter().take(self.n_frames.load(Ordering::Relaxed));
        let frames = frames.map(|frame| frame.load(Ordering::Relaxed)).collect();
        let comm = fs::read_to_string(format!("/proc/self/task/{}/comm", self.tid));
        let thread = comm.map_or_else(|_gone| String::new(), |name| name.trim_end().to_owned());
        Stack { tid: self.tid, thread, frames: is_done.then_some(frames) }
    }
}

impl Stack {
    /// One line a frame, the innermost first: its function, and where it is in the source. Slow: reads
    /// the program's debugging information.
    pub fn describe(&self) -> String {
        let Some(frames) = &self.frames else {
            return "    (the thread did not answer)".to_owned();
        };
        let named: Vec<_> = frames.iter().map(|address| name(*address)).collect();
        // The handler's own frames, and the kernel's trampoline, say nothing.
        let own = named.iter().rposition(|name| name.contains("stacks::record"));
        let first = own.map_or(0, |own| own + 2);
        named.get(first..).unwrap_or(&named).join("\n")
    }
}

/// The function at an address, with those that were inlined there.
fn name(address: usize) -> String {
    let mut all = Vec::new();
    backtrace::resolve(std::ptr::without_provenance_mut(address), |symbol| {
        let name = symbol.name().map_or_else(|| "?".to_owned(), |name| format!("{name:#}"));
        all.push(match (symbol.filename(), symbol.lineno()) {
            (Some(file), Some(line)) => format!("    {name} at {}:{line}", file.display()),
            _ => format!("    {name}"),
        });
    });
    if all.is_empty() { format!("    {address:#x}") } else { all.join("\n") }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI32;

    use super::*;

    static SPINNER: AtomicI32 = AtomicI32::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);

    #[inline(never)]
    fn spin_for_the_test_of_stacks() {
        SPINNER.store(gettid().as_raw(), Ordering::Release);
        while !STOP.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_thread_that_spins_is_seen_where_it_does() {
        let spinner = thread::Builder::new().name("spinner".to_owned());
        let spinner = spinner.spawn(spin_for_the_test_of_stacks).unwrap();
        while SPINNER.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        // The second is none of this process: it answers nothing.
        let tids = [SPINNER.load(Ordering::Relaxed), libc::pid_t::MAX];
        let stacks = capture_of(&tids, Duration::from_secs(1)).unwrap();
        STOP.store(true, Ordering::Relaxed);
        spinner.join().unwrap();
        assert_eq!(stacks[0].thread, "spinner");
        let text = stacks[0].describe();
        assert!(text.contains("spin_for_the_test_of_stacks at "), "{text}");
        assert!(!text.contains("stacks::record"), "{text}");
        assert!(stacks[1].describe().contains("did not answer"));
        assert!(capture_of(&tids, Duration::ZERO).is_err());
    }
}
