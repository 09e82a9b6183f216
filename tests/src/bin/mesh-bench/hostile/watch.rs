//! Processor time, descriptors and memory of the attacked node's agent, during a flood.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

use super::arena::Arena;
use crate::cpu::Everybody;

/// How often the agent is looked at.
const STEP: Duration = Duration::from_millis(20);

/// Usage of an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct AgentUsage {
    /// Processors, in the mean.
    pub processors: f64,
    /// The most open descriptors.
    pub descriptors: u64,
    /// The most resident memory, in bytes.
    pub memory: u64,
}

/// Usage of an agent, and of others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub agent: Option<AgentUsage>,
    /// Processors that were used by neither the lab nor the kernel on its behalf.
    pub foreign: f64,
}

/// A running observation.
#[derive(Debug)]
pub(super) struct Watch {
    begin: Instant,
    before: Everybody,
    done: Arc<AtomicBool>,
    looking: Option<JoinHandle<AgentUsage>>,
}

impl Watch {
    /// Begins.
    pub(super) fn start(arena: &Arena) -> Result<Self> {
        let done = Arc::new(AtomicBool::new(false));
        let looking = arena.agent().map(|agent| {
            let (pid, done) = (agent.pid(), Arc::clone(&done));
            std::thread::spawn(move || look(pid, &done))
        });
        let before = Everybody::now(&arena.lab_group(), &arena.agent_group())?;
        Ok(Self { begin: Instant::now(), before, done, looking })
    }

    /// Ends.
    pub(super) fn stop(mut self, arena: &Arena) -> Result<Usage> {
        let after = Everybody::now(&arena.lab_group(), &arena.agent_group())?;
        let seconds = self.begin.elapsed().as_secs_f64().max(1e-3);
        self.done.store(true, Ordering::Relaxed);
        let most = self.looking.take().map(|looking| {
            looking.join().map_err(|_panic| anyhow::anyhow!("the observer of an agent panicked"))
        });
        let spent = after.since(&self.before);
        let agent = most.transpose()?;
        let agent = agent.map(|most| AgentUsage { processors: spent.carrier / seconds, ..most });
        Ok(Usage { agent, foreign: spent.foreign / seconds })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// Looks at an agent again and again, and returns the most of each.
#[expect(clippy::disallowed_methods, reason = "a maximum over time is looked for at times")]
fn look(pid: Pid, done: &AtomicBool) -> AgentUsage {
    let mut most = AgentUsage::default();
    while !done.load(Ordering::Relaxed) {
        // One that has ended is seen by its victims.
        most.descriptors = most.descriptors.max(descriptors(pid).unwrap_or_default());
        most.memory = most.memory.max(resident(pid).unwrap_or_default());
        std::thread::sleep(STEP);
    }
    most
}

/// The number of open descriptors: the size of the folder (Linux 6.2), or its entries.
fn descriptors(pid: Pid) -> Result<u64> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let size = fs::metadata(&folder).context("no process")?.len();
    if size > 0 {
        return Ok(size);
    }
    Ok(fs::read_dir(folder).context("no process")?.count() as u64)
}

/// Resident bytes.
fn resident(pid: Pid) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("no process")?;
    rss(&text).context("no VmRSS of a process")
}

/// Finds the line in `/proc/<pid>/status` (proc(5)).
fn rss(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status() {
        assert_eq!(rss("Name:\tmesh-agent\nVmRSS:\t   20480 kB\n"), Some(20 << 20));
        assert_eq!(rss("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn our_own_descriptors_can_be_counted() {
        let own = Pid::this();
        let before = descriptors(own).unwrap();
        let kept: Vec<_> = (0..8).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        assert!(descriptors(own).unwrap() >= before.min(8) && before > 0);
        drop(kept);
        assert!(resident(own).unwrap() > 1 << 20);
    }
}
