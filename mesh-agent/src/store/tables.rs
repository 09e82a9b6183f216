//! The tables that requests' rules are found by, kept from one snapshot to the next.
//!
//! To make one takes as long as there are rules, and expressions of paths are compiled anew, together.
//! Most changes change weights, endpoints and other routes, by which nothing is found.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::http::rules::{HttpRule, HttpRules};
use crate::model::http::{HttpRoute, Kind};
use crate::model::id::ResourceName;
use crate::model::snapshot::{Snapshot, Split};
use crate::route;
use crate::store::index::Family;

/// The rules that there are, by the routes that they are of.
#[derive(Default)]
pub(super) struct Tables {
    known: HashMap<Vec<Arc<ResourceName>>, Vec<Arc<HttpRules>>>,
    /// The rules that the next snapshot has already, by the routes that they are of and the family of
    /// their endpoints: one for all addresses and ports that have the same routes.
    made: HashMap<(Vec<*const HttpRoute>, Family), Arc<HttpRules>>,
}

impl Tables {
    /// Those of a snapshot.
    pub(super) fn of(last: &Snapshot) -> Self {
        let mut tables = Self::default();
        let targets = last.services.values();
        let splits = targets.flat_map(|it| it.by_namespace.values().chain([&it.default]));
        for rules in splits.filter_map(|split: &Split| split.http.as_ref()) {
            let known = tables.known.entry(routes(&rules.rules)).or_default();
            // One table may be that of several addresses and ports.
            if !known.iter().any(|other| Arc::ptr_eq(&other.table, &rules.table)) {
                known.push(Arc::clone(rules));
            }
        }
        tables
    }

    /// The rules of `routes` with endpoints of `family`, made by `make` if there are none yet.
    pub(super) fn of_routes(
        &mut self,
        routes: &[&Arc<HttpRoute>],
        family: Family,
        make: impl FnOnce(&mut Self) -> Arc<HttpRules>,
    ) -> Arc<HttpRules> {
        // Compared as places only: the routes are there until the snapshot is made.
        let key = (routes.iter().map(|route| Arc::as_ptr(route)).collect(), family);
        if let Some(made) = self.made.get(&key) {
            return Arc::clone(made);
        }
        let made = make(self);
        self.made.insert(key, Arc::clone(&made));
        made
    }

    /// Rules with their table: one that is known if they ask the same of requests.
    pub(super) fn with_table(&mut self, kind: Kind, rules: Vec<HttpRule>) -> Arc<HttpRules> {
        let known = self.known.entry(routes(&rules)).or_default();
        let same = known.iter().find(|other| ask_the_same(&other.rules, &rules));
        if let Some(other) = same {
            return Arc::new(HttpRules { kind, rules, table: Arc::clone(&other.table) });
        }
        let table = Arc::new(route::http::compile(&rules));
        let made = Arc::new(HttpRules { kind, rules, table });
        known.push(Arc::clone(&made));
        made
    }
}

/// The routes of rules, each once.
fn routes(rules: &[HttpRule]) -> Vec<Arc<ResourceName>> {
    let mut routes: Vec<_> = rules.iter().map(|rule| Arc::clone(&rule.route)).collect();
    routes.dedup();
    routes
}

/// Whether a table of one is a table of the other: it is made of the matches, and of the places that
/// they have.
fn ask_the_same(one: &[HttpRule], other: &[HttpRule]) -> bool {
    let mut pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.all(|(one, other)| one.rule.matches == other.rule.matches)
}
