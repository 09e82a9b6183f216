//! Whether connections went the way that is to be measured: what the agent's metrics and the
//! client's interface say.
//!
//! A mesh that quietly falls back to another way would be measured for what it is not.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};

use crate::load::Report;
use crate::slot::Slot;
use crate::workload::{Contender, Path, Workload};

/// The ways of a connection by the kernel's verdict, apart from being left alone: the agent's own
/// connections are, too.
const WAYS: [&str; 2] = ["direct", "proxy"];

/// Counters at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    /// Calls of `connect()` on the client's node, by verdict. Empty without an agent.
    connects: BTreeMap<String, f64>,
    /// Reports of the kernel that its agent has not got.
    unreported: f64,
    /// The bytes and packets that the client's interface has sent.
    sent: Sent,
}

/// The bytes and packets that an interface has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sent {
    bytes: u64,
    packets: u64,
}

impl Counters {
    /// Reads the counters of a slot.
    ///
    /// # Errors
    ///
    /// The agent or the kernel does not say.
    pub(crate) fn now(slot: &Slot) -> Result<Self> {
        let mut connects = BTreeMap::new();
        let mut unreported = 0.0;
        if let Some(agent) = slot.agent() {
            let metrics = agent.metrics()?;
            unreported = metrics.sum("mesh_kernel_events_lost_total", &[]);
            for sample in metrics.samples() {
                if sample.name == "mesh_kernel_connects_total"
                    && let Some(verdict) = sample.labels.get("verdict")
                {
                    connects.insert(verdict.clone(), sample.value);
                }
            }
        }
        // Not /proc/net: that is of the process, whose first thread is elsewhere.
        let text = slot.client().netns().run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        let sent = sent(&text.context("cannot read an interface's counters")?);
        Ok(Self { connects, unreported, sent: sent.context("the client has no eth0")? })
    }

    /// Checks that what a client did since then went the way of this contender.
    ///
    /// # Errors
    ///
    /// It did not, or nobody says.
    pub(crate) fn check(&self, slot: &Slot, cell: (Path, Workload), report: &Report) -> Result<()> {
        let now = Self::now(slot)?;
        let (path, workload) = cell;
        if let Some(expected) = slot.contender.verdict(path) {
            let new = workload.is_of_new_connections();
            let opened = if new { report.done } else { workload.connections() as u64 };
            self.check_verdicts(&now, expected, opened)?;
        }
        if slot.contender == Contender::Accelerated && path == Path::SameNode {
            self.check_wire(&now, workload, report)?;
        }
        Ok(())
    }

    /// Checks that `opened` connections at least had the expected verdict, and none another way's.
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
    pub(crate) fn check_verdicts(&self, now: &Self, expected: &str, opened: u64) -> Result<()> {
        let of = |counters: &Self, verdict: &str| counters.connects.get(verdict).copied();
        let grown = |verdict: &str| {
            of(now, verdict).unwrap_or_default() - of(self, verdict).unwrap_or_default()
        };
        ensure!(
            of(now, expected).is_some(),
            "the agent's metrics have no mesh_kernel_connects_total{{verdict=\"{expected}\"}}"
        );
        for other in WAYS.into_iter().filter(|way| *way != expected) {
            let strayed = grown(other);
            ensure!(strayed == 0.0, "{strayed} connections were `{other}`, and not `{expected}`");
        }
        let unreported = now.unreported - self.unreported;
        ensure!(
            unreported == 0.0,
            "the agent has not got {unreported} reports of the kernel, whose price is not in this"
        );
        let went = grown(expected);
        ensure!(went >= opened as f64, "{went} of {opened} connections were `{expected}`");
        Ok(())
    }

    /// Checks that most bytes, or most exchanges, were not seen on the wire.
    fn check_wire(&self, now: &Self, workload: Workload, report: &Report) -> Result<()> {
        let bytes = now.sent.bytes - self.sent.bytes;
        let packets = now.sent.packets - self.sent.packets;
        // Traffic that is not accelerated sends each byte, and at least one packet for each exchange.
        let (seen, all, what) = match workload {
            Workload::Bulk1 | Workload::Bulk8 => (bytes, report.bytes, "bytes"),
            Workload::Pingpong | Workload::HttpRate | Workload::HttpSaturated => {
                (packets, report.done, "packets for so many exchanges")
            }
            // Opening and closing is always TCP's; and what is not on this path is not accelerated.
            Workload::HttpNewConnection
            | Workload::Connect
            | Workload::Http2Rate
            | Workload::Http2Saturated
            | Workload::StoppedReader
            | Workload::StoppedReaderBulk
            | Workload::Mixed1
            | Workload::Mixed8
            | Workload::MixedPaced => return Ok(()),
        };
        if seen > all / 2 {
            bail!("not accelerated: the client's interface has sent {seen} of {all} {what}");
        }
        Ok(())
    }
}

/// Finds the counters of `eth0` in `/proc/net/dev`: the ninth and tenth figure (proc(5)).
fn sent(text: &str) -> Option<Sent> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"))?;
    let mut fields = line.split_whitespace().skip(8).map(str::parse);
    Some(Sent { bytes: fields.next()?.ok()?, packets: fields.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(direct: f64, proxy: f64, bytes: u64, packets: u64) -> Counters {
        let connects = [("direct", direct), ("proxy", proxy), ("pass", 0.0)];
        let connects = connects.map(|(verdict, count)| (verdict.to_owned(), count)).into();
        Counters { connects, unreported: 0.0, sent: Sent { bytes, packets } }
    }

    #[track_caller]
    fn check(now: &Counters, expected: &str, opened: u64, expect: &str) {
        let checked = counters(5.0, 5.0, 0, 0).check_verdicts(now, expected, opened);
        let said = checked.map_or_else(|error| error.to_string(), |()| "fine".to_owned());
        assert_eq!(said, expect);
    }

    #[test]
    fn a_connection_that_went_another_way_is_told() {
        check(&counters(13.0, 5.0, 0, 0), "direct", 8, "fine");
        check(&counters(13.0, 5.0, 0, 0), "direct", 9, "8 of 9 connections were `direct`");
        let strayed = "1 connections were `proxy`, and not `direct`";
        check(&counters(13.0, 6.0, 0, 0), "direct", 8, strayed);
        let strayed = "8 connections were `direct`, and not `pass`";
        check(&counters(13.0, 5.0, 0, 0), "pass", 0, strayed);
        let unreported = Counters { unreported: 2.0, ..counters(13.0, 5.0, 0, 0) };
        let expect = "the agent has not got 2 reports of the kernel, whose price is not in this";
        check(&unreported, "direct", 8, expect);
        let unknown = "the agent's metrics have no mesh_kernel_connects_total{verdict=\"fast\"}";
        check(&counters(5.0, 5.0, 0, 0), "fast", 0, unknown);
    }

    #[test]
    fn what_is_on_the_wire_is_not_accelerated() {
        let before = counters(0.0, 0.0, 1000, 10);
        let report = Report { bytes: 10_000, done: 100, ..Report::default() };
        let fails = |now: &Counters, workload| before.check_wire(now, workload, &report).is_err();
        let bytes = counters(0.0, 0.0, 11_000, 20);
        assert!(fails(&bytes, Workload::Bulk1));
        assert!(!fails(&bytes, Workload::Pingpong));
        let packets = counters(0.0, 0.0, 2000, 110);
        assert!(!fails(&packets, Workload::Bulk1));
        assert!(fails(&packets, Workload::Pingpong));
        assert!(!fails(&packets, Workload::Connect));
    }

    #[test]
    fn an_interface_is_found_by_its_name() {
        let text = "Inter-|   Receive\n    lo: 1 1 0 0 0 0 0 0 2 2 0 0 0 0 0 0\n  \
                    eth0: 10 11 0 0 0 0 0 0 20 21 0 0 0 0 0 0\n";
        assert_eq!(sent(text), Some(Sent { bytes: 20, packets: 21 }));
        assert_eq!(sent("lo: 1"), None);
    }
}
