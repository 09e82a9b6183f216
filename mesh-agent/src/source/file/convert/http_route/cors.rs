//! Permissions of browsers across origins (Gateway API, `HTTPCORSFilter`; GEP-1767).

use crate::model::condition::Reason;
use crate::model::http::Cors;

use super::super::super::schema;
use super::super::super::yaml::printable;
use super::super::Problems;
use super::matches::METHODS;
use super::value;

/// The most entries of a list.
const MAX_ENTRIES: usize = 64;

/// How long browsers remember an answer if the filter does not say, in seconds (Gateway API).
const DEFAULT_MAX_AGE: u32 = 5;

/// The filter at `path`.
pub(super) fn convert(path: &str, written: &schema::Cors, problems: &mut Problems) -> Cors {
    let mut list = |field: &str, written: &[String], check: fn(&str, &str, &mut Problems)| {
        let path = format!("{path}.{field}");
        let written = value::at_most(MAX_ENTRIES, written, &path, "entries", problems);
        for (i, text) in written.iter().enumerate() {
            let path = format!("{path}[{i}]");
            if text != "*" {
                check(&path, text, problems);
            } else if written.len() > 1 {
                let message = "`*` is all, and stands alone; remove it, or the others";
                problems.invalid(path, message);
            }
        }
        written.to_vec()
    };
    let origins = list("allowOrigins", &written.allow_origins, origin);
    let methods = list("allowMethods", &written.allow_methods, method);
    let headers = list("allowHeaders", &written.allow_headers, header);
    let expose = list("exposeHeaders", &written.expose_headers, header);
    let max_age = written.max_age.map_or(Some(DEFAULT_MAX_AGE), |seconds| {
        i32::try_from(seconds).ok().and_then(|seconds| u32::try_from(seconds).ok())
    });
    let max_age = max_age.filter(|seconds| *seconds > 0);
    if max_age.is_none() {
        let message = "this is not a number of seconds; write one from 1 to 2147483647";
        problems.invalid(format!("{path}.maxAge"), message);
    }
    Cors {
        origins,
        credentials: written.allow_credentials.unwrap_or_default(),
        methods,
        headers,
        expose,
        max_age: max_age.unwrap_or(DEFAULT_MAX_AGE),
    }
}

/// Gateway API, `CORSOrigin`: a scheme and a host, which may begin with `*.` or be `*`, and perhaps
/// a port.
fn origin(path: &str, text: &str, problems: &mut Problems) {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_host = |text: &str| {
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        text == "*" || text.strip_prefix("*.").unwrap_or(text).split('.').all(is_label)
    };
    let is_port = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        digits && text.parse::<u16>().is_ok_and(|port| port != 0)
    };
    let is_fine = host.is_some_and(|text| match text.rsplit_once(':') {
        Some((host, port)) => is_host(host) && is_port(port),
        None => is_host(text),
    });
    if !is_fine {
        let text = printable(text);
        let message = format!(
            "`{text}` is not an origin; write one such as https://shop.example.com, \
             https://*.example.com or https://shop.example.com:8443, without a path"
        );
        problems.invalid(path, message);
    }
}

fn method(path: &str, text: &str, problems: &mut Problems) {
    if !METHODS.contains(&text) {
        let text = printable(text);
        let message =
            format!("`{text}` is not known; write `*` or some of: {}", METHODS.join(", "));
        problems.refuse(path, Reason::UnsupportedValue, message);
    }
}

fn header(path: &str, text: &str, problems: &mut Problems) {
    let _only_checked: Option<_> = value::header_name(path, text, problems);
}
