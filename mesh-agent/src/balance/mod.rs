//! Which endpoint of a backend a connection goes to (pure).
//!
//! A backend may have a million endpoints, and each connection or request asks here: nothing takes
//! longer than a binary search.

use std::net::SocketAddr;

use crate::model::share::scale;
use crate::model::snapshot::Endpoint;

/// The endpoint that `random`, uniform over all 64 bits, falls on; `None` if there is none.
///
/// Every endpoint is as likely as any other, to within the number of endpoints / 2^64.
pub fn pick(endpoints: &[Endpoint], random: u64) -> Option<&Endpoint> {
    let n_endpoints = u64::try_from(endpoints.len()).ok()?;
    endpoints.get(usize::try_from(scale(random, n_endpoints)).ok()?)
}

/// The endpoint with an address, of endpoints in the order of their addresses.
pub fn at(endpoints: &[Endpoint], address: SocketAddr) -> Option<&Endpoint> {
    let first = endpoints.partition_point(|endpoint| endpoint.address < address);
    endpoints.get(first).filter(|endpoint| endpoint.address == address)
}

/// As [`pick`], of those with another address than `tried`; the endpoints are in the order of their
/// addresses.
pub fn other(endpoints: &[Endpoint], tried: SocketAddr, random: u64) -> Option<&Endpoint> {
    let first = endpoints.partition_point(|endpoint| endpoint.address < tried);
    let (before, rest) = endpoints.split_at(first);
    let after = rest.get(rest.partition_point(|endpoint| endpoint.address == tried)..)?;
    let others = u64::try_from(before.len() + after.len()).ok()?;
    let place = usize::try_from(scale(random, others)).ok()?;
    before.get(place).or_else(|| after.get(place - before.len()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::model::id::ResourceName;
    use crate::model::spiffe::SpiffeId;
    use crate::model::workload::{Place, Workload};

    fn endpoints(count: u16) -> Vec<Endpoint> {
        let workload = Arc::new(Workload {
            name: ResourceName::new("demo", "echo"),
            identity: SpiffeId::new("cluster.local", "demo", "echo").unwrap(),
            node: None,
            addresses: vec![[10, 0, 0, 1].into()],
            labels: BTreeMap::new(),
            ports: Vec::new(),
            probes: Vec::new(),
            ready: true,
            place: Place::Unplaced,
        });
        (0..count)
            .map(|port| Endpoint {
                address: ([10, 0, 0, 1], port).into(),
                workload: Arc::clone(&workload),
            })
            .collect()
    }

    #[test]
    fn nobody_is_picked_from_nobody() {
        assert_eq!(pick(&[], 7), None);
    }

    proptest! {
        #[test]
        fn others_are_those_with_another_address(
            addresses in prop::collection::vec(0_u16..8, 0..20),
            tried in 0_u16..8,
            random in any::<u64>(),
        ) {
            let all = endpoints(8);
            let mut endpoints: Vec<_> =
                addresses.iter().map(|place| all[usize::from(*place)].clone()).collect();
            endpoints.sort_by_key(|endpoint| endpoint.address);
            let tried = all[usize::from(tried)].address;
            let others: Vec<_> =
                endpoints.iter().filter(|endpoint| endpoint.address != tried).cloned().collect();
            prop_assert_eq!(other(&endpoints, tried, random), pick(&others, random));
            prop_assert_eq!(at(&endpoints, tried).is_some(), others.len() < endpoints.len());
            prop_assert!(at(&endpoints, tried).is_none_or(|found| found.address == tried));
        }

        #[test]
        fn every_endpoint_has_the_same_share(count in 1u16..200) {
            let endpoints = endpoints(count);
            let slice = u64::MAX / u64::from(count);
            for i in 0..count {
                let picked = pick(&endpoints, u64::from(i) * slice + slice / 2).unwrap();
                prop_assert_eq!(picked.address.port(), i);
            }
        }
    }
}
