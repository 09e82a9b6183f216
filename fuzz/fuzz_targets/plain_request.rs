//! Any beginning of a connection: what is taken for a plain request, hyper reads as the same one, and
//! so does whoever gets what goes on of it. Both ways name one host, and the same.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use libfuzzer_sys::fuzz_target;
use mesh_agent::proxy::http::detect::Version;
use mesh_agent::proxy::http::fields::clean;
use mesh_agent::proxy::http::host;
use mesh_agent::proxy::http::plain::head::{Look, look};
use mesh_agent::route::http::fields::Fields as _;
use mesh_fuzz::hyper::{Asked, asked};

fuzz_target!(|input: &[u8]| {
    let looked = look(input, |request| {
        let theirs = asked(input).expect("hyper knows no such request");
        same(request, &theirs, true);
        let host = theirs.headers[header::HOST].clone();
        assert_eq!(settled(&theirs).as_ref(), Some(&host), "hyper's way has another host");
        let rest = input.get(request.length..).unwrap_or_default();
        let length = usize::try_from(request.body).unwrap_or(usize::MAX);
        assert_eq!(theirs.body.as_deref(), rest.get(..length), "the body");
        // The head that goes on.
        let mut head = input[..request.length].to_vec();
        let start = request.cuts.take_out(&mut head);
        let on = [head.split_off(start).as_slice(), rest].concat();
        let looked = look(&on, |again| {
            assert_eq!(again.body, request.body);
            assert!(!again.closes);
            same(again, &asked(&on).expect("hyper knows no such request"), false);
            assert!(again.method == theirs.method && again.path == theirs.uri.path());
        });
        assert_eq!(looked, Look::Plain(()), "what goes on is not plain");
    });
    match (looked, asked(input)) {
        (Look::Partial, theirs) => assert!(theirs.is_none(), "hyper has read all of it"),
        (Look::Other, Some(theirs)) => drop(settled(&theirs)),
        (Look::Plain(()) | Look::Other, _) => {}
    }
});

/// The host of a request that hyper has read, as it goes on: there is one, and whoever gets the request
/// settles for the same. `None`: it is refused.
fn settled(theirs: &Asked) -> Option<HeaderValue> {
    let mut request = Request::new(());
    *request.method_mut() = theirs.method.clone();
    *request.uri_mut() = theirs.uri.clone();
    *request.version_mut() = theirs.version;
    *request.headers_mut() = theirs.headers.clone();
    let (mut head, ()) = request.into_parts();
    host::settle(&mut head, Version::Http1).ok()?;
    let destination = ([10, 0, 0, 1], 80).into();
    let upgrade = clean(&mut head, Version::Http1, destination);
    assert!(!head.headers.contains_key(header::UPGRADE), "{upgrade:?}");
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next().expect("a host").clone();
    assert!(hosts.next().is_none() && host::is_host(host.as_bytes()), "{host:?}");
    let target = head.uri.clone();
    assert!(target.authority().is_none() && target.scheme().is_none(), "{target}");
    host::settle(&mut head, Version::Http1).expect("the next one refuses what was settled");
    assert!(head.uri == target && head.headers[header::HOST] == host);
    Some(host)
}

/// Checks that both have read the same; `connection`: with fields about the connection.
fn same(
    ours: &mesh_agent::proxy::http::plain::head::Request<'_>,
    theirs: &Asked,
    connection: bool,
) {
    assert_eq!(ours.method, theirs.method);
    assert_eq!((ours.path, ours.query), (theirs.uri.path(), theirs.uri.query()));
    let joined = |headers: &HeaderMap<HeaderValue>, name: &HeaderName| {
        headers.joined(name).map(|value| value.into_owned())
    };
    let mut names = 0;
    ours.fields.each_name(&mut |name| {
        names += 1;
        assert_eq!(
            ours.fields.joined(name).map(|value| value.into_owned()),
            joined(&theirs.headers, name)
        );
    });
    assert_eq!((names, ours.fields.count()), (theirs.headers.len(), theirs.headers.len()));
    assert!(connection || !theirs.headers.contains_key(header::CONNECTION));
}
