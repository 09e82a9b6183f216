//! Protocols that a request of HTTP/1.1 asks to switch to (RFC 9110, section 7.8): those that are not
//! allowed are not asked for, and nothing else is switched to.
//!
//! Bytes after a switch are seen by no policy and no route. A proxy may leave an `Upgrade` out.

use std::sync::{Mutex, PoisonError};

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request;
use hyper::upgrade::OnUpgrade;
use hyper::{StatusCode, Version as HttpVersion};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use crate::proxy::http::fields::strip;

/// The connection option, as RFC 6455 writes it.
const OPTION: HeaderValue = HeaderValue::from_static("Upgrade");

/// How many protocols of a request are looked at: each is compared with all that a policy allows.
const MAX_ASKED: usize = 16;

/// The protocols that a client asks for, as it has written them.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked(Vec<String>);

/// The protocols that a server is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Upgrade(Vec<String>);

/// The answer of a server that switches to a protocol which it was not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer switches protocols, which the request has not asked for")]
pub struct Unasked;

impl Asked {
    /// The protocols that the request asks for; `None`: none, or in a way that is not to be heeded: of
    /// HTTP/1.0, without the connection option, or with content, which would have to come first.
    pub fn of(head: &request::Parts) -> Option<Self> {
        let headers = &head.headers;
        let asked: Vec<_> = words(headers, &UPGRADE).take(MAX_ASKED).map(str::to_owned).collect();
        let names_it =
            words(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"));
        let has_content = headers.contains_key(TRANSFER_ENCODING)
            || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        let is_heeded = head.version == HttpVersion::HTTP_11 && names_it && !has_content;
        (is_heeded && !asked.is_empty()).then_some(Self(asked))
    }

    /// Asks the server in `headers` for those that are allowed; `None`: none is.
    pub fn allow(
        self,
        headers: &mut HeaderMap,
        is_allowed: impl Fn(&str) -> bool,
    ) -> Option<Upgrade> {
        let words: Vec<_> = self.0.into_iter().filter(|word| is_allowed(word)).collect();
        let value = HeaderValue::from_str(&words.join(", ")).ok().filter(|_| !words.is_empty())?;
        headers.insert(CONNECTION, OPTION);
        headers.insert(UPGRADE, value);
        Some(Upgrade(words))
    }
}

impl Upgrade {
    /// Whether each of the protocols is allowed.
    pub fn is_within(&self, is_allowed: impl Fn(&str) -> bool) -> bool {
        self.0.iter().all(|word| is_allowed(word))
    }
}

/// Whether an answer switches protocols. Takes off its fields what is about the server's connection.
///
/// # Errors
///
/// To another than the request has asked for: nothing of it may be passed on.
pub fn switched(
    asked: Option<&Upgrade>,
    status: StatusCode,
    headers: &mut HeaderMap,
) -> Result<bool, Unasked> {
    if status != StatusCode::SWITCHING_PROTOCOLS {
        // RFC 9110, section 15.5.22: it says what the client has to ask for.
        let wanted =
            headers.get(UPGRADE).filter(|_| status == StatusCode::UPGRADE_REQUIRED).cloned();
        strip(headers);
        if let Some(wanted) = wanted {
            headers.insert(CONNECTION, OPTION);
            headers.insert(UPGRADE, wanted);
        }
        return Ok(false);
    }
    let Upgrade(asked) = asked.ok_or(Unasked)?;
    let is_asked = |word: &str| asked.iter().any(|asked| asked.eq_ignore_ascii_case(word));
    let said: Vec<_> = words(headers, &UPGRADE).collect();
    if said.is_empty() || !said.iter().all(|word| is_asked(word)) {
        return Err(Unasked);
    }
    let value = HeaderValue::from_str(&said.join(", ")).map_err(|_invalid| Unasked)?;
    strip(headers);
    headers.insert(CONNECTION, OPTION);
    headers.insert(UPGRADE, value);
    Ok(true)
}

/// The elements of a list, of all lines of it.
fn words<'h>(
    headers: &'h HeaderMap,
    name: &hyper::header::HeaderName,
) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).iter();
    // A value that is no text is no protocol that anybody allows.
    let words = lines.flat_map(|line| line.to_str().unwrap_or("\"").split(','));
    words.map(str::trim).filter(|word| !word.is_empty())
}

/// A client's connection that hyper gives up at its end, because a request has asked for an upgrade
/// that it was not given.
#[derive(Debug, Default)]
pub struct Unmet(Mutex<Option<OnUpgrade>>);

impl Unmet {
    /// Keeps the last of them: hyper knows no other.
    pub fn keep(&self, connection: OnUpgrade) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }

    /// Ends the connection in order, if hyper has given it up instead.
    pub async fn end(&self) {
        let given_up = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(given_up) = given_up else { return };
        if let Ok(io) = given_up.await {
            // The client may have left.
            let _ended: std::io::Result<()> = TokioIo::new(io).shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn head(version: HttpVersion, fields: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::get("/").version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// The protocols that a server is asked for, where `websocket` and `foo/1` are allowed.
    fn asked(version: HttpVersion, fields: &[(&str, &str)]) -> Option<String> {
        let mut head = head(version, fields);
        let asked = Asked::of(&head);
        strip(&mut head.headers);
        let is_allowed = |word: &str| {
            ["websocket", "foo/1"].iter().any(|allowed| word.eq_ignore_ascii_case(allowed))
        };
        let upgrade = asked.and_then(|asked| asked.allow(&mut head.headers, is_allowed));
        let value = head.headers.get(UPGRADE).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(value.is_some(), upgrade.is_some());
        assert_eq!(head.headers.get(CONNECTION).is_some(), upgrade.is_some());
        assert!(!head.headers.contains_key("http2-settings"), "{head:?}");
        value
    }

    #[test]
    fn only_what_is_allowed_is_asked_for() {
        let check = |fields: &[(&str, &str)], expect: Option<&str>| {
            assert_eq!(asked(HttpVersion::HTTP_11, fields).as_deref(), expect, "{fields:?}");
        };
        check(&[("connection", "Upgrade"), ("upgrade", "WebSocket")], Some("WebSocket"));
        check(&[("connection", "keep-alive, upgrade"), ("upgrade", "foo/1")], Some("foo/1"));
        check(
            &[("connection", "close"), ("connection", "UPGRADE"), ("upgrade", "a,websocket ,")],
            Some("websocket"),
        );
        check(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], Some("websocket"));
        check(
            &[
                ("connection", "upgrade"),
                ("upgrade", "h2c"),
                ("upgrade", "websocket"),
                ("upgrade", "foo/1"),
            ],
            Some("websocket, foo/1"),
        );
        let h2c = ("connection", "Upgrade, HTTP2-Settings");
        check(&[h2c, ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")], None);
        check(&[h2c, ("upgrade", "H2C"), ("http2-settings", "AAMAAABk")], None);
        check(&[("connection", "upgrade"), ("upgrade", "h2c")], None);
        check(&[("connection", "upgrade"), ("upgrade", "websocket/13")], None);
        check(&[("connection", "upgrade"), ("upgrade", "websocket h2c")], None);
        check(&[("connection", "upgrade"), ("upgrade", "")], None);
        check(&[("connection", "upgrade"), ("http2-settings", "AAMAAABk")], None);
    }

    #[test]
    fn what_is_not_to_be_heeded_is_not_asked_for() {
        let both = [("connection", "upgrade"), ("upgrade", "websocket")];
        let with = |field| [both[0], both[1], field];
        assert_eq!(asked(HttpVersion::HTTP_10, &both), None);
        assert_eq!(asked(HttpVersion::HTTP_11, &[("upgrade", "websocket")]), None);
        let asked = |field| asked(HttpVersion::HTTP_11, &with(field));
        assert_eq!(asked(("content-length", "5")), None);
        assert_eq!(asked(("transfer-encoding", "chunked")), None);
        assert_eq!(asked(("content-length", "0")).as_deref(), Some("websocket"));
    }

    #[test]
    fn a_switch_is_to_what_was_asked_for() {
        let web_socket = || Upgrade(vec!["websocket".to_owned(), "foo/1".to_owned()]);
        let check = |asked: Option<Upgrade>, status: u16, fields: &[(&str, &str)], expect| {
            let mut headers = head(HttpVersion::HTTP_11, fields).headers;
            let status = StatusCode::from_u16(status).unwrap();
            let switched = switched(asked.as_ref(), status, &mut headers);
            assert_eq!(switched, expect, "{fields:?}");
            let is_switch = switched == Ok(true);
            let says_what = status == StatusCode::UPGRADE_REQUIRED && fields.len() > 1;
            let stays = is_switch || says_what;
            assert!(expect == Err(Unasked) || headers.contains_key(UPGRADE) == stays);
            assert!(!is_switch || headers.len() == 2 && headers[CONNECTION] == "Upgrade");
        };
        let fields = [("connection", "Upgrade, keep-alive"), ("upgrade", "WebSocket")];
        check(Some(web_socket()), 101, &fields, Ok(true));
        check(Some(web_socket()), 101, &[("upgrade", "foo/1")], Ok(true));
        check(Some(web_socket()), 200, &fields, Ok(false));
        check(None, 200, &fields, Ok(false));
        check(None, 426, &[("connection", "upgrade"), ("upgrade", "h2c")], Ok(false));
        check(None, 101, &fields, Err(Unasked));
        check(Some(web_socket()), 101, &[("connection", "upgrade")], Err(Unasked));
        check(
            Some(web_socket()),
            101,
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            Err(Unasked),
        );
        check(Some(web_socket()), 101, &[("upgrade", "websocket, h2c")], Err(Unasked));
        check(
            Some(web_socket()),
            101,
            &[("upgrade", "websocket"), ("upgrade", "h2c")],
            Err(Unasked),
        );
    }
}
