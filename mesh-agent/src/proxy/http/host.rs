//! The host that a request asks: one of each, whoever reads it (RFC 9112, section 3.2; RFC 9113,
//! section 8.3.1). No input or output.

use std::net::{Ipv6Addr, SocketAddr};

use hyper::header::{HOST, HeaderValue};
use hyper::http::{request, uri};
use hyper::{Method, Uri, Version as HttpVersion};

use crate::proxy::http::detect::Version;

/// The reason why a request names no host, or no one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// RFC 9112, section 3.2.
    #[error("the request of HTTP/1.1 has no Host field")]
    Missing,
    /// RFC 9112, section 3.2.
    #[error("the request has several Host fields")]
    Several,
    /// It is no name and no address, with a port or without.
    #[error("the host is no name and no address, with a port or without")]
    Invalid,
    /// RFC 9113, section 8.3.1.
    #[error("the Host field differs from :authority")]
    Differs,
    /// RFC 9112, section 3.2: neither a path nor an absolute URL of HTTP.
    #[error("the request target is neither a path nor an http URL")]
    Target,
}

/// Makes the host of a request one: afterwards it is in `Host` alone of HTTP/1, and of HTTP/2 in
/// `:authority`, or in `Host` if that is left out. The target is a path.
///
/// # Errors
///
/// It can be read in several ways, or in none. Such a request is answered with 400.
pub fn settle(head: &mut request::Parts, version: Version) -> Result<(), Malformed> {
    let mut fields = head.headers.get_all(HOST).iter();
    let host = fields.next();
    if fields.next().is_some() {
        return Err(Malformed::Several);
    }
    if host.is_some_and(|host| !is_host(host.as_bytes())) {
        return Err(Malformed::Invalid);
    }
    if head.uri.authority().is_some_and(|authority| !is_host(authority.as_str().as_bytes())) {
        return Err(Malformed::Invalid);
    }
    if !is_path(head) {
        return Err(Malformed::Target);
    }
    match version {
        Version::Http1 if host.is_none() && head.version == HttpVersion::HTTP_11 => {
            Err(Malformed::Missing)
        }
        Version::Http1 => take_target(head),
        Version::Http2 => compare(head),
    }
}

/// Gives a request a host that names none, as HTTP/1.0 and HTTP/2 allow: that of its connection.
/// After [`settle`].
pub fn complete(head: &mut request::Parts, version: Version, destination: SocketAddr) {
    match version {
        Version::Http1 => {
            if !head.headers.contains_key(HOST)
                && let Ok(host) = HeaderValue::try_from(destination.to_string())
            {
                head.headers.insert(HOST, host);
            }
        }
        Version::Http2 => name_authority(head, destination),
    }
}

/// Whether `value` is a `uri-host` with a port or without (RFC 9110, section 7.2): a name of letters,
/// digits, `-`, `.`, `_` and `~`, an IPv4 address, or an IPv6 address in brackets. Other characters
/// that RFC 3986 allows in a name no host has, and servers read it in different ways.
pub fn is_host(value: &[u8]) -> bool {
    let port = if let Some(rest) = value.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
        let (address, port) = rest.split_at(end);
        if !str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok()) {
            return false;
        }
        port.get(1..).unwrap_or_default()
    } else {
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        let name = value.iter().take_while(|byte| is_name(byte)).count();
        value.get(name..).unwrap_or_default()
    };
    match port.strip_prefix(b":") {
        Some(digits) => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        None => port.is_empty(),
    }
}

/// Whether the target has a path, or is the `*` of `OPTIONS` (RFC 9112, section 3.2.4).
fn is_path(head: &request::Parts) -> bool {
    let path = head.uri.path_and_query().map_or("", uri::PathAndQuery::as_str);
    path.starts_with('/') || (path == "*" && head.method == Method::OPTIONS)
}

/// The target of HTTP/1 as a path; the host that it names counts, instead of the field's (RFC 9112,
/// section 3.2.2).
fn take_target(head: &mut request::Parts) -> Result<(), Malformed> {
    let parts = std::mem::take(&mut head.uri).into_parts();
    match (parts.scheme, parts.authority) {
        (None, None) => {}
        (Some(scheme), Some(authority))
            if [uri::Scheme::HTTP, uri::Scheme::HTTPS].contains(&scheme) =>
        {
            let host = HeaderValue::from_str(authority.as_str());
            head.headers.insert(HOST, host.map_err(|_invalid| Malformed::Invalid)?);
        }
        _ => return Err(Malformed::Target),
    }
    head.uri = parts.path_and_query.map_or_else(Uri::default, Uri::from);
    Ok(())
}

/// Takes the field `Host` off that says what `:authority` says.
fn compare(head: &mut request::Parts) -> Result<(), Malformed> {
    let Some(authority) = head.uri.authority() else { return Ok(()) };
    let Some(host) = head.headers.get(HOST) else { return Ok(()) };
    let default = if head.uri.scheme() == Some(&uri::Scheme::HTTPS) { ":443" } else { ":80" };
    let bare = |host: &str| {
        let host = host.strip_suffix(default).or_else(|| host.strip_suffix(':')).unwrap_or(host);
        host.to_ascii_lowercase()
    };
    if host.to_str().ok().map(bare) != Some(bare(authority.as_str())) {
        return Err(Malformed::Differs);
    }
    head.headers.remove(HOST);
    Ok(())
}

/// Sees to it that a request of HTTP/2 has an `:authority`, which h2 insists on: whoever has written
/// `Host` instead means the same (RFC 9113, section 8.3.1).
fn name_authority(head: &mut request::Parts, destination: SocketAddr) {
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

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    const HTTP_11: HttpVersion = HttpVersion::HTTP_11;

    fn parts(method: &str, uri: &str, version: HttpVersion, hosts: &[&str]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(uri).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// The `Host` and the target of a request of HTTP/1 as it goes on.
    fn settled(
        method: &str,
        uri: &str,
        version: HttpVersion,
        hosts: &[&str],
    ) -> Result<String, Malformed> {
        let mut head = parts(method, uri, version, hosts);
        settle(&mut head, Version::Http1)?;
        complete(&mut head, Version::Http1, "10.0.0.1:80".parse().unwrap());
        let hosts: Vec<_> = head.headers.get_all(HOST).iter().collect();
        assert_eq!((hosts.len(), head.uri.authority()), (1, None));
        Ok(format!("{} {}", hosts[0].to_str().unwrap(), head.uri))
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for good in
            ["", "a", "a:", "a:80", ":80", "A-b.c_d~:1", "10.0.0.1:8080", "[::1]", "[fd00::1]:80"]
        {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            " ", "a b", "a,b", "a@b", "a:b", "a:80:80", "a:123456", "a/b", "%61", "[::1", "::1",
            "[a]", "[::1]x", "[::1]:x", "a\t", "\u{e9}", "a?b", "a#b", "http://a", "[v1.a]", "a'b",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_request_of_http1_has_one_host() {
        let check = |uri: &str, hosts: &[&str], expect| {
            assert_eq!(settled("GET", uri, HTTP_11, hosts).as_deref(), expect, "{uri} {hosts:?}");
        };
        check("/b?c", &["a:1"], Ok("a:1 /b?c"));
        check("/b", &[""], Ok(" /b"));
        check("/b", &[], Err(&Malformed::Missing));
        check("http://a/b", &[], Err(&Malformed::Missing));
        check("/b", &["a", "a"], Err(&Malformed::Several));
        check("/b", &["a b"], Err(&Malformed::Invalid));
        check("http://a:2/b?c", &["other"], Ok("a:2 /b?c"));
        check("https://[::1]", &["other"], Ok("[::1] /"));
        check("http://user@a/b", &["a"], Err(&Malformed::Invalid));
        check("ftp://a/b", &["a"], Err(&Malformed::Target));
        check("a:80", &["a"], Err(&Malformed::Target));
        check("*", &["a"], Err(&Malformed::Target));
        assert_eq!(settled("OPTIONS", "*", HTTP_11, &["a"]).as_deref(), Ok("a *"));
    }

    #[test]
    fn a_request_of_http_1_0_may_name_no_host() {
        let old = HttpVersion::HTTP_10;
        assert_eq!(settled("GET", "/b", old, &[]).as_deref(), Ok("10.0.0.1:80 /b"));
        assert_eq!(settled("GET", "http://a/b", old, &[]).as_deref(), Ok("a /b"));
        assert_eq!(settled("GET", "/b", old, &["a", "b"]), Err(Malformed::Several));
    }

    #[test]
    fn a_request_of_http2_has_an_authority() {
        let check = |uri: &str, hosts: &[&str], expect| {
            let mut head = parts("GET", uri, HttpVersion::HTTP_2, hosts);
            let settled = settle(&mut head, Version::Http2).map(|()| {
                complete(&mut head, Version::Http2, "10.0.0.1:80".parse().unwrap());
                assert!(!head.headers.contains_key(HOST));
                head.uri.to_string()
            });
            assert_eq!(settled.as_deref(), expect, "{uri} {hosts:?}");
        };
        check("http://a/b?c", &[], Ok("http://a/b?c"));
        check("http://a/b", &["A:80"], Ok("http://a/b"));
        check("https://a:443/b", &["a"], Ok("https://a:443/b"));
        check("http://a/b", &["other"], Err(&Malformed::Differs));
        check("http://a:8080/b", &["a"], Err(&Malformed::Differs));
        check("http://a/b", &["a", "a"], Err(&Malformed::Several));
        check("http://u@a/b", &[], Err(&Malformed::Invalid));
        check("/b?c", &["a:1"], Ok("http://a:1/b?c"));
        check("/b", &[], Ok("http://10.0.0.1:80/b"));
        check("/b", &["a b"], Err(&Malformed::Invalid));
    }
}
