//! Where a redirect sends the client.

use crate::model::http::{Redirect, Scheme};
use crate::route::http::rewrite;

/// The URL that a client has asked for.
#[derive(Clone, Copy, Debug)]
pub struct RequestUrl<'a> {
    /// How it came: `https` only if the application's own TLS was terminated.
    pub scheme: Scheme,
    /// `Host` or `:authority`, with or without a port. Of a request without one (HTTP/1.0), or with one
    /// that names no host, the service's hostname.
    pub host: &'a str,
    /// The path, percent-encoded, without the query.
    pub path: &'a str,
    /// The query after the `?`, without it.
    pub query: Option<&'a str>,
}

/// The value of `Location`: always an absolute URL (RFC 9110, section 10.2.2).
///
/// `prefix` is what has matched, [`Found::prefix`]; `port` is the service's, which stands for the
/// port of Gateway API's listener.
///
/// [`Found::prefix`]: super::Found::prefix
pub fn location(
    redirect: &Redirect,
    request: &RequestUrl<'_>,
    prefix: Option<&str>,
    port: u16,
) -> String {
    let scheme = redirect.scheme.unwrap_or(request.scheme);
    let (name, well_known) = match scheme {
        Scheme::Http => ("http", 80),
        Scheme::Https => ("https", 443),
    };
    // `HTTPRequestRedirectFilter.port`: its own, else that of a scheme that is given, else the
    // listener's; and the scheme's own is not written.
    let port = redirect.port.unwrap_or(match redirect.scheme {
        Some(_) => well_known,
        None => port,
    });
    let host = redirect.hostname.as_deref().unwrap_or_else(|| without_port(request.host));
    let changed = redirect.path.as_ref().map(|change| rewrite::path(change, request.path, prefix));
    let path = changed.as_deref().unwrap_or(request.path);

    let mut url = format!("{name}://{host}");
    if port != well_known {
        url.push(':');
        url.push_str(&port.to_string());
    }
    // `OPTIONS *` has no path (RFC 9112, section 3.2.4).
    if path.starts_with('/') {
        url.push_str(path);
    }
    if let Some(query) = request.query {
        url.push('?');
        url.push_str(query);
    }
    url
}

/// The host of `Host`: a name, an IPv4 address or an IPv6 address in brackets (RFC 9110, section
/// 7.2).
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::model::http::PathChange;

    const NONE: Redirect = Redirect {
        scheme: None,
        hostname: None,
        path: None,
        port: None,
        status: StatusCode::FOUND,
    };
    const HTTP: Option<Scheme> = Some(Scheme::Http);
    const HTTPS: Option<Scheme> = Some(Scheme::Https);

    fn request(scheme: Scheme) -> RequestUrl<'static> {
        RequestUrl { scheme, host: "echo", path: "/x", query: None }
    }

    /// Gateway API's conformance test `HTTPRouteRedirectPortAndScheme`.
    #[test]
    fn ports_follow_the_listener_or_the_scheme() {
        let check = |listener: u16, scheme: Option<Scheme>, port: Option<u16>, expect: &str| {
            let hostname = Some("example.org".to_owned());
            let redirect = Redirect { scheme, hostname, port, ..NONE };
            let came = if listener == 443 { Scheme::Https } else { Scheme::Http };
            assert_eq!(location(&redirect, &request(came), None, listener), expect);
        };
        check(80, None, None, "http://example.org/x");
        check(80, None, Some(80), "http://example.org/x");
        check(80, None, Some(8080), "http://example.org:8080/x");
        check(80, HTTPS, None, "https://example.org/x");
        check(80, HTTPS, Some(443), "https://example.org/x");
        check(80, HTTPS, Some(8443), "https://example.org:8443/x");
        check(8080, None, None, "http://example.org:8080/x");
        check(8080, None, Some(80), "http://example.org/x");
        check(8080, HTTPS, None, "https://example.org/x");
        check(443, None, None, "https://example.org/x");
        check(443, None, Some(443), "https://example.org/x");
        check(443, None, Some(8443), "https://example.org:8443/x");
        check(443, HTTP, None, "http://example.org/x");
        check(443, HTTP, Some(80), "http://example.org/x");
        check(443, HTTP, Some(8080), "http://example.org:8080/x");
        check(80, HTTPS, Some(80), "https://example.org:80/x");
    }

    /// Gateway API's conformance test `HTTPRouteRedirectPath`.
    #[test]
    fn paths_are_changed() {
        let check = |hostname: Option<&str>, change: PathChange, from: [&str; 2], expect: &str| {
            let hostname = hostname.map(str::to_owned);
            let redirect = Redirect { hostname, path: Some(change), ..NONE };
            let [path, prefix] = from;
            let request = RequestUrl { path, ..request(Scheme::Http) };
            assert_eq!(location(&redirect, &request, Some(prefix), 80), expect);
        };
        let prefix = || PathChange::Prefix("/replacement-prefix".to_owned());
        let full = || PathChange::Full("/replacement-full".to_owned());
        let from = ["/original-prefix/lemon", "/original-prefix"];
        check(None, prefix(), from, "http://echo/replacement-prefix/lemon");
        check(None, full(), ["/full/path/original", "/full"], "http://echo/replacement-full");
        let from = ["/path-and-host", "/path-and-host"];
        check(Some("example.org"), prefix(), from, "http://example.org/replacement-prefix");
        check(Some("example.org"), full(), from, "http://example.org/replacement-full");
    }

    #[test]
    fn the_rest_is_as_in_the_request() {
        let check = |host: &str, path: &str, query: Option<&str>, expect: &str| {
            let request = RequestUrl { scheme: Scheme::Http, host, path, query };
            assert_eq!(location(&NONE, &request, None, 8080), expect);
        };
        check("echo", "/a%20b/", Some("x=1&y"), "http://echo:8080/a%20b/?x=1&y");
        check("echo:9999", "/", None, "http://echo:8080/");
        check("echo:", "/", None, "http://echo:8080/");
        check("10.0.0.1:80", "/", None, "http://10.0.0.1:8080/");
        check("[fd00::1]", "/", None, "http://[fd00::1]:8080/");
        check("[fd00::1]:80", "/", None, "http://[fd00::1]:8080/");
        check("echo", "//evil.example/", None, "http://echo:8080//evil.example/");
        check("echo", "*", None, "http://echo:8080");
    }

    #[test]
    fn the_query_stays_when_the_path_does_not() {
        let path = Some(PathChange::Full("/y".to_owned()));
        let request = RequestUrl { query: Some("a=1"), ..request(Scheme::Http) };
        let redirect = Redirect { path, ..NONE };
        assert_eq!(location(&redirect, &request, None, 80), "http://echo/y?a=1");
    }
}
