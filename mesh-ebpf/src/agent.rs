//! Does the agent answer?

use core::ptr::addr_of;

use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as TupleV6,
};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_ktime_get_ns, bpf_map_lookup_elem, bpf_sk_lookup_tcp,
    bpf_sk_release,
};
use aya_ebpf::programs::SockAddrContext;
use aya_ebpf::{EbpfContext as _, Global};
use mesh_common::HEARTBEAT_LIMIT_NS;
use mesh_common::addr::Addr;
use mesh_common::maps::{ListenerKey, ODD, OUTBOUND};

use crate::maps::{HEARTBEAT, LISTENERS};

/// The agent's own cgroup.
#[unsafe(no_mangle)]
static AGENT_CGROUP: Global<u64> = Global::new(0);

/// 1: a program notes which sockets were reset by their other ends.
#[unsafe(no_mangle)]
static SEES_RESETS: Global<u8> = Global::new(0);

/// Whether the current task is one of the agent's cgroup.
#[inline(always)]
pub(crate) fn is_current() -> bool {
    // SAFETY: a helper without arguments.
    let own = unsafe { bpf_get_current_cgroup_id() };
    own == AGENT_CGROUP.load()
}

/// Whether it is noted which sockets were reset by their other ends.
#[inline(always)]
pub(crate) fn sees_resets() -> bool {
    SEES_RESETS.load() != 0
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Whether the agent has said lately that it works: it is not hung.
#[inline(always)]
pub(crate) fn beats() -> bool {
    match HEARTBEAT.get(0) {
        // A beat later than now was made between the two reads.
        Some(last) => now().saturating_sub(*last) < HEARTBEAT_LIMIT_NS,
        None => false,
    }
}

/// Whether the agent listens in the namespace `netns` and is not hung.
///
/// The listener goes with the process, at once; the heartbeat tells of one that is there and does
/// nothing.
#[inline(always)]
pub(crate) fn answers(netns: u64, v4: bool) -> bool {
    beats() && listens(netns, if v4 { 4 } else { 6 })
}

/// Whether the agent has a listener for the connections of a namespace's applications.
#[inline(always)]
fn listens(netns: u64, family: u16) -> bool {
    has(netns, OUTBOUND, family) || has(netns, OUTBOUND | ODD, family)
}

/// The length of [`TupleV6`], by which the helper knows the family.
const TUPLE_BYTES: u32 = 36;

/// The namespace of the hook's own socket.
const CURRENT_NETNS: u64 = (BPF_F_CURRENT_NETNS as i64).cast_unsigned();

/// Whether somebody listens at an IPv6 address and port of the socket's namespace.
#[inline(always)]
pub(crate) fn is_taken(context: &SockAddrContext, (addr, port_be): (Addr, u16)) -> bool {
    let mut tuple = TupleV6 { saddr: addr, daddr: addr, sport: 0, dport: port_be };
    // SAFETY: the hook's own context, and the addresses and ports of a connection by IPv6.
    let found = unsafe {
        bpf_sk_lookup_tcp(context.as_ptr(), (&raw mut tuple).cast(), TUPLE_BYTES, CURRENT_NETNS, 0)
    };
    if found.is_null() {
        return false;
    }
    // SAFETY: a socket that was found is given back.
    let _zero = unsafe { bpf_sk_release(found.cast()) };
    true
}

#[inline(always)]
fn has(netns: u64, kind: u16, family: u16) -> bool {
    let key = ListenerKey { owner: netns, kind, family, thread: 0 };
    // SAFETY: the map, and a key of its type.
    let found =
        unsafe { bpf_map_lookup_elem(addr_of!(LISTENERS).cast_mut().cast(), addr_of!(key).cast()) };
    if found.is_null() {
        return false;
    }
    // SAFETY: a socket that was found is given back.
    let _zero = unsafe { bpf_sk_release(found) };
    true
}
