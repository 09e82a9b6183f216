//! The readings of a header: the values that servers take it for (pure).

use std::borrow::Cow;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// Whether the value of a header `is` one of those that are meant; `None` is a header that is not there.
///
/// Of a header on several lines servers take the first, the last, or all of them joined by commas (RFC
/// 9110, section 5.3), and some split what is joined. *Broadly*, one of these has to be meant; otherwise
/// all lines and what they make together.
pub(super) fn matches(
    headers: &HeaderMap,
    name: &HeaderName,
    broadly: bool,
    is: impl Fn(Option<&str>) -> bool,
) -> bool {
    let written: Vec<_> = headers.get_all(name).iter().map(text).collect();
    let whole = (!written.is_empty()).then(|| written.join(","));
    let is_whole = is(whole.as_deref());
    let mut lines = headers.iter().filter(|(other, _)| is_same(other, name));
    if !broadly {
        return is_whole && lines.all(|(_, line)| is(Some(&text(line))));
    }
    is_whole
        || lines.any(|(_, line)| {
            let line = text(line);
            is(Some(&line)) || line.split(',').any(|element| is(Some(element.trim())))
        })
}

/// Whether servers may take two names for one: those behind CGI (RFC 3875, section 4.1.18) and WSGI
/// see `_` in the place of `-`.
fn is_same(one: &HeaderName, other: &HeaderName) -> bool {
    let bytes = |name: &HeaderName| {
        let bytes = name.as_str().as_bytes().to_vec();
        bytes.into_iter().map(|byte| if byte == b'_' { b'-' } else { byte })
    };
    one == other || bytes(one).eq(bytes(other))
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[(&str, &str)], expect: [bool; 2]) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let name = HeaderName::from_static("x-role");
        let is = |value: Option<&str>| value == Some("admin");
        let found = [false, true].map(|broadly| matches(&headers, &name, broadly, is));
        assert_eq!(found, expect, "{lines:?}");
    }

    #[test]
    fn a_header_has_several_readings() {
        check(&[], [false, false]);
        check(&[("x-role", "admin")], [true, true]);
        check(&[("x-role", "user")], [false, false]);
        check(&[("x-role", "admin"), ("x-role", "admin")], [false, true]);
        check(&[("x-role", "admin"), ("x-role", "")], [false, true]);
        check(&[("x-role", "user"), ("x-role", "admin")], [false, true]);
        check(&[("x-role", "user, admin")], [false, true]);
        check(&[("x_role", "admin")], [false, true]);
        check(&[("x-role", "admin"), ("x_role", "user")], [false, true]);
        check(&[("x-roles", "admin")], [false, false]);
    }
}
