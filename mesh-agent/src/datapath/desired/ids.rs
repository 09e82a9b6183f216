//! Workloads' numbers in the kernel.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};

use crate::datapath::desired::Enrolled;
use crate::model::id::ResourceName;
use crate::model::snapshot::Snapshot;

/// The kernel's [number](mesh_common::workload#ids) for a name: of a workload or policy `namespace/name`, or
/// of a namespace.
pub fn id_of(name: &impl ToString) -> u64 {
    number(name.to_string().as_bytes())
}

fn number(name: &[u8]) -> u64 {
    let hash = digest(&SHA256, name);
    let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(first).max(1)
}

/// The numbers of this node's workloads.
pub(super) struct Ids<'a> {
    by_name: HashMap<&'a ResourceName, u64>,
}

impl<'a> Ids<'a> {
    /// Numbers the enrolled workloads. Two names with one number, which nobody meets but who looks
    /// for them, have none: their connections go through the agent, which tells them apart.
    pub(super) fn new(mesh: &Snapshot, enrolled: &'a [Enrolled]) -> Self {
        let numbered = |local: &'a Enrolled| (&local.name, id_of(&local.name));
        let mut by_name: HashMap<_, _> = enrolled.iter().map(numbered).collect();
        // How many workloads of the mesh have each of them.
        let mut had: HashMap<u64, usize> = by_name.values().map(|id| (*id, 0)).collect();
        let mut text = String::new();
        for ResourceName { namespace, name } in mesh.workloads.keys() {
            text.clear();
            text.extend([namespace, "/", name]);
            if let Some(had) = had.get_mut(&number(text.as_bytes())) {
                *had += 1;
            }
        }
        for id in by_name.values_mut().filter(|id| had.get(*id).is_some_and(|had| *had > 1)) {
            *id = 0;
        }
        Self { by_name }
    }

    /// The number of a workload of this node; 0 for every other.
    pub(super) fn of(&self, name: &ResourceName) -> u64 {
        self.by_name.get(name).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_of_sha_256() {
        // FIPS 180-4, its example of one block: "abc" is ba7816bf 8f01cfea and so on.
        assert_eq!(
            id_of(&"abc"),
            u64::from_be_bytes([0xea, 0xcf, 0x01, 0x8f, 0xbf, 0x16, 0x78, 0xba])
        );
        assert_ne!(id_of(&"demo/web"), id_of(&"demo/shop"));
    }
}
