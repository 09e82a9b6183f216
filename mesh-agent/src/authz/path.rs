//! The ways in which an application may read a path (pure).
//!
//! A policy must hold however the application takes `/%61dmin`, `/a/../admin` or `//admin`. Envoy
//! rewrites paths before it judges them; here they are forwarded as they were written, so that each
//! way is judged.

use std::borrow::Cow;

/// What may be written as it is or percent-encoded, which is the same (RFC 3986, section 2.3).
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The ways to read `path`, which has no query: as it is written; normalized (RFC 3986, section 6.2.2),
/// with `\` as `/`; and decoded as a whole, with slashes that follow each other as one. Most have one.
pub fn forms(path: &str) -> Vec<Cow<'_, str>> {
    let mut forms = vec![Cow::Borrowed(path)];
    let is_plain = !path.contains(['%', '\\', ';']) && !path.contains("//") && !path.contains("/.");
    if is_plain {
        return forms;
    }
    let normal = without_dots(&decoded(path, is_unreserved).replace('\\', "/"), false);
    let whole = without_dots(&decoded(path, |_| true).replace('\\', "/"), true);
    // Of `/admin;x=y` some frameworks take `/admin` (RFC 3986, section 3.3).
    let without_parameters: Vec<_> =
        whole.split('/').map(|part| part.split_once(';').map_or(part, |(name, _)| name)).collect();
    for form in [normal, without_dots(&without_parameters.join("/"), true), whole] {
        if forms.iter().all(|known| *known != form) {
            forms.push(Cow::Owned(form));
        }
    }
    forms
}

/// Decodes the bytes for which `is_decoded` is true. What is no UTF-8 becomes U+FFFD.
fn decoded(path: &str, is_decoded: fn(u8) -> bool) -> String {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = match after {
            [high, low, ..] if *first == b'%' => digit(high).zip(digit(low)),
            _ => None,
        };
        let byte = code.map(|(high, low)| high << 4 | low).filter(|byte| is_decoded(*byte));
        decoded.push(byte.unwrap_or(*first));
        let taken = if byte.is_some() { 2 } else { 0 };
        rest = after.get(taken..).unwrap_or_default();
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Takes `.` and `..` out (RFC 3986, section 5.2.4), and empty segments if slashes are merged.
fn without_dots(path: &str, merge: bool) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            "" if merge && !is_last => {}
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_read_in_all_ways() {
        let check = |path: &str, expect: &[&str]| assert_eq!(forms(path), expect, "{path}");
        check("/a/b", &["/a/b"]);
        check("/", &["/"]);
        check("/%61dmin", &["/%61dmin", "/admin"]);
        check("/a/../admin", &["/a/../admin", "/admin"]);
        check("/a/%2e%2E/admin", &["/a/%2e%2E/admin", "/admin"]);
        check("/a/./b/.", &["/a/./b/.", "/a/b/"]);
        check("//admin", &["//admin", "/admin"]);
        check("/a\\..\\admin", &["/a\\..\\admin", "/admin"]);
        check("/a%2Fb", &["/a%2Fb", "/a/b"]);
        check("/a%2F..%2Fadmin", &["/a%2F..%2Fadmin", "/admin"]);
        check("/admin;a=b", &["/admin;a=b", "/admin"]);
        check("/..;/admin", &["/..;/admin", "/admin"]);
        check("/../..", &["/../..", "/"]);
        check("/a%", &["/a%"]);
        check("/a%2", &["/a%2"]);
        check("*", &["*"]);
    }

    proptest! {
        #[test]
        fn the_last_forms_are_their_own(path in "/([a-c./;%2eEfF\\\\-]{0,24})") {
            let all = forms(&path);
            prop_assert_eq!(&all[0], &path);
            for form in &all[1..] {
                prop_assert!(form.starts_with('/'));
                prop_assert!(!form.split('/').any(|segment| matches!(segment, "." | "..")));
            }
        }
    }
}
