//! Connections that the kernel decides alone: the same reports, without memory of what is open.
//!
//! An agent that is started while they are open reports their ends only, so that nothing here is
//! derived from the difference.

use crate::telemetry::Telemetry;
use crate::telemetry::access_log;
use crate::telemetry::event::{ConnectionEnd, Parties};

impl Telemetry {
    /// Counts a direct connection as opened, as the agent at one end would.
    pub fn kernel_opened(&self, parties: &Parties) {
        self.shared.series.opened(parties);
    }

    /// Reports the end of a direct connection, as the agent at one end would: all metrics, and the
    /// line of the access log.
    pub fn kernel_closed(&self, end: &ConnectionEnd) {
        self.shared.series.closed(end);
        if self.shared.access_log.is_on() {
            self.shared.access_log.push(&access_log::line(end));
        }
    }

    /// Reports a connection of which the kernel says no more than this: it was refused or never
    /// established, or it went past the agent.
    pub fn kernel_only(&self, end: &ConnectionEnd) {
        self.kernel_opened(&end.parties);
        self.kernel_closed(end);
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
