//! Any `CONNECT` of a peer: what is read is written as a request that is read as the same.
//!
//! The input is lines: the authority, then values of `forwarded`.
#![no_main]

use http::header::FORWARDED;
use http::{HeaderValue, Method, Request, Uri};
use libfuzzer_sys::fuzz_target;
use mesh_agent::hbone::connect;

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|byte| *byte == b'\n');
    let authority = lines.next().unwrap_or_default();
    // As h2 puts it together.
    let Ok(uri) = Uri::builder().authority(authority).build() else { return };
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri;
    for line in lines {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            request.headers_mut().append(FORWARDED, value);
        }
    }
    let Ok(open) = connect::parse(&request) else { return };
    assert_eq!(connect::parse(&connect::request(&open, None).unwrap()), Ok(open.clone()));
    let named = connect::request(&open, Some("echo.demo.svc.cluster.local")).unwrap();
    assert_eq!(connect::parse(&named), Ok(open));
});
