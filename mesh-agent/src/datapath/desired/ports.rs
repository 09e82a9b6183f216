//! Which ports a workload has, where that tells it from others on its address.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::id::ResourceName;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Place, Workload};

/// Whether a workload shares its addresses with others, and is known by its ports.
const fn is_by_port(workload: &Workload) -> bool {
    matches!(workload.place, Place::Cgroup(_) | Place::SystemdUnit(_))
}

/// The ports that each workload that is known by them declares, or that a service reaches it at. Not
/// those that are another's on all of its addresses; those that are nobody's are everybody's here, so
/// that what arrives there is captured.
pub(super) fn by_workload(mesh: &Snapshot) -> HashMap<&ResourceName, BTreeSet<u16>> {
    let known = mesh.workloads.values().filter(|workload| is_by_port(workload));
    let declared = |workload: &Workload| workload.ports.iter().map(|port| port.port).collect();
    let mut ports: HashMap<_, BTreeSet<u16>> =
        known.map(|workload| (&workload.name, declared(workload))).collect();
    if ports.is_empty() {
        return ports;
    }
    for endpoint in mesh.services.values().flat_map(|target| target.endpoints()) {
        if let Some(ports) = ports.get_mut(&endpoint.workload.name) {
            ports.insert(endpoint.address.port());
        }
    }
    for (name, ports) in &mut ports {
        let Some(workload) = mesh.workloads.get(*name) else { continue };
        ports.retain(|port| {
            workload.addresses.iter().any(|address| {
                let listeners = mesh.listeners(SocketAddr::new(*address, *port));
                listeners.is_empty() || is_among(listeners, workload)
            })
        });
    }
    ports
}

/// Whether a workload is one of those.
pub(super) fn is_among(workloads: &[Arc<Workload>], workload: &Workload) -> bool {
    workloads.iter().any(|one| one.name == workload.name)
}
