//! Requests of a client of HTTP.

use serde::{Deserialize, Serialize};

use super::Fields;

/// The version of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge (RFC 9113, section 3.3).
    Http2,
    /// The body as it is, after which all is read until the server closes.
    Raw,
}

/// Contents that an answer must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// Any.
    #[default]
    Nothing,
    /// An echo of the request: another one is the error [`Ask::ANOTHER_ECHO`].
    Echo,
}

/// A request, and how often and how it is sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// The method.
    pub method: String,
    /// The path with its query. `{n}` in it is the number of the request, from 0.
    pub path: String,
    /// Fields, in this order and case. `Host` is the first of HTTP/1.1, and `:authority` of HTTP/2.
    pub host: String,
    /// The other fields.
    pub headers: Fields,
    /// The body.
    pub body: String,
    /// Fields after the body, which is chunked then.
    pub trailers: Fields,
    /// The messages of a call of gRPC, instead of the body.
    pub messages: Vec<String>,
    /// Whether each message is sent when the one before it has been answered.
    pub in_step: bool,
    /// The bytes that are sent after `101 Switching Protocols`, and read back.
    pub upgraded: Option<String>,
    /// The version of HTTP.
    pub version: Version,
    /// Whether the client says that it has sent all, of [`Version::Raw`].
    pub half_closes: bool,
    /// How many times.
    pub count: u64,
    /// How many at once, each with a connection of its own.
    pub concurrency: u64,
    /// Whether each has a new connection.
    pub is_fresh: bool,
    /// Contents that an answer 200 must have.
    pub check: Check,
    /// After which one has failed, in milliseconds.
    pub timeout_ms: u64,
    /// How many are begun a second, at times that no answer changes. Without it, one after the
    /// other.
    pub rate: Option<u32>,
}

impl Ask {
    /// The error of an answer that is no echo of its request.
    pub const ANOTHER_ECHO: &str = "another echo";

    /// Compares each answer with its request.
    #[must_use]
    pub fn checked(self) -> Self {
        Self { check: Check::Echo, ..self }
    }

    /// Asks for `path` once, by HTTP/1.1.
    pub fn get(path: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            path: path.to_owned(),
            host: "echo".to_owned(),
            headers: Vec::new(),
            body: String::new(),
            trailers: Vec::new(),
            messages: Vec::new(),
            in_step: false,
            upgraded: None,
            version: Version::Http1,
            half_closes: false,
            count: 1,
            concurrency: 1,
            is_fresh: false,
            check: Check::Nothing,
            timeout_ms: 20_000,
            rate: None,
        }
    }

    /// Sends `body` to `path` once, by HTTP/1.1.
    pub fn post(path: &str, body: &str) -> Self {
        Self { method: "POST".to_owned(), body: body.to_owned(), ..Self::get(path) }
    }

    /// Calls a method of gRPC, as `/package.Service/Method`, with one message.
    pub fn grpc(path: &str, message: &str) -> Self {
        let post = Self { messages: vec![message.to_owned()], ..Self::post(path, "") };
        post.http2().header("content-type", "application/grpc").header("te", "trailers")
    }

    /// Sends bytes that need be no HTTP, and reads to the end.
    pub fn raw(bytes: &str) -> Self {
        Self { version: Version::Raw, body: bytes.to_owned(), ..Self::get("") }
    }

    /// Sends bytes and then the end, and reads to the end.
    pub fn all(bytes: &str) -> Self {
        Self { half_closes: true, ..Self::raw(bytes) }
    }

    /// Speaks HTTP/2.
    #[must_use]
    pub fn http2(self) -> Self {
        Self { version: Version::Http2, ..self }
    }

    /// Names another host.
    #[must_use]
    pub fn host(self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self }
    }

    /// Adds a field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds fields.
    #[must_use]
    pub fn headers(self, fields: &[(&str, &str)]) -> Self {
        fields.iter().fold(self, |ask, (name, value)| ask.header(name, value))
    }

    /// Adds a field after the body.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Asks for an upgrade, after which `text` is sent and read back (RFC 9110, section 7.8).
    #[must_use]
    pub fn upgrade(mut self, protocol: &str, text: &str) -> Self {
        self.upgraded = Some(text.to_owned());
        self.header("Connection", "Upgrade").header("Upgrade", protocol)
    }

    /// Sends these messages of gRPC, each when the one before it has been answered.
    #[must_use]
    pub fn in_step(self, messages: &[&str]) -> Self {
        let messages = messages.iter().map(|message| (*message).to_owned()).collect();
        Self { messages, in_step: true, ..self }
    }

    /// Asks `count` times, on `concurrency` connections.
    #[must_use]
    pub fn times(self, count: u64, concurrency: u64) -> Self {
        Self { count, concurrency, ..self }
    }

    /// Opens a connection for each request.
    #[must_use]
    pub fn fresh(self) -> Self {
        Self { is_fresh: true, ..self }
    }

    /// Sets after which one has failed, in milliseconds.
    #[must_use]
    pub fn timeout_ms(self, timeout_ms: u64) -> Self {
        Self { timeout_ms, ..self }
    }

    /// Begins so many a second, at times that no answer changes: one that has to wait for a
    /// connection is as late as its user sees it.
    #[must_use]
    pub fn rate(self, rate: u32) -> Self {
        Self { rate: Some(rate), ..self }
    }

    /// The request with this number, of many.
    #[must_use]
    pub fn numbered(&self, n: u64) -> Self {
        Self { path: self.path.replace("{n}", &n.to_string()), ..self.clone() }
    }
}
