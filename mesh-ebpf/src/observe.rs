//! The observer: counts how connections of workloads go. It redirects nothing. Of what is noted of a
//! socket it looks only at whether it is the agent's own, and at whether the kernel has authorized it.

use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_TCP_CONNECT_CB,
};
use aya_ebpf::programs::{SockContext, SockOpsContext};
use mesh_common::connect::Caller;
use mesh_common::coverage::{CoverKey, MPTCP, RAW, TO_AGENT, TO_ELSEWHERE, inbound, outbound};
use mesh_common::listener;
use mesh_common::record::{AGENT, ConnKey, DIRECT, FlowKey, REDIRECTED};

use crate::ctx;
use crate::lookup::Kernel;
use crate::maps::{COVERAGE, FLOWS, ORIGINS};
use crate::owner::{Owner, by_cgroup, owner};

/// `SOCK_RAW`.
const SOCK_RAW: u32 = 3;
/// `IPPROTO_MPTCP`.
const IPPROTO_MPTCP: u32 = 262;

/// A TCP connection is about to be opened, or is established.
#[inline(always)]
pub(crate) fn connection(context: &SockOpsContext) {
    match ctx::op(context) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => opening(context),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            if let Some(key) = ctx::observed(context) {
                count(key);
            }
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            let (local, remote) = (ctx::local(context), ctx::remote(context));
            let netns = ctx::ops_netns(context);
            let to = (local.addr, local.port_be);
            let from = (remote.addr, remote.port_be);
            if listener::may_be((from.0, to.0, to.1)) {
                // SAFETY: as below.
                let record = unsafe { ORIGINS.get(ConnKey::new(netns, from, to)) };
                if record.is_some() {
                    return;
                }
            }
            let key = FlowKey::new(netns, from, to);
            // SAFETY: entries may be replaced while they are read; every bit pattern is a value.
            let known = unsafe { FLOWS.get(key) };
            let is_authorized = known.is_some_and(|record| record.role == DIRECT);
            if let Some((workload, how)) = inbound(netns, to, remote.addr, is_authorized, &Kernel) {
                count(CoverKey { workload, how, pad: 0 });
            }
        }
        _ => {}
    }
}

/// In the task that connects: who it is can be seen only here.
#[inline(always)]
fn opening(context: &SockOpsContext) {
    let role = ctx::ops_record(context).map_or(0, |record| record.role);
    // Its connections are not a workload's, though they leave from a workload's namespace.
    if role == AGENT {
        return;
    }
    let netns = ctx::ops_netns(context);
    let (source, how) = match owner(netns) {
        Owner::Workload(_, source, shares) => {
            let remote = ctx::remote(context);
            let caller = Caller { netns, source, shares };
            let to = (remote.addr, remote.port_be);
            let local = ctx::local(context).addr;
            // Not to loopback's port of the agent, by which all others are known.
            let is_sent = role == REDIRECTED && listener::may_be((local, to.0, to.1));
            let how = if is_sent {
                Some(TO_AGENT)
            } else {
                outbound(&caller, to, role == DIRECT, &Kernel)
            };
            (source, how)
        }
        Owner::Node => return,
        // A unit's process that has gone to another namespace.
        Owner::Nobody => match by_cgroup() {
            Some((_, source)) => (source, Some(TO_ELSEWHERE)),
            None => return,
        },
    };
    if let Some(how) = how {
        let mut key = CoverKey { workload: source.workload, how, pad: 0 };
        ctx::observe(context, &mut key);
    }
}

/// A socket is made.
#[inline(always)]
pub(crate) fn made(context: &SockContext) {
    let (kind, protocol) = ctx::made(context);
    let how = match (kind, protocol) {
        (SOCK_RAW, _) => RAW,
        (_, IPPROTO_MPTCP) => MPTCP,
        _ => return,
    };
    if let Owner::Workload(_, source, _) = owner(ctx::made_netns(context)) {
        count(CoverKey { workload: source.workload, how, pad: 0 });
    }
}

#[inline(always)]
fn count(key: CoverKey) {
    if let Some(value) = COVERAGE.get_ptr_mut(key) {
        // SAFETY: the pointer is to this CPU's value, and entries are never removed while the programs
        // run. A program that interrupts this one on the same CPU can at worst lose a count.
        let value = unsafe { &mut *value };
        *value = value.wrapping_add(1);
        return;
    }
    // Two CPUs at once: one of them loses a count of 1, once for each key.
    let _there: Result<(), i32> = COVERAGE.insert(key, 1, BPF_NOEXIST.into());
}
