//! `cgroup/post_bind4`, `post_bind6`: a unit's process that has gone to a namespace of its own must not
//! serve there what nobody looks at.

use aya_ebpf::programs::SockContext;
use mesh_common::destination::TCP;
use mesh_common::workload::GUARDED;

use crate::ctx;
use crate::owner::{Owner, owner, stray};

/// Whether the port may be bound: always, but where nothing that arrives is captured, by who is not to be
/// reached past the agent.
#[inline(always)]
pub(crate) fn may(context: &SockContext) -> bool {
    let (_kind, protocol) = ctx::made(context);
    if protocol != u32::from(TCP) || !matches!(owner(ctx::made_netns(context)), Owner::Nobody) {
        return true;
    }
    stray().is_none_or(|(_, source)| source.flags & GUARDED == 0)
}
