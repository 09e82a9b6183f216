//! Every map. Kinds and capacities are those of `mesh_common::maps`.

use core::ptr::null;

use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type};
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SkStorage, SockHash,
};
use aya_ebpf::macros::btf_map;
use mesh_common::accel::{Fast, Tally};
use mesh_common::arrival::Own;
use mesh_common::backend::{Chunk, ChunkKey};
use mesh_common::budget::Budget;
use mesh_common::coverage::CoverKey;
use mesh_common::destination::{ConsumerKey, Destination, DestinationKey};
use mesh_common::event::Event;
use mesh_common::external::ExternalKey;
use mesh_common::maps::{
    EVENT_BYTES, ListenerKey, MAX_ACCELERATED, MAX_COVERED, MAX_DESTINATIONS, MAX_EXTERNALS,
    MAX_LISTENERS, MAX_PENDING, MAX_PORTS, MAX_SETS, MAX_SOURCES, MAX_SUMS, MAX_VERDICTS,
    MOST_CHUNKS,
};
use mesh_common::record::{ConnKey, FlowKey, Record};
use mesh_common::source::{PathKey, Source, SourceKey};
use mesh_common::stats;
use mesh_common::summary::{Sum, SumKey};
use mesh_common::verdict::{Verdict, VerdictKey};
use mesh_common::workload::{Inbound, PortKey, Workload};

/// Entries are allocated when they are added.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub(crate) static SOURCES: HashMap<SourceKey, Source, MAX_SOURCES> = HashMap::new();

#[btf_map]
pub(crate) static PLACES: HashMap<PathKey, Source, MAX_SOURCES, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static OWN: Array<Own, 1> = Array::new();

#[btf_map]
pub(crate) static WORKLOADS: HashMap<u64, Workload, MAX_SOURCES> = HashMap::new();

#[btf_map]
pub(crate) static DESTINATIONS: HashMap<DestinationKey, Destination, MAX_DESTINATIONS, ON_DEMAND> =
    HashMap::new();

#[btf_map]
pub(crate) static CONSUMERS: HashMap<ConsumerKey, u32, MAX_SETS, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static BACKENDS: HashMap<ChunkKey, Chunk, MOST_CHUNKS, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static VERDICTS: HashMap<VerdictKey, Verdict, MAX_VERDICTS, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static PORTS: HashMap<PortKey, u32, MAX_PORTS, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static INBOUND: HashMap<PortKey, Inbound, MAX_PORTS, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static PROBES: HashMap<DestinationKey, u64, MAX_PORTS, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static EXTERNALS: LpmTrie<ExternalKey, u32, MAX_EXTERNALS> = LpmTrie::new();

#[btf_map]
pub(crate) static COVERAGE: PerCpuHashMap<CoverKey, u64, MAX_COVERED, ON_DEMAND> =
    PerCpuHashMap::new();

#[btf_map]
pub(crate) static OBSERVED: SkStorage<CoverKey> = SkStorage::new();

#[btf_map]
pub(crate) static LISTENERS: SockHash<ListenerKey, MAX_LISTENERS> = SockHash::new();

#[btf_map]
pub(crate) static HEARTBEAT: Array<u64, 1> = Array::new();

#[btf_map]
pub(crate) static ORIGINS: LruHashMap<ConnKey, Record, MAX_PENDING> = LruHashMap::new();

#[btf_map]
pub(crate) static FLOWS: LruHashMap<FlowKey, Record, MAX_PENDING> = LruHashMap::new();

#[btf_map]
pub(crate) static SOCKETS: SkStorage<Record> = SkStorage::new();

#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { stats::COUNT }> = PerCpuArray::new();

#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, EVENT_BYTES> = RingBuf::new();

#[btf_map]
pub(crate) static BUDGETS: LruHashMap<u64, Budget, MAX_SOURCES> = LruHashMap::new();

#[btf_map]
pub(crate) static SUMS: HashMap<SumKey, Sum, MAX_SUMS, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static INTERVAL: Array<u32, 1> = Array::new();

#[btf_map]
pub(crate) static ACCELERATED: SockHash<FlowKey, MAX_ACCELERATED> = SockHash::new();

#[btf_map]
pub(crate) static TALLIES: HashMap<FlowKey, Tally, MAX_ACCELERATED, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static FAST: InheritedStorage<Fast> = InheritedStorage::new();

#[btf_map]
pub(crate) static SWITCH: Array<u32, 1> = Array::new();

/// Socket storage that a listener hands on to what it accepts (`BPF_F_CLONE`; Linux 5.4), as it does
/// with its options. aya's has no room for the flag.
#[repr(C)]
pub(crate) struct InheritedStorage<T> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers only carry types, for the loader; nobody reads them.
unsafe impl<T> Sync for InheritedStorage<T> {}

impl<T> InheritedStorage<T> {
    const fn new() -> Self {
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }
}

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
