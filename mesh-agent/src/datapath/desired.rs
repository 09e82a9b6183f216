//! Which entries the maps should hold, by the snapshot and this node's workloads. Pure.

use std::collections::{BTreeMap, HashMap};

use mesh_common::addr::user::from_ip;
use mesh_common::destination::{Destination, DestinationKey};
use mesh_common::source::{BY_CGROUP, CGROUP, ENROLLED, Source, SourceKey};

use crate::model::id::ResourceName;
use crate::model::snapshot::Snapshot;

/// A workload of this node whose listeners and certificate are ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// Which one.
    pub name: ResourceName,
    /// How its sockets are recognized.
    pub source: SourceKey,
    /// The cookie of the network namespace that its sockets are in.
    pub netns: u64,
}

/// The wanted content of the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// `SOURCES`.
    pub sources: BTreeMap<SourceKey, Source>,
    /// `DESTINATIONS`.
    pub destinations: BTreeMap<DestinationKey, Destination>,
}

/// What the maps should hold.
///
/// Every service port and every address of a workload that an agent serves is a destination. An
/// address without an agent is one only through a service: elsewhere it is not the mesh's business.
pub fn entries(mesh: &Snapshot, enrolled: &[Enrolled]) -> Entries {
    let mut wanted = Entries::default();
    let flags = |flags| Source { workload: 0, namespace: 0, flags, pad: 0 };
    for workload in enrolled {
        wanted.sources.insert(workload.source, flags(ENROLLED));
        if workload.source.kind == CGROUP {
            wanted.sources.insert(SourceKey::netns(workload.netns), flags(BY_CGROUP));
        }
    }
    for address in mesh.services.keys() {
        let key = DestinationKey::tcp(from_ip(address.ip()), address.port().to_be());
        wanted.destinations.insert(key, Destination { owner: 0, workload: 0, set: 0, flags: 0, pad: 0 });
    }
    let here: HashMap<_, _> = enrolled.iter().map(|local| (&local.name, local.netns)).collect();
    for workload in mesh.workloads.values().filter(|workload| workload.node.is_some()) {
        let owner = here.get(&workload.name).copied().unwrap_or_default();
        for address in &workload.addresses {
            let key = DestinationKey::any_tcp_port(from_ip(*address));
            let entry = wanted.destinations.entry(key);
            let entry = entry.or_insert(Destination { owner: 0, workload: 0, set: 0, flags: 0, pad: 0 });
            entry.owner = entry.owner.max(owner);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::spiffe::SpiffeId;
    use crate::model::workload::{Place, Workload};

    fn workload(name: &str, node: Option<&str>, address: &str) -> (ResourceName, Arc<Workload>) {
        let name = ResourceName::new("demo", name);
        let workload = Workload {
            name: name.clone(),
            identity: SpiffeId::new("cluster.local", "demo", "default").unwrap(),
            node: node.map(Into::into),
            addresses: vec![address.parse().unwrap()],
            labels: BTreeMap::new(),
            ports: Vec::new(),
            place: Place::Unplaced,
        };
        (name, Arc::new(workload))
    }

    fn mesh() -> Snapshot {
        let workloads = [
            workload("here", Some("a"), "10.0.0.1"),
            workload("there", Some("b"), "10.0.0.2"),
            workload("outside", None, "10.0.0.3"),
        ];
        Snapshot { workloads: workloads.into(), ..Snapshot::default() }
    }

    fn owner(entries: &Entries, address: &str) -> Option<u64> {
        let key = DestinationKey::any_tcp_port(from_ip(address.parse().unwrap()));
        entries.destinations.get(&key).map(|destination| destination.owner)
    }

    #[test]
    fn a_workload_of_this_node_owns_its_address() {
        let local = Enrolled {
            name: ResourceName::new("demo", "here"),
            source: SourceKey::netns(42),
            netns: 42,
        };
        let entries = entries(&mesh(), &[local]);
        assert_eq!(owner(&entries, "10.0.0.1"), Some(42));
        assert_eq!(owner(&entries, "10.0.0.2"), Some(0));
        assert_eq!(owner(&entries, "10.0.0.3"), None);
        assert_eq!(entries.sources.len(), 1);
    }

    #[test]
    fn a_cgroup_makes_its_namespace_look_at_cgroups() {
        let local = Enrolled {
            name: ResourceName::new("demo", "here"),
            source: SourceKey::cgroup(7),
            netns: 42,
        };
        let entries = entries(&mesh(), &[local]);
        assert_eq!(entries.sources[&SourceKey::cgroup(7)].flags, ENROLLED);
        assert_eq!(entries.sources[&SourceKey::netns(42)].flags, BY_CGROUP);
    }
}
