//! Answers of the mesh itself: correct HTTP, with a reason that says that it was the mesh.
//!
//! The reason is in the field `proxy-status` (RFC 9209), which no application sends; a client of
//! gRPC is answered in its own terms.

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::proxy::http::body::{self, Body};
use crate::proxy::http::host;

/// The name of the mesh in `proxy-status`.
const NAME: &str = "nodemesh";

/// The type of texts for people.
const TEXT: &str = "text/plain; charset=utf-8";

/// The field of RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why a request was not answered by a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// Which rule or service it is about, for people.
    pub details: String,
}

/// The reasons of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No rule is for the request.
    NoRule,
    /// A filter, or a backend, that does not exist.
    Unresolved,
    /// The backend has no endpoint.
    NoEndpoint,
    /// The endpoint cannot be reached.
    Unreachable,
    /// A policy of the destination does not allow it.
    Denied,
    /// A deadline passed.
    Timeout,
    /// The endpoint has broken HTTP, or the connection.
    Broken,
    /// The method is for proxies that are configured as such.
    Connect,
    /// Its head is longer than one may be.
    TooLarge,
    /// Its host or its target can be read in several ways, or in none.
    Malformed,
}

impl Reason {
    /// Of HTTP (Gateway API: no rule 404, an invalid backend 500, no endpoint 503).
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoRule => StatusCode::NOT_FOUND,
            Self::Unresolved => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoEndpoint | Self::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Broken => StatusCode::BAD_GATEWAY,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Malformed => StatusCode::BAD_REQUEST,
        }
    }

    /// The word used in the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRule => "no_rule",
            Self::Unresolved => "unresolved",
            Self::NoEndpoint => "no_endpoint",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Connect => "connect",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
        }
    }

    /// Envoy's response flags, as Istio's metrics have them.
    pub const fn flags(self) -> &'static str {
        match self {
            Self::NoRule => "NR",
            Self::Unresolved => "NC",
            Self::NoEndpoint => "UH",
            Self::Unreachable => "UF",
            Self::Denied => "UAEX",
            Self::Timeout => "UT",
            Self::Broken => "UPE",
            Self::Connect | Self::Malformed | Self::TooLarge => "DPE",
        }
    }

    /// Of gRPC (`doc/statuscodes.md` of gRPC; Gateway API, `GRPCRoute`).
    pub const fn grpc(self) -> &'static str {
        match self {
            Self::NoRule | Self::Connect => "12",
            Self::Unresolved | Self::NoEndpoint | Self::Unreachable | Self::Broken => "14",
            Self::Denied => "7",
            Self::Timeout => "4",
            Self::TooLarge => "8",
            Self::Malformed => "13",
        }
    }

    /// Of `proxy-status` (RFC 9209, section 2.3).
    const fn error(self) -> &'static str {
        match self {
            Self::NoRule => "destination_not_found",
            Self::Unresolved => "proxy_configuration_error",
            Self::NoEndpoint => "destination_unavailable",
            Self::Unreachable => "connection_refused",
            Self::Denied => "http_request_denied",
            Self::Timeout => "http_response_timeout",
            Self::Broken => "http_protocol_error",
            Self::Connect | Self::Malformed | Self::TooLarge => "http_request_error",
        }
    }
}

impl Refusal {
    /// The text for people.
    fn text(&self) -> String {
        format!("{NAME}: {}\n", quoted(&self.details))
    }

    /// The value of the field `proxy-status`.
    fn proxy_status(&self) -> String {
        let details = quoted(&self.details);
        format!("{NAME}; error={}; details=\"{details}\"", self.reason.error())
    }

    /// The answer as it is written on a connection of HTTP/1.1. `connection`: what is said about
    /// that.
    pub fn written(&self, is_for_head: bool, connection: Option<&str>) -> Vec<u8> {
        let (status, text) = (self.reason.status(), self.text());
        let connection = connection.map(|what| format!("connection: {what}\r\n"));
        let connection = connection.unwrap_or_default();
        let mut written = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {TEXT}\r\n{PROXY_STATUS}: {}\r\n\
             content-length: {}\r\n{connection}\r\n",
            self.proxy_status(),
            text.len(),
        );
        if !is_for_head {
            written.push_str(&text);
        }
        written.into_bytes()
    }
}

impl From<host::Malformed> for Refusal {
    fn from(malformed: host::Malformed) -> Self {
        Self { reason: Reason::Malformed, details: malformed.to_string() }
    }
}

/// Whether a request is one of gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| is_type_of_grpc(kind.as_bytes()))
}

/// Whether a `content-type` is one of gRPC (its `PROTOCOL-HTTP2.md`).
pub fn is_type_of_grpc(kind: &[u8]) -> bool {
    kind.starts_with(b"application/grpc")
}

/// The answer to a request that is refused.
pub fn refusal(refusal: &Refusal, is_grpc: bool) -> Response<Body> {
    let reason = refusal.reason;
    let (details, status) = (quoted(&refusal.details), refusal.proxy_status());
    let mut response = if is_grpc {
        let mut response = Response::new(body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(reason.grpc()));
        if let Ok(message) = HeaderValue::from_str(&format!("{NAME}: {details}")) {
            headers.insert("grpc-message", message);
        }
        response
    } else {
        let mut response = Response::new(body::full(refusal.text()));
        *response.status_mut() = reason.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
        response
    };
    if let Ok(status) = HeaderValue::from_str(&status) {
        response.headers_mut().insert(PROXY_STATUS, status);
    }
    response
}

/// The text as far as it may stand in a string of a structured field (RFC 9651, section 3.3.3), and in
/// `grpc-message`.
fn quoted(text: &str) -> String {
    text.chars()
        .map(|c| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | '%') { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_who_and_why() {
        let why = Refusal { reason: Reason::NoRule, details: "no rule of \"a\"\r\nx".to_owned() };
        let response = refusal(&why, false);
        assert_eq!(response.status(), 404);
        let status = "nodemesh; error=destination_not_found; details=\"no rule of _a___x\"";
        assert_eq!(response.headers()["proxy-status"], status);
        let response = refusal(&why, true);
        assert_eq!(
            (response.status(), &response.headers()["grpc-status"]),
            (StatusCode::OK, &"12".parse().unwrap())
        );
    }
}
