//! The `CONNECT` request and its headers. Pure: from and to bytes.
//!
//! The destination is `:authority`, an address and a port; there is neither `:path` nor `:scheme`
//! (RFC 9113, section 8.5). `forwarded` (RFC 7239) carries the client's real address and the
//! service's name, as ztunnel sends it.
#![deny(clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::net::SocketAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};

use crate::model::trace::Trace;

/// W3C Trace Context, level 1, section 3.2.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The purpose of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Where the application listens.
    pub destination: SocketAddr,
    /// The client's real address.
    pub client: Option<SocketAddr>,
    /// The trace that the connection belongs to.
    pub trace: Option<Trace>,
}

/// Why a request is none of ours. Answered with status 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// `:authority` is not an address and a port.
    #[error("the authority `{0}` is not an IP address and a port")]
    Authority(String),
    /// Another method than `CONNECT`.
    #[error("the method is {0}, not CONNECT")]
    Method(Method),
}

/// The request for `open`.
///
/// # Errors
///
/// Never for an address that exists; the types of `http` cannot say so.
pub fn request(open: &Open, hostname: Option<&str>) -> http::Result<Request<()>> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(open.destination.to_string())
        .version(Version::HTTP_2)
        .body(())?;
    if let Some(client) = open.client {
        let mut value = format!("for=\"{client}\"");
        if let Some(hostname) = hostname {
            let _infallible = write!(value, ";host={hostname}");
        }
        request.headers_mut().insert(FORWARDED, HeaderValue::try_from(value)?);
    }
    if let Some(trace) = open.trace {
        request.headers_mut().insert(TRACEPARENT, HeaderValue::try_from(trace.to_string())?);
    }
    Ok(request)
}

/// Reads a request.
///
/// # Errors
///
/// It is not a `CONNECT` to an address and a port. A `forwarded` that cannot be read is as none:
/// it is only ever used where it can be checked.
pub fn parse<T>(request: &Request<T>) -> Result<Open, RequestError> {
    if request.method() != Method::CONNECT {
        return Err(RequestError::Method(request.method().clone()));
    }
    let authority = request.uri().authority().map_or("", |authority| authority.as_str());
    let destination =
        authority.parse().map_err(|_error| RequestError::Authority(authority.to_owned()))?;
    let headers = request.headers();
    let trace = headers.get(TRACEPARENT).and_then(|value| Trace::parse(value.to_str().ok()?));
    Ok(Open { destination, client: forwarded_for(headers), trace })
}

/// The address after `for=` of the first element of `forwarded`.
fn forwarded_for(headers: &HeaderMap) -> Option<SocketAddr> {
    let first = headers.get(FORWARDED)?.to_str().ok()?.split(',').next()?;
    let mut pairs = first.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    value.trim().trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn says_what_ztunnel_says() {
        let open = Open {
            destination: "[fd00::2]:8080".parse().unwrap(),
            client: Some("10.0.0.1:4711".parse().unwrap()),
            trace: Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        };
        let request = request(&open, Some("echo.demo.svc.cluster.local")).unwrap();
        assert_eq!(request.uri().to_string(), "[fd00::2]:8080");
        assert_eq!(
            request.headers()["forwarded"],
            "for=\"10.0.0.1:4711\";host=echo.demo.svc.cluster.local"
        );
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(request.headers()["traceparent"], trace);
        assert_eq!(parse(&request).unwrap(), open);
    }

    #[test]
    fn refuses_what_is_not_for_an_address() {
        let get = Request::get("http://10.0.0.1:80/").body(()).unwrap();
        assert_eq!(parse(&get), Err(RequestError::Method(Method::GET)));
        let name = Request::connect("example.org:80").body(()).unwrap();
        assert!(matches!(parse(&name), Err(RequestError::Authority(_))));
    }

    proptest! {
        #[test]
        fn survives_print_and_parse(ip: std::net::IpAddr, port: u16, from: u16) {
            let destination = SocketAddr::new(ip, port);
            let open = Open { destination, client: Some(SocketAddr::new(ip, from)), trace: None };
            prop_assert_eq!(parse(&request(&open, None).unwrap()).unwrap(), open);
        }

        #[test]
        fn any_forwarded_is_read_without_panic(value in prop::collection::vec(32_u8..=255, 0..64)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert(FORWARDED, value);
                let _any: Option<SocketAddr> = forwarded_for(&headers);
            }
        }
    }
}
