//! Any origin of a browser's page: it is allowed where an expression made of the entry says so, and
//! the answer names it or nobody.
//!
//! The input is lines: entries of `allowOrigins`, and at the end the origin.
#![no_main]

use std::sync::LazyLock;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use mesh_agent::model::http::Cors;
use mesh_agent::route::http::cors;
use regex::Regex;

const MAX_ENTRIES: usize = 4;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    let Some((entries, origin)) = text.rsplit_once('\n') else { return };
    let Ok(value) = HeaderValue::from_str(origin) else { return };
    if value.to_str().is_err() {
        return;
    }
    let entries: Vec<&str> =
        entries.split('\n').filter(|entry| is_entry(entry)).take(MAX_ENTRIES).collect();
    let is_allowed = entries.iter().any(|entry| allows(entry, origin));
    let has_all = entries.contains(&"*");
    let request = HeaderMap::from_iter([(ORIGIN, value.clone())]);
    for credentials in [false, true] {
        let cors = Cors {
            origins: entries.iter().map(|entry| (*entry).to_owned()).collect(),
            credentials,
            ..Cors::default()
        };
        let allowed = cors::origin(&cors, &request);
        assert_eq!(allowed.is_some(), is_allowed, "{entries:?} {origin}");
        let named =
            if has_all && !credentials { HeaderValue::from_static("*") } else { value.clone() };
        assert!(allowed.as_ref().is_none_or(|allowed| *allowed == named));

        // The backend's word about it does not count.
        let mut answer = HeaderMap::from_iter([
            (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://evil.example")),
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")),
        ]);
        cors::answer(&cors, allowed.as_ref(), &mut answer);
        assert_eq!(answer.get(ACCESS_CONTROL_ALLOW_ORIGIN), allowed.as_ref());
        let trusts = answer.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        assert_eq!(trusts, is_allowed && credentials);
        assert_eq!(answer.contains_key(VARY), !has_all || credentials);

        let mut asked = request.clone();
        asked.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("GET"));
        let preflight = cors::preflight(&cors, &Method::OPTIONS, &asked).unwrap();
        assert_eq!(preflight.get(ACCESS_CONTROL_ALLOW_ORIGIN), allowed.as_ref());
    }
});

/// Whether the configuration takes an entry: `*`, or a scheme, a host that may begin with `*`, and
/// perhaps a port.
fn is_entry(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| {
        let host = r"(?:\*|(?:\*\.)?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)";
        Regex::new(&format!(r"\A(?:\*|https?://{host}(?::[0-9]{{1,5}})?)\z")).unwrap()
    });
    FORM.is_match(text) && (text == "*" || port(text).is_some())
}

/// The port that is written at the end, or that of the scheme.
fn port(origin: &str) -> Option<u16> {
    let digits = origin.len() - origin.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (before, digits) = origin.split_at(origin.len() - digits);
    match before.strip_suffix(':') {
        Some(_) => digits.parse().ok(),
        None => Some(if origin.to_ascii_lowercase().starts_with("https") { 443 } else { 80 }),
    }
}

/// Whether an entry is for an origin: by an expression of the scheme and the host, and by the port.
fn allows(entry: &str, origin: &str) -> bool {
    if entry == "*" {
        return true;
    }
    let (entry, origin) = (entry.to_ascii_lowercase(), origin.to_ascii_lowercase());
    let without_port = |text: &str| {
        let end = text.trim_end_matches(|c: char| c.is_ascii_digit());
        end.strip_suffix(':').unwrap_or(text).to_owned()
    };
    let host = regex::escape(&without_port(&entry));
    // An address in brackets has no labels, and so no first ones.
    let (labels, address) = (r"[^/?#@:\[\]\\]+", r"\[[0-9a-f:.]+\]");
    let host = match host.strip_suffix(r"\*") {
        Some(scheme) => format!("{scheme}(?:{labels}|{address})"),
        None => host.replace(r"\*", labels),
    };
    let is_of_host = Regex::new(&format!(r"\A{host}\z")).unwrap();
    is_of_host.is_match(&without_port(&origin)) && port(&entry) == port(&origin)
}
