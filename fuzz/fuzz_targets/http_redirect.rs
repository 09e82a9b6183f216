//! Any request that is redirected: the answer names the host that it shall, and what the client has
//! asked for there.
//!
//! The input is lines: `Host`, the path with its query, and another host; before them, a number: what
//! the redirect says.
#![no_main]

use http::uri::{Authority, PathAndQuery};
use http::{StatusCode, Uri};
use libfuzzer_sys::fuzz_target;
use mesh_agent::model::http::{Redirect, Scheme};
use mesh_agent::route::http::redirect::{RequestUrl, location};
use mesh_fuzz::Script;

/// The port of the service.
const PORT: u16 = 8080;

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    let Some(kind) = script.byte() else { return };
    let Ok(text) = str::from_utf8(script.bytes(u8::MAX)) else { return };
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (host, target, other) = (next(), next(), next());
    // Targets that hyper lets in, but for `*`.
    let Ok(target) = target.parse::<PathAndQuery>() else { return };
    if !target.as_str().starts_with('/') {
        return;
    }
    let is_host = |host: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        !host.is_empty() && host.bytes().all(plain)
    };
    let hostname = (kind & 1 != 0 && is_host(other)).then(|| other.to_owned());
    let scheme = [None, Some(Scheme::Http), Some(Scheme::Https), None][usize::from(kind >> 1 & 3)];
    let port = (kind & 8 != 0).then_some(u16::from(kind).max(1));
    let redirect = Redirect {
        scheme,
        hostname: hostname.clone(),
        path: None,
        port,
        status: StatusCode::FOUND,
    };
    let came = if kind & 16 == 0 { Scheme::Http } else { Scheme::Https };
    let request = RequestUrl { scheme: came, host, path: target.path(), query: target.query() };
    let location = location(&redirect, &request, None, PORT);

    let (name, well_known) = match scheme.unwrap_or(came) {
        Scheme::Http => ("http", 80),
        Scheme::Https => ("https", 443),
    };
    assert!(location.starts_with(&format!("{name}://")));
    // The request was for all that is after the host, whatever that is.
    assert!(location.ends_with(target.as_str()), "{location}");
    let Some(expected) = hostname.or_else(|| named(host)) else { return };
    let uri: Uri = location.parse().unwrap_or_else(|error| panic!("{location}: {error}"));
    assert_eq!((uri.scheme_str(), uri.host()), (Some(name), Some(&*expected)), "{location}");
    let expected_port = port.unwrap_or(if scheme.is_some() { well_known } else { PORT });
    assert_eq!(uri.port_u16().unwrap_or(well_known), expected_port, "{location}");
    assert_eq!((uri.path(), uri.query()), (target.path(), target.query()), "{location}");
});

/// The host of a field that has the form of one: with a port or without, which is a number.
fn named(field: &str) -> Option<String> {
    let authority: Authority = field.parse().ok()?;
    let host = Some(authority.host()).filter(|host| !host.is_empty())?;
    let port = field.strip_prefix(host)?;
    let digits = port.strip_prefix(':').unwrap_or(port);
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| host.to_owned())
}
