//! The maps as the task that writes them holds them: what is in each, and how it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError};
use mesh_common::backend::{CHUNK_SLOTS, Chunk, ChunkKey, Slot};
use mesh_common::maps;

use crate::datapath::plan::{Op, plan};
use crate::failure::chain;
use crate::sys::bpf;

/// The maps that follow the configuration.
const NAMES: [&str; 10] = [
    maps::BACKENDS,
    maps::CONSUMERS,
    maps::DESTINATIONS,
    maps::EXTERNALS,
    maps::INBOUND,
    maps::PORTS,
    maps::PROBES,
    maps::SOURCES,
    maps::VERDICTS,
    maps::WORKLOADS,
];

/// Refusals of the kernel, by the names of the maps: how many entries, and why the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused(pub BTreeMap<&'static str, (usize, String)>);

impl Refused {
    /// Notes one that is refused.
    fn note(&mut self, map: &'static str, error: &MapError) {
        let (entries, _) = self.0.entry(map).or_insert_with(|| (0, chain(error)));
        *entries += 1;
    }

    /// How many entries of each map that follows the configuration, in the order of names.
    pub fn by_map(&self) -> Vec<(&'static str, u64)> {
        let entries = |map| self.0.get(map).map_or(0, |(entries, _)| *entries as u64);
        NAMES.iter().map(|map| (*map, entries(map))).collect()
    }

    /// Nothing was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A map, and what it holds.
#[derive(Debug)]
pub(super) struct Table<K: Pod, V: Pod> {
    map: HashMap<MapData, K, V>,
    have: BTreeMap<K, V>,
    name: &'static str,
}

/// A trie, and what it holds: a value of 1 for each key with the number of its bits that count.
#[derive(Debug)]
pub(super) struct Trie<K: Pod> {
    map: LpmTrie<MapData, K, u32>,
    have: BTreeSet<(K, u32)>,
    name: &'static str,
}

impl<K: Pod + Ord> Trie<K> {
    /// Takes over what the map holds.
    pub(super) fn adopt(map: LpmTrie<MapData, K, u32>, name: &'static str) -> Self {
        let mut trie = Self { map, have: BTreeSet::new(), name };
        trie.read_again();
        trie
    }

    /// As [`Table::read_again`].
    pub(super) fn read_again(&mut self) {
        let keys = self.map.keys().filter_map(Result::ok);
        self.have = keys.map(|key| (key.data(), key.prefix_len())).collect();
    }

    /// Makes the map hold `want`.
    pub(super) fn bring_to(&mut self, want: &BTreeSet<(K, u32)>, refused: &mut Refused) {
        let new: Vec<_> = want.difference(&self.have).copied().collect();
        for (data, bits) in new {
            match self.map.insert(&Key::new(bits, data), 1, 0) {
                Ok(()) => drop(self.have.insert((data, bits))),
                Err(error) => refused.note(self.name, &error),
            }
        }
        self.retain(want, refused);
    }

    /// Removes what is not wanted.
    fn retain(&mut self, want: &BTreeSet<(K, u32)>, refused: &mut Refused) {
        let gone: Vec<_> = self.have.difference(want).copied().collect();
        for (data, bits) in gone {
            match self.map.remove(&Key::new(bits, data)) {
                Ok(()) | Err(MapError::KeyNotFound) => drop(self.have.remove(&(data, bits))),
                Err(error) => refused.note(self.name, &error),
            }
        }
    }
}

/// The sets of backends that are in the kernel. The meaning of a number never changes.
#[derive(Debug)]
pub(super) struct SetTable {
    map: HashMap<MapData, ChunkKey, Chunk>,
    have: BTreeMap<u32, Held>,
}

/// The parts of a set that there are.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Its parts, from the first on.
    chunks: u32,
    /// It is there as a whole.
    is_whole: bool,
}

impl<K: Pod + Ord, V: Pod + PartialEq> Table<K, V> {
    /// Takes over what the map holds.
    pub(super) fn adopt(map: HashMap<MapData, K, V>, name: &'static str) -> Self {
        let mut table = Self { map, have: BTreeMap::new(), name };
        table.read_again();
        table
    }

    /// Looks again at what the map holds: another process may have written it.
    pub(super) fn read_again(&mut self) {
        self.have = self.map.iter().filter_map(Result::ok).collect();
    }

    /// Its contents.
    pub(super) const fn have(&self) -> &BTreeMap<K, V> {
        &self.have
    }

    /// Makes the map hold `want`, and for now also what it held.
    pub(super) fn add(&mut self, want: &BTreeMap<K, V>, refused: &mut Refused) {
        let ops = plan(&self.have, want).into_iter();
        self.apply_all(ops.filter(|op| matches!(op, Op::Put(..))), refused);
    }

    /// Makes the map hold `want`.
    pub(super) fn bring_to(&mut self, want: &BTreeMap<K, V>, refused: &mut Refused) {
        self.apply_all(plan(&self.have, want).into_iter(), refused);
    }

    /// Removes what is not wanted if the map was `full`: if it has refused something.
    pub(super) fn make_room(&mut self, want: &BTreeMap<K, V>, full: &Refused) {
        if full.0.contains_key(self.name) {
            let gone = plan(&self.have, want).into_iter().filter(|op| matches!(op, Op::Del(_)));
            // An entry that cannot be removed now is tried again with all the rest.
            self.apply_all(gone, &mut Refused::default());
        }
    }

    fn apply_all(&mut self, ops: impl Iterator<Item = Op<K, V>>, refused: &mut Refused) {
        for op in ops {
            if let Err(error) = self.apply(op) {
                refused.note(self.name, &error);
            }
        }
    }

    fn apply(&mut self, op: Op<K, V>) -> Result<(), MapError> {
        match op {
            Op::Put(key, value) => {
                self.map.insert(key, value, 0)?;
                self.have.insert(key, value);
            }
            Op::Del(key) => {
                match self.map.remove(&key) {
                    Ok(()) | Err(MapError::KeyNotFound) => {}
                    Err(error) => return Err(error),
                }
                self.have.remove(&key);
            }
        }
        Ok(())
    }
}

impl SetTable {
    /// Takes over what the map holds. Nobody wants any of it: numbers of ours are others.
    pub(super) fn adopt(map: HashMap<MapData, ChunkKey, Chunk>) -> Self {
        let mut table = Self { map, have: BTreeMap::new() };
        table.read_again();
        table
    }

    /// As [`Table::read_again`].
    pub(super) fn read_again(&mut self) {
        let mut have = BTreeMap::<u32, Held>::new();
        for key in self.map.keys().filter_map(Result::ok) {
            let held = have.entry(key.set).or_default();
            held.chunks = held.chunks.max(key.chunk.saturating_add(1));
        }
        self.have = have;
    }

    /// The largest number that is in use.
    pub(super) fn last(&self) -> u32 {
        self.have.keys().next_back().copied().unwrap_or_default()
    }

    /// Writes the sets that are new.
    pub(super) fn add(&mut self, want: &BTreeMap<u32, Arc<[Slot]>>, refused: &mut Refused) {
        for (number, slots) in want {
            if !self.have.get(number).is_some_and(|held| held.is_whole)
                && let Err(error) = self.put(*number, slots)
            {
                refused.note(maps::BACKENDS, &error);
            }
        }
    }

    /// As [`Table::make_room`].
    pub(super) fn make_room(&mut self, want: &BTreeMap<u32, Arc<[Slot]>>, full: &Refused) {
        if full.0.contains_key(maps::BACKENDS) {
            self.retain(want, &mut Refused::default());
        }
    }

    /// Removes the sets that are not in `want`, when no program that has seen their numbers runs any
    /// more: the kernel gives the memory of an entry to the next one at once, and a program must not
    /// read half of one endpoint and half of another.
    pub(super) fn retain(&mut self, want: &BTreeMap<u32, Arc<[Slot]>>, refused: &mut Refused) {
        let gone: Vec<_> =
            self.have.keys().filter(|number| !want.contains_key(*number)).copied().collect();
        if gone.is_empty() {
            return;
        }
        bpf::wait_for_programs();
        for number in gone {
            if let Err(error) = self.remove(number) {
                refused.note(maps::BACKENDS, &error);
            }
        }
    }

    fn put(&mut self, number: u32, slots: &[Slot]) -> Result<(), MapError> {
        let held = self.have.entry(number).or_default();
        for (chunk, part) in (0..).zip(slots.chunks(CHUNK_SLOTS)) {
            let mut value = Chunk::EMPTY;
            for (to, slot) in value.slots.iter_mut().zip(part) {
                *to = *slot;
            }
            held.chunks = held.chunks.max(chunk + 1);
            self.map.insert(ChunkKey { set: number, chunk }, value, 0)?;
        }
        held.is_whole = true;
        Ok(())
    }

    fn remove(&mut self, number: u32) -> Result<(), MapError> {
        let chunks = self.have.get(&number).map_or(0, |held| held.chunks);
        for chunk in 0..chunks {
            match self.map.remove(&ChunkKey { set: number, chunk }) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        self.have.remove(&number);
        Ok(())
    }
}
