//! Finds a request's rule.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

use http::{HeaderName, Method};

use crate::model::http::PathMatch;
use crate::model::http::rules::{HttpRule, HttpRules};
use crate::model::http::table::{Bucket, Candidate, Node, Table};
use crate::route::http::compile::elements;
use crate::route::http::fields::Fields;
use crate::route::http::query::{self, Parameters};

/// The parts of a request that decide where it goes.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path as it is in the request: percent-encoded, without the query. `*` if that is what it
    /// asks for (RFC 9112, section 3.2.4).
    pub path: &'a str,
    /// The query after the `?`, without it.
    pub query: Option<&'a str>,
    /// Its header fields.
    pub headers: &'a dyn Fields,
}

/// The rule that a request is for.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The rule.
    pub rule: &'a HttpRule,
    /// Its place in [`HttpRules::rules`].
    pub index: usize,
    /// Which of the rule's matches was true: the one that takes precedence.
    pub matched: usize,
}

impl<'a> Found<'a> {
    /// The prefix that has matched; what [`PathChange::Prefix`] stands in for. `None` if the path
    /// was matched otherwise.
    ///
    /// [`PathChange::Prefix`]: crate::model::http::PathChange::Prefix
    pub fn prefix(&self) -> Option<&'a str> {
        match &self.rule.rule.matches.get(self.matched)?.path {
            PathMatch::Prefix(prefix) => Some(prefix),
            PathMatch::Exact(_) | PathMatch::Regex(_) => None,
        }
    }
}

/// The rule of a request; `None` if there is none for it: 404, or `UNIMPLEMENTED` for gRPC (Gateway
/// API).
///
/// The cost grows with the path's elements, as far as there are prefixes of so many, with the
/// header fields and parameters of the request, and with the rules that have a condition that is
/// true; not with the others, except for those on the same path whose conditions are all regular
/// expressions.
pub fn find<'a>(rules: &'a HttpRules, request: &RequestView<'_>) -> Option<Found<'a>> {
    let found = Search::new(request).run(&rules.table)?;
    Some(Found { rule: rules.rules.get(found.rule)?, index: found.rule, matched: found.matched })
}

/// One request's way through a table.
pub(super) struct Search<'a> {
    request: &'a RequestView<'a>,
    /// The query, decoded when it is asked for first.
    parameters: OnceCell<Parameters<'a>>,
    /// The fields of several lines that were asked for, joined once: many candidates may ask.
    joined: RefCell<Vec<(HeaderName, Vec<u8>)>>,
    /// How many candidates were looked at: what the search costs.
    pub(super) n_looked_at: usize,
}

impl<'a> Search<'a> {
    pub(super) fn new(request: &'a RequestView<'a>) -> Self {
        Self { request, parameters: OnceCell::new(), joined: RefCell::default(), n_looked_at: 0 }
    }

    /// The match that is true of the request and takes precedence.
    pub(super) fn run<'t>(&mut self, table: &'t Table) -> Option<&'t Candidate> {
        // An exact path is before all others.
        let exact = table.exact.get(self.request.path);
        if let Some(found) = exact.and_then(|bucket| self.best_in(bucket, None)) {
            return Some(found);
        }
        let mut best = None;
        let mut at = deepest(&table.prefixes, self.request.path);
        while let Some(node) = table.prefixes.get(at) {
            best = self.best_in(&node.bucket, best);
            // A longer prefix is before a shorter one; the root has no parent but itself.
            if best.is_some() || at == 0 {
                break;
            }
            at = node.parent;
        }
        if !table.patterns.is_empty() {
            for index in table.patterns.matches(self.request.path.as_bytes()) {
                let bucket = table.by_pattern.get(index);
                best = bucket.and_then(|bucket| self.best_in(bucket, best)).or(best);
            }
        }
        best
    }

    /// The better of `best` and what is true in `bucket`.
    fn best_in<'t>(
        &mut self,
        bucket: &'t Bucket,
        mut best: Option<&'t Candidate>,
    ) -> Option<&'t Candidate> {
        if let Some(list) = bucket.by_method.get(self.request.method) {
            best = self.best_of(list, best);
        }
        // From the side that has fewer names.
        let headers = self.request.headers;
        if bucket.by_header.len() <= headers.count() {
            for (name, lists) in &bucket.by_header {
                best = self.best_by_header(name, lists, best);
            }
        } else {
            headers.each_name(&mut |name| {
                if let Some(lists) = bucket.by_header.get(name) {
                    best = self.best_by_header(name, lists, best);
                }
            });
        }
        if !bucket.by_query.is_empty() && self.request.query.is_some() {
            best = self.best_by_query(bucket, best);
        }
        self.best_of(&bucket.others, best)
    }

    fn best_by_header<'t>(
        &mut self,
        name: &HeaderName,
        lists: &'t HashMap<Vec<u8>, Vec<Candidate>>,
        best: Option<&'t Candidate>,
    ) -> Option<&'t Candidate> {
        match self.field(name, |value| lists.get(value)).flatten() {
            Some(list) => self.best_of(list, best),
            None => best,
        }
    }

    fn best_by_query<'t>(
        &mut self,
        bucket: &'t Bucket,
        mut best: Option<&'t Candidate>,
    ) -> Option<&'t Candidate> {
        let parameters = self.parameters();
        let mut lists = Vec::new();
        if bucket.by_query.len() <= parameters.len() {
            lists.extend(
                bucket.by_query.iter().filter_map(|(name, lists)| {
                    lists.get(parameters.get(name.as_slice())?.as_ref())
                }),
            );
        } else {
            lists.extend(parameters.iter().filter_map(|(name, value)| {
                bucket.by_query.get(name.as_ref())?.get(value.as_ref())
            }));
        }
        for list in lists {
            best = self.best_of(list, best);
        }
        best
    }

    /// The better of `best` and the first of `list` that is true.
    fn best_of<'t>(
        &mut self,
        list: &'t [Candidate],
        best: Option<&'t Candidate>,
    ) -> Option<&'t Candidate> {
        for candidate in list {
            if best.is_some_and(|best| best.rank < candidate.rank) {
                break;
            }
            self.n_looked_at += 1;
            if self.is_true(candidate) {
                return Some(candidate);
            }
        }
        best
    }

    fn is_true(&self, candidate: &Candidate) -> bool {
        let method = self.request.method;
        candidate.method.as_ref().is_none_or(|expected| expected == method)
            && candidate.headers.iter().all(|(name, condition)| {
                self.field(name, |value| condition.is_true(value)).unwrap_or_default()
            })
            && candidate.query.iter().all(|(name, condition)| {
                let value = self.parameters().get(name.as_bytes());
                value.is_some_and(|value| condition.is_true(value))
            })
    }

    /// The answer about a field; `None` if there is none.
    fn field<T>(&self, name: &HeaderName, ask: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let mut joined = self.joined.borrow_mut();
        if let Some((_, value)) = joined.iter().find(|(known, _)| known == name) {
            return Some(ask(value));
        }
        match self.request.headers.joined(name)? {
            Cow::Borrowed(value) => Some(ask(value)),
            Cow::Owned(value) => {
                let answer = ask(&value);
                joined.push((name.clone(), value));
                Some(answer)
            }
        }
    }

    fn parameters(&self) -> &Parameters<'a> {
        self.parameters.get_or_init(|| query::parameters(self.request.query.unwrap_or_default()))
    }
}

/// The place of the longest beginning of `path` that there is among `prefixes`; the root's of a
/// path without a slash (`*`), as `/` is every request (Gateway API: the default of `matches`).
fn deepest(prefixes: &[Node], path: &str) -> usize {
    let mut at = 0;
    for element in elements(path) {
        match prefixes.get(at).and_then(|node| node.children.get(element)) {
            Some(child) => at = *child,
            None => break,
        }
    }
    at
}
