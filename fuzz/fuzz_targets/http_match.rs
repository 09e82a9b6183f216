//! Any paths of routes and any path of a client's: what is found is true of it, and nothing comes
//! before it.
//!
//! The input is lines: the path of the request, then paths of rules, each after its kind: `=` for an
//! exact one, `~` for an expression, otherwise a prefix.
#![no_main]

use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use mesh_agent::model::http::pattern::Expression;
use mesh_agent::model::http::{Match, PathMatch};
use mesh_agent::route::http::{RequestView, find};
use mesh_fuzz::rules;
use regex::bytes::Regex;

/// Expressions take long to compile, and a few are as good as many.
const MAX_RULES: usize = 8;

const MAX_PATTERN_BYTES: usize = 32;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    let mut lines = text.split('\n');
    let path = lines.next().unwrap_or_default();
    let paths: Vec<PathMatch> = lines.filter_map(path_match).take(MAX_RULES).collect();
    let matches = paths.iter().map(|path| Match { path: path.clone(), ..Match::all() });
    let rules = rules(matches.collect());
    let headers = HeaderMap::new();
    let request = RequestView { method: &Method::GET, path, query: None, headers: &headers };
    let found = find(&rules, &request).map(|found| found.index);

    let is_true: Vec<bool> = paths.iter().map(|one| is_true(one, path)).collect();
    let Some(found) = found else {
        assert!(is_true.iter().all(|is_true| !is_true), "nothing is found");
        return;
    };
    assert!(is_true[found], "{:?} is found", paths[found]);
    for (i, (other, _)) in paths.iter().zip(&is_true).enumerate().filter(|(_, (_, t))| **t) {
        let comes_before = match (other, &paths[found]) {
            (PathMatch::Exact(_), PathMatch::Exact(_)) => i < found,
            (PathMatch::Exact(_), _) => true,
            (PathMatch::Prefix(one), PathMatch::Prefix(two)) => {
                let length = |prefix: &str| prefix.trim_end_matches('/').chars().count().max(1);
                (length(two), i) < (length(one), found) && (length(two) < length(one) || i < found)
            }
            // By what an expression begins with.
            _ => false,
        };
        assert!(!comes_before, "{other:?} is before {:?}", paths[found]);
    }
});

fn path_match(line: &str) -> Option<PathMatch> {
    let absolute =
        |path: &str| (path.starts_with('/') && !path.contains("//")).then(|| path.to_owned());
    if let Some(path) = line.strip_prefix('=') {
        return absolute(path).map(PathMatch::Exact);
    }
    match line.strip_prefix('~') {
        Some(source) if source.len() <= MAX_PATTERN_BYTES => {
            Expression::new(source).ok().map(PathMatch::Regex)
        }
        Some(_) => None,
        None => absolute(line).map(PathMatch::Prefix),
    }
}

/// Whether a path is matched, without a table.
fn is_true(one: &PathMatch, path: &str) -> bool {
    match one {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) if prefix == "/" => true,
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(pattern) => {
            // The longest match of all that begin where the value does need not be the whole: only
            // the ends are asked for.
            let whole = format!(r"\A(?:{})\z", pattern.source());
            Regex::new(&whole).unwrap().is_match(path.as_bytes())
        }
    }
}
