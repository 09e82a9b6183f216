//! Which rule a request is for, and what comes of it. No input or output; the random numbers of weights
//! are drawn here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::Response;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request;
use tokio::time::Instant;

use crate::balance;
use crate::model::http::rules::HttpRule;
use crate::model::http::{Cors, Filter, HeaderChange, Persistence, Retry};
use crate::model::id::ResourceName;
use crate::model::snapshot::{Backend, Endpoint, Endpoints, Snapshot, Split, Target};
use crate::proxy::http::answer::{Reason, Refusal};
use crate::proxy::http::body::Body;
use crate::proxy::http::detect::Version;
use crate::proxy::http::filtering::Filtering;
use crate::proxy::http::session::Session;
use crate::proxy::http::upstream::To;
use crate::proxy::http::{Site, mirror};
use crate::route;
use crate::route::http::{RequestView, backend, cors, find, headers, place};
use crate::task::clock;

/// The actions on the answer.
#[derive(Default)]
pub struct After {
    /// Filters of fields, in their order.
    pub changes: Vec<HeaderChange>,
    /// The permission for a browser, and the origin of its page.
    pub cors: Option<(Cors, Option<HeaderValue>)>,
    /// By what a client stays with an endpoint, and with which one it has come.
    pub session: Option<(Persistence, Option<Session>)>,
}

impl After {
    /// Changes the fields of an answer.
    pub fn apply(&self, response: &mut HeaderMap) {
        for change in &self.changes {
            headers::apply(change, response);
        }
        if let Some((cors, origin)) = &self.cors {
            cors::answer(cors, origin.as_ref(), response);
        }
    }
}

impl After {
    /// Tells the client to stay with `endpoint`, which has answered, if it is to be told.
    pub fn stay(&self, endpoint: SocketAddr, now: SystemTime, response: &mut HeaderMap) {
        match &self.session {
            Some((by, Some(session))) if session.is_of(endpoint) && by.idle.is_none() => {}
            Some((by, Some(session))) if session.is_of(endpoint) => {
                session.used(now).tell(by, response);
            }
            Some((by, _)) => Session::begin(endpoint, now).tell(by, response),
            None => {}
        }
    }
}

/// Where a request goes, after all filters.
pub struct Chosen {
    /// The endpoints that may answer it.
    pub endpoints: Arc<[Endpoint]>,
    /// The first endpoint that is asked.
    pub to: To,
    /// The actions on the answer.
    pub after: After,
    /// When the whole answer must have been sent.
    pub deadline: Option<Instant>,
    /// How long one attempt may take.
    pub each: Option<Duration>,
    /// The rule for further attempts.
    pub retry: Option<Retry>,
    /// To whom copies go.
    pub mirrors: Vec<mirror::Copy>,
}

/// The decision about a request before it is sent.
pub enum Decided {
    /// Nobody is asked.
    Answer(Response<Body>),
    /// A backend is asked.
    Send(Box<Chosen>),
}

/// Finds the rule and applies it: `head` is as the backend gets it then.
///
/// # Errors
///
/// No rule is for the request, or no backend can be asked.
pub fn decide(
    site: &Site,
    mesh: &Snapshot,
    version: Version,
    head: &mut request::Parts,
    began: Instant,
) -> Result<Decided, Refusal> {
    let (target, split) = looked_up(site, mesh)?;
    let Some(rules) = &split.http else {
        return itself(target.service.name.to_string(), split, version);
    };
    let path = head.uri.path().to_owned();
    let view = RequestView {
        method: &head.method,
        path: &path,
        query: head.uri.query(),
        headers: &head.headers,
    };
    let Some(found) = find(rules, &view) else {
        return Err(no_rule(target, &path));
    };
    let prefix = found.prefix().map(str::to_owned);
    let at = rule_name(found.rule);
    let mut filtering = Filtering {
        version,
        at: &at,
        path: &path,
        prefix: prefix.as_deref(),
        port: target.port,
        service: &target.service.hostname,
        after: After::default(),
        mirrors: Vec::new(),
    };
    // By the fields that the client has sent, whatever filters make of them.
    let by = found.rule.rule.persistence.as_ref();
    let session = by.map(|by| (by.clone(), Session::of(by, &head.headers, clock::now())));
    let kept = session.as_ref().and_then(|(_, session)| session.as_ref()?.endpoint(found.rule));
    let by_weight = || backend(found.rule, place(found.rule, &head.headers, rand::random()));
    let picking = kept.map(|(index, backend, _)| (index, backend)).or_else(by_weight);
    let mut mirrors = found.rule.mirrors.iter();
    if let Some(answer) = filtering.apply(&found.rule.rule.filters, &mut mirrors, head)? {
        return Ok(Decided::Answer(answer));
    }
    let (index, target_backend) = picking.ok_or_else(|| no_weight(&at))?;
    let mut mirrors = mirrors.skip(mirrors_before(found.rule, index));
    let filters = found.rule.rule.backends.get(index).map(|backend| backend.filters.as_slice());
    if let Some(answer) = filtering.apply(filters.unwrap_or_default(), &mut mirrors, head)? {
        return Ok(Decided::Answer(answer));
    }
    let Filtering { mut after, mirrors, .. } = filtering;
    after.session = session;
    let timeouts = found.rule.rule.timeouts;
    let wanted = |limit: Option<Duration>| limit.filter(|limit| !limit.is_zero());
    let mut chosen = Chosen {
        after,
        mirrors,
        deadline: wanted(timeouts.request).map(|limit| began + limit),
        each: wanted(timeouts.backend),
        retry: found.rule.rule.retry.clone(),
        ..picked(target_backend, Some(Arc::clone(&found.rule.route)), version, &at)?
    };
    if let Some((_, _, endpoint)) = kept {
        chosen.to.endpoint = endpoint.clone();
    }
    Ok(Decided::Send(Box::new(chosen)))
}

/// The destination of the client, as its namespace sees it.
///
/// # Errors
///
/// It is no service any more.
pub fn looked_up<'m>(site: &Site, mesh: &'m Snapshot) -> Result<(&'m Target, &'m Split), Refusal> {
    let target = mesh.services.get(&site.destination).ok_or_else(|| Refusal {
        reason: Reason::NoEndpoint,
        details: format!("{} is no service any more", site.destination),
    })?;
    Ok((target, route::select(target, site.local.identity.id().namespace())))
}

/// The refusal where no rule of `target` is for requests of `path`.
pub fn no_rule(target: &Target, path: &str) -> Refusal {
    let details = format!("no rule for {path} of Service {}", target.service.name);
    Refusal { reason: Reason::NoRule, details }
}

/// The refusal where `at` sends nothing anywhere.
pub fn no_weight(at: &str) -> Refusal {
    let details = format!("{at} has no backend with a weight");
    Refusal { reason: Reason::Unresolved, details }
}

/// How many mirrors the backends before the one at `index` have: they are not for its requests.
fn mirrors_before(rule: &HttpRule, index: usize) -> usize {
    let others = rule.rule.backends.get(..index).unwrap_or_default();
    let filters = others.iter().flat_map(|backend| &backend.filters);
    filters.filter(|filter| matches!(filter, Filter::Mirror(_))).count()
}

/// How people are told of a rule.
pub fn rule_name(rule: &HttpRule) -> String {
    match &rule.rule.name {
        Some(name) => format!("rule {name} of route {}", rule.route),
        None => format!("rule {} of route {}", rule.index, rule.route),
    }
}

/// Without HTTP routes, which have gone meanwhile.
fn itself(service: String, split: &Split, version: Version) -> Result<Decided, Refusal> {
    let (_, backend) = route::split::pick(&split.backends, rand::random())
        .ok_or_else(|| no_weight(&format!("Service {service}")))?;
    picked(backend, split.route.clone().map(Arc::new), version, &service)
        .map(Box::new)
        .map(Decided::Send)
}

/// One of the endpoints of `backend`, and all of them; `at` says where it is named.
///
/// # Errors
///
/// There is none.
pub fn one_of(
    backend: &Backend,
    route: Option<Arc<ResourceName>>,
    version: Version,
    at: impl Fn() -> String,
) -> Result<(To, Arc<[Endpoint]>), Refusal> {
    let Endpoints::Resolved { service, endpoints } = &backend.endpoints else {
        let details =
            format!("{}: there is no Service {} with port {}", at(), backend.service, backend.port);
        return Err(Refusal { reason: Reason::Unresolved, details });
    };
    let Some(endpoint) = balance::pick(endpoints, rand::random()) else {
        let details = format!("{}: Service {} has no endpoint", at(), backend.service);
        return Err(Refusal { reason: Reason::NoEndpoint, details });
    };
    let service = Some(Arc::clone(service));
    Ok((To { service, route, endpoint: endpoint.clone(), version }, Arc::clone(endpoints)))
}

fn picked(
    backend: &Backend,
    route: Option<Arc<ResourceName>>,
    version: Version,
    at: &str,
) -> Result<Chosen, Refusal> {
    let (to, endpoints) = one_of(backend, route, version, || at.to_owned())?;
    Ok(Chosen {
        to,
        endpoints,
        after: After::default(),
        deadline: None,
        each: None,
        retry: None,
        mirrors: Vec::new(),
    })
}
