//! Changes of headers, hosts and paths, and redirects.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::model::condition::Reason;
use crate::model::http::{HeaderChange, PathChange, Redirect, Rewrite, Scheme};

use super::super::super::schema;
use super::super::super::yaml::printable;
use super::super::{Problems, check};
use super::{matches, value};

/// The most headers of each list (Gateway API, `HTTPHeaderFilter`).
const MAX_HEADERS: usize = 16;

/// The status of a redirect that names none (Gateway API, `HTTPRequestRedirectFilter.statusCode`).
const DEFAULT_STATUS: i64 = 302;

const SCHEMES: &[(&str, Scheme)] = &[("http", Scheme::Http), ("https", Scheme::Https)];

/// Fields that say how far a message goes and what belongs to this one connection (RFC 9110, section
/// 7.6.1; RFC 9112, section 6). A route that could change them could make one request of two.
const FRAMING: &[HeaderName] = &[
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The same, of names that the standards do not have any more.
const OLD_FRAMING: &[&str] = &["keep-alive", "proxy-connection"];

/// The changes of headers at `path`.
pub(super) fn headers(
    path: &str,
    written: &schema::HeaderModifier,
    problems: &mut Problems,
) -> HeaderChange {
    let set = pairs(&format!("{path}.set"), &written.set, problems);
    let add = pairs(&format!("{path}.add"), &written.add, problems);
    let path = format!("{path}.remove");
    let written = value::at_most(MAX_HEADERS, &written.remove, &path, "headers", problems);
    let mut remove = Vec::with_capacity(written.len());
    for (i, name) in written.iter().enumerate() {
        remove.extend(name_to_change(&format!("{path}[{i}]"), name, problems));
    }
    HeaderChange { set, add, remove }
}

/// The headers at `path`. Of several with one name only the first counts (Gateway API).
fn pairs(
    path: &str,
    written: &[schema::Header],
    problems: &mut Problems,
) -> Vec<(HeaderName, HeaderValue)> {
    let written = value::at_most(MAX_HEADERS, written, path, "headers", problems);
    let mut seen = HashSet::new();
    let mut pairs = Vec::with_capacity(written.len());
    for (i, written) in written.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let name = name_to_change(&format!("{path}.name"), &written.name, problems);
        let text = &written.value;
        let value = HeaderValue::from_str(text).ok();
        let value = value.filter(|_| (1..=value::MAX_VALUE_BYTES).contains(&text.len()));
        if value.is_none() {
            let message = format!(
                "this is not the value of a header; write 1 to {} characters of ASCII on one line",
                value::MAX_VALUE_BYTES
            );
            problems.invalid(format!("{path}.value"), message);
        }
        let Some((name, value)) = name.zip(value) else { continue };
        if seen.insert(name.clone()) {
            pairs.push((name, value));
        } else {
            matches::again(format!("{path}.name"), problems);
        }
    }
    pairs
}

/// The name of a header that routes may change.
fn name_to_change(path: &str, text: &str, problems: &mut Problems) -> Option<HeaderName> {
    let name = value::header_name(path, text, problems)?;
    let message = if FRAMING.contains(&name) || OLD_FRAMING.contains(&name.as_str()) {
        format!("`{name}` says how a message is carried, which no route changes; remove it")
    } else if name == header::HOST {
        "the host is no header like others; write a URLRewrite with `hostname`".to_owned()
    } else {
        return Some(name);
    };
    problems.refuse(path, Reason::UnsupportedValue, message);
    None
}

/// The redirect at `path`.
pub(super) fn redirect(
    path: &str,
    written: &schema::RequestRedirect,
    problems: &mut Problems,
) -> Option<Redirect> {
    let mut fine = true;
    let mut of = |written: bool, read: bool| fine &= read || !written;
    let scheme = written.scheme.as_deref();
    let scheme =
        scheme.and_then(|word| value::word(&format!("{path}.scheme"), SCHEMES, word, problems));
    of(written.scheme.is_some(), scheme.is_some());
    let hostname = written.hostname.as_deref();
    let hostname =
        hostname.and_then(|text| self::hostname(&format!("{path}.hostname"), text, problems));
    of(written.hostname.is_some(), hostname.is_some());
    let change = written.path.as_ref();
    let change = change.and_then(|one| path_change(&format!("{path}.path"), one, problems));
    of(written.path.is_some(), change.is_some());
    let port = written.port;
    let port = port.and_then(|number| check::port(&format!("{path}.port"), number, problems));
    of(written.port.is_some(), port.is_some());
    let status = written.status_code.unwrap_or(DEFAULT_STATUS);
    let known = u16::try_from(status).ok().filter(|code| [301, 302, 303, 307, 308].contains(code));
    let Some(status) = known.and_then(|code| StatusCode::from_u16(code).ok()) else {
        let message = format!("{status} is not known; write one of: 301, 302, 303, 307, 308");
        problems.refuse(format!("{path}.statusCode"), Reason::UnsupportedValue, message);
        return None;
    };
    fine.then_some(Redirect { scheme, hostname, path: change, port, status })
}

/// The rewrite at `path`.
pub(super) fn rewrite(
    path: &str,
    written: &schema::UrlRewrite,
    problems: &mut Problems,
) -> Option<Rewrite> {
    let hostname = match written.hostname.as_deref() {
        Some(text) => {
            let hostname = hostname(&format!("{path}.hostname"), text, problems)?;
            Some(HeaderValue::from_str(&hostname).ok()?)
        }
        None => None,
    };
    let change = match &written.path {
        Some(change) => Some(path_change(&format!("{path}.path"), change, problems)?),
        None => None,
    };
    Some(Rewrite { hostname, path: change })
}

/// Gateway API, `PreciseHostname`.
fn hostname(path: &str, text: &str, problems: &mut Problems) -> Option<String> {
    if check::is_subdomain(text) && text.parse::<Ipv4Addr>().is_err() {
        return Some(text.to_owned());
    }
    let text = printable(text);
    let message = format!(
        "`{text}` is not the name of a host; write one such as shop.example.com, no address"
    );
    problems.invalid(path, message);
    None
}

/// Another path.
fn path_change(
    path: &str,
    written: &schema::PathModifier,
    problems: &mut Problems,
) -> Option<PathChange> {
    const KINDS: &[(&str, bool)] = &[("ReplaceFullPath", false), ("ReplacePrefixMatch", true)];
    let is_prefix = value::word(&format!("{path}.type"), KINDS, &written.kind, problems)?;
    let full = ("replaceFullPath", written.replace_full_path.as_deref());
    let prefix = ("replacePrefixMatch", written.replace_prefix_match.as_deref());
    let ((field, own), (other, none)) = if is_prefix { (prefix, full) } else { (full, prefix) };
    if none.is_some() {
        let message = "this is of the other type; remove it, or correct `type`";
        problems.invalid(format!("{path}.{other}"), message);
    }
    let Some(text) = own else {
        problems.invalid(path, format!("there is no `{field}`, as the type says; add it"));
        return None;
    };
    let path = format!("{path}.{field}");
    if is_prefix && text.is_empty() {
        // The prefix is taken away.
        return Some(PathChange::Prefix(String::new()));
    }
    let text = value::absolute(&path, text, problems)?;
    Some(if is_prefix { PathChange::Prefix(text) } else { PathChange::Full(text) })
}
