//! `cgroup/getpeername4`, `getpeername6`: an application sees whom it talks to, not the agent.
//!
//! The hooks run for `getpeername(2)` and for the address that `accept(2)` returns.

use aya_ebpf::programs::SockAddrContext;
use mesh_common::addr;
use mesh_common::record::{ACCEPTED, DIRECT, PASSED, REDIRECTED, Record};

use crate::ctx;

/// The only return value that the kernel takes from these hooks.
const ALLOW: i32 = 1;

pub(crate) fn v4(context: &SockAddrContext) -> i32 {
    if let Some(record) = shown(context)
        && let Some(addr_be) = addr::to_v4_be(record.addr)
    {
        ctx::set_v4(context, addr_be, record.port_be);
    }
    ALLOW
}

pub(crate) fn v6(context: &SockAddrContext) -> i32 {
    if let Some(record) = shown(context) {
        ctx::set_v6(context, record.addr, record.port_be);
    }
    ALLOW
}

/// The record of a socket whose other end is somebody in another's place: the agent, or the
/// endpoint that the kernel picked.
#[inline(always)]
fn shown(context: &SockAddrContext) -> Option<Record> {
    let record = ctx::record(context)?;
    let stands_for = matches!(record.role, REDIRECTED | ACCEPTED | DIRECT | PASSED);
    if stands_for && record.port_be != 0 { Some(record) } else { None }
}
