//! Reports of the kernel, by the ring buffer.

use aya_ebpf::programs::SockOpsContext;
use mesh_common::addr::Addr;
use mesh_common::connect::Decision;
use mesh_common::event::{CLOSED, Event, OPENED};
use mesh_common::record::Record;
use mesh_common::source::Source;
use mesh_common::summary::{Sum, SumKey};

use crate::maps::EVENTS;
use crate::{ctx, summary};

/// How a direct connection ended.
pub(crate) struct Ending {
    /// An `errno` if it never was established, or 0.
    pub(crate) errno: u32,
    /// Payload bytes from the client.
    pub(crate) sent: u64,
    /// Payload bytes to the client.
    pub(crate) received: u64,
    /// Nanoseconds since it was opened.
    pub(crate) lasted_ns: u64,
    /// `ACCELERATED` or nothing.
    pub(crate) flags: u32,
}

/// Reports a `connect()` that came to nothing, or went past the agent.
#[inline(always)]
pub(crate) fn refused(kind: u32, source: &Source, origin: (Addr, u16), decision: &Decision) {
    let mut key = SumKey {
        source: source.workload,
        destination: decision.workload,
        policy: decision.policy,
        origin: origin.0,
        server: decision.addr,
        origin_port_be: origin.1,
        server_port_be: decision.port_be,
        kind,
        errno: 0,
        interval: 0,
    };
    summary::refused(&mut key);
}

/// Reports that a direct connection is established.
#[inline(always)]
pub(crate) fn opened(context: &SockOpsContext, record: &Record) {
    let nothing = Ending { errno: 0, sent: 0, received: 0, lasted_ns: 0, flags: 0 };
    report(OPENED, context, record, &nothing);
}

/// Reports that a direct connection is over.
#[inline(always)]
pub(crate) fn closed(context: &SockOpsContext, record: &Record, ending: &Ending) {
    report(CLOSED, context, record, ending);
}

#[inline(always)]
fn report(kind: u32, context: &SockOpsContext, record: &Record, ending: &Ending) {
    let local = ctx::local(context);
    let srtt_us = ctx::srtt_us(context);
    let is_failure = ending.errno != 0;
    let may_report = !(is_failure || summary::is_crowded()) || summary::spends(record.source);
    let Some(mut entry) = may_report.then(|| EVENTS.reserve(0)).flatten() else {
        return summed(kind, record, ending);
    };
    entry.write(Event {
        kind,
        errno: ending.errno,
        source: record.source,
        destination: record.destination,
        policy: record.policy,
        client: local.addr,
        origin: record.addr,
        server: record.picked,
        client_port_be: local.port_be,
        origin_port_be: record.port_be,
        server_port_be: record.picked_port_be,
        pad: 0,
        backend: record.backend,
        srtt_us,
        sent: ending.sent,
        received: ending.received,
        lasted_ns: ending.lasted_ns,
        flags: ending.flags,
        pad_end: 0,
    });
    entry.submit(0);
}

/// Counts a direct connection that has no event of its own.
#[inline(always)]
fn summed(kind: u32, record: &Record, ending: &Ending) {
    let mut key = SumKey {
        source: record.source,
        destination: record.destination,
        policy: record.policy,
        origin: record.addr,
        server: record.picked,
        origin_port_be: record.port_be,
        server_port_be: record.picked_port_be,
        kind,
        errno: ending.errno,
        interval: 0,
    };
    let sum = Sum {
        connections: 1,
        sent: ending.sent,
        received: ending.received,
        lasted_ns: ending.lasted_ns,
    };
    summary::add(&mut key, &sum);
}
