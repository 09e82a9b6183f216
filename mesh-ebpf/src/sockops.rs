//! `sock_ops`: hands what the kernel knows of a connection's opening end to its accepting end.

use aya_ebpf::bindings::{BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_CONNECT_CB};
use aya_ebpf::programs::SockOpsContext;
use mesh_common::OUTBOUND_PORT;
use mesh_common::addr::is_listener_loopback;
use mesh_common::record::{ACCEPTED, AGENT, ConnKey, REDIRECTED};

use crate::ctx::{self, End};
use crate::maps::{CLIENTS, ORIGINS};

pub(crate) fn run(context: &SockOpsContext) {
    match ctx::op(context) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => opening(context),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(context),
        _ => {}
    }
}

/// Before the SYN; the source port is chosen. What is written here is there when the other end
/// accepts. A key may have been left by a connection that nobody accepted, so it is always either
/// written or deleted.
#[inline(always)]
fn opening(context: &SockOpsContext) {
    let (local, remote) = (ctx::local(context), ctx::remote(context));
    let to_listener = remote.port_be == OUTBOUND_PORT.to_be() && is_listener_loopback(remote.addr);
    let to_itself = local.addr == remote.addr;
    if !to_listener && !to_itself {
        return;
    }
    let key = key(context, local);
    let record = ctx::ops_record(context);
    // Failures of the map helpers are not acted on: a missing record makes the agent refuse the
    // connection, or the application see the agent's address; neither is ever a wrong one.
    if to_listener {
        let _done = match record {
            Some(record) if record.role == REDIRECTED => ORIGINS.insert(key, record, 0),
            _ => ORIGINS.remove(key),
        };
    }
    if to_itself {
        let _done = match record {
            Some(record) if record.role == AGENT => CLIENTS.insert(key, record, 0),
            _ => CLIENTS.remove(key),
        };
    }
}

/// The connection is established on the accepting side, and nobody has accepted it yet.
#[inline(always)]
fn accepted(context: &SockOpsContext) {
    let (local, remote) = (ctx::local(context), ctx::remote(context));
    // The agent's last hop is from the workload's own address to itself.
    if local.addr != remote.addr {
        return;
    }
    let key = key(context, remote);
    // SAFETY: entries may be replaced while they are read; every bit pattern is a value.
    let Some(mut record) = unsafe { CLIENTS.get(key) }.copied() else { return };
    let _done = CLIENTS.remove(key);
    record.role = ACCEPTED;
    // Without memory for it the application sees the agent's address.
    let _kept = ctx::ops_remember(context, &mut record);
}

#[inline(always)]
fn key(context: &SockOpsContext, end: End) -> ConnKey {
    ConnKey::new(ctx::ops_netns(context), end.addr, end.port_be)
}
