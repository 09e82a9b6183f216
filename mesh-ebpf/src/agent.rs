//! Does the agent answer?

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sk_lookup_tcp, bpf_sk_release};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::record::LISTENER;
use mesh_common::{HEARTBEAT_LIMIT_NS, OUTBOUND_PORT};

use crate::connect::{LOOPBACK_V4, LOOPBACK_V6};
use crate::ctx;
use crate::maps::HEARTBEAT;

/// `BPF_F_CURRENT_NETNS`: the namespace of the socket that the hook runs for.
const CURRENT_NETNS: u64 = u64::MAX;

/// `struct bpf_sock_tuple`, its IPv4 variant.
#[repr(C)]
struct TupleV4 {
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
}

/// `struct bpf_sock_tuple`, its IPv6 variant.
#[repr(C)]
struct TupleV6 {
    source: [u32; 4],
    destination: [u32; 4],
    source_port: u16,
    destination_port: u16,
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

/// Whether the agent listens in the socket's namespace and is not hung.
///
/// The listener goes with the process, at once; the heartbeat tells of one that is there and does
/// nothing.
#[inline(always)]
pub(crate) fn answers(context: &SockAddrContext, v4: bool) -> bool {
    beats() && if v4 { listens_v4(context) } else { listens_v6(context) }
}

#[inline(always)]
fn listens_v4(context: &SockAddrContext) -> bool {
    let mut tuple = TupleV4 {
        source: LOOPBACK_V4,
        destination: LOOPBACK_V4,
        source_port: 0,
        destination_port: OUTBOUND_PORT.to_be(),
    };
    is_there(context, &mut tuple)
}

#[inline(always)]
fn listens_v6(context: &SockAddrContext) -> bool {
    let mut tuple = TupleV6 {
        source: LOOPBACK_V6,
        destination: LOOPBACK_V6,
        source_port: 0,
        destination_port: OUTBOUND_PORT.to_be(),
    };
    is_there(context, &mut tuple)
}

/// Whether there is a listener of the agent for a tuple; its size says of which family it is.
#[inline(always)]
fn is_there<T>(context: &SockAddrContext, tuple: &mut T) -> bool {
    let tuple = core::ptr::from_mut(tuple).cast();
    // SAFETY: the hook's own context, and a tuple of the stated size.
    let found = unsafe {
        bpf_sk_lookup_tcp(context.as_ptr(), tuple, const { size(size_of::<T>()) }, CURRENT_NETNS, 0)
    };
    if found.is_null() {
        return false;
    }
    // Any process of the namespace may listen there as soon as the agent does not.
    let is_agents = ctx::role_of(found.cast()) == LISTENER;
    // SAFETY: a socket that was found is given back.
    let _zero = unsafe { bpf_sk_release(found.cast()) };
    is_agents
}

/// A size as the helpers take it.
#[expect(clippy::cast_possible_truncation, reason = "a tuple has a few words")]
const fn size(bytes: usize) -> u32 {
    bytes as u32
}
