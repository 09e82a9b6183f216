//! `sk_lookup`: what arrives at a workload's namespace, before anything listens.
//!
//! The hook knows neither the namespace nor a socket, so that each namespace has a copy of its own
//! with its cookie in it.

use aya_ebpf::programs::SkLookupContext;
use mesh_common::addr::is_loopback;
use mesh_common::arrival::{Own, thread_of, without_entry};
use mesh_common::destination::TCP;
use mesh_common::listener;
use mesh_common::maps::{ListenerKey, ODD, OUTBOUND, PLAINTEXT, TUNNELS, UNIT};
use mesh_common::record::{AGENT, ConnKey, FlowKey};
use mesh_common::source::SourceKey;
use mesh_common::workload::{CAPTURE, FAIL_OPEN, GUARDED, Inbound, PortKey};
use mesh_common::{HBONE_PORT, stats};

use crate::agent;
use crate::ctx::{self, End};
use crate::maps::{FLOWS, INBOUND, LISTENERS, ORIGINS, OWN, SOURCES, count};

/// `SK_PASS`: the usual look-up goes on, or the assigned socket is taken.
const PASS: u32 = 1;
/// `SK_DROP`: as if nothing listened.
const DROP: u32 = 0;

pub(crate) fn run(context: &SkLookupContext) -> u32 {
    if ctx::lookup_protocol(context) != u32::from(TCP) {
        return PASS;
    }
    let (local, remote) = (ctx::lookup_local(context), ctx::lookup_remote(context));
    // It is there: an array has all of its values.
    let Some(own) = OWN.get(0) else { return DROP };
    let (netns, shared) = (own.netns, own.is_shared != 0);
    // Without a listener of the agent there is nothing to reach: whoever else listens at its ports is
    // not the agent.
    if let Some(opener) = opener(own, local, remote) {
        let assigned = assign_of(context, own, opener, OUTBOUND, remote);
        return if assigned { PASS } else { DROP };
    }
    if local.port_be == HBONE_PORT.to_be() && !is_loopback(local.addr) {
        return if assign(context, own, TUNNELS, 0) { PASS } else { DROP };
    }
    if !shared && (is_loopback(local.addr) || local.addr == remote.addr) {
        return PASS;
    }
    let Some(inbound) = inbound(netns, shared, local.port_be) else { return PASS };
    if inbound.flags & CAPTURE == 0 || authorized(netns, local, remote, &inbound) {
        return PASS;
    }
    let unit = if shared { inbound.workload } else { 0 };
    if agent::beats() && assign_of(context, own, unit, PLAINTEXT, remote) {
        count(stats::CAPTURED);
        return PASS;
    }
    if inbound.flags & FAIL_OPEN != 0 && inbound.flags & GUARDED == 0 {
        count(stats::ARRIVED_OPEN);
        return PASS;
    }
    count(stats::REFUSED);
    DROP
}

/// The workload whose `connect()` has sent a connection to the agent; 0: it does not matter, or none is known.
/// `None`: none has. At the agent's own port of loopback all are such, and those without a record are refused
/// there.
#[inline(always)]
fn opener(own: &Own, local: End, remote: End) -> Option<u64> {
    let to = (local.addr, local.port_be);
    let (is_only, shared) = (listener::is_only(to), own.is_shared != 0);
    if is_only && !shared {
        return Some(0);
    }
    if !is_only && !listener::may_be((remote.addr, local.addr, local.port_be)) {
        return None;
    }
    let key = ConnKey::new(own.netns, (remote.addr, remote.port_be), to);
    // SAFETY: entries may be replaced while they are read; every bit pattern is a value.
    match unsafe { ORIGINS.get(key) } {
        Some(record) => Some(if shared { record.source } else { 0 }),
        None if is_only => Some(0),
        None => None,
    }
}

/// The settings of a port of this namespace.
#[inline(always)]
fn inbound(netns: u64, shared: bool, port_be: u16) -> Option<Inbound> {
    if let Some(inbound) = known(netns, port_be) {
        return Some(inbound);
    }
    if shared {
        return None;
    }
    // SAFETY: entries may be replaced while they are read; every bit pattern is a value.
    let source = unsafe { SOURCES.get(SourceKey::netns(netns)) }?;
    without_entry(source)
}

/// The workload that a port of a namespace belongs to, and how it is reached.
#[inline(always)]
pub(crate) fn known(netns: u64, port_be: u16) -> Option<Inbound> {
    // SAFETY: entries may be replaced while they are read; every bit pattern is a value.
    match unsafe { INBOUND.get(PortKey::new(netns, port_be)) } {
        Some(inbound) => Some(*inbound),
        // SAFETY: as above.
        None => unsafe { INBOUND.get(PortKey::new(netns, 0)) }.copied(),
    }
}

/// Whether the kernel has noted this very connection before its SYN was sent, and for the workload
/// that it arrives at.
#[inline(always)]
fn authorized(netns: u64, local: End, remote: End, inbound: &Inbound) -> bool {
    let key = FlowKey::new(netns, (remote.addr, remote.port_be), (local.addr, local.port_be));
    // SAFETY: as in `inbound`.
    let Some(record) = (unsafe { FLOWS.get(key) }) else { return false };
    record.role == AGENT || record.destination == inbound.workload
}

/// Gives the connection to a listener of the workload `unit`, or, where that is 0 or has none, to one that
/// all of the namespace share. False: there is none.
#[inline(always)]
fn assign_of(context: &SkLookupContext, own: &Own, unit: u64, kind: u16, remote: End) -> bool {
    if unit != 0 {
        let kind = kind | UNIT;
        if give(context, unit, kind | own.odd, 0) || give(context, unit, kind | (own.odd ^ ODD), 0)
        {
            return true;
        }
    }
    assign(context, own, kind, thread(own, remote))
}

/// Picks the data thread for the connection of a client.
#[inline(always)]
fn thread(own: &Own, remote: End) -> u32 {
    thread_of(remote.addr, remote.port_be, own.seed, own.threads)
}

/// Gives the connection to a listener of the agent: that of a data thread, or of the first one if that
/// has closed its own already. Where the agent that attached this has none yet, or no more, it is the one
/// before it. False: there is none.
#[inline(always)]
fn assign(context: &SkLookupContext, own: &Own, kind: u16, thread: u32) -> bool {
    let to = |kind, thread| give(context, own.netns, kind, thread);
    let (first, second) = (kind | own.odd, kind | (own.odd ^ ODD));
    to(first, thread)
        || (thread != 0 && to(first, 0))
        || to(second, thread)
        || (thread != 0 && to(second, 0))
}

/// Gives the connection to one listener. False: it is not there.
#[inline(always)]
fn give(context: &SkLookupContext, owner: u64, kind: u16, thread: u32) -> bool {
    let family = ctx::lookup_family(context);
    ctx::assign(context, &LISTENERS, &ListenerKey { owner, kind, family, thread })
}
