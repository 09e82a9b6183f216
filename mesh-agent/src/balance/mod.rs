//! Which endpoint of a backend a connection goes to (pure).

use crate::model::share::scale;
use crate::model::snapshot::Endpoint;

/// The endpoint that `random`, uniform over all 64 bits, falls on; `None` if there is none.
///
/// Every endpoint is as likely as any other, to within the number of endpoints / 2^64.
pub fn pick(endpoints: &[Endpoint], random: u64) -> Option<&Endpoint> {
    let n_endpoints = u64::try_from(endpoints.len()).ok()?;
    endpoints.get(usize::try_from(scale(random, n_endpoints)).ok()?)
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
