//! Connections that the kernel decides alone: the same reports, without memory of what is open.
//!
//! An agent that is started while they are open reports their ends only, so that nothing here is
//! derived from the difference.

use crate::telemetry::Telemetry;
use crate::telemetry::event::{ConnectionEnd, Parties};

impl Telemetry {
    /// Counts direct connections as opened, as the agent at one end would.
    pub fn kernel_opened(&self, parties: &Parties, connections: u64) {
        self.shared.series.opened(parties, connections);
    }

    /// Reports the end of direct connections, as the agent at one end would: all metrics, and one
    /// line of the access log for all that `end` stands for.
    pub fn kernel_closed(&self, end: &ConnectionEnd, connections: u64) {
        self.closed(end, connections, false);
    }

    /// `is_limited`: the kernel limits its reports of such connections.
    fn closed(&self, end: &ConnectionEnd, connections: u64, is_limited: bool) {
        let series = self.shared.series.closed(end, connections);
        // Sums are few.
        if connections > 1 {
            series.unlogged(connections);
            self.shared.write_line(end, connections);
        } else if is_limited || self.shared.may_log(end) {
            self.shared.write_line(end, connections);
        } else {
            series.unlogged(1);
        }
    }

    /// Reports connections of which the kernel says no more than this: they were refused or never
    /// established, or they went past the agent.
    pub fn kernel_only(&self, end: &ConnectionEnd, connections: u64) {
        self.kernel_opened(&end.parties, connections);
        // Of those that fail, the kernel reports a bounded number.
        self.closed(end, connections, end.failed().is_some());
    }

    /// Counts events of the kernel that could not be read.
    pub fn events_malformed(&self, count: usize) {
        self.shared.events_malformed.add(count as u64);
    }

    /// Counts direct connections that were ended because a policy forbids them.
    pub fn policy_closed(&self, count: usize) {
        self.shared.policy_closed.add(count as u64);
    }
}
