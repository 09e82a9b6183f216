//! Destinations of connections and requests to one port: routes with their backends resolved (pure).

use std::sync::Arc;

use crate::model::http::rules::HttpRule;
use crate::model::http::{Filter, HttpRoute, Kind, Mirror, Rule};
use crate::model::id::ResourceName;
use crate::model::route::TcpRoute;
use crate::model::service::{Service, ServicePort};
use crate::model::snapshot::{Backend, Endpoints, Split};
use crate::store::endpoints::Catalog;
use crate::store::index::{Family, Index};
use crate::store::tables::Tables;
use crate::store::update;

/// A service and a port of it, as a route names them.
type Named<'a> = (&'a ResourceName, u16);

/// The service itself, as its own backend.
pub(super) fn own<'a>(
    (index, catalog): (&Index<'a>, &mut Catalog<'a>),
    (service, port): (&'a Arc<Service>, &'a ServicePort),
    family: Family,
    by: (update::Kind, &ResourceName),
) -> Backend {
    Backend {
        service: service.name.clone(),
        port: port.port,
        weight: 1,
        endpoints: catalog.of(index, (service, port), family, by),
    }
}

/// Everything goes to the service itself.
pub(super) fn without_route(own: Backend) -> Split {
    Split { route: None, backends: vec![own], http: None }
}

/// A TCP route's backends. Their services' own routes are not applied (GEP-1294).
pub(super) fn tcp<'a>(
    (index, catalog): (&Index<'a>, &mut Catalog<'a>),
    route: &TcpRoute,
    family: Family,
) -> Split {
    let by = (update::Kind::TcpRoute, &route.name);
    let backends = route.backends.iter();
    let backends = backends
        .map(|it| backend((index, catalog), (&it.service, it.port), (it.weight, family), by));
    Split { route: Some(route.name.clone()), backends: backends.collect(), http: None }
}

/// The rules of HTTP routes of one kind, which are in the order of their precedence. `own` is where
/// connections go that no rule can be applied to.
pub(super) fn http<'a>(
    (index, catalog): (&Index<'a>, &mut Catalog<'a>),
    (kind, routes): (Kind, &[&Arc<HttpRoute>]),
    own: Backend,
    family: Family,
    tables: &mut Tables,
) -> Split {
    let make =
        |tables: &mut Tables| tables.with_table(kind, rules((index, catalog), routes, family));
    Split { http: Some(tables.of_routes(routes, family, make)), ..without_route(own) }
}

/// The rules of routes, with their backends resolved.
fn rules<'a>(
    (index, catalog): (&Index<'a>, &mut Catalog<'a>),
    routes: &[&Arc<HttpRoute>],
    family: Family,
) -> Vec<HttpRule> {
    let mut rules = Vec::new();
    for route in routes {
        let by = (update::Kind::from(route.kind), &route.name);
        let mut backend = |named, weight| backend((index, catalog), named, (weight, family), by);
        let name = Arc::new(route.name.clone());
        for (i, rule) in route.rules.iter().enumerate() {
            let backends = rule.backends.iter();
            let mirrors = mirrors(rule);
            rules.push(HttpRule {
                route: Arc::clone(&name),
                index: i,
                rule: Arc::clone(rule),
                backends: backends.map(|it| backend((&it.service, it.port), it.weight)).collect(),
                mirrors: mirrors.map(|(_, it)| backend((&it.service, it.port), 1)).collect(),
            });
        }
    }
    rules
}

/// The backends of a TCP route that are not there: their fields, and what is missing.
pub(super) fn missing_of_tcp(index: &Index<'_>, route: &TcpRoute) -> Vec<(String, String)> {
    let backends = route.backends.iter().enumerate();
    let missing = backends.filter_map(|(i, it)| {
        let so = "this share of connections is refused";
        let message = resolve(index, (&it.service, it.port)).err()?.message(so);
        Some((format!("spec.rules[0].backendRefs[{i}]"), message))
    });
    missing.collect()
}

/// The backends and mirrors of an HTTP route that are not there: their fields, and what is missing.
pub(super) fn missing_of_http(index: &Index<'_>, route: &HttpRoute) -> Vec<(String, String)> {
    let mut missing = Vec::new();
    for (r, rule) in route.rules.iter().enumerate() {
        for (i, it) in rule.backends.iter().enumerate() {
            if let Err(what) = resolve(index, (&it.service, it.port)) {
                let message = what.message("this share of requests is answered with an error");
                missing.push((format!("spec.rules[{r}].backendRefs[{i}]"), message));
            }
        }
        for ((backend, filter), it) in mirrors(rule) {
            if let Err(what) = resolve(index, (&it.service, it.port)) {
                let message = what.message("no copies of requests are sent");
                let backend = backend.map(|i| format!("backendRefs[{i}].")).unwrap_or_default();
                let field = format!("{backend}filters[{filter}].requestMirror.backendRef");
                missing.push((format!("spec.rules[{r}].{field}"), message));
            }
        }
    }
    missing
}

/// The mirrors of a rule in the order of [`HttpRule::mirrors`], with their places: of the backend, if it
/// is a backend's, and of the filter.
fn mirrors(rule: &Rule) -> impl Iterator<Item = ((Option<usize>, usize), &Mirror)> {
    let inner = rule.backends.iter().enumerate();
    let inner = inner.map(|(i, backend)| (Some(i), &backend.filters));
    std::iter::once((None, &rule.filters)).chain(inner).flat_map(|(backend, filters)| {
        filters.iter().enumerate().filter_map(move |(i, filter)| match filter {
            Filter::Mirror(mirror) => Some(((backend, i), mirror)),
            _ => None,
        })
    })
}

fn backend<'a>(
    (index, catalog): (&Index<'a>, &mut Catalog<'a>),
    named: Named<'_>,
    (weight, family): (u32, Family),
    by: (update::Kind, &ResourceName),
) -> Backend {
    Backend {
        service: named.0.clone(),
        port: named.1,
        weight,
        endpoints: resolve(index, named)
            .map_or(Endpoints::Invalid, |found| catalog.of(index, found, family, by)),
    }
}

/// The part of a backend that is not there.
enum Missing<'a> {
    Service(&'a ResourceName),
    Port(&'a ResourceName, u16),
}

impl Missing<'_> {
    /// A sentence that says what is missing, and that therefore it is `so`.
    fn message(&self, so: &str) -> String {
        match self {
            Self::Service(service) => format!(
                "there is no Service {service}, so {so}; add it, or correct the name or namespace"
            ),
            Self::Port(service, port) => {
                format!("Service {service} has no TCP port {port}, so {so}; name one of its ports")
            }
        }
    }
}

/// The service and port that a backend names.
fn resolve<'a, 'n>(
    index: &Index<'a>,
    (name, number): Named<'n>,
) -> Result<(&'a Arc<Service>, &'a ServicePort), Missing<'n>> {
    let (_, service) = index.services.get(name).ok_or(Missing::Service(name))?;
    let port = service.ports.iter().find(|port| port.port == number);
    Ok((service, port.ok_or(Missing::Port(name, number))?))
}
