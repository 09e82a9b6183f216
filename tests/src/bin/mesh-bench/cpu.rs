//! Shares of the processors' use.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mesh_tests::expect::eventually;

use crate::slot::Slot;

/// The use until a moment, in seconds of one processor.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    at: Instant,
    proxies: f64,
    load: f64,
    kernel: Threads,
    machine: Busy,
}

/// The use between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// By the agents, or whoever carries the bytes on their behalf: seconds of one processor.
    pub proxies: f64,
    /// By the clients and servers: seconds of one processor.
    pub load: f64,
    /// By the kernel's own threads, which do what it puts off on everybody's behalf: seconds of one
    /// processor.
    pub kernel: f64,
    /// By everything that runs on this machine: seconds of one processor.
    pub machine: f64,
    /// By all others: processors.
    pub foreign: f64,
    /// How long it was.
    pub seconds: f64,
}

/// The use by each thread of the kernel until a moment, by its number.
type Threads = BTreeMap<u32, Duration>;

/// The use of the machine until a moment, in seconds of one processor.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Busy {
    /// By what runs here.
    used: f64,
    /// By the host of this virtual machine.
    stolen: f64,
}

/// The use while carriers have nothing left to do, as a share of one processor: their timers.
const RESTING: f64 = 0.1;

/// How long a carrier is watched to see whether it rests.
const WATCH: Duration = Duration::from_millis(20);

/// How long a carrier may go on after its clients.
const LAG: Duration = Duration::from_secs(10);

impl Reading {
    /// Reads what the groups of a slot and the machine have used.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub(crate) fn now(slot: &Slot) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            proxies: used(&slot.proxy_groups())?,
            load: used(&slot.load_groups())?,
            kernel: kernel_threads()?,
            machine: machine()?,
        })
    }

    /// Waits until the carriers have done what is left to do when the clients have ended, as
    /// reading the kernel's reports: it is part of the price.
    ///
    /// # Errors
    ///
    /// They go on, or the kernel does not say.
    pub(crate) fn settled(slot: &Slot) -> Result<()> {
        let what = format!("the work of {} to end", slot.contender.name());
        settled(&what, &slot.proxy_groups())
    }

    /// The use since then.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub(crate) fn since(&self, slot: &Slot) -> Result<Usage> {
        let now = Self::now(slot)?;
        let (proxies, load) = (now.proxies - self.proxies, now.load - self.load);
        let used = now.machine.used - self.machine.used;
        let stolen = now.machine.stolen - self.machine.stolen;
        let kernel = grown(&self.kernel, &now.kernel).as_secs_f64();
        let seconds = (now.at - self.at).as_secs_f64().max(1e-3);
        let foreign = (used + stolen - proxies - load - kernel).max(0.0) / seconds;
        Ok(Usage { proxies, load, kernel, machine: used, foreign, seconds })
    }
}

impl Usage {
    /// Seconds of one processor that the kernel says were used for this load.
    pub(crate) fn total(&self) -> f64 {
        self.proxies + self.load + self.kernel
    }
}

/// Waits until the programs of these groups rest.
///
/// # Errors
///
/// They go on, or the kernel does not say.
pub(crate) fn settled(what: &str, groups: &[PathBuf]) -> Result<()> {
    let mut last: Option<(Instant, f64)> = None;
    eventually(what, LAG, || {
        let (now, used) = (Instant::now(), used(groups).ok()?);
        let Some((then, before)) = last else {
            last = Some((now, used));
            return None;
        };
        let passed = now - then;
        if passed < WATCH {
            return None;
        }
        last = Some((now, used));
        (used - before < RESTING * passed.as_secs_f64()).then_some(())
    })
}

/// Processor time of a lab, of one of its carriers and of the machine, in seconds of one processor.
#[derive(Clone, Debug)]
pub(crate) struct Everybody {
    lab: f64,
    carrier: f64,
    kernel: Threads,
    machine: Busy,
}

/// Differences of two [`Everybody`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// By the carrier.
    pub carrier: f64,
    /// By neither the lab nor the kernel on behalf of sockets.
    pub foreign: f64,
}

impl Everybody {
    /// Reads the groups of a lab and of a carrier in it, and the machine.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub(crate) fn now(lab: &Path, carrier: &Path) -> Result<Self> {
        Ok(Self {
            lab: group_usage(lab)?.as_secs_f64(),
            carrier: group_usage(carrier)?.as_secs_f64(),
            kernel: kernel_threads()?,
            machine: machine()?,
        })
    }

    /// The time since `before`.
    pub(crate) fn since(&self, before: &Self) -> Spent {
        let kernel = grown(&before.kernel, &self.kernel).as_secs_f64();
        let busy = |busy: Busy| busy.used + busy.stolen;
        let machine = busy(self.machine) - busy(before.machine);
        let foreign = (machine - (self.lab - before.lab) - kernel).max(0.0);
        Spent { carrier: self.carrier - before.carrier, foreign }
    }
}

/// The machine's use while nothing is measured: processors, over `length`.
///
/// # Errors
///
/// The kernel does not say.
#[expect(clippy::disallowed_methods, reason = "what is measured is that nothing happens")]
pub(crate) fn at_rest(length: Duration) -> Result<f64> {
    let (before, begin) = (machine()?, Instant::now());
    std::thread::sleep(length);
    let used = machine()?.used - before.used;
    Ok(used / begin.elapsed().as_secs_f64().max(1e-3))
}

/// The use by those threads that are still there. One that is new began at 0.
fn grown(before: &Threads, now: &Threads) -> Duration {
    let grown = |(id, used): (&u32, &Duration)| {
        used.saturating_sub(before.get(id).copied().unwrap_or_default())
    };
    now.iter().map(grown).sum()
}

/// Reads what the threads of the kernel have used that work on behalf of sockets: those of deferred
/// interrupts (`ksoftirqd`, `napi`) and of work queues (`kworker`). They are in no group of ours.
fn kernel_threads() -> Result<Threads> {
    let mut threads = Threads::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended in the meantime is not missed.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if !works_for_sockets(&stat) {
            continue;
        }
        let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
        threads.insert(id, ran(&text).with_context(|| format!("no time of thread {id}"))?);
    }
    Ok(threads)
}

/// Whether `/proc/<pid>/stat` (proc(5): number, name, state, parent) is of such a thread: those of
/// the kernel are children of `kthreadd`, which is number 2.
fn works_for_sockets(stat: &str) -> bool {
    let Some((before, after)) = stat.rsplit_once(')') else { return false };
    let Some((_, name)) = before.split_once('(') else { return false };
    let parent = after.split_whitespace().nth(1);
    parent == Some("2")
        && ["ksoftirqd/", "kworker/", "napi/"].iter().any(|start| name.starts_with(start))
}

/// The first figure of `/proc/<pid>/schedstat`: nanoseconds on a processor.
fn ran(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Seconds of one processor that all of these groups have used. Groups have these figures also
/// where the `cpu` controller is off, or belongs to cgroup v1.
fn used(groups: &[PathBuf]) -> Result<f64> {
    let mut all = Duration::ZERO;
    for group in groups {
        all += group_usage(group)?;
    }
    Ok(all.as_secs_f64())
}

fn group_usage(group: &Path) -> Result<Duration> {
    let path = group.join("cpu.stat");
    let text = fs::read_to_string(&path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    usage(&text).with_context(|| format!("{} has no usage_usec", path.display()))
}

/// Finds the line of user and system time together.
fn usage(text: &str) -> Option<Duration> {
    let value = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    value.trim().parse().ok().map(Duration::from_micros)
}

fn machine() -> Result<Busy> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy(&text).context("/proc/stat has no line of all processors")
}

/// Reads the first line of `/proc/stat` (proc(5)): user, nice, system, idle, iowait, irq, softirq,
/// steal, in hundredths of a second (`USER_HZ` is 100 on every architecture that Rust runs on).
fn busy(text: &str) -> Option<Busy> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<f64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let &[user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields.as_slice() else {
        return None;
    };
    let used = (user + nice + system + irq + softirq) / 100.0;
    Some(Busy { used, stolen: steal / 100.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_used_what_its_first_line_says() {
        let text = "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n";
        assert_eq!(usage(text), Some(Duration::from_millis(1500)));
        assert_eq!(usage("nr_periods 0\n"), None);
    }

    #[test]
    fn threads_of_the_kernel_are_told_by_their_parent() {
        assert!(works_for_sockets("16 (ksoftirqd/0) S 2 0 0 0 -1 69238848"));
        assert!(works_for_sockets("77 (kworker/1:2-events) I 2 0 0 0"));
        assert!(!works_for_sockets("18 (rcu_preempt) I 2 0 0 0"));
        assert!(!works_for_sockets("99 (ksoftirqd/0) S 1 99 99 0"), "a name can be lent");
        assert!(!works_for_sockets("99"));
    }

    #[test]
    fn a_thread_that_is_new_began_at_nothing() {
        let of = |threads: &[(u32, u64)]| -> Threads {
            threads.iter().map(|(id, used)| (*id, Duration::from_nanos(*used))).collect()
        };
        let (before, now) = (of(&[(1, 100), (2, 500)]), of(&[(1, 130), (3, 7)]));
        assert_eq!(grown(&before, &now), Duration::from_nanos(37));
        assert_eq!(
            ran("9350720194 185649098579 193016\n"),
            Some(Duration::from_nanos(9_350_720_194))
        );
    }

    #[test]
    fn waiting_is_not_being_busy() {
        let text = "cpu  100 200 300 9999 8888 10 20 50 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy(text), Some(Busy { used: 6.3, stolen: 0.5 }));
        assert_eq!(busy("cpu  1 2 3\n"), None);
    }
}
