//! Which rule a plain request is for, and whether the rule is plain too. No input or output; the
//! random numbers of weights are drawn here.

use std::sync::Arc;

use http::Method;

use crate::model::http::Filter;
use crate::model::http::rules::HttpRule;
use crate::model::snapshot::{Endpoint, Snapshot};
use crate::proxy::http::Site;
use crate::proxy::http::answer::Refusal;
use crate::proxy::http::decide::{looked_up, no_rule, no_weight, one_of, rule_name};
use crate::proxy::http::detect::Version;
use crate::proxy::http::plain::head::{Cuts, Request};
use crate::proxy::http::upstream::To;
use crate::route::http::{RequestView, backend, find, place};

/// A request, by what is known of it when its head is no longer looked at.
#[derive(Debug)]
pub struct Asked {
    /// How long the head is, in bytes.
    pub head: usize,
    /// How many bytes of a body follow.
    pub body: u64,
    /// Lines of the head that do not go on.
    pub cuts: Cuts,
    /// No other request follows.
    pub closes: bool,
    /// The answer has no body, whatever its head says.
    pub is_for_head: bool,
    /// To do it twice is to do it once (RFC 9110, section 9.2.2).
    pub is_idempotent: bool,
}

/// Where a request goes.
#[derive(Debug)]
pub struct Way {
    /// The first endpoint that is asked.
    pub to: To,
    /// The endpoints that may answer it.
    pub endpoints: Arc<[Endpoint]>,
}

/// The decision about a plain request.
#[derive(Debug)]
pub enum Choice {
    /// Its rule does more than choose a backend.
    More,
    /// An endpoint is asked, or nobody is.
    Here(Asked, Result<Way, Refusal>),
}

/// Chooses for `request`.
pub fn choose(site: &Site, mesh: &Snapshot, request: &Request<'_>) -> Choice {
    let asked = || Asked {
        head: request.length,
        body: request.body,
        cuts: request.cuts.clone(),
        closes: request.closes,
        is_for_head: request.method == Method::HEAD,
        is_idempotent: request.method.is_idempotent(),
    };
    let (target, split) = match looked_up(site, mesh) {
        Ok(found) => found,
        Err(refusal) => return Choice::Here(asked(), Err(refusal)),
    };
    // Without rules the routes have gone since the client has connected.
    let Some(rules) = &split.http else { return Choice::More };
    let view = RequestView {
        method: &request.method,
        path: request.path,
        query: request.query,
        headers: &request.fields,
    };
    let Some(found) = find(rules, &view) else {
        return Choice::Here(asked(), Err(no_rule(target, request.path)));
    };
    // Before a backend is drawn: to draw again would change its share.
    if !is_plain(found.rule) {
        return Choice::More;
    }
    let place = place(found.rule, &request.fields, rand::random());
    let way = match backend(found.rule, place) {
        None => Err(no_weight(&rule_name(found.rule))),
        Some((_, backend)) => {
            let (route, at) = (Arc::clone(&found.rule.route), || rule_name(found.rule));
            one_of(backend, Some(route), Version::Http1, at)
                .map(|(to, endpoints)| Way { to, endpoints })
        }
    };
    Choice::Here(asked(), way)
}

/// Whether a rule does nothing but choose a backend.
fn is_plain(rule: &HttpRule) -> bool {
    let rule = &rule.rule;
    let none = |filters: &[Filter]| filters.is_empty();
    none(&rule.filters)
        && rule.backends.iter().all(|backend| none(&backend.filters))
        && rule.retry.is_none()
        && rule.persistence.is_none()
        && rule.timeouts.request.is_none()
        && rule.timeouts.backend.is_none()
}
