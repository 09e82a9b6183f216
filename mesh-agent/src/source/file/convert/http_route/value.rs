//! The values that HTTP routes have everywhere: words, names of headers, paths, patterns, durations.

use std::time::Duration;

use http::HeaderName;

use crate::model::condition::Reason;
use crate::model::http::ValueMatch;
use crate::model::http::pattern::{self, Expression};

use super::super::super::yaml::printable;
use super::super::Problems;

/// The most bytes of a path (Gateway API, `HTTPPathMatch.value`).
const MAX_PATH_BYTES: usize = 1024;

/// The most bytes of a name of a header or parameter (Gateway API, `HeaderName`).
const MAX_NAME_BYTES: usize = 256;

/// The most bytes of a header's value (Gateway API, `HTTPHeader.value`).
pub(super) const MAX_VALUE_BYTES: usize = 4096;

/// The things of a list at `path`, as many as there may be: more refuse the document, and are not looked at.
pub(super) fn at_most<'a, T>(
    max: usize,
    all: &'a [T],
    path: &str,
    things: &str,
    problems: &mut Problems,
) -> &'a [T] {
    if all.len() > max {
        let message =
            format!("these are {} {things}, and {max} are the most; remove some", all.len());
        problems.invalid(path, message);
    }
    all.get(..max).unwrap_or(all)
}

/// The meaning of a word at `path`. One that is not known refuses the route, as the Gateway API asks.
pub(super) fn word<T: Copy>(
    path: &str,
    words: &[(&str, T)],
    written: &str,
    problems: &mut Problems,
) -> Option<T> {
    let known = words.iter().find(|(word, _)| *word == written);
    if known.is_none() {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let (written, words) = (printable(written), words.join(", "));
        let message = format!("`{written}` is not known; write one of: {words}");
        problems.refuse(path, Reason::UnsupportedValue, message);
    }
    known.map(|(_, meaning)| *meaning)
}

/// The name of a header.
pub(super) fn header_name(path: &str, text: &str, problems: &mut Problems) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    let name = name.filter(|_| text.len() <= MAX_NAME_BYTES);
    if name.is_none() {
        let text = printable(text);
        let message = format!(
            "`{text}` is not the name of a header; write 1 to {MAX_NAME_BYTES} letters, digits or \
             characters such as `-` and `_`"
        );
        problems.invalid(path, message);
    }
    name
}

/// A text that is a name like that of a header, but whose upper and lower case are different.
pub(super) fn token(path: &str, text: &str, problems: &mut Problems) -> Option<String> {
    header_name(path, text, problems).map(|_| text.to_owned())
}

/// The value that has to be at a path.
pub(super) fn value(
    path: &str,
    kind: Option<&str>,
    text: &str,
    problems: &mut Problems,
) -> Option<ValueMatch> {
    const KINDS: &[(&str, bool)] = &[("Exact", false), ("RegularExpression", true)];
    let is_pattern = word(&format!("{path}.type"), KINDS, kind.unwrap_or("Exact"), problems)?;
    let path = format!("{path}.value");
    if text.is_empty() || text.len() > MAX_VALUE_BYTES {
        let message = format!("the value is empty or too long; write 1 to {MAX_VALUE_BYTES} bytes");
        problems.invalid(path, message);
        return None;
    }
    if is_pattern {
        pattern(&path, text, problems).map(ValueMatch::Regex)
    } else {
        Some(ValueMatch::Exact(text.to_owned()))
    }
}

/// A regular expression, of the syntax of the `regex` crate: RE2's, without look-around and
/// references back, so that it takes linear time whatever a request has in it.
pub(super) fn pattern(path: &str, text: &str, problems: &mut Problems) -> Option<Expression> {
    if !problems.have_room() {
        return None;
    }
    let wrong = match Expression::new(text) {
        Ok(pattern) if problems.take_room(pattern.size()) => return Some(pattern),
        Ok(_too_much) => {
            let message = format!(
                "with this regular expression those of the document take more than {} KiB, compiled; \
                 match exact values or prefixes, or classes of ASCII instead of Unicode's",
                pattern::MAX_BYTES >> 10
            );
            problems.refuse(path, Reason::LimitExceeded, message);
            return None;
        }
        Err(wrong) => wrong.to_string(),
    };
    // Of a picture with the place, only what is wrong: it is one line.
    let wrong = wrong.lines().next_back().unwrap_or_default();
    let wrong = printable(wrong.trim_start_matches("error: ").trim_end_matches('.'));
    let message = format!("this is not a regular expression: {wrong}; write one of RE2's syntax");
    problems.invalid(path, message);
    None
}

/// A path as it is in requests: absolute, and without detours.
pub(super) fn absolute(path: &str, text: &str, problems: &mut Problems) -> Option<String> {
    let why = why_not_absolute(text);
    if let Some(why) = why {
        problems.invalid(path, format!("`{}` {why}", printable(text)));
    }
    why.is_none().then(|| text.to_owned())
}

/// The error of a path (Gateway API, the validation of `HTTPPathMatch`).
fn why_not_absolute(text: &str) -> Option<&'static str> {
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if text.len() > MAX_PATH_BYTES {
        Some("is longer than 1024 bytes; shorten it")
    } else if !text.starts_with('/') {
        Some("is not an absolute path; begin it with `/`")
    } else if has(&["//", "/./", "/../"]) || text.ends_with("/.") || text.ends_with("/..") {
        Some("is not the shortest way; write it without `//`, `/.` and `/..`")
    } else if has(&["%2f", "%2F"]) {
        Some("has a `/` in disguise; write it without `%2f`")
    } else if !is_of_path(text) {
        Some("has characters that are in no path; write them percent-encoded")
    } else {
        None
    }
}

/// Whether all characters may be in a path (RFC 3986, section 3.3).
fn is_of_path(text: &str) -> bool {
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let fine = match byte {
            b'%' => [rest.next(), rest.next()]
                .iter()
                .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !fine {
            return false;
        }
    }
    true
}

/// A duration (GEP-2257).
pub(super) fn duration(path: &str, text: &str, problems: &mut Problems) -> Option<Duration> {
    let duration = parse_duration(text);
    if duration.is_none() {
        let text = printable(text);
        let message = format!(
            "`{text}` is not a duration; write up to four numbers, each with h, m, s or ms, such \
             as 1m30s or 500ms"
        );
        problems.invalid(path, message);
    }
    duration
}

/// `([0-9]{1,5}(h|m|s|ms)){1,4}`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    for _ in 0..4 {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        if number.len() > 5 {
            return None;
        }
        let number = number.parse().ok()?;
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(end);
        sum += match unit {
            "h" => Duration::from_secs(number) * 3600,
            "m" => Duration::from_secs(number) * 60,
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = next;
        if rest.is_empty() {
            return Some(sum);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_those_of_gep_2257() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(parse_duration(text), expect.map(Duration::from_millis), "{text}");
        };
        check("0s", Some(0));
        check("10s", Some(10_000));
        check("1h30m", Some(5_400_000));
        check("1h2m3s4ms", Some(3_723_004));
        check("99999h", Some(359_996_400_000));
        check("1m1m1m1m", Some(240_000));
        check("1m1m1m1m1m", None);
        check("100000s", None);
        check("1.5s", None);
        check("-1s", None);
        check("1", None);
        check("s", None);
        check("1us", None);
        check("1s ", None);
        check("", None);
    }

    #[test]
    fn paths_are_absolute_and_normal() {
        let check = |text: &str, fine| assert_eq!(why_not_absolute(text).is_none(), fine, "{text}");
        check("/", true);
        check("/v2/", true);
        check("/a/..b/.c", true);
        check("/a%20b;c=1", true);
        check("", false);
        check("v2", false);
        check("/a//b", false);
        check("/a/./b", false);
        check("/a/..", false);
        check("/a/.", false);
        check("/a%2Fb", false);
        check("/a%2", false);
        check("/a%zz", false);
        check("/a?b", false);
        check("/a#b", false);
        check("/a b", false);
        check("/ä", false);
        check(&format!("/{}", "a".repeat(1024)), false);
    }

    #[test]
    fn patterns_stand_alone_and_in_parentheses() {
        let check = |text: &str, fine| {
            let mut problems = Problems::default();
            assert_eq!(pattern("a", text, &mut problems).is_some(), fine, "{text}");
            let messages: Vec<_> = problems.found.iter().map(|problem| &problem.message).collect();
            assert_eq!(messages.is_empty(), fine, "{text}");
            assert!(messages.iter().all(|message| !message.contains('\n')), "{messages:?}");
        };
        check("/v[0-9]+/.*", true);
        check("a|b", true);
        check("^a$", true);
        check("(?i)abc", true);
        check("a)|(b", false);
        check("(", false);
        check("(?x)a # to the end", false);
        check("(?=a)", false);
        check(r"(a)\1", false);
        check("((a{1000}){1000}){1000}", false);
    }

    proptest! {
        #[test]
        fn a_duration_that_is_printed_is_read(h in 0u64..100_000, s in 0u64..100_000, ms in 0u64..100_000) {
            let read = parse_duration(&format!("{h}h{s}s{ms}ms"));
            prop_assert_eq!(read, Some(Duration::from_millis((h * 3600 + s) * 1000 + ms)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "([0-9]{0,6}(h|m|s|ms|ä|.)){0,5}") {
            let _any: Option<Duration> = parse_duration(&text);
            let _any: Option<&str> = why_not_absolute(&text);
        }
    }
}
