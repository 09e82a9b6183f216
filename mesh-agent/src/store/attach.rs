//! Which routes apply to which port of which service (pure; GAMMA, GEP-1294).

use std::collections::{BTreeMap, HashMap, btree_map};
use std::sync::Arc;

use crate::model::condition::{Condition, Location, Reason};
use crate::model::id::ResourceName;
use crate::model::route::{BackendRef, ParentRef, TcpRoute};
use crate::model::service::{Service, ServicePort};
use crate::model::snapshot::{Backend, Endpoints, Split, Target};
use crate::store::index::{Family, Index, Placed};
use crate::store::update::{Key, Kind};

/// The routes of every service's port.
pub(super) struct Attached<'a> {
    ports: HashMap<(&'a ResourceName, u16), Routes<'a>>,
}

/// The routes of one port, by the namespace whose clients they apply to.
type Routes<'a> = BTreeMap<Scope<'a>, &'a Arc<TcpRoute>>;

/// Whom a route applies to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope<'a> {
    /// Every client: a producer route, of the service's own namespace.
    All,
    /// The clients of the route's own namespace: a consumer route.
    Namespace(&'a Arc<str>),
}

impl<'a> Attached<'a> {
    /// Attaches every route to its parents; older routes first, then by name.
    pub(super) fn new(index: &Index<'a>, conditions: &mut Vec<Condition>) -> Self {
        let mut routes: Vec<_> = index.routes.values().copied().collect();
        routes.sort_by(|(_, a), (_, b)| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
        let mut attached = Self { ports: HashMap::new() };
        for route in routes {
            for (i, parent) in route.1.parents.iter().enumerate() {
                if let Err((reason, message)) = attached.attach(index, route.1, parent) {
                    let field = format!("spec.parentRefs[{i}]");
                    conditions.push(condition(route, field, reason, message));
                }
            }
            for (i, backend) in route.1.backends.iter().enumerate() {
                if let Err(message) = resolve(index, backend) {
                    let field = format!("spec.rules[0].backendRefs[{i}]");
                    conditions.push(condition(route, field, Reason::BackendNotFound, message));
                }
            }
        }
        attached
    }

    /// Attaches `route` to one parent. On the ports that an earlier route has, it has no effect.
    fn attach(
        &mut self,
        index: &Index<'a>,
        route: &'a Arc<TcpRoute>,
        parent: &ParentRef,
    ) -> Result<(), (Reason, String)> {
        let missing = |what: String| (Reason::NoMatchingParent, what);
        let (_, service) = index.services.get(&parent.service).ok_or_else(|| {
            missing(format!(
                "there is no Service {}; add it, or correct the name or namespace",
                parent.service
            ))
        })?;
        if service.addresses.is_empty() {
            return Err(missing(format!(
                "Service {} is headless, so no connection can be routed by its address; give it a \
                 clusterIP",
                parent.service
            )));
        }
        let wanted = |port: &&ServicePort| parent.port.is_none_or(|number| number == port.port);
        let mut ports = service.ports.iter().filter(wanted).peekable();
        if ports.peek().is_none() {
            return Err(missing(format!(
                "Service {} has no TCP port {}; name one of its ports, or none for all of them",
                parent.service,
                parent.port.map_or_else(|| "at all".to_owned(), |port| port.to_string())
            )));
        }
        let scope = if route.name.namespace == service.name.namespace {
            Scope::All
        } else {
            Scope::Namespace(&route.name.namespace)
        };
        let mut lost = None;
        for port in ports {
            match self.ports.entry((&service.name, port.port)).or_default().entry(scope) {
                btree_map::Entry::Vacant(entry) => {
                    entry.insert(route);
                }
                btree_map::Entry::Occupied(entry) if entry.get().name == route.name => {}
                btree_map::Entry::Occupied(entry) => {
                    lost.get_or_insert_with(|| (port.port, entry.get().name.clone()));
                }
            }
        }
        lost.map_or(Ok(()), |(port, winner)| {
            let message = format!(
                "TCPRoute {winner} is older, or first by name, and applies to port {port} of \
                 Service {} already; remove one of them or name other ports",
                service.name
            );
            Err((Reason::Conflicted, message))
        })
    }

    /// One port of a service, for clients that use an address of `family`.
    pub(super) fn target(
        &self,
        index: &Index<'a>,
        service: &Arc<Service>,
        port: &ServicePort,
        family: Family,
    ) -> Target {
        let mut default = None;
        let mut by_namespace = HashMap::new();
        for (scope, route) in self.ports.get(&(&service.name, port.port)).into_iter().flatten() {
            let split = split(index, route, family);
            match scope {
                Scope::All => default = Some(split),
                Scope::Namespace(namespace) => {
                    by_namespace.insert(Arc::clone(namespace), split);
                }
            }
        }
        let default = default.unwrap_or_else(|| Split {
            route: None,
            backends: vec![Backend {
                service: service.name.clone(),
                port: port.port,
                weight: 1,
                endpoints: resolved(index, service, port, family),
            }],
        });
        Target { service: Arc::clone(service), port: port.port, default, by_namespace }
    }
}

/// A route's backends. Their services' own routes are not applied (GEP-1294).
fn split(index: &Index<'_>, route: &TcpRoute, family: Family) -> Split {
    let backend = |backend: &BackendRef| Backend {
        service: backend.service.clone(),
        port: backend.port,
        weight: backend.weight,
        endpoints: resolve(index, backend)
            .map_or(Endpoints::Invalid, |(service, port)| resolved(index, service, port, family)),
    };
    Split {
        route: Some(route.name.clone()),
        backends: route.backends.iter().map(backend).collect(),
    }
}

/// The service and port that a backend names, or a sentence that says what is missing.
fn resolve<'a>(
    index: &Index<'a>,
    backend: &BackendRef,
) -> Result<(&'a Arc<Service>, &'a ServicePort), String> {
    let (_, service) = index.services.get(&backend.service).ok_or_else(|| {
        format!(
            "there is no Service {}, so this share of connections is refused; add it, or correct \
             the name or namespace",
            backend.service
        )
    })?;
    let port = service.ports.iter().find(|port| port.port == backend.port).ok_or_else(|| {
        format!(
            "Service {} has no TCP port {}, so this share of connections is refused; name one of \
             its ports",
            backend.service, backend.port
        )
    })?;
    Ok((service, port))
}

fn resolved(
    index: &Index<'_>,
    service: &Arc<Service>,
    port: &ServicePort,
    family: Family,
) -> Endpoints {
    Endpoints::Resolved {
        service: Arc::clone(service),
        endpoints: index.endpoints(service, port, family),
    }
}

fn condition(
    (location, route): Placed<'_, TcpRoute>,
    field: String,
    reason: Reason,
    message: String,
) -> Condition {
    let location: &Location = location;
    Condition {
        location: location.clone(),
        subject: Key { kind: Kind::TcpRoute, name: route.name.clone() }.to_string(),
        field,
        reason,
        message,
    }
}
