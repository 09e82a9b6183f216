//! Which ports a workload has, where that tells it from others on its address.

use std::collections::{BTreeSet, HashMap};

use crate::model::id::ResourceName;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

/// The ports that each workload that is known by them declares, or that a service reaches it at: also
/// those that are another's or nobody's ([`Snapshot::owns`]). Without `own`, the agent's.
pub(super) fn by_workload<'a>(
    mesh: &'a Snapshot,
    own: &BTreeSet<u16>,
) -> HashMap<&'a ResourceName, BTreeSet<u16>> {
    let known = mesh.workloads.values().filter(|workload| workload.is_unit());
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
    for ports in ports.values_mut() {
        ports.retain(|port| !own.contains(port));
    }
    ports
}
