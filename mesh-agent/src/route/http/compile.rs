//! Makes the table that a request's rule is found by.

use std::collections::HashMap;

use http::{HeaderName, Method};

use crate::model::http::pattern::{CompiledSet, Expression};
use crate::model::http::rules::HttpRule;
use crate::model::http::table::{Bucket, Candidate, Condition, Node, Table};
use crate::model::http::{Match, PathMatch, ValueMatch};
use crate::route::http::precedence::Precedence;
use crate::route::http::rewrite::trimmed;

/// The table of `rules`, which are in the order of [`HttpRules::rules`].
///
/// [`HttpRules::rules`]: crate::model::http::rules::HttpRules::rules
pub fn compile(rules: &[HttpRule]) -> Table {
    let places = rules.iter().enumerate().flat_map(|(rule, resolved)| {
        let matches = resolved.rule.matches.iter().enumerate();
        matches.map(move |(matched, match_)| (Precedence::new(match_, rule, matched), match_))
    });
    let mut places: Vec<(Precedence, &Match)> = places.collect();
    places.sort_unstable_by_key(|(precedence, _)| *precedence);

    let mut exact: HashMap<&str, Vec<Candidate>> = HashMap::new();
    let mut prefixes: HashMap<&str, Vec<Candidate>> = HashMap::new();
    let mut patterns: Vec<(&Expression, Vec<Candidate>)> = Vec::new();
    let mut by_source: HashMap<&str, usize> = HashMap::new();
    for (rank, (precedence, match_)) in places.into_iter().enumerate() {
        let candidate = candidate(match_, precedence, rank);
        match &match_.path {
            PathMatch::Exact(path) => exact.entry(path).or_default().push(candidate),
            PathMatch::Prefix(prefix) => {
                prefixes.entry(trimmed(prefix)).or_default().push(candidate);
            }
            PathMatch::Regex(pattern) => {
                let next = patterns.len();
                let index = *by_source.entry(pattern.source()).or_insert(next);
                match patterns.get_mut(index) {
                    Some((_, candidates)) => candidates.push(candidate),
                    None => patterns.push((pattern, vec![candidate])),
                }
            }
        }
    }
    let (patterns, by_pattern): (Vec<_>, Vec<_>) = patterns.into_iter().unzip();
    Table {
        exact: exact.into_iter().map(|(path, all)| (path.to_owned(), bucket(all))).collect(),
        prefixes: trie(prefixes),
        patterns: CompiledSet::new(&patterns),
        by_pattern: by_pattern.into_iter().map(bucket).collect(),
    }
}

/// The elements of a path or of a prefix that begins with a slash, which is not part of any.
pub(super) fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|path| path.split('/'))
}

/// Prefixes, each without a slash at its end, by their elements.
fn trie(prefixes: HashMap<&str, Vec<Candidate>>) -> Vec<Node> {
    if prefixes.is_empty() {
        return Vec::new();
    }
    let mut nodes = vec![Node::default()];
    for (prefix, candidates) in prefixes {
        let mut at = 0;
        for element in elements(prefix) {
            let next = nodes.len();
            let Some(node) = nodes.get_mut(at) else { break };
            let child = *node.children.entry(element.to_owned()).or_insert(next);
            if child == next {
                nodes.push(Node { parent: at, ..Node::default() });
            }
            at = child;
        }
        if let Some(node) = nodes.get_mut(at) {
            node.bucket = bucket(candidates);
        }
    }
    nodes
}

/// A match without its path.
fn candidate(match_: &Match, precedence: Precedence, rank: usize) -> Candidate {
    let headers = match_.headers.iter();
    let headers = headers.map(|header| (header.name.clone(), condition(&header.value)));
    let query = match_.query.iter();
    let query = query.map(|parameter| (parameter.name.clone(), condition(&parameter.value)));
    let (rule, matched) = precedence.place();
    let method = match_.method.clone();
    Candidate { rank, rule, matched, method, headers: headers.collect(), query: query.collect() }
}

fn condition(value: &ValueMatch) -> Condition {
    match value {
        ValueMatch::Exact(expected) => Condition::Exact(expected.clone()),
        ValueMatch::Regex(pattern) => Condition::Pattern(pattern.compiled()),
    }
}

/// The key by which a value can be looked up.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Method(Method),
    Header(HeaderName, Vec<u8>),
    Query(Vec<u8>, Vec<u8>),
}

fn keys(candidate: &Candidate) -> impl Iterator<Item = Key> {
    let exact = |condition: &Condition| match condition {
        Condition::Exact(value) => Some(value.clone().into_bytes()),
        Condition::Pattern(_) => None,
    };
    let method = candidate.method.iter().map(|method| Key::Method(method.clone()));
    let headers = candidate.headers.iter().filter_map(move |(name, condition)| {
        exact(condition).map(|value| Key::Header(name.clone(), value))
    });
    let query = candidate.query.iter().filter_map(move |(name, condition)| {
        exact(condition).map(|value| Key::Query(name.clone().into_bytes(), value))
    });
    method.chain(headers).chain(query)
}

/// Candidates of one path, the first first.
fn bucket(candidates: Vec<Candidate>) -> Bucket {
    let mut counts: HashMap<Key, usize> = HashMap::new();
    for key in candidates.iter().flat_map(keys) {
        *counts.entry(key).or_default() += 1;
    }
    let mut bucket = Bucket::default();
    for candidate in candidates {
        let rarest = keys(&candidate).min_by_key(|key| counts.get(key).copied());
        let list = match rarest {
            Some(Key::Method(method)) => bucket.by_method.entry(method).or_default(),
            Some(Key::Header(name, value)) => {
                bucket.by_header.entry(name).or_default().entry(value).or_default()
            }
            Some(Key::Query(name, value)) => {
                bucket.by_query.entry(name).or_default().entry(value).or_default()
            }
            None => &mut bucket.others,
        };
        list.push(candidate);
    }
    bucket
}
