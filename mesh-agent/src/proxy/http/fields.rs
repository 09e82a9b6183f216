//! Fields that are about one connection, and do not go on to the next.

use std::net::SocketAddr;

use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::http::{request, uri};
use hyper::{Uri, Version as HttpVersion};

use crate::proxy::http::detect::Version;

/// Fields that are about one connection only (RFC 9110, section 7.6.1). `te` stays if it says
/// `trailers`, which gRPC needs.
const OF_CONNECTION: [HeaderName; 4] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("transfer-encoding"),
];

/// Takes what is about the client's connection off.
pub fn clean(head: &mut request::Parts, version: Version, upgrades: bool) {
    let kept = upgrades.then(|| head.headers.get(UPGRADE).cloned()).flatten();
    strip(&mut head.headers);
    if let Some(protocol) = kept {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol);
    }
    if version == Version::Http1 {
        head.version = HttpVersion::HTTP_11;
        // Towards the endpoint a request is in origin form (RFC 9112, section 3.2.1); what the
        // client has written as absolute has its host in `Host` too.
        let path = head.uri.path_and_query().cloned();
        let path = path.unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
        head.uri = Uri::from(path);
    }
}

/// Sees to it that a request of HTTP/2 has an `:authority`, which hyper insists on: whoever has written
/// `Host` instead means the same (RFC 9113, section 8.3.1), and whoever has written neither asks
/// whom it is connected to.
pub fn name_authority(head: &mut request::Parts, destination: SocketAddr) {
    if head.uri.authority().is_some() {
        return;
    }
    let host = head.headers.remove(HOST);
    let host = host.and_then(|host| uri::Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.authority = host.or_else(|| destination.to_string().try_into().ok());
    parts.scheme = parts.scheme.or(Some(uri::Scheme::HTTP));
    parts.path_and_query =
        parts.path_and_query.or_else(|| Some(uri::PathAndQuery::from_static("/")));
    // It has all three.
    head.uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Takes off what is about a connection.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let goes = |name: &HeaderName| {
        named.contains(name) || OF_CONNECTION.contains(name) || *name == UPGRADE
    };
    if headers.keys().any(goes) {
        // Taking fields out one by one would put others into their places: the order that the sender
        // has chosen stays.
        let old = std::mem::take(headers);
        let kept = old.iter().filter(|(name, _)| !goes(name));
        headers.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_http2_has_an_authority() {
        let check = |uri: &str, host: Option<&'static str>, expect: &str| {
            let mut request = hyper::Request::new(());
            *request.uri_mut() = uri.parse().unwrap();
            if let Some(host) = host {
                request.headers_mut().insert(HOST, HeaderValue::from_static(host));
            }
            let (mut head, ()) = request.into_parts();
            name_authority(&mut head, "10.0.0.1:80".parse().unwrap());
            assert_eq!(head.uri.to_string(), expect, "{uri} {host:?}");
        };
        check("http://a/b?c", Some("other"), "http://a/b?c");
        check("/b?c", Some("a:1"), "http://a:1/b?c");
        check("/b", None, "http://10.0.0.1:80/b");
        check("/b", Some("a b"), "http://10.0.0.1:80/b");
    }

    #[test]
    fn what_is_about_a_connection_goes_and_the_order_stays() {
        let mut headers = HeaderMap::new();
        let fields = [
            ("host", "a"),
            ("connection", "keep-alive, x-hop"),
            ("x-one", "1"),
            ("x-hop", "2"),
            ("x-one", "3"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("x-last", "4"),
        ];
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let left: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        let expect =
            [("host", "a"), ("x-one", "1"), ("x-one", "3"), ("te", "trailers"), ("x-last", "4")];
        assert_eq!(left, expect);
    }
}
