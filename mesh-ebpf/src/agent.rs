//! Does the agent answer?

use core::ptr::addr_of;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_ktime_get_ns, bpf_map_lookup_elem, bpf_sk_release,
};
use mesh_common::HEARTBEAT_LIMIT_NS;
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
