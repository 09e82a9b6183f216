//! Any path whose prefix is replaced: what is after it stays, there and back again.
//!
//! The input is lines: a path, a prefix that it shall have, and what takes its place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_agent::model::http::PathChange;
use mesh_agent::route::http::rewrite;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (path, prefix, replacement) = (next(), next(), next());
    let change = |prefix: &str, replacement: &str, path: &str| {
        rewrite::path(&PathChange::Prefix(replacement.to_owned()), path, Some(prefix))
    };
    assert!(rewrite::path(&PathChange::Full(path.to_owned()), "/", None).starts_with('/'));
    assert!(change(prefix, replacement, path).starts_with('/'));
    if !path.starts_with('/') || !has(path, prefix) {
        return;
    }
    let rest = &path[prefix.len()..];
    let changed = change(prefix, replacement, path);
    assert!(changed.ends_with(rest), "{changed} does not end with {rest}");
    assert_eq!(change(prefix, prefix, path), path);
    if is_prefix(replacement) {
        assert_eq!(changed, format!("{replacement}{rest}"));
        assert_eq!(change(replacement, prefix, &changed), path);
        // A slash at the end of either says nothing, unless it is all that is left.
        assert_eq!(change(&format!("{prefix}/"), replacement, path), changed);
        if !rest.is_empty() {
            assert_eq!(change(prefix, &format!("{replacement}/"), path), changed);
        }
    }
});

/// Whether a text is a prefix as routes have them, other than the root.
fn is_prefix(text: &str) -> bool {
    text.starts_with('/') && !text.ends_with('/')
}

/// Whether a path has this prefix, by its elements.
fn has(path: &str, prefix: &str) -> bool {
    let mut elements = path.split('/');
    is_prefix(prefix) && prefix.split('/').all(|element| elements.next() == Some(element))
}
