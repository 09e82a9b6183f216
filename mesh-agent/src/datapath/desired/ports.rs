//! Which ports a workload has, where that tells it from others on its address.

use std::collections::{BTreeSet, HashMap};

use crate::model::id::ResourceName;
use crate::model::snapshot::{Endpoints, Snapshot};

/// The ports that each workload declares, or that a service reaches it at.
pub(super) fn by_workload(mesh: &Snapshot) -> HashMap<ResourceName, BTreeSet<u16>> {
    let mut ports: HashMap<ResourceName, BTreeSet<u16>> = HashMap::new();
    for workload in mesh.workloads.values() {
        let declared = workload.ports.iter().map(|port| port.port);
        ports.entry(workload.name.clone()).or_default().extend(declared);
    }
    let splits = mesh
        .services
        .values()
        .flat_map(|target| std::iter::once(&target.default).chain(target.by_namespace.values()));
    for backend in splits.flat_map(|split| &split.backends) {
        if let Endpoints::Resolved { endpoints, .. } = &backend.endpoints {
            for endpoint in endpoints {
                let name = &endpoint.workload.name;
                if let Some(ports) = ports.get_mut(name) {
                    ports.insert(endpoint.address.port());
                }
            }
        }
    }
    ports
}
