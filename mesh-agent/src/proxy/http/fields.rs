//! Fields that are about one connection, and do not go on to the next.

use std::collections::HashSet;
use std::net::SocketAddr;

use hyper::Version as HttpVersion;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request;

use crate::proxy::http::detect::Version;
use crate::proxy::http::host;
use crate::proxy::http::setup::MAX_FIELDS;
use crate::proxy::http::upgrade::Asked;

/// Fields that are about one connection only (RFC 9110, section 7.6.1; RFC 7540, section 3.2.1). `te`
/// stays if it says `trailers`, which gRPC needs.
const OF_CONNECTION: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("transfer-encoding"),
];

/// Fields for whoever gets the message in the end, and those by which proxies before us say who has
/// sent it. `Connection` must not name them (RFC 9110, section 7.6.1), and takes none of them off.
const END_TO_END: [&str; 29] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "grpc-timeout",
    "host",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "location",
    "origin",
    "range",
    "set-cookie",
    "trailer",
    "traceparent",
    "vary",
    "via",
    "www-authenticate",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// How many names in `Connection` count. A head has no more fields than that: who names more, names
/// some twice or that are not there, and has them looked for.
pub const MAX_NAMED: usize = MAX_FIELDS;

/// Whether `Connection` cannot take the field with this name off a message.
pub fn is_end_to_end(name: &str) -> bool {
    END_TO_END.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// Takes what is about the client's connection off a request whose host is settled, and completes its
/// host. Returns the protocols that it asks to switch to.
pub fn clean(
    head: &mut request::Parts,
    version: Version,
    destination: SocketAddr,
) -> Option<Asked> {
    let asked = if version == Version::Http1 { Asked::of(head) } else { None };
    strip(&mut head.headers);
    host::complete(head, version, destination);
    if version == Version::Http1 {
        head.version = HttpVersion::HTTP_11;
    }
    asked
}

/// Takes off what is about a connection.
pub fn strip(headers: &mut HeaderMap) {
    let named: HashSet<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .take(MAX_NAMED)
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // RFC 9112, section 6.3: the coding counts, and a length beside it must not go on.
    let is_coded = headers.contains_key(TRANSFER_ENCODING);
    let goes = |name: &HeaderName| {
        (is_coded && *name == CONTENT_LENGTH)
            || OF_CONNECTION.contains(name)
            || *name == UPGRADE
            || (named.contains(name) && !is_end_to_end(name.as_str()))
    };
    if headers.keys().any(goes) {
        // Taking fields out one by one would put others into their places: the order that the sender
        // has chosen stays.
        let old = std::mem::take(headers);
        let kept = old.iter().filter(|(name, _)| !goes(name));
        headers.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
    }
}

/// Whether fields of HTTP/2 are well-formed: no value begins or ends with a space or a tab (RFC 9113, section
/// 8.2.1), and there is one length at the most, which is a number. h2 lets others pass; a strict peer ends the
/// connection for them, which carries what others ask for too.
pub fn are_well_formed(headers: &HeaderMap) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let mut lengths = 0;
    headers.iter().all(|(name, value)| {
        let value = value.as_bytes();
        let is_length = name == CONTENT_LENGTH;
        lengths += usize::from(is_length);
        let is_number = || !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        !is_space(value.first())
            && !is_space(value.last())
            && (!is_length || (lengths == 1 && is_number()))
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn values_that_a_strict_peer_does_not_take_are_not_well_formed() {
        let check = |fields: &[(&'static str, &'static str)], expect| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(are_well_formed(&headers), expect, "{fields:?}");
        };
        check(&[("x-a", ""), ("x-b", "b c\td"), ("content-length", "0")], true);
        for value in [" b", "b ", "\tb", "b\t", " "] {
            check(&[("x-a", value)], false);
        }
        for length in ["", "x", "+1", "1 2", "1, 1"] {
            check(&[("content-length", length)], false);
        }
        check(&[("content-length", "1"), ("content-length", "1")], false);
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

    #[test]
    fn a_connection_takes_nothing_off_that_is_for_all() {
        let check = |options: &'static str, name: &'static str, stays: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, HeaderValue::from_static(options));
            headers.insert(name, HeaderValue::from_static("1"));
            strip(&mut headers);
            assert_eq!(headers.contains_key(name), stays, "{options}: {name}");
        };
        for name in END_TO_END {
            check(name, name, true);
        }
        check("close, Host , X-Forwarded-For", "host", true);
        check("close, X-Forwarded-For", "x-forwarded-for", true);
        check("CONTENT-LENGTH", "content-length", true);
        check(":authority, host", "host", true);
        check("x-hop", "x-hop", false);
        check("te", "te", false);
        check("host", "keep-alive", false);
        check("transfer-encoding", "transfer-encoding", false);
        let mut headers = HeaderMap::new();
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
        strip(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
        check("", "http2-settings", false);
        let names = |count: usize| {
            let value = "a,".repeat(count) + "x-hop";
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, value.parse().unwrap());
            headers.insert("x-hop", HeaderValue::from_static("1"));
            strip(&mut headers);
            headers.len()
        };
        assert_eq!((names(MAX_NAMED - 1), names(MAX_NAMED)), (0, 1));
    }
}
