//! What a connection costs the agents in memory.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::apps::Client;

use crate::carriage::Counters;
use crate::slot::Slot;
use crate::workload::{ECHO, Path};

/// How many connections are held.
pub(crate) const CONNECTIONS: u64 = 2000;

/// How many of them are opened at the same time.
const AT_ONCE: u64 = 64;

/// Memory that the agents of both nodes do not share with others (`RssAnon`), in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Where the connections went.
    pub path: Path,
    /// After the first connection.
    pub idle: u64,
    /// With [`CONNECTIONS`] open connections, each of which has been used.
    pub held: u64,
}

impl Memory {
    /// Opens connections through the mesh, and keeps them for a moment.
    ///
    /// # Errors
    ///
    /// A connection failed.
    pub(crate) fn measure(slot: &Slot, path: Path) -> Result<Self> {
        let counters = Counters::now(slot)?;
        let to = slot.target(path, ECHO).context("no service to connect to")?;
        let client = Client::to(to).arg("--send").arg("hello");
        let seen = client.run(slot.client())?.single()?;
        ensure!(seen.error.is_none(), "the first connection failed: {seen:?}");
        let idle = anonymous(slot)?;
        let (held, opened) = client.times(CONNECTIONS, AT_ONCE).hold(slot.client())?;
        let memory = Self { path, idle, held: anonymous(slot)? };
        ensure!(opened.failed == 0, "connections failed: {:?}", opened.errors);
        let closed = held.stop()?;
        ensure!(closed.connections == CONNECTIONS, "connections were lost: {closed:?}");
        if let Some(expected) = slot.contender.verdict(path) {
            counters.check_verdicts(&Counters::now(slot)?, expected, CONNECTIONS)?;
        }
        Ok(memory)
    }

    /// Bytes for each connection, of both agents together.
    #[expect(clippy::cast_precision_loss, reason = "sizes of processes are far below 2^52")]
    pub(crate) fn per_connection(&self) -> f64 {
        self.held.saturating_sub(self.idle) as f64 / CONNECTIONS as f64
    }
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
    fn anonymous_memory_is_read_from_the_status() {
        let status = "Name:\tmesh-agent\nVmRSS:\t   20480 kB\nRssAnon:\t   10240 kB\n";
        assert_eq!(rss_anon(status), Some(10 << 20));
        assert_eq!(rss_anon("Name:\tkthreadd\n"), None);
    }
}
