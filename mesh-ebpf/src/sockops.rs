//! `sock_ops`: hands what the kernel knows of a connection's opening end to its accepting end, and
//! reports what becomes of direct connections.

use core::ffi::c_void;

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_HDR_OPT_LEN_CB,
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_TCP_CONNECT_CB,
};
use aya_ebpf::programs::{BtfTracePointContext, SockOpsContext};
use mesh_common::addr::is_inside;
use mesh_common::event::{ACCELERATED, RESET_BY_CLIENT};
use mesh_common::flow::{self, Bytes};
use mesh_common::listener;
use mesh_common::record::{
    ACCEPTED, AGENT, CAN_ACCELERATE, ConnKey, DIRECT, FlowKey, ITSELF, PROBE, REDIRECTED, Record,
    WAS_RESET,
};

use crate::ctx::{self, End};
use crate::events::Ending;
use crate::maps::{FLOWS, ORIGINS};
use crate::{accel, agent, events};

pub(crate) fn run(context: &SockOpsContext) {
    match ctx::op(context) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => opening(context),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => opened(context),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(context),
        BPF_SOCK_OPS_STATE_CB => changed(context),
        BPF_SOCK_OPS_HDR_OPT_LEN_CB => accel::sending(context),
        _ => {}
    }
}

/// Before the SYN; the source port is chosen. An entry that is written here is there when the other end
/// accepts. A key may have been left by a connection that nobody accepted, so it is always either
/// written or deleted.
#[inline(always)]
fn opening(context: &SockOpsContext) {
    let (local, remote) = (ctx::local(context), ctx::remote(context));
    let to_listener = listener::may_be((local.addr, remote.addr, remote.port_be));
    let to_itself = local.addr == remote.addr || is_inside(local.addr);
    let record = ctx::ops_record(context);
    let role = record.as_ref().map_or(0, |record| record.role);
    let is_known =
        role == DIRECT || role == PROBE || role == ITSELF || (role == AGENT && to_itself);
    // Failures of the map helpers are not acted on: a missing record makes the agent refuse the
    // connection, the other end take it for a stranger's, or the application see the agent's
    // address; none of these is ever a wrong one.
    if let Some(record) = record
        && is_known
    {
        if role == DIRECT {
            record.opened = agent::now();
        }
        if role == DIRECT || role == PROBE || role == ITSELF {
            ctx::report_states(context);
        }
        let _done = FLOWS.insert(flow(context, local, remote), *record, 0);
    } else if to_listener {
        let to = (remote.addr, remote.port_be);
        let key = ConnKey::new(ctx::ops_netns(context), (local.addr, local.port_be), to);
        let _done = match ctx::ops_record(context) {
            Some(record) if role == REDIRECTED => {
                ctx::report_states(context);
                ORIGINS.insert(key, *record, 0)
            }
            _ => ORIGINS.remove(key),
        };
    } else if to_itself {
        let _done = FLOWS.remove(flow(context, local, remote));
    }
}

/// The connection is established on the opening side.
#[inline(always)]
fn opened(context: &SockOpsContext) {
    let Some(record) = ctx::ops_record(context) else { return };
    if record.role == REDIRECTED {
        // The agent takes its record.
        ctx::report_nothing(context);
    }
    if record.flags & CAN_ACCELERATE != 0 {
        accel::opened(context, record.destination);
    }
    if record.role == DIRECT {
        events::opened(context, record);
    }
}

/// The connection is established on the accepting side, and nobody has accepted it yet.
#[inline(always)]
fn accepted(context: &SockOpsContext) {
    accel::accepted(context);
    let (local, remote) = (ctx::local(context), ctx::remote(context));
    // The agent's last hop is from an address of the namespace.
    if local.addr != remote.addr && !is_inside(remote.addr) {
        return;
    }
    let key = flow(context, remote, local);
    // SAFETY: entries may be replaced while they are read; every bit pattern is a value.
    let Some(found) = (unsafe { FLOWS.get(key) }) else { return };
    if found.role != AGENT {
        return;
    }
    let mut record = *found;
    let _done = FLOWS.remove(key);
    record.role = ACCEPTED;
    // Without memory for it the application sees the agent's address.
    let _kept = ctx::ops_remember(context, &mut record);
}

/// The state of a direct or an accelerated connection, of a probe's, or of one of a workload to itself
/// has changed, on its opening side; or that of one to the agent which is not established yet.
#[inline(always)]
fn changed(context: &SockOpsContext) {
    let (old, new) = ctx::states(context);
    if new != flow::CLOSE && new != flow::FIN_WAIT2 {
        return;
    }
    let shorter = if new == flow::CLOSE { accel::closed(context) } else { (0, 0) };
    let Some(record) = ctx::ops_record(context) else { return };
    let (local, remote) = (ctx::local(context), ctx::remote(context));
    if record.role == REDIRECTED && old == flow::SYN_SENT && new == flow::CLOSE {
        // The agent never sees it: its record would be there until newer ones have taken its room, those of
        // other workloads among them.
        let to = (remote.addr, remote.port_be);
        let key = ConnKey::new(ctx::ops_netns(context), (local.addr, local.port_be), to);
        let _done = ORIGINS.remove(key);
        return;
    }
    let key = flow(context, local, remote);
    if (record.role == PROBE || record.role == ITSELF) && new == flow::CLOSE {
        // A client that comes later from its address and port is somebody else.
        let _done = FLOWS.remove(key);
    }
    // The socket's use after its connection, as when it is undone and listens, is no connection.
    if record.role != DIRECT || record.opened == 0 {
        return;
    }
    let bytes = Bytes { acked: ctx::bytes_acked(context), received: ctx::bytes_received(context) };
    if new == flow::FIN_WAIT2 {
        record.received_at_fin_wait2 = bytes.received;
        return;
    }
    let _done = FLOWS.remove(key);
    let established = old != flow::SYN_SENT;
    let (sent, received) = flow::payload(old, bytes, record.received_at_fin_wait2);
    let errno = if established { 0 } else { flow::errno(ctx::retransmitted(context)) };
    let lasted_ns = agent::now().saturating_sub(core::mem::take(&mut record.opened));
    let ending = Ending {
        errno,
        sent: sent.wrapping_add(shorter.0),
        received: received.wrapping_add(shorter.1),
        lasted_ns,
        flags: if shorter == (0, 0) { 0 } else { ACCELERATED } | reset(record, old),
    };
    events::closed(context, record, &ending);
}

/// The side that has reset the connection, if that can be seen.
#[inline(always)]
fn reset(record: &Record, old: u32) -> u32 {
    if !agent::sees_resets() {
        return 0;
    }
    let who = flow::reset(old, record.flags & WAS_RESET != 0);
    // The agent ends what changed policies forbid.
    if who == RESET_BY_CLIENT && agent::is_current() { 0 } else { who }
}

/// `tcp_receive_reset`: some socket's other end has reset its connection. The state changes next.
#[inline(always)]
pub(crate) fn was_reset(context: &BtfTracePointContext) {
    let sk: *mut c_void = context.arg(0);
    if let Some(record) = ctx::traced_record(sk)
        && record.role == DIRECT
    {
        record.flags |= WAS_RESET;
    }
}

#[inline(always)]
fn flow(context: &SockOpsContext, client: End, server: End) -> FlowKey {
    let netns = ctx::ops_netns(context);
    FlowKey::new(netns, (client.addr, client.port_be), (server.addr, server.port_be))
}
