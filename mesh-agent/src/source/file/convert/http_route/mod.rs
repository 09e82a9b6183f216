//! Gateway API `HTTPRoute` and `GRPCRoute`.
//!
//! A demand of a rule that cannot be met is never passed over in silence: a value that the standard
//! does not know refuses the route, a filter that is not implemented answers with an error.

mod value;
mod matches;
mod filters;
mod change;
mod cors;
mod attempts;
mod session;
mod split_by;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::condition::Reason;
use crate::model::http::{HttpBackend, HttpRoute, Kind, Match, PathMatch, Rule};
use crate::model::id::ResourceName;

use super::super::schema;
use super::{Problems, check, refs};

/// The most rules of a route (Gateway API, `HTTPRouteSpec.rules`).
const MAX_RULES: usize = 16;

/// The most matches of a rule (Gateway API, `HTTPRouteRule.matches`).
const MAX_MATCHES: usize = 64;

/// The most matches of all rules of a route (Gateway API, `HTTPRouteSpec.rules`).
const MAX_ALL_MATCHES: usize = 128;

/// The most backends of a rule (Gateway API, `HTTPRouteRule.backendRefs`).
const MAX_BACKENDS: usize = 16;

/// Facts of the whole that every part of a rule may need.
#[derive(Clone, Copy, Debug)]
struct Context<'a> {
    route: &'a ResourceName,
    kind: Kind,
    /// The rule's place in the route.
    rule: usize,
}

/// A rule of either kind: what both have, as it is written, and its matches, converted.
struct Parts {
    name: Option<String>,
    matches: Vec<Match>,
    filters: Vec<schema::Filter>,
    backends: Vec<schema::RouteBackend<schema::Filter>>,
    timeouts: schema::Timeouts,
    retry: Option<schema::Retry>,
    persistence: Option<schema::SessionPersistence>,
}

pub(super) fn http(written: schema::HttpRoute, problems: &mut Problems) -> Option<HttpRoute> {
    route(Kind::Http, written, http_parts, problems)
}

pub(super) fn grpc(written: schema::GrpcRoute, problems: &mut Problems) -> Option<HttpRoute> {
    route(Kind::Grpc, written, grpc_parts, problems)
}

fn http_parts(path: &str, rule: schema::HttpRule, problems: &mut Problems) -> Parts {
    Parts {
        name: rule.name,
        matches: each(path, &rule.matches, matches::http, problems),
        filters: rule.filters,
        backends: rule.backend_refs,
        timeouts: rule.timeouts.unwrap_or_default(),
        retry: rule.retry,
        persistence: rule.session_persistence,
    }
}

fn grpc_parts(path: &str, rule: schema::GrpcRule, problems: &mut Problems) -> Parts {
    Parts {
        name: rule.name,
        matches: each(path, &rule.matches, matches::grpc, problems),
        filters: rule.filters.into_iter().map(Into::into).collect(),
        backends: rule.backend_refs.into_iter().map(Into::into).collect(),
        timeouts: schema::Timeouts::default(),
        retry: None,
        persistence: rule.session_persistence,
    }
}

fn route<R>(
    kind: Kind,
    written: schema::Route<R>,
    parts: fn(&str, R, &mut Problems) -> Parts,
    problems: &mut Problems,
) -> Option<HttpRoute> {
    let name = check::name(&written.metadata, check::is_subdomain, problems)?;
    let created = check::created(&written.metadata, problems);
    let annotations = written.metadata.annotations.unwrap_or_default();
    let split_by = annotations.split_by.and_then(|by| split_by::convert(&by, problems));
    let parents = refs::parents(&written.spec.parent_refs, &name, problems);
    let mut written = written.spec.rules;
    if written.is_empty() {
        problems.invalid("spec.rules", "the route has no rule; add one with backendRefs");
    }
    value::at_most(MAX_RULES, &written, "spec.rules", "rules", problems);
    written.truncate(MAX_RULES);
    let mut names = BTreeSet::new();
    let mut rules = Vec::with_capacity(written.len());
    for (i, written) in written.into_iter().enumerate() {
        let path = format!("spec.rules[{i}]");
        let parts = parts(&path, written, problems);
        if let Some(name) = &parts.name {
            rule_name(&format!("{path}.name"), name, &mut names, problems);
        }
        let rule = rule(&path, parts, Context { route: &name, kind, rule: i }, problems);
        rules.push(Arc::new(Rule { split_by: split_by.clone(), ..rule }));
    }
    let matches: Vec<_> = rules.iter().flat_map(|rule| &rule.matches).collect();
    value::at_most(MAX_ALL_MATCHES, &matches, "spec.rules", "matches in all its rules", problems);
    Some(HttpRoute { name, kind, created, parents, rules })
}

/// The matches of the rule at `path`. One that writes none has the one that is true of all.
fn each<T>(
    path: &str,
    written: &[T],
    convert: fn(&str, &T, &mut Problems) -> Option<Match>,
    problems: &mut Problems,
) -> Vec<Match> {
    let path = format!("{path}.matches");
    let written = value::at_most(MAX_MATCHES, written, &path, "matches", problems);
    if written.is_empty() {
        return vec![Match::all()];
    }
    let one = |(i, written)| convert(&format!("{path}[{i}]"), written, problems);
    written.iter().enumerate().filter_map(one).collect()
}

fn rule_name(path: &str, name: &str, names: &mut BTreeSet<String>, problems: &mut Problems) {
    if !check::is_subdomain(name) {
        problems.invalid(path, check::not_a_name(name));
    } else if !names.insert(name.to_owned()) {
        let message = format!("another rule of the route is named `{name}`; rename one of them");
        problems.invalid(path, message);
    }
}

fn rule(path: &str, parts: Parts, context: Context<'_>, problems: &mut Problems) -> Rule {
    incompatible(path, &parts, problems);
    let filters_path = format!("{path}.filters");
    let filters = filters::rule(&filters_path, &parts.filters, context, problems);
    let backends_path = format!("{path}.backendRefs");
    let written =
        value::at_most(MAX_BACKENDS, &parts.backends, &backends_path, "backends", problems);
    let mut backends = Vec::with_capacity(written.len());
    for (i, written) in written.iter().enumerate() {
        backends.extend(backend(&format!("{backends_path}[{i}]"), written, context, problems));
    }
    let persistence = parts.persistence.map(|written| {
        session::convert(&format!("{path}.sessionPersistence"), &written, context, problems)
    });
    Rule {
        name: parts.name,
        matches: parts.matches,
        filters,
        backends,
        timeouts: attempts::timeouts(&format!("{path}.timeouts"), &parts.timeouts, problems),
        retry: parts
            .retry
            .map(|written| attempts::retry(&format!("{path}.retry"), &written, problems)),
        persistence: persistence.flatten(),
        split_by: None,
    }
}

fn backend(
    path: &str,
    written: &schema::RouteBackend<schema::Filter>,
    context: Context<'_>,
    problems: &mut Problems,
) -> Option<HttpBackend> {
    let filters = filters::backend(&format!("{path}.filters"), &written.filters, context, problems);
    let weight = refs::weight(path, written.weight, problems);
    let (service, port) = refs::backend(path, &written.into(), context.route, problems)?;
    Some(HttpBackend { service, port, weight: weight?, filters })
}

/// The parts of a rule that cannot be together: a redirect with backends, two rewrites of one thing, and a
/// change of a prefix that none of the matches has.
fn incompatible(path: &str, parts: &Parts, problems: &mut Problems) {
    let mut refuse = |field: String, message: &str| {
        problems.refuse(field, Reason::IncompatibleFilters, message);
    };
    let redirects = |filter: &schema::Filter| filter.request_redirect.is_some();
    if let Some(i) = parts.filters.iter().position(redirects)
        && !parts.backends.is_empty()
    {
        let message = "a redirect is the answer, so no request goes to the backends; remove the \
                       filter or backendRefs";
        refuse(format!("{path}.filters[{i}]"), message);
    }
    let rewrite = |filters: &[schema::Filter]| {
        let rewrites = filters.iter().filter_map(|filter| filter.url_rewrite.as_ref());
        rewrites.fold((false, false), |(hostname, path), rewrite| {
            (hostname | rewrite.hostname.is_some(), path | rewrite.path.is_some())
        })
    };
    let of_rule = rewrite(&parts.filters);
    for (i, backend) in parts.backends.iter().enumerate() {
        let of_backend = rewrite(&backend.filters);
        if (of_rule.0 && of_backend.0) || (of_rule.1 && of_backend.1) {
            let message = "the rule's filters rewrite the same already; remove one of the two";
            refuse(format!("{path}.backendRefs[{i}].filters"), message);
        }
    }
    if parts.matches.iter().all(|one| matches!(one.path, PathMatch::Prefix(_))) {
        return;
    }
    let own =
        parts.filters.iter().enumerate().map(|(i, one)| (format!("{path}.filters[{i}]"), one));
    let inner = parts.backends.iter().enumerate().flat_map(|(i, backend)| {
        let path = format!("{path}.backendRefs[{i}].filters");
        backend.filters.iter().enumerate().map(move |(i, one)| (format!("{path}[{i}]"), one))
    });
    for (field, filter) in own.chain(inner) {
        let redirect = filter.request_redirect.as_ref().and_then(|it| it.path.as_ref());
        let rewrite = filter.url_rewrite.as_ref().and_then(|it| it.path.as_ref());
        let of_prefix = |path: &schema::PathModifier| path.replace_prefix_match.is_some();
        if redirect.is_some_and(of_prefix) || rewrite.is_some_and(of_prefix) {
            let message = "without a prefix that has matched there is none to replace; write \
                           matches of type PathPrefix only, or ReplaceFullPath";
            problems.invalid(field, message);
        }
    }
}

#[cfg(test)]
mod tests;
