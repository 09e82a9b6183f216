//! Workloads' numbers in the kernel.

use std::collections::{HashMap, HashSet};

use mesh_common::workload;

use crate::datapath::desired::Enrolled;
use crate::model::id::ResourceName;
use crate::model::snapshot::Snapshot;

/// The kernel's number for a name: of a workload or policy `namespace/name`, or of a namespace.
pub fn id_of(name: &impl ToString) -> u64 {
    workload::id(name.to_string().as_bytes())
}

/// The numbers of this node's workloads.
pub(super) struct Ids<'a> {
    by_name: HashMap<&'a ResourceName, u64>,
}

impl<'a> Ids<'a> {
    /// Numbers the enrolled workloads. Two names with one number, which nobody meets but who looks
    /// for them, have none: their connections go through the agent, which tells them apart.
    pub(super) fn new(mesh: &Snapshot, enrolled: &'a [Enrolled]) -> Self {
        let mut seen = HashSet::new();
        let mut twice = HashSet::new();
        for name in mesh.workloads.keys() {
            let id = id_of(name);
            if !seen.insert(id) {
                twice.insert(id);
            }
        }
        let number = |local: &'a Enrolled| {
            let id = id_of(&local.name);
            (&local.name, if twice.contains(&id) { 0 } else { id })
        };
        Self { by_name: enrolled.iter().map(number).collect() }
    }

    /// The number of a workload of this node; 0 for every other.
    pub(super) fn of(&self, name: &ResourceName) -> u64 {
        self.by_name.get(name).copied().unwrap_or_default()
    }
}
