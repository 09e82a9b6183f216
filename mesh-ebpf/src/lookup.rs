//! The maps, as the decision asks them.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use mesh_common::backend::{ChunkKey, Slot};
use mesh_common::connect::Maps;
use mesh_common::destination::{ConsumerKey, Destination, DestinationKey};
use mesh_common::external::{ALL_BITS, ExternalKey};
use mesh_common::verdict::{Verdict, VerdictKey};
use mesh_common::workload::{Inbound, PortKey, Workload};

use crate::maps::{
    BACKENDS, CONSUMERS, DESTINATIONS, EXTERNALS, INBOUND, PORTS, VERDICTS, WORKLOADS,
};

/// All of them.
pub(crate) struct Kernel;

impl Maps for Kernel {
    #[inline(always)]
    fn destination(&self, key: &DestinationKey) -> Option<Destination> {
        // SAFETY: entries of a hash may be replaced while they are read; every bit pattern is a
        // value.
        unsafe { DESTINATIONS.get(key) }.copied()
    }

    #[inline(always)]
    fn consumer(&self, key: &ConsumerKey) -> Option<u32> {
        // SAFETY: as in `destination`.
        unsafe { CONSUMERS.get(key) }.copied()
    }

    #[inline(always)]
    fn slot(&self, set: u32, index: u32) -> Option<&Slot> {
        // SAFETY: entries of this one are never replaced, and the agent removes none before every
        // program that may read it has ended.
        unsafe { BACKENDS.get(ChunkKey::of(set, index)) }?.slot(index)
    }

    #[inline(always)]
    fn workload(&self, id: u64) -> Option<Workload> {
        // SAFETY: as in `destination`.
        unsafe { WORKLOADS.get(id) }.copied()
    }

    #[inline(always)]
    fn port(&self, key: &PortKey) -> Option<u32> {
        // SAFETY: as in `destination`.
        unsafe { PORTS.get(key) }.copied()
    }

    #[inline(always)]
    fn verdict(&self, key: &VerdictKey) -> Option<Verdict> {
        // SAFETY: as in `destination`.
        unsafe { VERDICTS.get(key) }.copied()
    }

    #[inline(always)]
    fn external(&self, key: &ExternalKey) -> bool {
        EXTERNALS.get(&Key::new(ALL_BITS, *key)).is_some()
    }

    #[inline(always)]
    fn inbound(&self, key: &PortKey) -> Option<Inbound> {
        // SAFETY: as in `destination`.
        unsafe { INBOUND.get(key) }.copied()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }
}
