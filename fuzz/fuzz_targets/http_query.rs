//! Any query of a client's: a parameter is found by the value that a plain reading of the query has
//! for it, and by no other.
//!
//! The input is a query; after a line's end, the name of a parameter.
#![no_main]

use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use mesh_agent::model::http::{Match, QueryMatch, ValueMatch};
use mesh_agent::route::http::RequestView;
use mesh_fuzz::{is_found, pattern};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    let (query, name) = text.split_once('\n').unwrap_or((text, "a"));
    let headers = HeaderMap::new();
    let request =
        RequestView { method: &Method::GET, path: "/", query: Some(query), headers: &headers };
    let is_true = |value: ValueMatch| {
        let query = vec![QueryMatch { name: name.to_owned(), value }];
        is_found(Match { query, ..Match::all() }, &request)
    };
    let any = || ValueMatch::Regex(pattern("(?s-u:.*)"));
    let Some(value) = first(query, name) else {
        assert!(!is_true(any()));
        return;
    };
    assert!(is_true(any()));
    // A value that is no text can be matched by an expression only.
    let Ok(value) = String::from_utf8(value) else { return };
    assert!(!is_true(ValueMatch::Exact(format!("{value}x"))));
    assert!(is_true(ValueMatch::Exact(value)));
});

/// The first value of a name, decoded in two steps.
fn first(query: &str, name: &str) -> Option<Vec<u8>> {
    let mut parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    parameters.find_map(|parameter| {
        let (found, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (decoded(found) == name.as_bytes()).then(|| decoded(value))
    })
}

fn decoded(text: &str) -> Vec<u8> {
    let text = text.replace('+', " ");
    // Any bytes after a `%`, of which only the first two characters can belong to it.
    let mut parts = text.split('%');
    let mut bytes = Vec::from(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.get(..2).filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(&part.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend(part.as_bytes());
            }
        }
    }
    bytes
}
