//! Requests and answers as they are written, and what becomes of them.

use http::header::{COOKIE, HOST};
use proptest::prelude::*;

use super::*;

/// The facts of a plain request, and how its head goes on.
fn plain(input: &str) -> Look<(String, u64, bool, String)> {
    look(input.as_bytes(), |request| {
        let mut head = input.as_bytes()[..request.length].to_vec();
        let start = request.cuts.take_out(&mut head);
        let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
        let seen = format!("{} {}{query}", request.method, request.path);
        (seen, request.body, request.closes, String::from_utf8(head.split_off(start)).unwrap())
    })
}

#[test]
fn plain_requests_go_on_as_they_are() {
    let check = |input: &str, seen: &str, body: u64, closes: bool, head: &str| {
        assert_eq!(
            plain(input),
            Look::Plain((seen.into(), body, closes, head.into())),
            "{input:?}"
        );
    };
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    check(get, "GET /", 0, false, get);
    check(
        "GET / HTTP/1.1\r\nhost:a\r\n\r\nGET",
        "GET /",
        0,
        false,
        "GET / HTTP/1.1\r\nhost:a\r\n\r\n",
    );
    let odd = "PURGE /a%zz/~b;c=(1)?q=[]".replace("[]", "/?:@!$&'()*+,;=")
        + " HTTP/1.1\r\nX-b: \tc \r\nHOST: a\r\nA:\r\n\r\n";
    check(&odd, "PURGE /a%zz/~b;c=(1)?q=/?:@!$&'()*+,;=", 0, false, &odd);
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 012\r\n\r\n";
    check(post, "POST /", 12, false, post);
    check(
        "GET / HTTP/1.1\r\nConnection: Keep-Alive\r\nHost: a\r\nconnection:close \r\nx: y\r\n\r\n",
        "GET /",
        0,
        true,
        "GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n\r\n",
    );
}

#[test]
fn the_rest_is_left_to_others() {
    let check = |input: &str| assert_eq!(plain(input), Look::Other, "{input:?}");
    let field = |field: &str| check(&format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
    check("GET / HTTP/1.1\r\n\r\n");
    check("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    check("GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    check("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n");
    check("GET / HTTP/1.1\nHost: a\n\n");
    check("GET / HTTP/1.1\r\nHost: a\n\r\n");
    check("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    check("\r\n");
    check("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n");
    check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    check("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n");
    check("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n");
    check("GET /\"a HTTP/1.1\r\nHost: a\r\n\r\n");
    check("GET /é HTTP/1.1\r\nHost: a\r\n\r\n");
    check("GET /  HTTP/1.1\r\nHost: a\r\n\r\n");
    check("G@T\x01 / HTTP/1.1\r\nHost: a\r\n\r\n");
    check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    field("Host: a");
    field("Content-Length: 1\r\nContent-Length: 1");
    field("Content-Length: +1");
    field("Content-Length: 1, 1");
    field("Content-Length: 0x1");
    field("Content-Length:");
    field("Content-Length: 99999999999999999999");
    field("Transfer-Encoding: chunked");
    field("Transfer-Encoding: chunked\r\nContent-Length: 1");
    field("Content-Length : 1");
    field(" folded");
    field("Connection: keep-alive, x");
    field("Connection: upgrade\r\nUpgrade: websocket");
    field("Upgrade: h2c");
    field("HTTP2-Settings: AAMAAABk");
    field("Expect: 100-continue");
    field("TE: trailers");
    field("Trailer: x");
    field("Keep-Alive: timeout=1");
    field("Proxy-Connection: keep-alive");
    field("Content-Type: application/grpc+proto");
    field("x: a\rb");
    field("x: a\0b");
    field(&"Connection: close\r\n".repeat(MAX_CUTS + 1));
    field(&"x: y\r\n".repeat(MAX_FIELDS + 1));
}

#[test]
fn values_of_one_name_are_one() {
    let input = "GET / HTTP/1.1\r\nX: 1\r\nCookie: a=1\r\nHost: h\r\nx:2\r\ncookie: b=2\r\n\r\n";
    let looked = look(input.as_bytes(), |request| {
        let joined = |name: &HeaderName| request.fields.joined(name).map(Cow::into_owned);
        assert_eq!(joined(&"x".parse().unwrap()).unwrap(), b"1,2");
        assert_eq!(joined(&COOKIE).unwrap(), b"a=1; b=2");
        assert_eq!(joined(&"y".parse().unwrap()), None);
        let mut names = Vec::new();
        request.fields.each_name(&mut |name| names.push(name.clone()));
        assert!(names.contains(&HOST) && names.len() == request.fields.count(), "{names:?}");
    });
    assert_eq!(looked, Look::Plain(()));
}

/// The facts of an answer, and how its head goes on.
fn answered(input: &str, is_for_head: bool) -> Result<Option<(Framing, bool, String)>, Broken> {
    let found = answer(input.as_bytes(), is_for_head)?;
    Ok(found.map(|answer| {
        let mut head = input.as_bytes()[..answer.length].to_vec();
        let start = answer.cuts.take_out(&mut head);
        let head = String::from_utf8(head.split_off(start)).unwrap();
        (answer.framing, answer.keeps, head)
    }))
}

#[test]
fn answers_end_where_they_say() {
    let check = |fields: &str, framing: Framing, keeps: bool, left: &str| {
        let input = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let left = format!("HTTP/1.1 200 OK\r\n{left}\r\n");
        assert_eq!(answered(&input, false), Ok(Some((framing, keeps, left))), "{fields:?}");
    };
    let same = |fields: &str, framing| check(fields, framing, framing != Framing::Close, fields);
    same("", Framing::Close);
    same("Content-Length: 5\r\n", Framing::Length(5));
    same("content-length: 5\r\nCONTENT-LENGTH: 05\r\n", Framing::Length(5));
    same("Transfer-Encoding: Chunked\r\n", Framing::Chunked);
    same("Transfer-Encoding: gzip, chunked\r\n", Framing::Chunked);
    same("Transfer-Encoding: chunked, gzip\r\n", Framing::Close);
    let (chunked, both) = ("transfer-encoding: chunked\r\n", "content-length: 5\r\n");
    check(&format!("{both}{chunked}"), Framing::Chunked, true, chunked);
    let length = "content-length: 5\r\n";
    check(&format!("Connection: close\r\n{length}"), Framing::Length(5), false, length);
    let hops = "Keep-Alive: 5\r\nx-hop: 1\r\nconnection: keep-alive, X-Hop\r\n";
    check(&format!("{hops}{length}upgrade: h2c\r\n"), Framing::Length(5), true, length);
}

#[test]
fn some_answers_have_no_body() {
    let check = |status: &str, is_for_head: bool| {
        let input = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
        let expect = Ok(Some((Framing::Length(0), true, input.clone())));
        assert_eq!(answered(&input, is_for_head), expect, "{status}");
    };
    check("200 OK", true);
    check("204 No Content", false);
    check("304 Not Modified", false);
    check("103 Early Hints", false);
}

#[test]
fn broken_answers_are_seen() {
    let check = |input: &str, expect: Broken| {
        assert_eq!(answered(input, false), Err(expect), "{input:?}");
    };
    let status = Broken::Syntax(httparse::Error::Status);
    check("HTTP/1.1 101 Switching Protocols\r\n\r\n", Broken::Upgrade);
    check("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Broken::Length);
    check("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", Broken::Length);
    check("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Broken::Coding);
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: é, chunked\r\n\r\n", Broken::Coding);
    check("\r\nHTTP/1.1 200 OK\r\n\r\n", status);
    check("SSH-2.0\r\n", Broken::Syntax(httparse::Error::Version));
    let hops = "upgrade: a\r\n".repeat(MAX_CUTS + 1);
    check(&format!("HTTP/1.1 200 OK\r\n{hops}\r\n"), Broken::Connection);
    assert_eq!(answered("HTTP/1.1 200 OK\r\nA: b\r\n", false), Ok(None));
}

#[test]
fn what_is_left_has_no_end_yet() {
    let input = "HTTP/1.1 200 OK\r\nConnection: close\r\na: b\r\nContent-Length: 0\r\n\r\n";
    let answer = answer(input.as_bytes(), false).unwrap().unwrap();
    let left = answer.cuts.left_of(&input.as_bytes()[..answer.length]);
    assert_eq!(left, b"HTTP/1.1 200 OK\r\na: b\r\nContent-Length: 0\r\n");
}

#[test]
fn line_feeds_are_made_whole() {
    let sloppy = "HTTP/1.1 200 OK\nA: b\r\nC: d\n\n";
    assert!(answer(sloppy.as_bytes(), false).unwrap().unwrap().is_sloppy);
    let tidy = "HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n";
    assert_eq!(tidied(sloppy.as_bytes()), tidy.as_bytes());
    assert!(!answer(tidy.as_bytes(), false).unwrap().unwrap().is_sloppy);
}

proptest! {
    /// However it is cut, a request is plain when it is whole, and not before.
    #[test]
    fn a_part_of_a_plain_request_is_partial(
        fields in prop::collection::vec(("[a-z-]{20,24}", "[ -~]{0,20}"), 0..10),
        cut in any::<prop::sample::Index>(),
    ) {
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let fields = fields.concat();
        let input = format!("GET /a?b HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let part = &input.as_bytes()[..cut.index(input.len())];
        prop_assert_eq!(look(part, |_| ()), Look::Partial);
        prop_assert_eq!(look(input.as_bytes(), |request| request.length), Look::Plain(input.len()));
    }

    #[test]
    fn nothing_makes_it_panic(input in "(GET|POST) /[ -~]{0,10} HTTP/1.1\r\n([ -~]{0,20}[:\r\n]{1,3}){0,5}\r\n\r\n") {
        let _looked: Look<()> = look(input.as_bytes(), |_| ());
        let _answered: Result<_, _> = answer(input.as_bytes(), false);
    }
}
