//! Addresses outside of the mesh that may be connected to, where nothing else may.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_common::addr::user::from_ip;
use mesh_common::external::{ExternalKey, prefix_bits};

use crate::datapath::desired::ids::id_of;
use crate::datapath::desired::room::{Shortages, Want, tables};
use crate::model::external::External;
use crate::model::policy::Block;
use crate::model::snapshot::Snapshot;
use crate::store::update::Kind;

/// Bits before an IPv4 address that is mapped into an IPv6 one.
const MAPPED_BITS: u8 = 96;

/// The networks that are known, by namespace and port. Workloads without an agent are among them:
/// they are the mesh's, if not its agents' business.
pub(super) fn known(mesh: &Snapshot, short: &mut Shortages) -> BTreeSet<(ExternalKey, u32)> {
    let mut known = BTreeSet::new();
    let mut bare: Vec<_> =
        mesh.workloads.values().filter(|workload| workload.node.is_none()).collect();
    bare.sort_by(|a, b| a.name.cmp(&b.name));
    let unknown = "its addresses are not known, and not connected to with `registry-only`";
    let listed = mesh.externals.iter();
    let groups = [
        bare.iter()
            .map(|one| Want::new(Kind::Workload, &one.name, one.addresses.len(), unknown))
            .collect(),
        listed.map(|one| Want::new(Kind::ServiceEntry, &one.name, n_keys(one), unknown)).collect(),
    ];
    let [of_bare, of_listed] = short.share(tables::EXTERNALS, 0, &groups);
    let listed = mesh.externals.iter().zip(of_listed).filter(|(_, granted)| *granted);
    for (external, _) in listed {
        let namespaces: Vec<u64> = match &external.exported_to {
            None => vec![0],
            Some(namespaces) => namespaces.iter().map(id_of).collect(),
        };
        let ports = if external.ports.is_empty() { &[0][..] } else { &external.ports };
        for namespace in namespaces {
            for block in external.blocks.iter().flat_map(of_one_family) {
                known.extend(ports.iter().map(|port| key(namespace, *port, block)));
            }
        }
    }
    let bare = bare.into_iter().zip(of_bare).filter(|(_, granted)| *granted);
    for address in bare.flat_map(|(workload, _)| &workload.addresses) {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        known.insert(key(0, 0, Block { network: *address, prefix }));
    }
    known
}

/// The block without the IPv4 addresses that are mapped into it: nobody who writes `::/0` means them.
fn of_one_family(block: &Block) -> Vec<Block> {
    let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().to_bits();
    let IpAddr::V6(network) = block.network else { return vec![*block] };
    let prefix = block.prefix;
    let mask = |prefix: u8| u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    if prefix >= MAPPED_BITS || (network.to_bits() ^ mapped) & mask(prefix) != 0 {
        return vec![*block];
    }
    // For each further bit of the prefix of those addresses, the half that they are not in.
    let half = |prefix: u8| {
        let network = (mapped & mask(prefix)) ^ (1 << (128 - u32::from(prefix)));
        Block { network: Ipv6Addr::from_bits(network).into(), prefix }
    };
    (prefix + 1..=MAPPED_BITS).map(half).collect()
}

/// The keys of an entry, at most.
fn n_keys(external: &External) -> usize {
    let n_namespaces = external.exported_to.as_ref().map_or(1, Vec::len);
    let n_blocks: usize = external.blocks.iter().map(|block| of_one_family(block).len()).sum();
    n_blocks * external.ports.len().max(1) * n_namespaces
}

fn key(namespace: u64, port: u16, block: Block) -> (ExternalKey, u32) {
    let bits = match block.network {
        IpAddr::V4(_) => block.prefix + MAPPED_BITS,
        IpAddr::V6(_) => block.prefix,
    };
    (ExternalKey::new(namespace, port.to_be(), from_ip(block.network)), prefix_bits(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_ipv6_has_no_address_of_ipv4() {
        let block = |text: &str, prefix| Block { network: text.parse().unwrap(), prefix };
        let has = |blocks: &[Block], address: &str| {
            let address: Ipv6Addr = address.parse().unwrap();
            let contains = |block: &Block| block.contains(IpAddr::V6(address));
            blocks.iter().filter(|block| contains(block)).count()
        };
        let all = of_one_family(&block("::", 0));
        assert_eq!(all.len(), 96);
        for (address, expect) in [
            ("::", 1),
            ("::1", 1),
            ("2001:db8::1", 1),
            ("fd00::1", 1),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1),
            ("::fffe:ffff:ffff", 1),
            ("::1:0:0:0", 1),
        ] {
            assert_eq!(has(&all, address), expect, "{address}");
        }
        let mapped = |block: &Block| {
            let IpAddr::V6(network) = block.network else { return true };
            network.to_ipv4_mapped().is_some()
        };
        assert!(!all.iter().any(mapped));
        for other in [block("2001:db8::", 32), block("10.0.0.0", 8), block("::ffff:a00:0", 104)] {
            assert_eq!(of_one_family(&other), [other]);
        }
        assert_eq!(of_one_family(&block("::", 80)).len(), 16);
    }
}
