//! The readings of a header: the values that servers take it for (pure).

use std::borrow::Cow;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName, HeaderValue};

/// The readings of one header of a request.
///
/// Of a header on several lines servers take the first, the last, or all of them joined by commas (RFC
/// 9110, section 5.3) with or without a blank, and some split what is joined. Lines of cookies are
/// joined by `; ` (RFC 9113, section 8.2.3).
pub(super) struct Readings<'a> {
    /// All lines as one, in each way of joining them; `None`: the header is not there.
    whole: Option<Vec<String>>,
    /// The lines, also those of names that servers may take for this one.
    lines: Vec<Cow<'a, str>>,
    /// How many bytes were looked at to find them.
    bytes: usize,
}

impl<'a> Readings<'a> {
    /// The readings of the header `name`.
    pub(super) fn of(headers: &'a HeaderMap, name: &HeaderName) -> Self {
        let written: Vec<_> = headers.get_all(name).iter().map(text).collect();
        let alike = headers.iter().filter(|(other, _)| is_same(other, name));
        let lines: Vec<_> = alike.map(|(_, line)| text(line)).collect();
        let names = headers.len() * name.as_str().len();
        let bytes = lines.iter().map(|line| line.len()).sum::<usize>() + names;
        let ways: &[&str] = match written.len() {
            0 | 1 => &[""],
            _ if *name == COOKIE => &[",", ", ", "; "],
            _ => &[",", ", "],
        };
        let whole = || ways.iter().map(|way| written.join(way)).collect();
        Self { whole: (!written.is_empty()).then(whole), lines, bytes }
    }

    /// How many bytes were looked at to find them.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the value `is` one of those that are meant; `None` is a header that is not there.
    /// *Broadly*, one reading has to be meant; otherwise all lines, and what they make together.
    pub(super) fn matches(&self, broadly: bool, is: impl Fn(Option<&str>) -> bool) -> bool {
        let wholes = || self.whole.iter().flatten().map(|whole| Some(whole.as_str()));
        let is_absent = self.whole.is_none() && is(None);
        if !broadly {
            let is_whole = is_absent || (self.whole.is_some() && wholes().all(&is));
            return is_whole && self.lines.iter().all(|line| is(Some(line)));
        }
        is_absent
            || wholes().any(&is)
            || self.lines.iter().any(|line| {
                is(Some(line)) || line.split(',').any(|element| is(Some(element.trim())))
            })
    }
}

/// Whether servers may take two names for one: those behind CGI (RFC 3875, section 4.1.18) and WSGI
/// see `_` in the place of `-`.
fn is_same(one: &HeaderName, other: &HeaderName) -> bool {
    let hyphened = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let bytes = one.as_str().bytes().map(hyphened);
    bytes.eq(other.as_str().bytes().map(hyphened))
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_as_servers_do() {
        let check = |name: HeaderName, lines: [&'static str; 2], whole: &str| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(&name, HeaderValue::from_static(line));
            }
            let found = Readings::of(&headers, &name).matches(true, |value| value == Some(whole));
            assert!(found, "{name} {whole}");
        };
        let role = || HeaderName::from_static("x-role");
        check(role(), ["user", "admin"], "user,admin");
        check(role(), ["user", "admin"], "user, admin");
        check(COOKIE, ["a=1", "admin=1"], "a=1; admin=1");
    }

    #[track_caller]
    fn check(lines: &[(&str, &str)], expect: [bool; 2]) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let name = HeaderName::from_static("x-role");
        let is = |value: Option<&str>| value == Some("admin");
        let found = [false, true].map(|broadly| Readings::of(&headers, &name).matches(broadly, is));
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
