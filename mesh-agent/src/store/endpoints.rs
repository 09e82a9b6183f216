//! Endpoints of the ports of services, once for all who name them (pure).
//!
//! Services and routes name each other freely: as lists of their own, endpoints would take the product
//! of both, in memory and in the time of each change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::condition::{Condition, Reason};
use crate::model::id::ResourceName;
use crate::model::service::{Service, ServicePort, TargetPort};
use crate::model::snapshot::{Endpoint, Endpoints};
use crate::store::index::{Family, Index};
use crate::store::update::{Key, Kind};

/// How many endpoints the documents of one namespace may name in all: those of each port of its
/// services and of each backend of its routes. 1,000 services of 100 workloads name a tenth.
const MAX_NAMED: usize = 1 << 20;

/// Selector, port and family: what has the same ones has the same endpoints.
type Same<'a> = (&'a str, &'a BTreeMap<String, String>, &'a TargetPort, Family);

/// The endpoints that there are, and how many of them each namespace has named.
pub(super) struct Catalog<'a> {
    known: HashMap<Same<'a>, Arc<[Endpoint]>>,
    named: HashMap<Arc<str>, usize>,
    most: usize,
    /// Those that have named too many.
    refused: BTreeSet<Key>,
}

impl<'a> Catalog<'a> {
    pub(super) fn new() -> Self {
        Self::within(MAX_NAMED)
    }

    pub(super) fn within(most: usize) -> Self {
        Self { known: HashMap::new(), named: HashMap::new(), most, refused: BTreeSet::new() }
    }

    /// The ready workloads behind `port` of `service`, each by its address of the family of a client
    /// that uses `family`, or else by its first one; for the resource `by`. None, if others of its
    /// namespace have named too many already.
    pub(super) fn of(
        &mut self,
        index: &Index<'a>,
        (service, port): (&'a Arc<Service>, &'a ServicePort),
        family: Family,
        by: (Kind, &ResourceName),
    ) -> Endpoints {
        let (kind, name) = by;
        let named = self.named.entry(Arc::clone(&name.namespace)).or_default();
        let mut endpoints = Arc::default();
        if *named < self.most {
            let same = (&*service.name.namespace, &service.selector, &port.target, family);
            let known = self.known.entry(same).or_insert_with(|| {
                // To look for them takes as long, whether there are any or not.
                *named += index.candidates(service).len();
                made(index, service, &port.target, family)
            });
            *named += known.len();
            endpoints = Arc::clone(known);
        }
        if *named >= self.most {
            self.refused.insert(Key { kind, name: name.clone() });
        }
        Endpoints::Resolved { service: Arc::clone(service), endpoints }
    }

    /// The conditions of those that have named too many.
    pub(super) fn conditions(self, index: &Index<'_>) -> Vec<Condition> {
        let most = self.most;
        let refused = self.refused.into_iter().filter_map(|key| {
            let location = match key.kind {
                Kind::Service => index.services.get(&key.name)?.0,
                Kind::TcpRoute => index.tcp_routes.get(&key.name)?.0,
                Kind::GrpcRoute => index.grpc_routes.get(&key.name)?.0,
                Kind::HttpRoute => index.http_routes.get(&key.name)?.0,
                _ => return None,
            };
            let message = format!(
                "the ports of services and the backends of routes of namespace {} name more than \
                 {most} endpoints, each as often as it is named, so some of this or of those after \
                 it have none; select fewer workloads, or name a service less often",
                key.name.namespace
            );
            Some(Condition {
                location: location.clone(),
                subject: key.to_string(),
                field: "spec".to_owned(),
                reason: Reason::LimitExceeded,
                message,
            })
        });
        refused.collect()
    }
}

fn made<'a>(
    index: &Index<'a>,
    service: &'a Service,
    target: &TargetPort,
    family: Family,
) -> Arc<[Endpoint]> {
    let candidates = index.candidates(service).iter().copied();
    let selected = candidates.filter(|workload| workload.ready && service.selects(workload));
    let endpoints = selected.filter_map(|workload| {
        let addresses = &workload.addresses;
        let own = addresses.iter().find(|address| Family::of(**address) == family);
        let address = SocketAddr::new(*own.or(addresses.first())?, target.resolve(workload)?);
        Some(Endpoint { address, workload: Arc::clone(workload) })
    });
    let mut endpoints: Vec<_> = endpoints.collect();
    // In the order of names among those with one address.
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints.into()
}
