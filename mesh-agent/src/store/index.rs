//! What the sources say, by name: duplicates are settled here (pure).

use std::collections::{BTreeMap, HashMap, btree_map};
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
        let mut index = Self {
            services: BTreeMap::new(),
            tcp_routes: BTreeMap::new(),
            http_routes: BTreeMap::new(),
            grpc_routes: BTreeMap::new(),
            workloads: BTreeMap::new(),
            mesh_policies: BTreeMap::new(),
            authorization: BTreeMap::new(),
            externals: BTreeMap::new(),
            by_label: HashMap::new(),
        };
        for resource in updates.values().flat_map(|update| &update.resources) {
            let at = &resource.location;
            let other = match &resource.object {
                Object::Service(service) => insert(&mut index.services, &service.name, at, service),
                Object::TcpRoute(route) => insert(&mut index.tcp_routes, &route.name, at, route),
                Object::HttpRoute(route) => {
                    let routes = match route.kind {
                        Kind::Grpc => &mut index.grpc_routes,
                        Kind::Http => &mut index.http_routes,
                    };
                    insert(routes, &route.name, at, route)
                }
                Object::Workload(workload) => {
                    insert(&mut index.workloads, &workload.name, at, workload)
                }
                Object::MeshPolicy(policy) => {
                    insert(&mut index.mesh_policies, (policy.kind, &policy.name), at, policy)
                }
                Object::AuthorizationPolicy(policy) => {
                    insert(&mut index.authorization, &policy.name, at, policy)
                }
                Object::External(external) => {
                    insert(&mut index.externals, &external.name, at, external)
                }
            };
            if let Some(other) = other {
                conditions.push(Condition {
                    location: at.clone(),
                    subject: resource.object.key().to_string(),
                    field: "metadata.name".to_owned(),
                    reason: Reason::Conflicted,
                    message: format!("{other} has this name already; rename or remove one"),
                });
            }
        }
        for (_, workload) in index.workloads.values() {
            for (key, value) in &workload.labels {
                let label = (&*workload.name.namespace, key.as_str(), value.as_str());
                index.by_label.entry(label).or_default().push(workload);
            }
        }
        index
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

/// Adds a resource. Returns where the one is that has the name already.
fn insert<'a, K: Ord, T>(
    map: &mut BTreeMap<K, Placed<'a, T>>,
    name: K,
    location: &'a Location,
    object: &'a Arc<T>,
) -> Option<&'a Location> {
    match map.entry(name) {
        btree_map::Entry::Occupied(entry) => Some(entry.get().0),
        btree_map::Entry::Vacant(entry) => {
            entry.insert((location, object));
            None
        }
    }
}
