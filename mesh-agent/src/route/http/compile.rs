//! Makes the table that a request's rule is found by.

use std::collections::HashMap;

use http::{HeaderName, Method};

use crate::model::http::pattern::{Compiled, CompiledSet};
use crate::model::http::rules::HttpRule;
use crate::model::http::table::{Bucket, Candidate, Condition, Node, Table};
use crate::model::http::{Match, PathMatch, Pattern, ValueMatch};
use crate::route::http::precedence::Precedence;
use crate::route::http::rewrite::trimmed;

/// The table of `rules`, which are in the order of [`HttpRules::rules`].
///
/// A regular expression for which [`Compiled::new`] fails is true of nothing: whoever makes rules
/// tries it before.
///
/// [`HttpRules::rules`]: crate::model::http::rules::HttpRules::rules
pub fn compile(rules: &[HttpRule]) -> Table {
    let places = rules.iter().enumerate().flat_map(|(rule, resolved)| {
        let matches = resolved.rule.matches.iter().enumerate();
        matches.map(move |(matched, match_)| (Precedence::new(match_, rule, matched), match_))
    });
    let mut places: Vec<(Precedence, &Match)> = places.collect();
    places.sort_unstable_by_key(|(precedence, _)| *precedence);

    let mut compiler = Compiler::default();
    let mut exact: HashMap<&str, Vec<Candidate>> = HashMap::new();
    let mut prefixes: HashMap<&str, Vec<Candidate>> = HashMap::new();
    let mut patterns: Vec<(Compiled, Vec<Candidate>)> = Vec::new();
    let mut by_source: HashMap<&str, usize> = HashMap::new();
    for (rank, (precedence, match_)) in places.into_iter().enumerate() {
        let Some(candidate) = compiler.candidate(match_, precedence, rank) else { continue };
        match &match_.path {
            PathMatch::Exact(path) => exact.entry(path).or_default().push(candidate),
            PathMatch::Prefix(prefix) => {
                prefixes.entry(trimmed(prefix)).or_default().push(candidate);
            }
            PathMatch::Regex(pattern) => {
                let Some(compiled) = compiler.pattern(pattern) else { continue };
                let next = patterns.len();
                let index = *by_source.entry(&pattern.0).or_insert(next);
                match patterns.get_mut(index) {
                    Some((_, candidates)) => candidates.push(candidate),
                    None => patterns.push((compiled, vec![candidate])),
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

/// Compiles conditions; equal expressions once.
#[derive(Default)]
struct Compiler<'a> {
    patterns: HashMap<&'a str, Option<Compiled>>,
}

impl<'a> Compiler<'a> {
    /// A match without its path. `None` if it can never be true.
    fn candidate(
        &mut self,
        match_: &'a Match,
        precedence: Precedence,
        rank: usize,
    ) -> Option<Candidate> {
        let mut headers = Vec::new();
        for header in &match_.headers {
            headers.push((header.name.clone(), self.condition(&header.value)?));
        }
        let mut query = Vec::new();
        for parameter in &match_.query {
            query.push((parameter.name.clone(), self.condition(&parameter.value)?));
        }
        let (rule, matched) = precedence.place();
        Some(Candidate { rank, rule, matched, method: match_.method.clone(), headers, query })
    }

    fn condition(&mut self, value: &'a ValueMatch) -> Option<Condition> {
        match value {
            ValueMatch::Exact(expected) => Some(Condition::Exact(expected.clone())),
            ValueMatch::Regex(pattern) => self.pattern(pattern).map(Condition::Pattern),
        }
    }

    fn pattern(&mut self, pattern: &'a Pattern) -> Option<Compiled> {
        let compile = || Compiled::new(pattern).ok();
        self.patterns.entry(&pattern.0).or_insert_with(compile).clone()
    }
}

/// What a value can be looked up by.
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
