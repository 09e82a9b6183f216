//! The owner of a socket: by its network namespace, or by the cgroup of the task that connects. By
//! its network namespace, or by the cgroup of the task that connects.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id};
use mesh_common::source::{
    BY_CGROUP, ENROLLED, MAX_CGROUP_LEVEL, NODE, Source, SourceKey, WAITING,
};

use crate::maps::SOURCES;

/// The owner of a socket.
pub(crate) enum Owner {
    /// Nobody's that the mesh knows.
    Nobody,
    /// The node's own: neither a pod's nor a unit's.
    Node,
    /// A workload's. The second: its namespace is the node's.
    Workload(SourceKey, Source, bool),
}

/// The cookie of the agent's own namespace, which is the node's.
#[unsafe(no_mangle)]
static NODE_NETNS: Global<u64> = Global::new(0);

/// The unit whose process is in a namespace of nobody, where the agent cannot serve it. Asked only where
/// there are units at all.
#[inline(always)]
pub(crate) fn stray() -> Option<(SourceKey, Source)> {
    let node = get(SourceKey::netns(NODE_NETNS.load()))?;
    if node.flags & BY_CGROUP == 0 {
        return None;
    }
    let (key, mut source) = by_cgroup()?;
    source.flags |= WAITING;
    Some((key, source))
}

/// The owner of a socket in the namespace `netns`.
#[inline(always)]
pub(crate) fn owner(netns: u64) -> Owner {
    let key = SourceKey::netns(netns);
    let Some(source) = get(key) else { return Owner::Nobody };
    if source.flags & ENROLLED != 0 {
        return Owner::Workload(key, source, false);
    }
    if source.flags & BY_CGROUP != 0
        && let Some((key, source)) = by_cgroup()
    {
        return Owner::Workload(key, source, true);
    }
    if source.flags & NODE != 0 { Owner::Node } else { Owner::Nobody }
}

/// The workload whose cgroup the calling task is in, or below. The innermost one counts.
#[inline(always)]
pub(crate) fn by_cgroup() -> Option<(SourceKey, Source)> {
    // SAFETY: a helper without arguments.
    let own = SourceKey::cgroup(unsafe { bpf_get_current_cgroup_id() });
    if let Some(source) = get(own) {
        return Some((own, source));
    }
    let mut level = MAX_CGROUP_LEVEL;
    while level > 0 {
        // SAFETY: the helper answers 0 for a level that the task does not have.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level.cast_signed()) };
        if id != 0 {
            let key = SourceKey::cgroup(id);
            if let Some(source) = get(key) {
                return Some((key, source));
            }
        }
        level -= 1;
    }
    None
}

#[inline(always)]
fn get(key: SourceKey) -> Option<Source> {
    // SAFETY: entries of a hash may be replaced while they are read; every bit pattern is a value.
    unsafe { SOURCES.get(key) }.copied()
}
