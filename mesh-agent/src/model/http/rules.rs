//! The HTTP routes of one port of a service, as they apply to some clients: resolved, and in an
//! order that can be searched.

use std::sync::Arc;

use crate::model::http::table::Table;
use crate::model::http::{Kind, Rule};
use crate::model::id::ResourceName;
use crate::model::snapshot::Backend;

/// All routes that apply, merged.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpRules {
    /// Which kind they are: what is said to a request that none is for depends on it.
    pub kind: Kind,
    /// Every rule of every route: older routes first, then by namespace and name, then in the order
    /// of the route.
    pub rules: Vec<HttpRule>,
    /// Finds the rule of a request. The same as the last snapshot's as long as no match changes.
    pub table: Arc<Table>,
}

/// A rule, with its backends resolved.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpRule {
    /// The route that it belongs to.
    pub route: Arc<ResourceName>,
    /// Its place in the route, from 0.
    pub index: usize,
    /// Its contents.
    pub rule: Arc<Rule>,
    /// Its backends, in the order and number of [`Rule::backends`].
    pub backends: Vec<Backend>,
    /// The backends of its mirrors: those of [`Rule::filters`], in their order, then those of each
    /// backend's.
    pub mirrors: Vec<Backend>,
}
