//! Fields that are about one connection, and do not go on to the next.

use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
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
