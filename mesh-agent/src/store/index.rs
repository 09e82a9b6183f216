//! Resources of the sources, by name: duplicates are settled here (pure).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::condition::{Condition, Location, Reason};
use crate::model::external::External;
use crate::model::http::{HttpRoute, Kind};
use crate::model::id::ResourceName;
use crate::model::policy::{AuthorizationPolicy, MeshPolicy, PolicyKind};
use crate::model::route::TcpRoute;
use crate::model::service::Service;
use crate::model::workload::Workload;
use crate::store::update::{Object, Update};

/// A resource and where it is written.
pub(super) type Placed<'a, T> = (&'a Location, &'a Arc<T>);

/// The resources by name, without those that another has displaced.
pub(super) struct Index<'a> {
    pub(super) services: BTreeMap<&'a ResourceName, Placed<'a, Service>>,
    pub(super) tcp_routes: BTreeMap<&'a ResourceName, Placed<'a, TcpRoute>>,
    pub(super) http_routes: BTreeMap<&'a ResourceName, Placed<'a, HttpRoute>>,
    pub(super) grpc_routes: BTreeMap<&'a ResourceName, Placed<'a, HttpRoute>>,
    pub(super) workloads: BTreeMap<&'a ResourceName, Placed<'a, Workload>>,
    pub(super) mesh_policies: BTreeMap<(PolicyKind, &'a ResourceName), Placed<'a, MeshPolicy>>,
    pub(super) authorization: BTreeMap<&'a ResourceName, Placed<'a, AuthorizationPolicy>>,
    pub(super) externals: BTreeMap<&'a ResourceName, Placed<'a, External>>,
    by_label: HashMap<Label<'a>, Vec<&'a Arc<Workload>>>,
}

/// Namespace, key and value of a label.
type Label<'a> = (&'a str, &'a str, &'a str);

impl<'a> Index<'a> {
    pub(super) fn new(
        updates: &'a BTreeMap<&'static str, Update>,
        conditions: &mut Vec<Condition>,
    ) -> Self {
        let (mut services, mut tcp_routes, mut http_routes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut grpc_routes, mut workloads, mut externals) = (Vec::new(), Vec::new(), Vec::new());
        let (mut mesh_policies, mut authorization) = (Vec::new(), Vec::new());
        for resource in updates.values().flat_map(|update| &update.resources) {
            let at = &resource.location;
            match &resource.object {
                Object::Service(service) => services.push((&service.name, (at, service))),
                Object::TcpRoute(route) => tcp_routes.push((&route.name, (at, route))),
                Object::HttpRoute(route) => match route.kind {
                    Kind::Grpc => grpc_routes.push((&route.name, (at, route))),
                    Kind::Http => http_routes.push((&route.name, (at, route))),
                },
                Object::Workload(workload) => workloads.push((&workload.name, (at, workload))),
                Object::MeshPolicy(policy) => {
                    mesh_policies.push(((policy.kind, &policy.name), (at, policy)));
                }
                Object::AuthorizationPolicy(policy) => {
                    authorization.push((&policy.name, (at, policy)));
                }
                Object::External(external) => externals.push((&external.name, (at, external))),
            }
        }
        let workloads = by_name(workloads, Object::Workload, conditions);
        Self {
            services: by_name(services, Object::Service, conditions),
            tcp_routes: by_name(tcp_routes, Object::TcpRoute, conditions),
            http_routes: by_name(http_routes, Object::HttpRoute, conditions),
            grpc_routes: by_name(grpc_routes, Object::HttpRoute, conditions),
            mesh_policies: by_name(mesh_policies, Object::MeshPolicy, conditions),
            authorization: by_name(authorization, Object::AuthorizationPolicy, conditions),
            externals: by_name(externals, Object::External, conditions),
            by_label: by_label(&workloads),
            workloads,
        }
    }

    /// The workloads of a service's namespace among which those are that it selects: by the label that
    /// the fewest have.
    pub(super) fn candidates(&self, service: &'a Service) -> &[&'a Arc<Workload>] {
        let namespace = &*service.name.namespace;
        let labels = service.selector.iter();
        let by_label = labels.map(|(key, value)| {
            self.by_label.get(&(namespace, key.as_str(), value.as_str())).map_or(&[][..], |v| v)
        });
        by_label.min_by_key(|workloads| workloads.len()).unwrap_or_default()
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of `address`.
    pub(super) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Resources by name, of several with one name the first. A source has them in the order of names: then
/// nothing is moved.
fn by_name<'a, K: Ord, T>(
    mut all: Vec<(K, Placed<'a, T>)>,
    object: fn(Arc<T>) -> Object,
    conditions: &mut Vec<Condition>,
) -> BTreeMap<K, Placed<'a, T>> {
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.dedup_by(|(name, (location, it)), (first, (other, _))| {
        let is_taken = name == first;
        if is_taken {
            conditions.push(Condition {
                location: location.clone(),
                subject: object(Arc::clone(it)).key().to_string(),
                field: "metadata.name".to_owned(),
                reason: Reason::Conflicted,
                message: format!("{other} has this name already; rename or remove one"),
            });
        }
        is_taken
    });
    all.into_iter().collect()
}

fn by_label<'a>(
    workloads: &BTreeMap<&'a ResourceName, Placed<'a, Workload>>,
) -> HashMap<Label<'a>, Vec<&'a Arc<Workload>>> {
    let mut all: HashMap<_, Vec<_>> = HashMap::new();
    for (_, workload) in workloads.values() {
        for (key, value) in &workload.labels {
            let label = (&*workload.name.namespace, key.as_str(), value.as_str());
            all.entry(label).or_default().push(*workload);
        }
    }
    all
}
