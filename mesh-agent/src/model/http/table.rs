//! The tables by which a request's rule is found.

use std::collections::HashMap;

use http::{HeaderName, Method};

use crate::model::http::pattern::{Compiled, CompiledSet};

/// Made of rules by [`compile`], and searched by [`find`]. Empty: no request has a rule.
///
/// A request's path leads to few [`Bucket`]s, and what else it says to few matches in each.
///
/// [`compile`]: crate::route::http::compile
/// [`find`]: crate::route::http::find
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Exact paths.
    pub exact: HashMap<String, Bucket>,
    /// Prefixes, by their elements: the root, for `/`, is the first. Empty or at least one.
    pub prefixes: Vec<Node>,
    /// Expressions of paths, each once.
    pub patterns: CompiledSet,
    /// Rules matched by each of them.
    pub by_pattern: Vec<Bucket>,
}

/// A prefix, or the beginning of one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The place in [`Table::prefixes`] of the one that has an element less; the root's own is 0.
    pub parent: usize,
    /// The places in [`Table::prefixes`] of those that have one element more: which.
    pub children: HashMap<String, usize>,
    /// Rules matched by the prefix; empty if it is only the beginning of others.
    pub bucket: Bucket,
}

/// All matches with one path. Each is in one of the lists: under one of the conditions that it has,
/// the one that the fewest others have. So a request meets only matches of which one condition is
/// true already, and those whose conditions are all regular expressions.
///
/// Each list has the match that takes precedence first, and none is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Those that ask for a method.
    pub by_method: HashMap<Method, Vec<Candidate>>,
    /// Those that ask for a header: its name, then its value.
    pub by_header: HashMap<HeaderName, HashMap<Vec<u8>, Vec<Candidate>>>,
    /// Those that ask for a parameter of the query: its name, then its value, both decoded.
    pub by_query: HashMap<Vec<u8>, HashMap<Vec<u8>, Vec<Candidate>>>,
    /// Those without a condition that a value can be looked up by.
    pub others: Vec<Candidate>,
}

/// A match of a rule, without its path.
#[derive(Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place among all matches of the table by precedence: 0 before all others. No two have the
    /// same.
    pub rank: usize,
    /// Its rule's place in the rules.
    pub rule: usize,
    /// Its own place in the rule's matches.
    pub matched: usize,
    /// Which method it asks for.
    pub method: Option<Method>,
    /// Its conditions on headers.
    pub headers: Vec<(HeaderName, Condition)>,
    /// Its conditions on the first parameter of a name in the query.
    pub query: Vec<(String, Condition)>,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is this.
    Exact(String),
    /// It matches.
    Pattern(Compiled),
}

impl Condition {
    /// Whether it is true of `value`.
    pub fn is_true(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(expected) => expected.as_bytes() == value,
            Self::Pattern(pattern) => pattern.is_match(value),
        }
    }
}
