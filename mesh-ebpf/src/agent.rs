//! Does the agent answer?

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sk_lookup_tcp, bpf_sk_release};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::{HEARTBEAT_LIMIT_NS, OUTBOUND_PORT};

use crate::connect::{LOOPBACK_V4, LOOPBACK_V6};
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
    // SAFETY: the hook's own context, and a tuple of the stated size. A socket that is found is
    // given back.
    unsafe {
        let found = bpf_sk_lookup_tcp(
            context.as_ptr(),
            core::ptr::from_mut(&mut tuple).cast(),
            size_of::<TupleV4>() as u32,
            CURRENT_NETNS,
            0,
        );
        if found.is_null() {
            return false;
        }
        bpf_sk_release(found.cast());
    }
    true
}

#[inline(always)]
fn listens_v6(context: &SockAddrContext) -> bool {
    let mut tuple = TupleV6 {
        source: LOOPBACK_V6,
        destination: LOOPBACK_V6,
        source_port: 0,
        destination_port: OUTBOUND_PORT.to_be(),
    };
    // SAFETY: as in `listens_v4`.
    unsafe {
        let found = bpf_sk_lookup_tcp(
            context.as_ptr(),
            core::ptr::from_mut(&mut tuple).cast(),
            size_of::<TupleV6>() as u32,
            CURRENT_NETNS,
            0,
        );
        if found.is_null() {
            return false;
        }
        bpf_sk_release(found.cast());
    }
    true
}
