//! Permissions of browsers across origins (the Fetch standard, "HTTP CORS protocol"; Gateway API,
//! `HTTPCORSFilter`).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::model::http::Cors;
use crate::route::http::headers::{add, set};

/// The word that stands for all, in each of the lists.
const ALL: &str = "*";

/// The header fields of the answer to a preflight, with status 204 and no body, which no backend
/// sees. `None` if the request, of this method and with these header fields, is none.
///
/// A preflight that is refused is answered all the same, without the fields that would allow it: it
/// is the browser that refuses.
pub fn preflight(cors: &Cors, method: &Method, request: &HeaderMap) -> Option<HeaderMap> {
    let asked_method = request.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    if method != Method::OPTIONS || !request.contains_key(ORIGIN) {
        return None;
    }
    let mut response = HeaderMap::new();
    let vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
    set(&mut response, VARY, HeaderValue::from_static(vary));
    let Some(origin) = origin(cors, request) else { return Some(response) };
    allow(cors, &origin, &mut response);
    // The methods that were asked for, in place of all: a `*` would leave out `Authorization`, and
    // mean itself with credentials.
    if let Some(methods) = list(&cors.methods, Some(asked_method)) {
        set(&mut response, ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if let Some(names) = list(&cors.headers, request.get(ACCESS_CONTROL_REQUEST_HEADERS)) {
        set(&mut response, ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    let all = (!cors.credentials).then_some(HeaderValue::from_static(ALL));
    if let Some(exposed) = list(&cors.expose, all.as_ref()) {
        set(&mut response, ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    set(&mut response, ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age));
    Some(response)
}

/// The origin that the answer to a request that is no preflight allows: the value of
/// `Access-Control-Allow-Origin`, for [`answer`]. `None` if the request is of no other origin, or of
/// one that is not allowed; it goes on nevertheless.
pub fn origin(cors: &Cors, request: &HeaderMap) -> Option<HeaderValue> {
    let origin = request.get(ORIGIN)?;
    let text = origin.to_str().ok()?;
    if !cors.origins.iter().any(|pattern| allows(pattern, text)) {
        return None;
    }
    Some(if is_for_all(cors) { HeaderValue::from_static(ALL) } else { origin.clone() })
}

/// Puts into an answer of a backend what the browser wants to read there. `origin` is from
/// [`origin`] of the request.
///
/// The backend's own word on it is taken away: the route's word counts, also where it allows
/// less.
pub fn answer(cors: &Cors, origin: Option<&HeaderValue>, response: &mut HeaderMap) {
    for name in [
        ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_EXPOSE_HEADERS,
    ] {
        response.remove(name);
    }
    // With credentials a `*` means itself, and so it is written out.
    let all = if cors.credentials { names(response) } else { HeaderValue::from_static(ALL) };
    if !is_for_all(cors) {
        vary_by_origin(response);
    }
    let Some(origin) = origin else { return };
    allow(cors, origin, response);
    if let Some(exposed) = list(&cors.expose, Some(&all)) {
        set(response, ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// Whether answers are the same for all origins.
fn is_for_all(cors: &Cors) -> bool {
    !cors.credentials && cors.origins.iter().any(|pattern| pattern == ALL)
}

/// Allows an origin.
fn allow(cors: &Cors, origin: &HeaderValue, response: &mut HeaderMap) {
    set(response, ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if cors.credentials {
        let value = HeaderValue::from_static("true");
        set(response, ACCESS_CONTROL_ALLOW_CREDENTIALS, value);
    }
}

/// A list as a header's value, with `all` in place of `*`. `None` if it is empty.
fn list(names: &[String], all: Option<&HeaderValue>) -> Option<HeaderValue> {
    if names.iter().any(|name| name == ALL) {
        return all.cloned();
    }
    // Fails only for what cannot be in a header, and so can be no name that is allowed.
    let value = HeaderValue::try_from(names.join(", ")).ok()?;
    (!value.is_empty()).then_some(value)
}

/// The names of an answer's header fields.
fn names(response: &HeaderMap) -> HeaderValue {
    let names: Vec<&str> = response.keys().map(http::HeaderName::as_str).collect();
    HeaderValue::try_from(names.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Says that other origins get other answers, to caches (RFC 9110, section 12.5.5).
fn vary_by_origin(response: &mut HeaderMap) {
    let said = response.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    let mut names = said.flat_map(|value| value.split(',')).map(str::trim);
    if !names.any(|name| name == ALL || name.eq_ignore_ascii_case("origin")) {
        add(response, VARY, HeaderValue::from_static("Origin"));
    }
}

/// Whether an entry of `allowOrigins` is for `origin`.
fn allows(pattern: &str, origin: &str) -> bool {
    if pattern == ALL {
        return true;
    }
    let (Some(pattern), Some(origin)) = (Parts::of(pattern), Parts::of(origin)) else {
        return false;
    };
    let same_host = match pattern.host.strip_prefix('*') {
        // Any number of labels, but not none (Gateway API: "to the left of its position").
        Some(rest) => origin.host.strip_suffix(rest).is_some_and(|labels| !labels.is_empty()),
        None => pattern.host == origin.host,
    };
    same_host && pattern.scheme == origin.scheme && pattern.port == origin.port
}

/// An origin's parts, in lower case.
struct Parts {
    scheme: String,
    host: String,
    /// The scheme's if none is written.
    port: u16,
}

impl Parts {
    /// `None` of what is not `http` or `https`, such as `null`.
    fn of(origin: &str) -> Option<Self> {
        let origin = origin.to_ascii_lowercase();
        let (scheme, authority) = origin.split_once("://")?;
        let well_known = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let (host, port) = match authority.rsplit_once(':') {
            // Not within an IPv6 address, which ends with a bracket.
            Some((host, port)) if !port.ends_with(']') => (host, number(port)?),
            _ => (authority, well_known),
        };
        // A part of a host stands for labels, and never for the way to another host.
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match inner {
            Some("") => false,
            Some(address) => address.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)),
            None => !host.bytes().any(|b| b"/?#@:[]\\".contains(&b)),
        };
        is_host.then(|| Self { scheme: scheme.to_owned(), host: host.to_owned(), port })
    }
}

/// A port: digits alone.
fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
