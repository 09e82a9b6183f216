//! `cgroup/getsockname4`, `getsockname6`: an application whose connection goes to the agent sees the
//! address that it would have without it, which the server sees as well.
//!
//! Applications tell it others: where FTP's server shall connect to, for example. The port is the
//! socket's own.

use aya_ebpf::programs::SockAddrContext;
use mesh_common::addr::{self, Addr};
use mesh_common::record::REDIRECTED;
use mesh_common::source::SourceKey;

use crate::ctx;
use crate::maps::SOURCES;

/// The only return value that the kernel takes from these hooks.
const ALLOW: i32 = 1;

pub(crate) fn v4(context: &SockAddrContext) -> i32 {
    if let Some(shown) = shown(context, ctx::v4(context))
        && let Some(addr_be) = addr::to_v4_be(shown)
    {
        ctx::set_v4(context, addr_be, ctx::port_be(context));
    }
    ALLOW
}

pub(crate) fn v6(context: &SockAddrContext) -> i32 {
    if let Some(shown) = shown(context, ctx::v6(context)) {
        ctx::set_v6(context, shown, ctx::port_be(context));
    }
    ALLOW
}

/// The address of a socket whose other end is the agent in another's place, instead of `local`.
#[inline(always)]
fn shown(context: &SockAddrContext, local: Addr) -> Option<Addr> {
    let record = ctx::record(context)?;
    if record.role != REDIRECTED {
        return None;
    }
    let key = SourceKey { id: record.source_id, kind: record.source_kind, pad: 0 };
    // SAFETY: entries of a hash may be replaced while they are read; every bit pattern is a value.
    unsafe { SOURCES.get(key) }?.sockname(local)
}
