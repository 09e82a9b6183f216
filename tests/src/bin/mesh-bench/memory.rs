//! Memory of the agents for a connection, and what they keep of it when it has ended.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::apps::Client;
use mesh_tests::expect::eventually;
use mesh_tests::process::DEADLINE;

use crate::carriage::Counters;
use crate::slot::Slot;
use crate::workload::{ECHO, Path};

/// How many connections are held: enough that what allocators round up to is small beside it.
pub(crate) const MANY: u64 = 10_000;

/// How many are held if it has to be quick.
pub(crate) const FEW: u64 = 2000;

/// After how long without them it is measured what is left of them: the other agent has closed its
/// own by then too, and allocators have given back what they do.
const LEFT_AFTER: Duration = Duration::from_secs(5);

/// Files that a program has open beside its connections, and some more: maps, tunnels, listeners.
const SPARE: u64 = 1000;

/// How many of them are opened at the same time.
const AT_ONCE: u64 = 64;

/// Memory that the agents of both nodes do not share with others (`RssAnon`), in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Where the connections went.
    pub path: Path,
    /// How many connections were held.
    pub connections: u64,
    /// After the first connection.
    pub idle: u64,
    /// With all connections open, each of which has been used.
    pub held: u64,
    /// [`LEFT_AFTER`] all of them have ended.
    pub left: u64,
}

impl Memory {
    /// Opens connections through the mesh, keeps them for a moment, and closes them.
    ///
    /// # Errors
    ///
    /// A connection failed.
    pub(crate) fn measure(slot: &Slot, path: Path, connections: u64) -> Result<Self> {
        let counters = Counters::now(slot)?;
        let to = slot.target(path, ECHO).context("no service to connect to")?;
        let client = Client::to(to).arg("--send").arg("hello");
        let seen = client.run(slot.client())?.single()?;
        ensure!(seen.error.is_none(), "the first connection failed: {seen:?}");
        let idle = anonymous(slot)?;
        let (open, opened) = client.times(connections, AT_ONCE).hold(slot.client())?;
        let held = anonymous(slot)?;
        ensure!(opened.failed == 0, "connections failed: {:?}", opened.errors);
        let closed = open.stop()?;
        ensure!(closed.connections == connections, "connections were lost: {closed:?}");
        all_ended(slot)?;
        pass(LEFT_AFTER);
        if let Some(expected) = slot.contender.verdict(path) {
            counters.check_verdicts(&Counters::now(slot)?, expected, connections)?;
        }
        Ok(Self { path, connections, idle, held, left: anonymous(slot)? })
    }

    /// Bytes for each open connection, of both agents together.
    pub(crate) fn per_connection(&self) -> f64 {
        self.each(self.held)
    }

    /// Bytes that both agents keep of each connection that has ended.
    pub(crate) fn left_per_connection(&self) -> f64 {
        self.each(self.left)
    }

    /// The memory beyond the idle agents', for each connection.
    #[expect(clippy::cast_precision_loss, reason = "sizes of processes are far below 2^52")]
    fn each(&self, bytes: u64) -> f64 {
        bytes.saturating_sub(self.idle) as f64 / self.connections as f64
    }
}

/// Waits until the agent of the client's node has no connection open.
fn all_ended(slot: &Slot) -> Result<()> {
    let Some(agent) = slot.agent() else { return Ok(()) };
    eventually("connections to end", DEADLINE, || {
        let open = agent.metrics().ok()?.sum("mesh_connections_open", &[]);
        (open == 0.0).then_some(())
    })
}

#[expect(clippy::disallowed_methods, reason = "what is measured is what is left after that time")]
fn pass(length: Duration) {
    std::thread::sleep(length);
}

/// How many connections can be held of those that are wanted, if no program may have more than
/// `files` open files, and one of them needs `each` for a connection.
pub(crate) fn affordable(wanted: u64, files: u64, each: u64) -> u64 {
    wanted.min(files.saturating_sub(SPARE) / each)
}

/// Bytes of all processes that carry the bytes.
fn anonymous(slot: &Slot) -> Result<u64> {
    let mut all = 0;
    for group in slot.proxy_groups() {
        let ids = fs::read_to_string(group.join("cgroup.procs")).context("no group of an agent")?;
        for id in ids.lines() {
            let status = fs::read_to_string(format!("/proc/{id}/status"));
            all +=
                rss_anon(&status.context("an agent ended")?).context("no RssAnon of an agent")?;
        }
    }
    Ok(all)
}

/// Finds the line in `/proc/<pid>/status` (proc(5)).
fn rss_anon(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_costs_what_is_beyond_the_idle_agents() {
        let (idle, held, left) = (8 << 20, 18 << 20, 7 << 20);
        let memory = Memory { path: Path::CrossNode, connections: 1024, idle, held, left };
        let each = (memory.per_connection(), memory.left_per_connection());
        assert_eq!(each, (10_240.0, 0.0), "less than before is nothing left");
    }

    #[test]
    fn no_more_connections_are_held_than_files_may_be_open() {
        let limits = [65_536, 20_000, 4096, 10];
        assert_eq!(limits.map(|files| affordable(MANY, files, 1)), [10_000, 10_000, 3096, 0]);
        assert_eq!(affordable(MANY, 20_000, 2), 9500);
    }

    #[test]
    fn anonymous_memory_is_read_from_the_status() {
        let status = "Name:\tmesh-agent\nVmRSS:\t   20480 kB\nRssAnon:\t   10240 kB\n";
        assert_eq!(rss_anon(status), Some(10 << 20));
        assert_eq!(rss_anon("Name:\tkthreadd\n"), None);
    }
}
