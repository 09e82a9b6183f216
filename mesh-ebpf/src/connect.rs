//! `cgroup/connect4`, `connect6`: whose socket is it, is the destination ours, and what now.

use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_prandom_u32,
    bpf_set_retval,
};
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mesh_common::addr::{self, Addr};
use mesh_common::backend::Slot;
use mesh_common::connect::{Action, Caller, Maps, decide, may_go_past};
use mesh_common::destination::{ConsumerKey, Destination, DestinationKey, TCP};
use mesh_common::record::{self, AGENT, CAN_ACCELERATE, Record};
use mesh_common::source::{
    BY_CGROUP, ENROLLED, MAX_CGROUP_LEVEL, NODE, Source, SourceKey, WAITING,
};
use mesh_common::verdict::{Verdict, VerdictKey};
use mesh_common::workload::{FAIL_CLOSED, Inbound, PortKey, Workload};
use mesh_common::{OUTBOUND_PORT, event, stats};

use crate::maps::{
    BACKENDS, CONSUMERS, DESTINATIONS, INBOUND, PORTS, PROBES, SOURCES, VERDICTS, WORKLOADS, count,
};
use crate::{agent, ctx, events};

/// The hook's return value that lets the `connect()` go on.
const ALLOW: i32 = 1;
/// The hook's return value that fails the `connect()`: with `EPERM`, as a local firewall would.
const DENY: i32 = 0;
/// `ECONNREFUSED`, as a helper takes it.
const REFUSED: i32 = -111;
/// `127.0.0.1`, network byte order.
pub(crate) const LOOPBACK_V4: u32 = 0x7f00_0001_u32.to_be();
/// `::1`.
pub(crate) const LOOPBACK_V6: Addr = [0, 0, 0, 1_u32.to_be()];

/// What `redirect` found.
enum Outcome {
    Allow,
    Deny,
    To(Addr, u16),
}

/// The maps, as the decision asks them.
struct Kernel;

/// Whose socket it is.
enum Owner {
    /// Nobody's that the mesh knows.
    Nobody,
    /// The node's own: neither a pod's nor a unit's.
    Node,
    /// A workload's. The second: its namespace is the node's.
    Workload(SourceKey, Source, bool),
}

pub(crate) fn v4(context: &SockAddrContext) -> i32 {
    match redirect(context, true, ctx::v4(context)) {
        Outcome::Allow => ALLOW,
        Outcome::Deny => DENY,
        Outcome::To(addr, port_be) => {
            // Its last word is an IPv4 address: the decision keeps families apart.
            ctx::set_v4(context, addr[3], port_be);
            ALLOW
        }
    }
}

pub(crate) fn v6(context: &SockAddrContext) -> i32 {
    let asked = ctx::v6(context);
    // A v4-mapped destination is IPv4 on the wire, and so is the way to the agent.
    match redirect(context, addr::to_v4_be(asked).is_some(), asked) {
        Outcome::Allow => ALLOW,
        Outcome::Deny => DENY,
        Outcome::To(addr, port_be) => {
            ctx::set_v6(context, addr, port_be);
            ALLOW
        }
    }
}

#[inline(always)]
fn redirect(context: &SockAddrContext, v4: bool, asked: Addr) -> Outcome {
    if ctx::protocol(context) != u32::from(TCP) {
        return Outcome::Allow;
    }
    let netns = ctx::netns(context);
    // Most sockets of a node end here: one look-up for traffic that is not the mesh's.
    let (key, source, shares) = match owner(netns) {
        Owner::Nobody => return Outcome::Allow,
        Owner::Node => return probe(context, asked),
        Owner::Workload(key, source, shares) => (key, source, shares),
    };
    let remembered = ctx::role(context);
    if remembered == AGENT {
        return Outcome::Allow;
    }
    let port_be = ctx::port_be(context);
    let caller = Caller { netns, source, shares };
    let decision = decide(&caller, asked, port_be, &Kernel);
    let role = match decision.verdict {
        Action::Pass => {
            // The same socket may have been redirected by an earlier, failed connect().
            if remembered != 0 {
                ctx::forget(context);
            }
            count(stats::PASS);
            return Outcome::Allow;
        }
        Action::Deny => {
            count(stats::DENIED);
            events::refused(event::DENIED, &source, (asked, port_be), &decision);
            return Outcome::Deny;
        }
        Action::Nobody => {
            count(stats::NOBODY);
            events::refused(event::NOBODY, &source, (asked, port_be), &decision);
            // SAFETY: a helper that takes a number.
            unsafe { bpf_set_retval(REFUSED) };
            return Outcome::Deny;
        }
        Action::Itself => record::ITSELF,
        Action::Direct => record::DIRECT,
        Action::Proxy => record::REDIRECTED,
    };
    let mut record = Record {
        source_id: key.id,
        source_kind: key.kind,
        role,
        addr: asked,
        port_be,
        picked_port_be: decision.port_be,
        backend: decision.backend,
        picked: decision.addr,
        source: source.workload,
        destination: decision.workload,
        policy: decision.policy,
        flags: if decision.accelerate { CAN_ACCELERATE } else { 0 },
        ..Record::new(role)
    };
    let needs_agent = role == record::REDIRECTED || source.flags & FAIL_CLOSED != 0;
    let serves = source.flags & WAITING == 0;
    if needs_agent && !(serves && agent::answers(context, v4)) {
        if !may_go_past(&source, asked, &decision) {
            count(stats::FAILED_CLOSED);
            events::refused(event::FAILED_CLOSED, &source, (asked, port_be), &decision);
            return Outcome::Deny;
        }
        count(stats::FAILED_OPEN);
        events::refused(event::FAILED_OPEN, &source, (asked, port_be), &decision);
        // Its peer is shown as the application asked for it.
        record.role = record::PASSED;
    }
    if !ctx::remember(context, &mut record) {
        // Without the record the other end could not tell whose connection it is.
        count(stats::NO_MEMORY);
        return Outcome::Deny;
    }
    if record.role == record::REDIRECTED {
        debug!(context, "to the agent: netns {} port {}", netns, u16::from_be(port_be));
        count(stats::PROXY);
        let to = if v4 { addr::from_v4_be(LOOPBACK_V4) } else { LOOPBACK_V6 };
        return Outcome::To(to, OUTBOUND_PORT.to_be());
    }
    if record.role == record::DIRECT {
        debug!(context, "direct: netns {} port {}", netns, u16::from_be(port_be));
        count(stats::DIRECT);
    }
    Outcome::To(decision.addr, decision.port_be)
}

/// A connection of the node's own processes: to a port that declares a health probe, it is one.
#[inline(always)]
fn probe(context: &SockAddrContext, asked: Addr) -> Outcome {
    let key = DestinationKey::tcp(asked, ctx::port_be(context));
    // SAFETY: entries of a hash may be replaced while they are read; every bit pattern is a value.
    let Some(workload) = (unsafe { PROBES.get(key) }).copied() else { return Outcome::Allow };
    if ctx::role(context) == AGENT {
        return Outcome::Allow;
    }
    let mut record = Record { destination: workload, ..Record::new(record::PROBE) };
    if ctx::remember(context, &mut record) {
        count(stats::PROBE);
    } else {
        // It goes on, and arrives as any other connection does.
        count(stats::NO_MEMORY);
    }
    Outcome::Allow
}

/// Whose socket it is, of one in the namespace `netns`.
#[inline(always)]
fn owner(netns: u64) -> Owner {
    let key = SourceKey::netns(netns);
    let Some(source) = get(key) else { return Owner::Nobody };
    if source.flags & ENROLLED != 0 {
        return Owner::Workload(key, source, false);
    }
    if source.flags & BY_CGROUP != 0
        && let Some((key, source)) = by_cgroup()
    {
        return Owner::Workload(key, source, true);
    }
    if source.flags & NODE != 0 { Owner::Node } else { Owner::Nobody }
}

/// The workload whose cgroup the calling task is in, or below. The innermost one counts.
#[inline(always)]
fn by_cgroup() -> Option<(SourceKey, Source)> {
    // SAFETY: a helper without arguments.
    let own = SourceKey::cgroup(unsafe { bpf_get_current_cgroup_id() });
    if let Some(source) = get(own) {
        return Some((own, source));
    }
    let mut level = MAX_CGROUP_LEVEL;
    while level > 0 {
        // SAFETY: the helper answers 0 for a level that the task does not have.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level.cast_signed()) };
        if id != 0 {
            let key = SourceKey::cgroup(id);
            if let Some(source) = get(key) {
                return Some((key, source));
            }
        }
        level -= 1;
    }
    None
}

#[inline(always)]
fn get(key: SourceKey) -> Option<Source> {
    // SAFETY: as in `probe`.
    unsafe { SOURCES.get(key) }.copied()
}

impl Maps for Kernel {
    #[inline(always)]
    fn destination(&self, key: &DestinationKey) -> Option<Destination> {
        // SAFETY: as in `probe`.
        unsafe { DESTINATIONS.get(key) }.copied()
    }

    #[inline(always)]
    fn consumer(&self, key: &ConsumerKey) -> Option<u32> {
        // SAFETY: as in `probe`.
        unsafe { CONSUMERS.get(key) }.copied()
    }

    #[inline(always)]
    fn slot(&self, set: u32, index: u32) -> Option<&Slot> {
        // SAFETY: as in `probe`; the array lives until the program ends, also if it is replaced.
        unsafe { BACKENDS.get_value(&set, &index) }
    }

    #[inline(always)]
    fn workload(&self, id: u64) -> Option<Workload> {
        // SAFETY: as in `probe`.
        unsafe { WORKLOADS.get(id) }.copied()
    }

    #[inline(always)]
    fn port(&self, key: &PortKey) -> Option<u32> {
        // SAFETY: as in `probe`.
        unsafe { PORTS.get(key) }.copied()
    }

    #[inline(always)]
    fn verdict(&self, key: &VerdictKey) -> Option<Verdict> {
        // SAFETY: as in `probe`.
        unsafe { VERDICTS.get(key) }.copied()
    }

    #[inline(always)]
    fn inbound(&self, key: &PortKey) -> Option<Inbound> {
        // SAFETY: as in `probe`.
        unsafe { INBOUND.get(key) }.copied()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }
}
