//! How connections of workloads went, as an observer sees them that has no part in redirecting: by
//! their ends on the wire, the configuration, and whether the kernel has authorized them. Pure, so that
//! it is tested on the host.

use crate::addr::{self, Addr};
use crate::connect::{Caller, Maps};
use crate::destination::DestinationKey;
use crate::listener;
use crate::workload::PortKey;
use crate::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};

abi! {
    /// Key of `COVERAGE`, whose value is a count.
    pub struct CoverKey[16] {
        /// The workload's [id](crate::workload#ids).
        pub workload: u64,
        /// How it went: one of the constants below.
        pub how: u32,
        /// Explicit padding; always zero, because keys compare by bytes.
        pub pad: u32,
    }
}

/// To the agent's listener.
pub const TO_AGENT: u32 = 1;
/// Straight to a workload of this node, authorized by the kernel.
pub const TO_DIRECT: u32 = 2;
/// Straight to a destination of the mesh that should have had the agent.
pub const TO_BYPASS: u32 = 3;
/// To what the mesh does not know.
pub const TO_OUTSIDE: u32 = 4;
/// From the agent, which connects from the workload's own address.
pub const FROM_AGENT: u32 = 5;
/// Straight from a workload of this node, authorized by the kernel.
pub const FROM_DIRECT: u32 = 6;
/// Straight from anybody else.
pub const FROM_OTHERS: u32 = 7;
/// A raw socket was made: what it sends, no hook sees.
pub const RAW: u32 = 8;
/// A socket of MPTCP was made.
pub const MPTCP: u32 = 9;

/// Was open when the workload was enrolled: no hook has seen it being opened. Counted by the agent.
pub const EARLIER: u32 = 11;

/// From a network namespace that is not the workload's, by a process in its cgroup.
pub const TO_ELSEWHERE: u32 = 10;

/// Direction and word of each, as metrics and people see it.
pub const HOW: [(u32, &str, &str); 11] = [
    (TO_AGENT, "outbound", "agent"),
    (TO_DIRECT, "outbound", "direct"),
    (TO_BYPASS, "outbound", "bypassed"),
    (TO_OUTSIDE, "outbound", "outside"),
    (FROM_AGENT, "inbound", "agent"),
    (FROM_DIRECT, "inbound", "direct"),
    (FROM_OTHERS, "inbound", "bypassed"),
    (TO_ELSEWHERE, "outbound", "other_namespace"),
    (RAW, "socket", "raw"),
    (MPTCP, "socket", "mptcp"),
    (EARLIER, "socket", "earlier"),
];

/// How a connection goes that a workload opens to `to`, where it really goes; `is_authorized`: by the
/// kernel. `None`: it stays within the workload.
#[inline(always)]
pub fn outbound(
    caller: &Caller,
    (to, port_be): (Addr, u16),
    is_authorized: bool,
    maps: &impl Maps,
) -> Option<u32> {
    if listener::is_only((to, port_be)) {
        return Some(TO_AGENT);
    }
    if addr::is_loopback(to) || addr::is_unspecified(to) {
        return None;
    }
    let found = match maps.destination(&DestinationKey::tcp(to, port_be)) {
        None => maps.destination(&DestinationKey::any_tcp_port(to)),
        found => found,
    };
    let Some(found) = found else { return Some(TO_OUTSIDE) };
    if found.owner == caller.netns || found.workload == caller.source.workload {
        return None;
    }
    // Only a workload of this node has an id there.
    let is_neighbor = found.set == 0 && found.workload != 0;
    Some(if is_neighbor && is_authorized { TO_DIRECT } else { TO_BYPASS })
}

/// The owner of a connection that has arrived in the namespace `netns`, and how it came; `is_authorized`: by
/// the kernel. `None`: it is for the agent itself, or for nobody that the mesh knows.
#[inline(always)]
pub fn inbound(
    netns: u64,
    local: (Addr, u16),
    remote: Addr,
    is_authorized: bool,
    maps: &impl Maps,
) -> Option<(u64, u32)> {
    let (own, port_be) = local;
    let port = u16::from_be(port_be);
    if port == OUTBOUND_PORT || port == PLAINTEXT_PORT || port == HBONE_PORT {
        return None;
    }
    let known = match maps.inbound(&PortKey::new(netns, port_be)) {
        None => maps.inbound(&PortKey::new(netns, 0)),
        found => found,
    };
    let workload = known?.workload;
    // The agent's last hop is from an address of the namespace.
    if remote == own || addr::is_inside(remote) {
        return Some((workload, FROM_AGENT));
    }
    let how = match maps.destination(&DestinationKey::any_tcp_port(remote)) {
        Some(found) if found.workload != 0 && is_authorized => FROM_DIRECT,
        _ => FROM_OTHERS,
    };
    Some((workload, how))
}
