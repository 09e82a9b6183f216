//! Virtual addresses of services, and their sets of backends.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::addr::user::from_ip;
use mesh_common::destination::{ASK, ConsumerKey, Destination, DestinationKey, HAS_CONSUMERS};

use crate::datapath::desired::ids::id_of;
use crate::datapath::desired::room::{Shortages, Want, tables};
use crate::datapath::desired::sets::{SetIds, SetKey, n_chunks, slots};
use crate::datapath::desired::{Entries, View};
use crate::model::id::ResourceName;
use crate::model::snapshot::{Snapshot, Split, Target};
use crate::store::update::Kind;

/// The consequence for a service without a set of backends.
const BY_AGENT: &str = "the agent picks its endpoints, and refuses while it does not answer";

/// A service with all of its virtual addresses and ports.
pub(super) struct Virtual<'a> {
    pub(super) name: &'a ResourceName,
    pub(super) targets: BTreeMap<SocketAddr, &'a Target>,
}

/// A set that a service wants.
struct Set<'a> {
    key: SetKey,
    split: &'a Split,
    want: Want<'a>,
}

/// The services by name.
pub(super) fn by_name(mesh: &Snapshot) -> Vec<Virtual<'_>> {
    let mut all: BTreeMap<&ResourceName, BTreeMap<SocketAddr, &Target>> = BTreeMap::new();
    for (address, target) in &mesh.services {
        all.entry(&target.service.name).or_default().insert(*address, target);
    }
    all.into_iter().map(|(name, targets)| Virtual { name, targets }).collect()
}

impl<'a> Virtual<'a> {
    /// Its addresses, each once.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.targets.keys().map(SocketAddr::ip).collect()
    }

    /// Entries of the share of its namespace.
    pub(super) fn want(&self, entries: usize, without: &'static str) -> Want<'a> {
        Want::new(Kind::Service, self.name, entries, without)
    }

    /// The sets for clients of namespaces that have routes of their own: of those namespaces' share.
    fn consumers(&self) -> impl Iterator<Item = Set<'a>> {
        self.targets.iter().flat_map(|(address, target)| {
            target.by_namespace.iter().map(|(namespace, split)| Set {
                key: (*address, Some(Arc::clone(namespace))),
                split,
                want: Want { namespace, ..self.want(1, BY_AGENT) },
            })
        })
    }

    /// The sets for everybody else.
    fn own(&self) -> impl Iterator<Item = Set<'a>> {
        let all = self.targets.iter();
        all.map(|(address, target)| Set {
            key: (*address, None),
            split: &target.default,
            want: self.want(1, BY_AGENT),
        })
    }
}

/// Adds these services, and forgets the sets of all others.
pub(super) fn add(
    view: &View<'_>,
    services: &[&Virtual<'_>],
    sets: &mut SetIds,
    short: &mut Shortages,
    wanted: &mut Entries,
) {
    let granted = share(services, short);
    let mut used = BTreeSet::new();
    for (address, target) in services.iter().flat_map(|service| &service.targets) {
        let mut flags = 0;
        let mut fill = |key: SetKey, split: &Split| {
            let is_granted = granted.contains(&key);
            let slots = is_granted.then(|| slots(view.mesh, split, &view.ids)).flatten();
            let is_picked = slots.is_some();
            let (set, slots) = sets.of(key.clone(), slots.unwrap_or_default());
            used.insert(key);
            if is_picked {
                wanted.sets.insert(set, slots);
            } else {
                flags |= ASK;
            }
            (set, is_granted)
        };
        let (set, _) = fill((*address, None), &target.default);
        let mut consumers = Vec::new();
        for (namespace, split) in &target.by_namespace {
            let (own, is_granted) = fill((*address, Some(Arc::clone(namespace))), split);
            if is_granted {
                consumers.push((namespace, own));
            }
        }
        for (namespace, own) in consumers {
            let consumer = ConsumerKey { namespace: id_of(namespace), set, pad: 0 };
            // Two namespaces with one number: only the agent can tell them apart.
            if wanted.consumers.insert(consumer, own).is_some() {
                flags |= ASK;
            }
            flags |= HAS_CONSUMERS;
        }
        let key = DestinationKey::tcp(from_ip(address.ip()), address.port().to_be());
        wanted.destinations.insert(key, Destination { owner: 0, workload: 0, set, flags, pad: 0 });
    }
    sets.retain(&used);
}

/// The sets that the kernel has room for.
fn share(services: &[&Virtual<'_>], short: &mut Shortages) -> HashSet<SetKey> {
    let consumers: Vec<_> = services.iter().flat_map(|service| service.consumers()).collect();
    let own: Vec<_> = services.iter().flat_map(|service| service.own()).collect();
    let wants = |entries: fn(&Split) -> usize| {
        [&consumers, &own].map(|sets| {
            sets.iter().map(|set| Want { entries: entries(set.split), ..set.want }).collect()
        })
    };
    let numbers = short.share(tables::BACKENDS, 0, &wants(|_split| 1));
    let chunks = short.share(tables::CHUNKS, 0, &wants(n_chunks));
    let granted = numbers.into_iter().flatten().zip(chunks.into_iter().flatten());
    let all = consumers.into_iter().chain(own).zip(granted);
    all.filter(|(_, (number, chunks))| *number && *chunks).map(|(set, _)| set.key).collect()
}
