//! Header fields, changed.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::model::http::HeaderChange;

/// Changes the header fields of a request or of an answer (Gateway API, `HTTPHeaderFilter`).
///
/// `set` takes the place of all values of a name, `add` is a further value after those that there
/// are (RFC 9110, section 5.3: the same as one list), `remove` takes all values away; in this order.
///
/// A map that is full, with 32,768 names, stays as it is; no head that is read here has so many.
pub fn apply(change: &HeaderChange, headers: &mut HeaderMap) {
    for (name, value) in &change.set {
        set(headers, name.clone(), value.clone());
    }
    for (name, value) in &change.add {
        add(headers, name.clone(), value.clone());
    }
    for name in &change.remove {
        headers.remove(name);
    }
}

/// Takes the place of all values of a name. Does not panic where the map is full, as `insert` does.
pub(super) fn set(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let _is_full = headers.try_insert(name, value).is_err();
}

/// A further value of a name. Does not panic where the map is full, as `append` does.
pub(super) fn add(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let _is_full = headers.try_append(name, value).is_err();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(fields: &[(&str, &str)]) -> Vec<(HeaderName, HeaderValue)> {
        let pair = |(name, value): &(&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        fields.iter().map(pair).collect()
    }

    #[track_caller]
    fn check(
        [set, add]: [&[(&str, &str)]; 2],
        remove: &[&str],
        before: &[(&str, &str)],
        expect: &[(&str, &str)],
    ) {
        let remove = remove.iter().map(|name| name.parse().unwrap()).collect();
        let change = HeaderChange { set: pairs(set), add: pairs(add), remove };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs(before) {
            headers.append(name, value);
        }
        apply(&change, &mut headers);
        let mut got: Vec<_> = headers.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
        got.sort_by(|left, right| left.0.as_str().cmp(right.0.as_str()));
        assert_eq!(got, pairs(expect));
    }

    /// Gateway API's documentation of `HTTPHeaderFilter`.
    #[test]
    fn as_documented() {
        check(
            [&[("my-header", "bar")], &[]],
            &[],
            &[("my-header", "foo")],
            &[("my-header", "bar")],
        );
        let expect = [("my-header", "foo"), ("my-header", "bar,baz")];
        check([&[], &[("my-header", "bar,baz")]], &[], &[("my-header", "foo")], &expect);
        let before = [("my-header1", "foo"), ("my-header2", "bar"), ("my-header3", "baz")];
        check([&[], &[]], &["my-header1", "my-header3"], &before, &[("my-header2", "bar")]);
    }

    /// Gateway API's conformance tests `HTTPRouteRequestHeaderModifier`.
    #[test]
    fn as_conformance_tests_it() {
        let set: [&[(&str, &str)]; 2] = [&[("X-Header-Set", "set-overwrites-values")], &[]];
        let other = ("some-other-header", "val");
        let expect = [other, ("x-header-set", "set-overwrites-values")];
        check(set, &[], &[other], &expect);
        check(set, &[], &[other, ("x-header-set", "some-other-value")], &expect);
        check(set, &[], &[other, ("x-header-set", "1"), ("x-header-set", "2")], &expect);

        let multiple: [&[(&str, &str)]; 2] = [
            &[("X-Header-Set-1", "header-set-1"), ("X-Header-Set-2", "header-set-2")],
            &[("X-Header-Add-1", "header-add-1"), ("X-Header-Add-2", "header-add-2")],
        ];
        let before = [
            ("x-header-set-2", "set-val-2"),
            ("x-header-add-2", "add-val-2"),
            ("x-header-remove-2", "remove-val-2"),
            ("another-header", "another-header-val"),
        ];
        let expect = [
            ("another-header", "another-header-val"),
            ("x-header-add-1", "header-add-1"),
            ("x-header-add-2", "add-val-2"),
            ("x-header-add-2", "header-add-2"),
            ("x-header-set-1", "header-set-1"),
            ("x-header-set-2", "header-set-2"),
        ];
        check(multiple, &["X-Header-Remove-1", "X-HEADER-REMOVE-2"], &before, &expect);
    }

    #[test]
    fn what_is_set_is_added_to_and_removed() {
        check([&[("a", "1")], &[("a", "2")]], &[], &[("a", "0")], &[("a", "1"), ("a", "2")]);
        check([&[("a", "1")], &[("a", "2")]], &["a"], &[("a", "0")], &[]);
    }
}
