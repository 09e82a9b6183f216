//! Shares of the kernel's maps that namespaces have. Pure.
//!
//! A map that is full refuses entries, and a workload without entries is not protected. So documents
//! of one namespace never take what those of others need: where a map cannot hold all that is asked
//! for, its entries are shared max-min fairly. A namespace that asks for no more than its equal part
//! has all of it, and the greediest ones lose the rest.

use std::collections::{HashMap, HashSet};

use mesh_common::maps;

use crate::model::condition::{Finding, Reason};
use crate::model::id::ResourceName;
use crate::store::update::{Key, Kind};

/// Entries that a document needs of a map: all of them, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want<'a> {
    /// The document's kind.
    pub(super) kind: Kind,
    /// Its name.
    pub(super) name: &'a ResourceName,
    /// The namespace whose share they are of.
    pub(super) namespace: &'a str,
    /// How many.
    pub(super) entries: usize,
    /// The consequence without them.
    pub(super) without: &'static str,
}

impl<'a> Want<'a> {
    /// Entries of the share of the document's own namespace.
    pub(super) fn new(
        kind: Kind,
        name: &'a ResourceName,
        entries: usize,
        without: &'static str,
    ) -> Self {
        Self { kind, name, namespace: &name.namespace, entries, without }
    }
}

/// Something that the kernel has so many of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    name: &'static str,
    entries: usize,
}

/// The maps, by their names.
pub(super) mod tables {
    use super::{Table, maps};

    /// Two entries are the host's own.
    pub(in super::super) const SOURCES: Table =
        Table { name: maps::SOURCES, entries: maps::MAX_SOURCES - 2 };
    pub(in super::super) const PLACES: Table =
        Table { name: maps::PLACES, entries: maps::MAX_SOURCES };
    pub(in super::super) const DESTINATIONS: Table =
        Table { name: maps::DESTINATIONS, entries: maps::MAX_DESTINATIONS };
    pub(in super::super) const INBOUND: Table =
        Table { name: maps::INBOUND, entries: maps::MAX_PORTS };
    pub(in super::super) const PORTS: Table = Table { name: maps::PORTS, entries: maps::MAX_PORTS };
    pub(in super::super) const PROBES: Table =
        Table { name: maps::PROBES, entries: maps::MAX_PORTS };
    pub(in super::super) const BACKENDS: Table =
        Table { name: maps::BACKENDS, entries: maps::MAX_SETS };
    /// Of all sets in `BACKENDS` together.
    pub(in super::super) const CHUNKS: Table =
        Table { name: "BACKENDS (endpoints)", entries: maps::MAX_CHUNKS };
    pub(in super::super) const VERDICTS: Table =
        Table { name: maps::VERDICTS, entries: maps::MAX_VERDICTS };
    pub(in super::super) const EXTERNALS: Table =
        Table { name: maps::EXTERNALS, entries: maps::MAX_EXTERNALS };
}

/// Demands of documents that are not met: one finding for each map and namespace.
#[derive(Debug, Default)]
pub(super) struct Shortages(Vec<Finding>);

impl Shortages {
    /// Shares the entries of a map of which `taken` are not to be had, and returns which of the wants
    /// are granted, group by group. Of one namespace the first are.
    pub(super) fn share<'a, const N: usize>(
        &mut self,
        table: Table,
        taken: usize,
        groups: &[Vec<Want<'a>>; N],
    ) -> [Vec<bool>; N] {
        let room = table.entries.saturating_sub(taken);
        let all = groups.iter().flatten().map(|want| want.entries);
        if all.fold(0, usize::saturating_add) <= room {
            return groups.each_ref().map(|wants| vec![true; wants.len()]);
        }
        let mut asked: HashMap<&str, usize> = HashMap::new();
        for want in groups.iter().flatten() {
            *asked.entry(want.namespace).or_default() += want.entries;
        }
        let most = fair_share(room, asked.values().copied());
        let mut used: HashMap<&str, usize> = HashMap::new();
        let mut short: HashSet<&str> = HashSet::new();
        let findings = &mut self.0;
        let mut grant = |want: &Want<'a>| {
            let used = used.entry(want.namespace).or_default();
            let is_granted = used.saturating_add(want.entries) <= most;
            if is_granted {
                *used += want.entries;
            } else if short.insert(want.namespace) {
                let asked = asked.get(want.namespace).copied().unwrap_or_default();
                findings.push(finding(table, want, asked, most));
            }
            is_granted
        };
        groups.each_ref().map(|wants| wants.iter().map(&mut grant).collect())
    }

    /// All of them.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.0
    }
}

fn finding(table: Table, want: &Want<'_>, asked: usize, most: usize) -> Finding {
    Finding {
        subject: Key { kind: want.kind, name: want.name.clone() }.to_string(),
        field: "",
        reason: Reason::LimitExceeded,
        message: format!(
            "the kernel's map {} holds {} entries, of which namespace {} may have {most} and asks \
             for {asked}; without its entries, {}: remove ports, addresses or documents of the \
             namespace",
            table.name, table.entries, want.namespace, want.without
        ),
    }
}

/// The most that each may have, so that all together have no more than `capacity`: whoever asks for
/// less has that, and the others the same (max-min fairness). `usize::MAX` if there is enough.
fn fair_share(capacity: usize, asked: impl Iterator<Item = usize>) -> usize {
    let mut asked: Vec<_> = asked.collect();
    asked.sort_unstable();
    let mut left = capacity;
    for (index, want) in asked.iter().enumerate() {
        let equal = left / (asked.len() - index);
        if *want > equal {
            return equal;
        }
        left -= want;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_greediest_lose() {
        let check = |capacity, asked: &[usize], expect| {
            assert_eq!(fair_share(capacity, asked.iter().copied()), expect, "{asked:?}");
        };
        check(10, &[], usize::MAX);
        check(10, &[4, 6], usize::MAX);
        check(10, &[4, 7], 6);
        check(10, &[100, 1, 2], 7);
        check(10, &[100, 100, 2], 4);
        check(0, &[0, 1], 0);
    }

    proptest! {
        /// Nothing beyond the map, nobody with less than an equal part loses, and nothing is lost
        /// while there is room.
        #[test]
        fn shares_are_fair(
            wants in prop::collection::vec(("[a-d]", 0_usize..40), 0..20), entries in 0_usize..200,
            taken in 0_usize..50,
        ) {
            let names: Vec<_> =
                wants.iter().map(|(namespace, _)| ResourceName::new(namespace.as_str(), "x")).collect();
            let asked: Vec<_> = names
                .iter()
                .zip(&wants)
                .map(|(name, (_, entries))| Want::new(Kind::Service, name, *entries, ""))
                .collect();
            let mut shortages = Shortages::default();
            let table = Table { name: "X", entries };
            let asked = [asked];
            let [granted] = shortages.share(table, taken, &asked);
            let [asked] = asked;
            let room = entries.saturating_sub(taken);
            let sum = |which: &dyn Fn(&Want<'_>, bool) -> bool| -> usize {
                let each = asked.iter().zip(&granted);
                each.filter(|(want, granted)| which(want, **granted)).map(|(w, _)| w.entries).sum()
            };
            prop_assert!(sum(&|_, granted| granted) <= room);
            let namespaces: BTreeSet<_> =
                asked.iter().map(|want| want.namespace).collect();
            let all = sum(&|_, _| true);
            for namespace in &namespaces {
                let own = sum(&|want, _| want.namespace == *namespace);
                let lost = sum(&|want, granted| want.namespace == *namespace && !granted);
                prop_assert!(lost == 0 || (all > room && own > room / namespaces.len()));
                let told = shortages.0.iter().filter(|one| one.message.contains(
                    &format!("of which namespace {namespace} may")
                ));
                prop_assert_eq!(told.count(), usize::from(lost > 0));
            }
        }
    }
}
