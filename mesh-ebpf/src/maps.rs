//! Every map. Kinds and capacities are those of `mesh_common::maps`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{HashMap, LruHashMap, PerCpuArray, SkStorage};
use aya_ebpf::macros::btf_map;
use mesh_common::destination::{Destination, DestinationKey};
use mesh_common::maps::{MAX_DESTINATIONS, MAX_PENDING, MAX_SOURCES};
use mesh_common::record::{ConnKey, Record};
use mesh_common::source::{Source, SourceKey};
use mesh_common::stats;

/// Entries are allocated when they are added.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub(crate) static SOURCES: HashMap<SourceKey, Source, MAX_SOURCES> = HashMap::new();

#[btf_map]
pub(crate) static DESTINATIONS: HashMap<DestinationKey, Destination, MAX_DESTINATIONS, ON_DEMAND> =
    HashMap::new();

#[btf_map]
pub(crate) static ORIGINS: LruHashMap<ConnKey, Record, MAX_PENDING> = LruHashMap::new();

#[btf_map]
pub(crate) static CLIENTS: LruHashMap<ConnKey, Record, MAX_PENDING> = LruHashMap::new();

#[btf_map]
pub(crate) static SOCKETS: SkStorage<Record> = SkStorage::new();

#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { stats::COUNT }> = PerCpuArray::new();

/// Adds one to a counter of `mesh_common::stats`.
#[inline(always)]
pub(crate) fn count(counter: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the pointer is to this CPU's slot, and the map lives as long as the program. A
        // program that interrupts this one on the same CPU can at worst lose a count.
        let value = unsafe { &mut *value };
        *value = value.wrapping_add(1);
    }
}
