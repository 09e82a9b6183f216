//! Which endpoint a destination means, by one snapshot. Pure: the random numbers are arguments.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::balance;
use crate::failure::{Failure, Kind, Retry, Side};
use crate::model::id::ResourceName;
use crate::model::service::Service;
use crate::model::snapshot::{Endpoint, Endpoints, Snapshot};
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
}

/// Resolves `destination` for a client of `namespace`.
///
/// A service's address is routed and balanced; a workload's own address is itself.
pub fn resolve(
    mesh: &Snapshot,
    destination: SocketAddr,
    namespace: &str,
    random: [u64; 2],
) -> Resolved {
    let Some(target) = mesh.services.get(&destination) else {
        return Resolved { service: None, route: None, endpoint: workload(mesh, destination) };
    };
    let [backend, endpoint] = random;
    let chosen = route::select(target, namespace);
    let endpoint = match split::pick(chosen, backend).map(|backend| &backend.endpoints) {
        None | Some(Endpoints::Invalid) => {
            Err(Failure::new(Kind::NoRoute, Side::Mesh, Retry::Never))
        }
        Some(Endpoints::Resolved { endpoints, .. }) => balance::pick(endpoints, endpoint)
            .cloned()
            .ok_or_else(|| Failure::new(Kind::NoEndpoint, Side::Mesh, Retry::Safe)),
    };
    Resolved { service: Some(Arc::clone(&target.service)), route: chosen.route.clone(), endpoint }
}

fn workload(mesh: &Snapshot, destination: SocketAddr) -> Result<Endpoint, Failure> {
    let found = mesh.by_address.get(&destination.ip()).and_then(|workloads| workloads.first());
    match found {
        Some(workload) => Ok(Endpoint { address: destination, workload: Arc::clone(workload) }),
        // The kernel still knew it, and the snapshot does not any more. In plaintext it does not
        // go anywhere.
        None => Err(Failure::new(Kind::NoRoute, Side::Mesh, Retry::Safe)),
    }
}
