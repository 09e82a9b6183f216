//! Which routes apply to which port of which service (pure; GAMMA, GEP-1294).

use std::collections::{BTreeMap, HashMap, btree_map};
use std::sync::Arc;

use crate::model::condition::{Condition, Location, Reason};
use crate::model::http::{self, HttpRoute, pattern};
use crate::model::id::ResourceName;
use crate::model::route::{ParentRef, TcpRoute};
use crate::model::service::{Service, ServicePort};
use crate::model::snapshot::Target;
use crate::store::endpoints::Catalog;
use crate::store::index::{Family, Index, Placed};
use crate::store::split;
use crate::store::tables::Tables;
use crate::store::update::{Key, Kind};

/// The routes of every service's port.
pub(super) struct Attached<'a> {
    ports: HashMap<(&'a ResourceName, u16), BTreeMap<Scope<'a>, Routes<'a>>>,
    /// How many bytes the regular expressions of a namespace's routes take, by its name.
    expression_bytes: HashMap<&'a str, usize>,
}

/// The clients to which a route applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope<'a> {
    /// Every client: a producer route, of the service's own namespace.
    All,
    /// The clients of the route's own namespace: a consumer route.
    Namespace(&'a Arc<str>),
}

/// How many bytes the regular expressions of all routes of one port take at most, compiled: as many as
/// one alone may. A request may be compared with each of them, which holds its data thread for so long.
const MAX_EXPRESSION_BYTES: usize = pattern::MAX_BYTES;

/// How many bytes the regular expressions of all routes of one namespace take at most, compiled for each
/// port that they apply to: 16 MiB, as much as a namespace whose every port has a dozen expressions of some
/// KiB needs for a hundred ports.
const MAX_NAMESPACE_EXPRESSION_BYTES: usize = 16 << 20;

/// How many matches the rules of all routes of one port have at most. A request may be compared with
/// each of them that its path, or another of its parts, is common to.
const MAX_MATCHES: usize = 8 * 1024;

/// Why a route has no effect on a port.
enum Lost {
    /// This one has it already.
    To(Key),
    /// With it there would be more of something than there may be.
    By(Limit),
}

/// The bounds of routes.
enum Limit {
    /// Expressions of a port.
    Expressions,
    /// Expressions of the route's namespace.
    Share,
    /// Matches of a port.
    Matches,
}

/// The demands of the HTTP routes of a port, in all.
#[derive(Clone, Copy, Default)]
struct Size {
    expression_bytes: usize,
    matches: usize,
}

/// The routes of one port in one scope.
enum Routes<'a> {
    /// HTTP routes of one kind, merged; and how large they are.
    Http(http::Kind, Vec<&'a Arc<HttpRoute>>, Size),
    /// A TCP route.
    Tcp(&'a Arc<TcpRoute>),
}

/// A route of any kind, and where it is written.
#[derive(Clone, Copy)]
enum Route<'a> {
    Http(Placed<'a, HttpRoute>),
    Tcp(Placed<'a, TcpRoute>),
}

impl<'a> Attached<'a> {
    /// Attaches every route to its parents: of two kinds the one that comes first, of one kind older
    /// routes, then by name.
    pub(super) fn new(index: &Index<'a>, conditions: &mut Vec<Condition>) -> Self {
        let grpc = index.grpc_routes.values().chain(index.http_routes.values());
        let tcp = index.tcp_routes.values().map(|route| Route::Tcp(*route));
        let mut routes: Vec<_> = grpc.map(|route| Route::Http(*route)).chain(tcp).collect();
        routes.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        let mut attached = Self { ports: HashMap::new(), expression_bytes: HashMap::new() };
        for route in routes {
            for (i, parent) in route.parents().iter().enumerate() {
                if let Err((reason, message)) = attached.attach(index, route, parent) {
                    conditions.push(route.condition(
                        format!("spec.parentRefs[{i}]"),
                        reason,
                        message,
                    ));
                }
            }
            let missing = match route {
                Route::Http((_, route)) => split::missing_of_http(index, route),
                Route::Tcp((_, route)) => split::missing_of_tcp(index, route),
            };
            for (field, message) in missing {
                conditions.push(route.condition(field, Reason::BackendNotFound, message));
            }
        }
        attached
    }

    /// Attaches `route` to one parent. On the ports that an earlier route has, it has no effect, nor
    /// has a route of HTTP on those that say that they are not HTTP: they are left to others.
    fn attach(
        &mut self,
        index: &Index<'a>,
        route: Route<'a>,
        parent: &ParentRef,
    ) -> Result<(), (Reason, String)> {
        let service = parent_service(index, parent)?;
        let named = |port: &&ServicePort| parent.port.is_none_or(|number| number == port.port);
        let wanted = |port: &&ServicePort| named(port) && route.can_have(port);
        if !service.ports.iter().any(|port| wanted(&port)) {
            return Err(not_http(service, parent));
        }
        let scope = if route.name().namespace == service.name.namespace {
            Scope::All
        } else {
            Scope::Namespace(&route.name().namespace)
        };
        let mut lost = None;
        let expression_bytes = route.expression_bytes();
        let used = self.expression_bytes.entry(&route.name().namespace).or_default();
        for port in service.ports.iter().filter(wanted) {
            let with_these = used.saturating_add(expression_bytes);
            if expression_bytes > 0 && with_these > MAX_NAMESPACE_EXPRESSION_BYTES {
                lost.get_or_insert((port.port, Lost::By(Limit::Share)));
                continue;
            }
            match self.ports.entry((&service.name, port.port)).or_default().entry(scope) {
                btree_map::Entry::Vacant(entry) => match Routes::of(route) {
                    Ok(routes) => drop(entry.insert(routes)),
                    Err(why) => {
                        lost.get_or_insert((port.port, why));
                        continue;
                    }
                },
                btree_map::Entry::Occupied(mut entry) => {
                    if let Err(why) = entry.get_mut().add(route) {
                        lost.get_or_insert((port.port, why));
                        continue;
                    }
                }
            }
            *used = with_these;
        }
        let (port, winner) = match lost {
            None => return Ok(()),
            Some((port, Lost::To(winner))) => (port, winner),
            Some((port, Lost::By(limit))) => {
                let message = limit.told(port, &service.name, route.name());
                return Err((Reason::LimitExceeded, message));
            }
        };
        let why = if winner.kind == route.key().kind {
            "is older, or first by name, and"
        } else {
            "is of a kind that comes first, and"
        };
        let message = format!(
            "{winner} {why} applies to port {port} of Service {} already; remove one of them or \
             name other ports",
            service.name
        );
        Err((Reason::Conflicted, message))
    }

    /// One port of a service, for clients that use an address of `family`.
    pub(super) fn target(
        &self,
        (index, catalog): (&Index<'a>, &mut Catalog<'a>),
        (service, port): (&'a Arc<Service>, &'a ServicePort),
        family: Family,
        tables: &mut Tables,
    ) -> Target {
        let mut default = None;
        let mut by_namespace = HashMap::new();
        let own = |catalog: &mut Catalog<'a>, by: (Kind, &ResourceName)| {
            split::own((index, catalog), (service, port), family, by)
        };
        let itself = (Kind::Service, &service.name);
        for (scope, routes) in self.ports.get(&(&service.name, port.port)).into_iter().flatten() {
            let split = match routes {
                Routes::Http(kind, routes, _) => {
                    // A consumer's route must not use up what the service's namespace may name.
                    let by = match (scope, routes.first()) {
                        (Scope::Namespace(_), Some(route)) => ((*kind).into(), &route.name),
                        _ => itself,
                    };
                    let own = own(catalog, by);
                    split::http((index, catalog), (*kind, routes), own, family, tables)
                }
                Routes::Tcp(route) => split::tcp((index, catalog), route, family),
            };
            match scope {
                Scope::All => default = Some(split),
                Scope::Namespace(namespace) => {
                    by_namespace.insert(Arc::clone(namespace), split);
                }
            }
        }
        let default = default.unwrap_or_else(|| split::without_route(own(catalog, itself)));
        Target { service: Arc::clone(service), port: port.port, default, by_namespace }
    }
}

/// The service that a parent is, if routes can be attached to it and the port that is named.
fn parent_service<'a>(
    index: &Index<'a>,
    parent: &ParentRef,
) -> Result<&'a Arc<Service>, (Reason, String)> {
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
    if !service.ports.iter().any(|port| parent.port.is_none_or(|number| number == port.port)) {
        return Err(missing(format!(
            "Service {} has no TCP port {}; name one of its ports, or none for all of them",
            parent.service,
            parent.port.map_or_else(|| "at all".to_owned(), |port| port.to_string())
        )));
    }
    Ok(service)
}

/// The message for a route of HTTP none of whose ports is one.
fn not_http(service: &Service, parent: &ParentRef) -> (Reason, String) {
    let which = match parent.port {
        Some(port) => format!("the appProtocol of port {port} of Service {}", service.name),
        None => format!("the appProtocol of every port of Service {}", service.name),
    };
    let message = format!(
        "{which} says that it is not HTTP, so there are no requests to route; write http, \
         kubernetes.io/h2c, grpc or kubernetes.io/ws there, or remove it, or use a TCPRoute"
    );
    (Reason::UnsupportedProtocol, message)
}

impl<'a> Routes<'a> {
    fn of(route: Route<'a>) -> Result<Self, Lost> {
        match route {
            Route::Http((_, route)) => {
                let size = Size::default().with(route)?;
                Ok(Self::Http(route.kind, vec![route], size))
            }
            Route::Tcp((_, route)) => Ok(Self::Tcp(route)),
        }
    }

    /// Adds a route that comes later. HTTP routes of one kind are merged, as far as their expressions
    /// allow; of others the first wins, which is returned.
    fn add(&mut self, route: Route<'a>) -> Result<(), Lost> {
        let key = |kind: Kind, name: &ResourceName| Lost::To(Key { kind, name: name.clone() });
        match (self, route) {
            (Self::Http(kind, routes, size), Route::Http((_, route))) if *kind == route.kind => {
                // Two parents of it may be the same port.
                if routes.last().is_none_or(|last| last.name != route.name) {
                    *size = size.with(route)?;
                    routes.push(route);
                }
                Ok(())
            }
            (Self::Tcp(winner), Route::Tcp((_, route))) if winner.name == route.name => Ok(()),
            (Self::Tcp(winner), _) => Err(key(Kind::TcpRoute, &winner.name)),
            (Self::Http(kind, routes, _), _) => match routes.first() {
                Some(winner) => Err(key((*kind).into(), &winner.name)),
                None => Ok(()),
            },
        }
    }
}

impl Limit {
    /// The message for a route that is beyond it on a port of `service`.
    fn told(&self, port: u16, service: &ResourceName, route: &ResourceName) -> String {
        match self {
            Self::Expressions => format!(
                "with its regular expressions those of all routes of port {port} of Service {service} \
                 take more than {} KiB, compiled, so it does not apply there; match exact values or \
                 prefixes, or classes of ASCII instead of Unicode's",
                MAX_EXPRESSION_BYTES >> 10
            ),
            Self::Share => format!(
                "with its regular expressions on port {port} of Service {service} those of all routes \
                 of the namespace {} take more than {} MiB, compiled, so it does not apply there; match \
                 exact values or prefixes, or name fewer ports",
                route.namespace,
                MAX_NAMESPACE_EXPRESSION_BYTES >> 20
            ),
            Self::Matches => format!(
                "with its matches the rules of all routes of port {port} of Service {service} have more \
                 than {MAX_MATCHES}, so it does not apply there; remove rules, or use a prefix for several"
            ),
        }
    }
}

impl Size {
    /// The size of these and one more.
    fn with(self, route: &HttpRoute) -> Result<Self, Lost> {
        let expression_bytes = self.expression_bytes.saturating_add(route.expression_bytes());
        // A rule without matches has one: every request.
        let matches = route.rules.iter().map(|rule| rule.matches.len().max(1)).sum::<usize>();
        let matches = self.matches.saturating_add(matches);
        if expression_bytes > MAX_EXPRESSION_BYTES {
            return Err(Lost::By(Limit::Expressions));
        }
        if matches > MAX_MATCHES {
            return Err(Lost::By(Limit::Matches));
        }
        Ok(Self { expression_bytes, matches })
    }
}

impl<'a> Route<'a> {
    /// The smaller kind is attached first: `GRPCRoute`, `HTTPRoute`, `TCPRoute` (Gateway API, "Route
    /// resources"; GEP-1294), then by age, then by name.
    fn precedence(&self) -> (u8, &'a str, &'a ResourceName) {
        match self {
            Self::Http((_, route)) => {
                let rank = match route.kind {
                    http::Kind::Grpc => 0,
                    http::Kind::Http => 1,
                };
                (rank, &route.created, &route.name)
            }
            Self::Tcp((_, route)) => (2, &route.created, &route.name),
        }
    }

    /// How many bytes its regular expressions take, compiled.
    fn expression_bytes(&self) -> usize {
        match self {
            Self::Http((_, route)) => route.expression_bytes(),
            Self::Tcp(_) => 0,
        }
    }

    /// Whether it can have an effect on a port.
    fn can_have(&self, port: &ServicePort) -> bool {
        match self {
            Self::Http(_) => port.protocol.may_be_http(),
            Self::Tcp(_) => true,
        }
    }

    fn name(&self) -> &'a ResourceName {
        match self {
            Self::Http((_, route)) => &route.name,
            Self::Tcp((_, route)) => &route.name,
        }
    }

    fn parents(&self) -> &'a [ParentRef] {
        match self {
            Self::Http((_, route)) => &route.parents,
            Self::Tcp((_, route)) => &route.parents,
        }
    }

    fn key(&self) -> Key {
        let kind = match self {
            Self::Http((_, route)) => route.kind.into(),
            Self::Tcp(_) => Kind::TcpRoute,
        };
        Key { kind, name: self.name().clone() }
    }

    fn condition(&self, field: String, reason: Reason, message: String) -> Condition {
        let location: &Location = match self {
            Self::Http((location, _)) | Self::Tcp((location, _)) => location,
        };
        let subject = self.key().to_string();
        Condition { location: location.clone(), subject, field, reason, message }
    }
}
