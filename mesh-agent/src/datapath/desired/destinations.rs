//! Which addresses are the mesh's, and where connections to them go.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mesh_common::addr::user::from_ip;
use mesh_common::destination::{ASK, ConsumerKey, Destination, DestinationKey, HAS_CONSUMERS};

use crate::datapath::desired::ids::{Ids, id_of};
use crate::datapath::desired::ports::is_by_port;
use crate::datapath::desired::sets::{SetIds, slots};
use crate::datapath::desired::{Enrolled, Entries, guard_of};
use crate::model::id::ResourceName;
use crate::model::snapshot::Snapshot;

/// Adds the destinations with their sets of backends.
pub(super) fn add(
    mesh: &Snapshot,
    enrolled: &[Enrolled],
    ids: &Ids<'_>,
    ports: &HashMap<&ResourceName, BTreeSet<u16>>,
    sets: &mut SetIds,
    wanted: &mut Entries,
) {
    services(mesh, ids, sets, wanted);
    let here: HashMap<_, _> = enrolled.iter().map(|local| (&local.name, local)).collect();
    let mut workloads: Vec<_> =
        mesh.workloads.values().filter(|workload| workload.node.is_some()).collect();
    // Where two claim one address or port, the first by name has it.
    workloads.sort_by(|a, b| a.name.cmp(&b.name));
    for workload in workloads {
        let local = here.get(&workload.name).copied();
        let by_port = is_by_port(workload);
        let owner = local.filter(|_| !by_port).map_or(0, |local| local.netns);
        let policy = mesh.policy(&workload.name);
        let entry = |port: u16| Destination {
            owner,
            workload: ids.of(&workload.name),
            set: 0,
            flags: guard_of(&policy, port, local.is_some()),
            pad: 0,
        };
        for address in workload.addresses.iter().map(|address| from_ip(*address)) {
            if by_port {
                for port in ports.get(&workload.name).into_iter().flatten() {
                    let key = DestinationKey::tcp(address, port.to_be());
                    wanted.destinations.entry(key).or_insert_with(|| entry(*port));
                }
                continue;
            }
            let key = DestinationKey::any_tcp_port(address);
            let there = wanted.destinations.entry(key).or_insert_with(|| entry(0));
            // A workload of this node wins an address over a stale one of elsewhere.
            if there.owner == 0 && owner != 0 {
                *there = entry(0);
            }
            for port in policy.ports.keys() {
                let key = DestinationKey::tcp(address, port.to_be());
                wanted.destinations.entry(key).or_insert_with(|| entry(*port));
            }
        }
    }
}

fn services(mesh: &Snapshot, ids: &Ids<'_>, sets: &mut SetIds, wanted: &mut Entries) {
    let mut used = BTreeSet::new();
    for (address, target) in &mesh.services {
        let key = (*address, None);
        let set = sets.of(key.clone());
        used.insert(key);
        let mut flags = 0;
        match slots(mesh, &target.default, ids) {
            Some(slots) => drop(wanted.sets.insert(set, slots)),
            None => flags |= ASK,
        }
        for (namespace, split) in &target.by_namespace {
            let key = (*address, Some(Arc::clone(namespace)));
            let own = sets.of(key.clone());
            used.insert(key);
            match slots(mesh, split, ids) {
                Some(slots) => drop(wanted.sets.insert(own, slots)),
                None => flags |= ASK,
            }
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
