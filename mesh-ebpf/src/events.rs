//! What the kernel reports, by the ring buffer.

use aya_ebpf::programs::SockOpsContext;
use mesh_common::addr::Addr;
use mesh_common::connect::Decision;
use mesh_common::event::{CLOSED, Event, OPENED};
use mesh_common::record::Record;
use mesh_common::source::Source;
use mesh_common::stats;

use crate::ctx;
use crate::maps::{EVENTS, count};

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
    let Some(mut entry) = EVENTS.reserve(0) else { return count(stats::EVENTS_LOST) };
    entry.write(Event {
        kind,
        errno: 0,
        source: source.workload,
        destination: decision.workload,
        policy: decision.policy,
        client: [0; 4],
        origin: origin.0,
        server: decision.addr,
        client_port_be: 0,
        origin_port_be: origin.1,
        server_port_be: decision.port_be,
        pad: 0,
        backend: decision.backend,
        srtt_us: 0,
        sent: 0,
        received: 0,
        lasted_ns: 0,
        flags: 0,
        pad_end: 0,
    });
    entry.submit(0);
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
    let Some(mut entry) = EVENTS.reserve(0) else { return count(stats::EVENTS_LOST) };
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
