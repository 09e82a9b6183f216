//! Which of several matches that are true of a request decides.

use std::cmp::Reverse;

use crate::model::http::{Match, PathMatch};
use crate::route::http::rewrite::trimmed;

/// A match's place among those of a table: the least that is true decides (Gateway API,
/// `HTTPRouteRule.matches`, `GRPCRouteRule.matches`). The fields in their order:
///
/// 1. exact paths;
/// 2. the most characters of the path: of a prefix without a slash at its end, of a regular
///    expression those it begins with. At least one, as all paths begin with a slash;
/// 3. of as many characters, regular expressions before prefixes;
/// 4. a method;
/// 5. the most headers, then the most parameters of the query;
/// 6. the order of the rules, which is by the age and the name of their routes; then of the matches
///    in the rule.
///
/// Where regular expressions go is left to implementations. The expression of a method in any service, which
/// is what a `GRPCRoute` without `service` means, has to give way to all of a service (`GRPCRoute`:
/// characters in a matching service, then in a matching method). Envoy Gateway has all expressions
/// before all prefixes, Istio behind them: here it is what they say literally that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    inexact: bool,
    path_chars: Reverse<usize>,
    prefix: bool,
    any_method: bool,
    n_headers: Reverse<usize>,
    n_query: Reverse<usize>,
    rule: usize,
    matched: usize,
}

impl Precedence {
    /// The precedence of a rule's match, both by their places.
    pub(super) fn new(matches: &Match, rule: usize, matched: usize) -> Self {
        let path_chars = match &matches.path {
            PathMatch::Exact(path) => path.chars().count(),
            PathMatch::Prefix(prefix) => trimmed(prefix).chars().count().max(1),
            PathMatch::Regex(pattern) => literal_chars(pattern.source()).max(1),
        };
        Self {
            inexact: !matches!(matches.path, PathMatch::Exact(_)),
            path_chars: Reverse(path_chars),
            prefix: matches!(matches.path, PathMatch::Prefix(_)),
            any_method: matches.method.is_none(),
            n_headers: Reverse(matches.headers.len()),
            n_query: Reverse(matches.query.len()),
            rule,
            matched,
        }
    }

    /// The places of the rule and of its match.
    pub(super) fn place(self) -> (usize, usize) {
        (self.rule, self.matched)
    }
}

/// How many characters everything that `source` matches begins with, as far as they are written
/// there as themselves: up to the first special one. 0 if there are alternatives.
fn literal_chars(source: &str) -> usize {
    if has_alternatives(source) {
        return 0;
    }
    let mut chars = source.strip_prefix('^').unwrap_or(source).chars().peekable();
    let mut n_chars = 0;
    while let Some(c) = chars.next() {
        let literal = match c {
            // An escaped letter is a class or a position; the rest stands for itself.
            '\\' => chars.next().is_some_and(|escaped| escaped.is_ascii_punctuation()),
            _ => !"[](){}.*+?|^$".contains(c),
        };
        // A part that may be there or not is no beginning.
        if !literal || matches!(chars.peek(), Some('*' | '?' | '{')) {
            break;
        }
        n_chars += 1;
    }
    n_chars
}

/// Whether a `|` is outside of all brackets.
fn has_alternatives(source: &str) -> bool {
    let (mut groups, mut classes) = (0_usize, 0_usize);
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '[' => classes += 1,
            ']' => classes = classes.saturating_sub(1),
            '(' if classes == 0 => groups += 1,
            ')' if classes == 0 => groups = groups.saturating_sub(1),
            '|' if classes == 0 && groups == 0 => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literal_beginning_of_an_expression_is_counted() {
        let check = |source: &str, expect: usize| {
            assert_eq!(literal_chars(source), expect, "{source}");
        };
        check("", 0);
        check(".*", 0);
        check("/foo", 4);
        check("^/foo$", 4);
        check("/v[0-9]+/x", 2);
        check("/[^/]+/Get", 1);
        check(r"/foo\.Bar/.*", 9);
        check(r"/\d+", 1);
        check("/foo?", 3);
        check("/foo*", 3);
        check("/foo{0,1}", 3);
        check("/foo+", 4);
        check("/a|/b", 0);
        check("/a(b|c)", 2);
        check("/a[|]", 2);
        check(r"/a\|b", 4);
        check("/é.*", 2);
        check("\\", 0);
    }
}
