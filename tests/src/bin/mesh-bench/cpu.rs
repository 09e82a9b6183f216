//! Who used how much of the processors.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::slot::Slot;

/// What had been used at a moment, in seconds of one processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    at: Instant,
    proxies: f64,
    load: f64,
    machine: Busy,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// By the agents, or whoever carries the bytes on their behalf: seconds of one processor.
    pub proxies: f64,
    /// By the clients and servers: seconds of one processor.
    pub load: f64,
    /// By all others: processors.
    pub foreign: f64,
}

/// What had been used of the machine at a moment, in seconds of one processor.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Busy {
    /// By what runs here.
    used: f64,
    /// By the host of this virtual machine.
    stolen: f64,
}

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
            machine: machine()?,
        })
    }

    /// What was used since then.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub(crate) fn since(&self, slot: &Slot) -> Result<Usage> {
        let now = Self::now(slot)?;
        let (proxies, load) = (now.proxies - self.proxies, now.load - self.load);
        let used = now.machine.used - self.machine.used;
        let stolen = now.machine.stolen - self.machine.stolen;
        let seconds = (now.at - self.at).as_secs_f64().max(1e-3);
        let foreign = (used + stolen - proxies - load).max(0.0) / seconds;
        Ok(Usage { proxies, load, foreign })
    }
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
    fn waiting_is_not_being_busy() {
        let text = "cpu  100 200 300 9999 8888 10 20 50 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy(text), Some(Busy { used: 6.3, stolen: 0.5 }));
        assert_eq!(busy("cpu  1 2 3\n"), None);
    }
}
