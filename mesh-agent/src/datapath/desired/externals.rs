//! What lies outside of the mesh and may be connected to, where nothing else may.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh_common::addr::user::from_ip;
use mesh_common::external::{ExternalKey, prefix_bits};

use crate::datapath::desired::ids::id_of;
use crate::model::policy::Block;
use crate::model::snapshot::Snapshot;

/// Bits before an IPv4 address that is mapped into an IPv6 one.
const MAPPED_BITS: u8 = 96;

/// The networks that are known, by namespace and port. Workloads without an agent are among them:
/// they are the mesh's, if not its agents' business.
pub(super) fn known(mesh: &Snapshot) -> BTreeSet<(ExternalKey, u32)> {
    let mut known = BTreeSet::new();
    for external in &mesh.externals {
        let namespaces: Vec<u64> = match &external.exported_to {
            None => vec![0],
            Some(namespaces) => namespaces.iter().map(id_of).collect(),
        };
        let ports = if external.ports.is_empty() { &[0][..] } else { &external.ports };
        for namespace in namespaces {
            for block in &external.blocks {
                known.extend(ports.iter().map(|port| key(namespace, *port, *block)));
            }
        }
    }
    let bare = mesh.workloads.values().filter(|workload| workload.node.is_none());
    for address in bare.flat_map(|workload| &workload.addresses) {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        known.insert(key(0, 0, Block { network: *address, prefix }));
    }
    known
}

fn key(namespace: u64, port: u16, block: Block) -> (ExternalKey, u32) {
    let bits = match block.network {
        IpAddr::V4(_) => block.prefix + MAPPED_BITS,
        IpAddr::V6(_) => block.prefix,
    };
    (ExternalKey::new(namespace, port.to_be(), from_ip(block.network)), prefix_bits(bits))
}
