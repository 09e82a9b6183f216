//! Which requests a rule is for.

use std::collections::HashSet;

use http::Method;

use crate::model::condition::Reason;
use crate::model::http::{HeaderMatch, Match, PathMatch, QueryMatch};

use super::super::super::schema::{self, NamedMatch};
use super::super::super::yaml::printable;
use super::super::Problems;
use super::value;

/// The most headers, and the most parameters, of a match (Gateway API, `HTTPRouteMatch`).
const MAX_CONDITIONS: usize = 16;

/// The most bytes of the name of a gRPC service or method (Gateway API, `GRPCMethodMatch`).
const MAX_GRPC_NAME_BYTES: usize = 1024;

/// Gateway API, `HTTPMethod`.
pub(super) const METHODS: &[&str] =
    &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// How a path is compared.
#[derive(Clone, Copy)]
enum PathKind {
    Exact,
    Prefix,
    Regex,
}

const PATH_KINDS: &[(&str, PathKind)] = &[
    ("Exact", PathKind::Exact),
    ("PathPrefix", PathKind::Prefix),
    ("RegularExpression", PathKind::Regex),
];

/// A match of an `HTTPRoute`.
pub(super) fn http(
    path: &str,
    written: &schema::HttpMatch,
    problems: &mut Problems,
) -> Option<Match> {
    let at = match &written.path {
        Some(written) => http_path(&format!("{path}.path"), written, problems),
        None => Some(Match::all().path),
    };
    let headers = headers(&format!("{path}.headers"), &written.headers, problems);
    let query = query(&format!("{path}.queryParams"), &written.query_params, problems);
    let method = match &written.method {
        Some(written) => Some(method(&format!("{path}.method"), written, problems)?),
        None => None,
    };
    Some(Match { path: at?, method, headers, query })
}

/// A match of a `GRPCRoute`.
pub(super) fn grpc(
    path: &str,
    written: &schema::GrpcMatch,
    problems: &mut Problems,
) -> Option<Match> {
    let at = match &written.method {
        Some(written) => grpc_path(&format!("{path}.method"), written, problems),
        None => Some(Match::all().path),
    };
    let headers = headers(&format!("{path}.headers"), &written.headers, problems);
    Some(Match { path: at?, headers, ..Match::all() })
}

fn http_path(
    path: &str,
    written: &schema::PathMatch,
    problems: &mut Problems,
) -> Option<PathMatch> {
    let kind = written.kind.as_deref().unwrap_or("PathPrefix");
    let kind = value::word(&format!("{path}.type"), PATH_KINDS, kind, problems)?;
    let text = written.value.as_deref().unwrap_or("/");
    let path = format!("{path}.value");
    match kind {
        PathKind::Exact => value::absolute(&path, text, problems).map(PathMatch::Exact),
        PathKind::Prefix => {
            let text = value::absolute(&path, text, problems)?;
            let end = text.strip_suffix('/').unwrap_or(&text);
            Some(PathMatch::Prefix(if end.is_empty() { text } else { end.to_owned() }))
        }
        PathKind::Regex => value::pattern(&path, text, problems).map(PathMatch::Regex),
    }
}

/// The path of a gRPC method (gRPC over HTTP/2, "Requests"): `/<service>/<method>`.
fn grpc_path(
    path: &str,
    written: &schema::MethodMatch,
    problems: &mut Problems,
) -> Option<PathMatch> {
    const KINDS: &[(&str, bool)] = &[("Exact", false), ("RegularExpression", true)];
    let kind = written.kind.as_deref().unwrap_or("Exact");
    let is_pattern = value::word(&format!("{path}.type"), KINDS, kind, problems)?;
    let parts = [("service", &written.service), ("method", &written.method)];
    let mut fine = true;
    for (field, text) in parts {
        let Some(text) = text else { continue };
        let path = format!("{path}.{field}");
        fine &= if is_pattern {
            value::pattern(&path, text, problems).is_some()
        } else {
            grpc_name(&path, text, field == "service", problems)
        };
    }
    let whole = match (is_pattern, written.service.as_deref(), written.method.as_deref()) {
        (_, None, None) => {
            problems.invalid(path, "neither a service nor a method is named; write one of them");
            return None;
        }
        (false, Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
        (false, Some(service), None) => PathMatch::Prefix(format!("/{service}")),
        // A value that is no name is no expression either, and has been told.
        (false, None, Some(_)) if !fine => return None,
        (false, None, Some(method)) => {
            PathMatch::Regex(value::pattern(path, &format!("/[^/]+/{method}"), problems)?)
        }
        (true, service, method) => {
            let part = |part: Option<&str>| {
                part.map_or_else(|| "[^/]+".to_owned(), |part| format!("(?:{part})"))
            };
            let text = format!("/{}/{}", part(service), part(method));
            if !fine {
                return None;
            }
            PathMatch::Regex(value::pattern(path, &text, problems)?)
        }
    };
    fine.then_some(whole)
}

/// Whether `text` is the name of a gRPC method, or of a service: several of them with dots between.
fn grpc_name(path: &str, text: &str, is_service: bool, problems: &mut Problems) -> bool {
    let is_identifier = |text: &str| {
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        begins && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let fine = text.len() <= MAX_GRPC_NAME_BYTES
        && if is_service { text.split('.').all(is_identifier) } else { is_identifier(text) };
    if !fine {
        let message = format!(
            "`{}` is not a name of gRPC; write it as in the .proto file, a service with its package",
            printable(text)
        );
        problems.invalid(path, message);
    }
    fine
}

/// The headers at `path`. Of several with one name only the first counts (Gateway API).
fn headers(path: &str, written: &[NamedMatch], problems: &mut Problems) -> Vec<HeaderMatch> {
    let written = value::at_most(MAX_CONDITIONS, written, path, "headers", problems);
    let mut seen = HashSet::new();
    let mut headers = Vec::with_capacity(written.len());
    for (i, written) in written.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let name = value::header_name(&format!("{path}.name"), &written.name, problems);
        let value = value::value(&path, written.kind.as_deref(), &written.value, problems);
        let Some((name, value)) = name.zip(value) else { continue };
        if seen.insert(name.clone()) {
            headers.push(HeaderMatch { name, value });
        } else {
            again(format!("{path}.name"), problems);
        }
    }
    headers
}

/// The query's parameters at `path`. Of several with one name only the first counts (Gateway API).
fn query(path: &str, written: &[NamedMatch], problems: &mut Problems) -> Vec<QueryMatch> {
    let written = value::at_most(MAX_CONDITIONS, written, path, "parameters", problems);
    let mut seen = HashSet::new();
    let mut query = Vec::with_capacity(written.len());
    for (i, written) in written.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let name = value::token(&format!("{path}.name"), &written.name, problems);
        let value = value::value(&path, written.kind.as_deref(), &written.value, problems);
        let Some((name, value)) = name.zip(value) else { continue };
        if seen.insert(name.clone()) {
            query.push(QueryMatch { name, value });
        } else {
            again(format!("{path}.name"), problems);
        }
    }
    query
}

/// A name that an earlier one of the list has.
pub(super) fn again(path: String, problems: &mut Problems) {
    let message = "the name is written before, and only the first one counts; remove one of them";
    problems.note(path, Reason::Conflicted, message);
}

fn method(path: &str, written: &str, problems: &mut Problems) -> Option<Method> {
    let known = METHODS.contains(&written).then(|| Method::from_bytes(written.as_bytes()).ok());
    if known.is_none() {
        let written = printable(written);
        let message = format!("`{written}` is not known; write one of: {}", METHODS.join(", "));
        problems.refuse(path, Reason::UnsupportedValue, message);
    }
    known.flatten()
}
