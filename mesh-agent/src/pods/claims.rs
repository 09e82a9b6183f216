//! Which workload has a place that several documents name (pure).
//!
//! A place is one workload's. It keeps the place for as long as it names it, whatever other documents
//! say: a copy of it, or another namespace's, would take its identity and pass its policies.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::datapath::desired::id_of;
use crate::model::condition::{Finding, Reason};
use crate::model::id::ResourceName;
use crate::model::workload::{Place, Workload};
use crate::pods::place::SpotId;
use crate::store::update::{Key, Kind};

/// The holders of places, and how long each workload has named its own.
#[derive(Debug, Default)]
pub struct Claims {
    holders: BTreeMap<SpotId, ResourceName>,
    /// The revision since which a workload names its place.
    since: BTreeMap<ResourceName, (Place, u64)>,
}

/// The workloads that cannot have the place that they name, each with the holder of it.
pub type Conflicts = BTreeMap<ResourceName, ResourceName>;

impl Claims {
    /// Settles whose each place is, by the documents of `revision`: the holder's, then whose document
    /// has named the place for longest, then whose the kernel said it was when the agent started, then
    /// the first by name. `spots` are the places that were found; `earlier` answers with the
    /// [id](id_of) of the workload that an earlier agent had at a place.
    pub fn settle(
        &mut self,
        revision: u64,
        wanted: &BTreeMap<&ResourceName, &Arc<Workload>>,
        spots: &BTreeMap<ResourceName, SpotId>,
        earlier: impl Fn(SpotId) -> Option<u64>,
    ) -> Conflicts {
        self.since.retain(|name, (place, _)| {
            wanted.get(name).is_some_and(|workload| workload.place == *place)
        });
        for (name, workload) in wanted {
            let since = || (workload.place.clone(), revision);
            self.since.entry((*name).clone()).or_insert_with(since);
        }
        let mut claimants: BTreeMap<SpotId, Vec<&ResourceName>> = BTreeMap::new();
        for (name, spot) in spots.iter().filter(|(name, _)| wanted.contains_key(name)) {
            claimants.entry(*spot).or_default().push(name);
        }
        let mut holders = BTreeMap::new();
        let mut conflicts = BTreeMap::new();
        for (spot, claimants) in claimants {
            // Asked only where several claim it.
            let earlier = if claimants.len() > 1 { earlier(spot) } else { None };
            let holder = self.holders.get(&spot);
            let rank = |name: &&ResourceName| {
                let since = self.since.get(*name).map(|(_, revision)| *revision);
                (holder != Some(*name), since, earlier != Some(id_of(*name)))
            };
            // Of equal ones the first by name.
            let Some(first) = claimants.iter().copied().min_by_key(rank) else { continue };
            let others = claimants.iter().filter(|name| **name != first);
            conflicts.extend(others.map(|name| ((*name).clone(), first.clone())));
            holders.insert(spot, first.clone());
        }
        self.holders = holders;
        conflicts
    }

    /// Whether a place was settled to be this workload's.
    pub fn is_holder(&self, spot: SpotId, name: &ResourceName) -> bool {
        self.holders.get(&spot) == Some(name)
    }
}

/// The condition of a workload whose place another one has.
pub fn finding(workload: &Workload, holder: &ResourceName) -> Finding {
    let field = workload.place.field();
    Finding {
        subject: Key { kind: Kind::Workload, name: workload.name.clone() }.to_string(),
        field,
        reason: Reason::Conflicted,
        message: format!(
            "Workload {holder} has this place already and keeps it, with its identity and its \
             policies; name another place, or remove one of the two documents"
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::spiffe::SpiffeId;

    fn workload(name: &str, place: &str) -> Arc<Workload> {
        Arc::new(Workload {
            name: ResourceName::new("demo", name),
            identity: SpiffeId::new("cluster.local", "demo", name).unwrap(),
            node: Some("n".into()),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            ports: Vec::new(),
            probes: Vec::new(),
            ready: true,
            place: Place::Netns(place.into()),
        })
    }

    fn spot(inode: u64) -> SpotId {
        SpotId::Netns { device: 4, inode }
    }

    /// Settles `<name> <place as written> <inode>` and returns `<loser> <holder>` for each.
    fn settle(
        claims: &mut Claims,
        revision: u64,
        written: &[(&str, &str, u64)],
        earlier: Option<&str>,
    ) -> Vec<(String, String)> {
        let workloads: Vec<_> =
            written.iter().map(|(name, place, _)| workload(name, place)).collect();
        let wanted = workloads.iter().map(|workload| (&workload.name, workload)).collect();
        let named =
            |(name, _, inode): &(&str, &str, u64)| (ResourceName::new("demo", *name), spot(*inode));
        let spots = written.iter().map(named).collect();
        let earlier = earlier.map(|name| id_of(&ResourceName::new("demo", name)));
        let conflicts = claims.settle(revision, &wanted, &spots, |_spot| earlier);
        let short = |name: &ResourceName| name.name.to_string();
        conflicts.iter().map(|(loser, holder)| (short(loser), short(holder))).collect()
    }

    fn one(loser: &str, holder: &str) -> Vec<(String, String)> {
        vec![(loser.to_owned(), holder.to_owned())]
    }

    #[test]
    fn the_first_one_keeps_its_place() {
        let mut claims = Claims::default();
        assert_eq!(settle(&mut claims, 1, &[("b", "/b", 1)], None), []);
        let both = [("a", "/proc/1/ns/net", 1), ("b", "/b", 1)];
        assert_eq!(settle(&mut claims, 2, &both, None), one("a", "b"));
        assert!(claims.is_holder(spot(1), &ResourceName::new("demo", "b")));
        // Also at its next place under the same name: the other has named it for a shorter time.
        let again = [("a", "/proc/1/ns/net", 2), ("b", "/b", 2)];
        assert_eq!(settle(&mut claims, 3, &again, None), one("a", "b"));
        // Until it goes.
        assert_eq!(settle(&mut claims, 4, &[("a", "/proc/1/ns/net", 2)], None), []);
        assert_eq!(settle(&mut claims, 5, &again, None), one("b", "a"));
    }

    #[test]
    fn whoever_names_another_place_comes_after_those_who_named_it_before() {
        let mut claims = Claims::default();
        assert_eq!(settle(&mut claims, 1, &[("a", "/a", 1), ("b", "/b", 2)], None), []);
        // The place of `b` is made anew just when `a` names it.
        assert_eq!(settle(&mut claims, 2, &[("a", "/b", 3), ("b", "/b", 3)], None), one("a", "b"));
    }

    #[test]
    fn at_the_start_the_kernel_says_whose_it_was() {
        let both = [("a", "/x", 1), ("b", "/x", 1)];
        assert_eq!(settle(&mut Claims::default(), 1, &both, None), one("b", "a"));
        assert_eq!(settle(&mut Claims::default(), 1, &both, Some("b")), one("a", "b"));
        assert_eq!(settle(&mut Claims::default(), 1, &both, Some("gone")), one("b", "a"));
    }

    proptest! {
        /// Every place has one holder, which keeps it for as long as it is there.
        #[test]
        fn a_place_has_one_holder(
            steps in prop::collection::vec(prop::collection::btree_map("[a-d]", 1_u64..4, 0..5), 1..8),
        ) {
            let mut claims = Claims::default();
            for (revision, step) in (1..).zip(&steps) {
                let before = claims.holders.clone();
                let written: Vec<_> =
                    step.iter().map(|(name, inode)| (name.as_str(), "/x", *inode)).collect();
                let conflicts = settle(&mut claims, revision, &written, None);
                for (name, inode) in step {
                    let full = ResourceName::new("demo", name.as_str());
                    let lost = conflicts.iter().any(|(loser, _)| loser == name);
                    prop_assert_ne!(claims.is_holder(spot(*inode), &full), lost);
                    if before.get(&spot(*inode)) == Some(&full) {
                        prop_assert!(!lost);
                    }
                }
            }
        }
    }
}
