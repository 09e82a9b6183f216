//! Cgroups that are made and removed: one at the place of a workload is that workload's before a process is
//! in it.

use core::ffi::c_void;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use aya_ebpf::programs::BtfTracePointContext;
use mesh_common::source::{PATH_BYTES, PathKey, Source, SourceKey};

use crate::maps::{PLACES, SOURCES};

/// Where in `struct cgroup` its `kn` is. These are the running kernel's, told by the agent.
#[unsafe(no_mangle)]
static CGROUP_NODE: Global<u32> = Global::new(0);
/// Where in `struct cgroup` its `root` is.
#[unsafe(no_mangle)]
static CGROUP_ROOT: Global<u32> = Global::new(0);
/// Where in `struct cgroup_root` its `hierarchy_id` is.
#[unsafe(no_mangle)]
static ROOT_HIERARCHY: Global<u32> = Global::new(0);
/// Where in `struct kernfs_node` its `id` is.
#[unsafe(no_mangle)]
static NODE_ID: Global<u32> = Global::new(0);

/// The hierarchy of version 2 (`/proc/PID/cgroup`). Others have ids of their own.
const VERSION_2: u32 = 0;

/// [`PATH_BYTES`], as a helper takes it.
const PATH_LENGTH: u32 = 256;

const _: () = assert!(PATH_LENGTH as usize == PATH_BYTES);

/// A cgroup was made: `cgroup_mkdir(struct cgroup *, const char *path)`.
#[expect(clippy::needless_borrows_for_generic_args, reason = "the stack has room for one path")]
pub(crate) fn made(context: &BtfTracePointContext) {
    let Some(key) = id(context).map(SourceKey::cgroup) else { return };
    let path: *const c_void = context.arg(1);
    let mut place = PathKey { path: [0; PATH_BYTES] };
    // SAFETY: the helper writes no more than it is told, and reads from any address.
    let length =
        unsafe { bpf_probe_read_kernel_str(place.path.as_mut_ptr().cast(), PATH_LENGTH, path) };
    // One that fills the room may have been cut.
    if !(1..i64::from(PATH_LENGTH)).contains(&length) {
        return;
    }
    // SAFETY: entries may be replaced while they are read; every bit pattern is a value.
    let Some(source) = (unsafe { PLACES.get(&place) }) else { return };
    let source = Source { made: 1, ..*source };
    // Full is as if it were not known: the agent finds it some milliseconds later.
    let _full: Result<(), _> = SOURCES.insert(key, source, 0);
}

/// A cgroup was removed: the agent may not have seen it.
pub(crate) fn removed(context: &BtfTracePointContext) {
    let Some(key) = id(context).map(SourceKey::cgroup) else { return };
    // SAFETY: as in `made`.
    if unsafe { SOURCES.get(key) }.is_some_and(|source| source.made != 0) {
        let _gone: Result<(), _> = SOURCES.remove(key);
    }
}

/// The id of the cgroup that an event is about. `None`: it is of another hierarchy.
#[inline(always)]
fn id(context: &BtfTracePointContext) -> Option<u64> {
    let cgroup: u64 = context.arg(0);
    let root: u64 = read(cgroup, CGROUP_ROOT.load())?;
    let hierarchy: u32 = read(root, ROOT_HIERARCHY.load())?;
    if hierarchy != VERSION_2 {
        return None;
    }
    let node: u64 = read(cgroup, CGROUP_NODE.load())?;
    read(node, NODE_ID.load())
}

/// Reads a member of a structure of the kernel.
#[expect(clippy::cast_possible_truncation, reason = "4 or 8 bytes")]
#[inline(always)]
fn read<T: Default>(of: u64, at: u32) -> Option<T> {
    let mut value = T::default();
    let from = of.wrapping_add(u64::from(at)) as *const c_void;
    // SAFETY: the helper writes a value of this size, and reads from any address, or fails.
    let failed =
        unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, from) };
    (failed == 0).then_some(value)
}
