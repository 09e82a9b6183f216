//! Which endpoint a destination means, by one snapshot. Pure: the random numbers are arguments.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::balance;
use crate::failure::{Failure, Kind, Retry, Side};
use crate::model::id::ResourceName;
use crate::model::service::{AppProtocol, Service};
use crate::model::snapshot::{Endpoint, Endpoints, Snapshot, Split};
use crate::model::workload::Workload;
use crate::route::{self, split};

/// Where a connection goes.
#[derive(Debug)]
pub struct Resolved {
    /// The service that was asked for, if it was one.
    pub service: Option<Arc<Service>>,
    /// The route that chose.
    pub route: Option<ResourceName>,
    /// The endpoint, or why there is none.
    pub endpoint: Result<Endpoint, Failure>,
    /// There are HTTP routes, which decide for each request: what the service's port speaks.
    pub http: Option<AppProtocol>,
}

impl Resolved {
    /// A workload's own address.
    pub const fn itself(address: SocketAddr, workload: Arc<Workload>) -> Self {
        let endpoint = Ok(Endpoint { address, workload });
        Self { service: None, route: None, endpoint, http: None }
    }
}

/// The kernel's pick, by what it knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The backend's index in the split.
    pub backend: usize,
    /// The endpoint's address.
    pub address: SocketAddr,
}

/// Resolves `destination` for a client of `namespace`.
///
/// A service's address is routed and balanced; a workload's own address is itself. The endpoint
/// that the kernel has picked counts if this snapshot could pick it too: else it is picked anew.
pub fn resolve(
    mesh: &Snapshot,
    destination: SocketAddr,
    namespace: &str,
    picked: Option<Picked>,
    random: [u64; 2],
) -> Resolved {
    let Some(target) = mesh.services.get(&destination) else {
        return match mesh.listeners(destination).first() {
            Some(workload) => Resolved::itself(destination, Arc::clone(workload)),
            // The kernel still knew it, and the snapshot does not any more. In plaintext it does
            // not go anywhere.
            None => Resolved {
                service: None,
                route: None,
                endpoint: Err(Failure::new(Kind::NoRoute, Side::Mesh, Retry::Safe)),
                http: None,
            },
        };
    };
    let chosen = route::select(target, namespace);
    let endpoint = picked
        .and_then(|picked| still_there(chosen, picked))
        .map_or_else(|| pick(chosen, random), |endpoint| Ok(endpoint.clone()));
    let (service, route) = (Some(Arc::clone(&target.service)), chosen.route.clone());
    let http = chosen.http.as_ref().map(|_| target.protocol());
    Resolved { service, route, endpoint, http }
}

/// The endpoint that the kernel has picked, if the split has it.
fn still_there(split: &Split, picked: Picked) -> Option<&Endpoint> {
    let backend = split.backends.get(picked.backend).filter(|backend| backend.weight > 0)?;
    balance::at(backend.endpoints.as_slice(), picked.address)
}

fn pick(split: &Split, [backend, endpoint]: [u64; 2]) -> Result<Endpoint, Failure> {
    match split::pick(&split.backends, backend).map(|(_, backend)| &backend.endpoints) {
        None | Some(Endpoints::Invalid) => {
            Err(Failure::new(Kind::NoRoute, Side::Mesh, Retry::Never))
        }
        Some(Endpoints::Resolved { endpoints, .. }) => balance::pick(endpoints, endpoint)
            .cloned()
            .ok_or_else(|| Failure::new(Kind::NoEndpoint, Side::Mesh, Retry::Safe)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;
    use crate::model::snapshot::{Backend, Target};
    use crate::model::spiffe::SpiffeId;
    use crate::model::workload::Place;

    fn workload(name: &str) -> Arc<Workload> {
        Arc::new(Workload {
            name: ResourceName::new("demo", name),
            identity: SpiffeId::new("cluster.local", "demo", name).unwrap(),
            node: None,
            addresses: vec![[10, 0, 0, 1].into()],
            labels: BTreeMap::new(),
            ports: Vec::new(),
            probes: Vec::new(),
            ready: true,
            place: Place::Unplaced,
        })
    }

    fn backend(service: &Arc<Service>, weight: u32, addresses: &[&str]) -> Backend {
        let endpoint = |address: &&str| Endpoint {
            address: address.parse().unwrap(),
            workload: workload("echo"),
        };
        let endpoints = addresses.iter().map(endpoint).collect();
        Backend {
            service: service.name.clone(),
            port: 80,
            weight,
            endpoints: Endpoints::Resolved { service: Arc::clone(service), endpoints },
        }
    }

    /// A service with everything on its first backend, and other weights for clients of `shop`.
    fn mesh() -> Snapshot {
        let service = Arc::new(Service {
            name: ResourceName::new("demo", "echo"),
            hostname: "echo.demo.svc.cluster.local".into(),
            addresses: Vec::new(),
            ports: Vec::new(),
            selector: BTreeMap::new(),
        });
        let split = |weights: [u32; 2]| Split {
            route: None,
            backends: vec![
                backend(&service, weights[0], &["10.0.0.1:80"]),
                backend(&service, weights[1], &["10.0.0.2:80", "10.0.0.3:80"]),
            ],
            http: None,
        };
        let target = Target {
            service: Arc::clone(&service),
            port: 80,
            default: split([1, 0]),
            by_namespace: HashMap::from([("shop".into(), split([1, 1]))]),
        };
        let services = HashMap::from([("10.96.0.1:80".parse().unwrap(), Arc::new(target))]);
        let shared: std::net::IpAddr = [10, 0, 0, 9].into();
        Snapshot {
            services,
            by_address: HashMap::from([(shared, vec![workload("a"), workload("b")])]),
            by_port: HashMap::from([((shared, 81).into(), vec![workload("b")])]),
            ..Snapshot::default()
        }
    }

    #[track_caller]
    fn check(namespace: &str, picked: Option<(usize, &str)>, expect: &str) {
        let picked =
            picked.map(|(backend, address)| Picked { backend, address: address.parse().unwrap() });
        let to = "10.96.0.1:80".parse().unwrap();
        let resolved = resolve(&mesh(), to, namespace, picked, [0, 0]);
        assert_eq!(resolved.endpoint.unwrap().address.to_string(), expect);
    }

    #[test]
    fn what_the_kernel_has_picked_counts() {
        check("shop", Some((1, "10.0.0.3:80")), "10.0.0.3:80");
        check("shop", Some((1, "10.0.0.2:80")), "10.0.0.2:80");
        check("shop", None, "10.0.0.1:80");
    }

    #[test]
    fn what_the_split_would_not_pick_is_picked_anew() {
        check("demo", Some((1, "10.0.0.3:80")), "10.0.0.1:80");
        check("shop", Some((0, "10.0.0.3:80")), "10.0.0.1:80");
        check("shop", Some((1, "10.0.0.3:81")), "10.0.0.1:80");
        check("shop", Some((2, "10.0.0.3:80")), "10.0.0.1:80");
    }

    #[test]
    fn a_port_of_a_shared_address_says_whose_it_is() {
        for (port, expect) in [(80, "a"), (81, "b")] {
            let resolved = resolve(&mesh(), ([10, 0, 0, 9], port).into(), "demo", None, [0, 0]);
            assert_eq!(&*resolved.endpoint.unwrap().workload.name.name, expect, "{port}");
        }
    }
}
