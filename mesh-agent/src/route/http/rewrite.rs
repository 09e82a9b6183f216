//! Paths, changed.

use crate::model::http::PathChange;

/// The path that takes the place of `path`, which is as in the request: percent-encoded, without
/// the query. It begins with a slash; the caller puts the query after it.
///
/// `prefix` is what has matched, [`Found::prefix`]. Without one, a change of the prefix changes
/// nothing: routes that ask for it are not accepted (Gateway API, `ReplacePrefixMatch`).
///
/// [`Found::prefix`]: super::Found::prefix
pub fn path(change: &PathChange, path: &str, prefix: Option<&str>) -> String {
    let changed = match change {
        PathChange::Full(full) => full.clone(),
        PathChange::Prefix(replacement) => {
            let rest = prefix.and_then(|prefix| path.strip_prefix(trimmed(prefix)));
            match rest {
                // All of it was the prefix: what takes its place is the whole path.
                Some("") => replacement.clone(),
                Some("/") if prefix == Some("/") => replacement.clone(),
                Some(rest) => [trimmed(replacement), rest].concat(),
                None => path.to_owned(),
            }
        }
    };
    if changed.starts_with('/') { changed } else { ["/", &changed].concat() }
}

/// A prefix without the slash at its end, which says nothing (Gateway API, `PathPrefix`); so `/` is
/// empty.
pub(super) fn trimmed(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(from: &str, prefix: &str, replacement: &str, expect: &str) {
        let change = PathChange::Prefix(replacement.to_owned());
        assert_eq!(path(&change, from, Some(prefix)), expect);
    }

    /// Gateway API's documentation of `HTTPPathModifier`, `replacePrefixMatch`.
    #[test]
    fn the_prefix_is_replaced_as_documented() {
        check("/foo/bar", "/foo", "/xyz", "/xyz/bar");
        check("/foo/bar", "/foo", "/xyz/", "/xyz/bar");
        check("/foo/bar", "/foo/", "/xyz", "/xyz/bar");
        check("/foo/bar", "/foo/", "/xyz/", "/xyz/bar");
        check("/foo", "/foo", "/xyz", "/xyz");
        check("/foo/", "/foo", "/xyz", "/xyz/");
        check("/foo/bar", "/foo", "", "/bar");
        check("/foo/", "/foo", "", "/");
        check("/foo", "/foo", "", "/");
        check("/foo/", "/foo", "/", "/");
        check("/foo", "/foo", "/", "/");
    }

    /// Gateway API's conformance test `HTTPRouteRewritePath`.
    #[test]
    fn the_prefix_is_replaced_as_conformance_tests_it() {
        check("/prefix/one/two", "/prefix/one", "/one", "/one/two");
        check("/strip-prefix/three", "/strip-prefix", "/", "/three");
        check("/strip-prefix", "/strip-prefix", "/", "/");
    }

    #[test]
    fn the_root_is_a_prefix_of_all() {
        check("/", "/", "/xyz", "/xyz");
        check("/bar", "/", "/xyz", "/xyz/bar");
        check("/bar/", "/", "/xyz/", "/xyz/bar/");
        check("/bar", "/", "/", "/bar");
        check("/", "/", "/", "/");
    }

    #[test]
    fn the_rest_stays_as_it_is_written() {
        check("/foo//bar%2Fx", "/foo", "/xyz", "/xyz//bar%2Fx");
        check("/foo/bar", "/foo", "xyz", "/xyz/bar");
    }

    #[test]
    fn what_has_no_such_prefix_stays() {
        check("/other", "/foo", "/xyz", "/other");
        assert_eq!(path(&PathChange::Prefix("/xyz".to_owned()), "/foo", None), "/foo");
    }

    #[test]
    fn the_whole_path_is_replaced() {
        let check = |full: &str, expect: &str| {
            assert_eq!(path(&PathChange::Full(full.to_owned()), "/foo/bar", Some("/foo")), expect);
            assert_eq!(path(&PathChange::Full(full.to_owned()), "/foo/bar", None), expect);
        };
        check("/one", "/one");
        check("/one/", "/one/");
        check("one", "/one");
        check("", "/");
    }
}
