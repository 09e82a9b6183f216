//! HTTP routes as data: what an `HTTPRoute` or a `GRPCRoute` says, before it is attached to anything.
//!
//! A `GRPCRoute` is written as what it means in HTTP/2: its service and method are a path.

pub mod pattern;
pub mod rules;
pub mod table;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::model::http::pattern::Expression;
use crate::model::id::ResourceName;
use crate::model::route::ParentRef;

/// A Gateway API `HTTPRoute` or `GRPCRoute` whose parents are services (GAMMA, GEP-1294).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRoute {
    /// Namespace and name.
    pub name: ResourceName,
    /// Which of the two it is.
    pub kind: Kind,
    /// `metadata.creationTimestamp` as written (RFC 3339); older routes win. Empty sorts first.
    pub created: String,
    /// `spec.parentRefs` that name a service.
    pub parents: Vec<ParentRef>,
    /// `spec.rules`, at least one; shared with the snapshots that they are in force in.
    pub rules: Vec<Arc<Rule>>,
}

impl HttpRoute {
    /// How many bytes its regular expressions take, compiled, each as often as it is there.
    pub fn expression_bytes(&self) -> usize {
        self.rules.iter().flat_map(|rule| &rule.matches).map(Match::expression_bytes).sum()
    }
}

/// Which kind of route. A `GRPCRoute` beats an `HTTPRoute` on one port (Gateway API).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `GRPCRoute`.
    Grpc,
    /// `HTTPRoute`.
    Http,
}

/// The actions for requests that one of `matches` is true of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `name`, for people.
    pub name: Option<String>,
    /// `matches`: at least one. A rule that writes none has the one that is true of all.
    pub matches: Vec<Match>,
    /// `filters`, in their order.
    pub filters: Vec<Filter>,
    /// `backendRefs`.
    pub backends: Vec<HttpBackend>,
    /// `timeouts`.
    pub timeouts: Timeouts,
    /// `retry`.
    pub retry: Option<Retry>,
    /// `sessionPersistence`.
    pub persistence: Option<Persistence>,
    /// The annotation `nodemesh.dev/split-by`.
    pub split_by: Option<SplitBy>,
}

/// The mark by which a user is known: a user stays with one backend while weights move. Requests
/// without it are split one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitBy {
    /// The value of this header field.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(String),
}

/// Where a rule sends its share of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpBackend {
    /// The service.
    pub service: ResourceName,
    /// Its port.
    pub port: u16,
    /// Share of requests: weight / sum of weights. Gateway API: 0 to 1,000,000, 1 by default.
    pub weight: u32,
    /// `filters`: after those of the rule. Neither redirects nor rewrites of the path of others.
    pub filters: Vec<Filter>,
}

/// A condition on a request: all of it must be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// `path`.
    pub path: PathMatch,
    /// `method`.
    pub method: Option<Method>,
    /// `headers`, each name once: of several with one name only the first counts (Gateway API).
    pub headers: Vec<HeaderMatch>,
    /// `queryParams`, each name once.
    pub query: Vec<QueryMatch>,
}

impl Match {
    fn expression_bytes(&self) -> usize {
        let path = match &self.path {
            PathMatch::Regex(pattern) => Some(pattern),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
        };
        let headers = self.headers.iter().map(|header| &header.value);
        let query = self.query.iter().map(|parameter| &parameter.value);
        let values = headers.chain(query).filter_map(|value| match value {
            ValueMatch::Regex(pattern) => Some(pattern),
            ValueMatch::Exact(_) => None,
        });
        path.into_iter().chain(values).map(Expression::size).sum()
    }
}

/// A condition on the path, as it is in the request: percent-encoded, without the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Its first elements: `/v2` is a prefix of `/v2` and of `/v2/x`, not of `/v2x`. Without a slash
    /// at the end, except for `/`.
    Prefix(String),
    /// The whole path, by a regular expression.
    Regex(Expression),
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// It is this.
    Exact(String),
    /// It matches.
    Regex(Expression),
}

/// A condition on a header. Of a header that is there several times, the values are taken as one,
/// with `,` between them (RFC 9110, section 5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Which.
    pub name: HeaderName,
    /// Its value.
    pub value: ValueMatch,
}

/// A condition on the first of the query's parameters with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Which, decoded. Upper and lower case are different.
    pub name: String,
    /// Its value, decoded.
    pub value: ValueMatch,
}

/// A change or an action on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `RequestHeaderModifier`.
    RequestHeaders(HeaderChange),
    /// `ResponseHeaderModifier`.
    ResponseHeaders(HeaderChange),
    /// `RequestMirror`.
    Mirror(Mirror),
    /// `RequestRedirect`: the answer, instead of a backend's.
    Redirect(Redirect),
    /// `URLRewrite`.
    Rewrite(Rewrite),
    /// `CORS`.
    Cors(Cors),
    /// An `ExtensionRef`, none of which is known here: the answer is an error (Gateway API: "MUST NOT
    /// be skipped"). Its reference, for people.
    Unresolved(String),
}

/// `set` overwrites, then `add` appends, then `remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChange {
    /// `set`.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// `add`.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// `remove`.
    pub remove: Vec<HeaderName>,
}

/// A copy of the request, whose answer nobody gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The service.
    pub service: ResourceName,
    /// Its port.
    pub port: u16,
    /// Of how many requests ...
    pub numerator: u32,
    /// ... out of how many, at least 1. `percent` is written as out of 100.
    pub denominator: u32,
}

/// An answer that sends the client elsewhere. A part that is `None` stays as it was in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `scheme`: `http` or `https`.
    pub scheme: Option<Scheme>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `path`.
    pub path: Option<PathChange>,
    /// `port`. Without: the scheme's well-known port if a scheme is given, else the service's port.
    pub port: Option<u16>,
    /// `statusCode`: 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// A URL's scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`, port 80.
    Http,
    /// `https`, port 443.
    Https,
}

/// The target that the backend sees instead of the one that the client has asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// `hostname`.
    pub hostname: Option<HeaderValue>,
    /// `path`.
    pub path: Option<PathChange>,
}

/// Another path. The query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// `ReplaceFullPath`.
    Full(String),
    /// `ReplacePrefixMatch`: instead of the prefix that has matched, and nothing else of it.
    Prefix(String),
}

/// Answers to what browsers ask before a request to another origin, and what they want to read in
/// an answer (the Fetch standard).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// `allowOrigins`; a `*` may stand for all, or for the first part of a host.
    pub origins: Vec<String>,
    /// `allowCredentials`.
    pub credentials: bool,
    /// `allowMethods`; `*` is all.
    pub methods: Vec<String>,
    /// `allowHeaders`; `*` is all.
    pub headers: Vec<String>,
    /// `exposeHeaders`.
    pub expose: Vec<String>,
    /// `maxAge`, in seconds; 5 by default.
    pub max_age: u32,
}

/// How long a request may take. `None` or zero: as long as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// `request`: until the whole answer was sent, with all attempts.
    pub request: Option<Duration>,
    /// `backendRequest`: one attempt.
    pub backend: Option<Duration>,
}

/// `retry`: what is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// `codes`: after which answers, besides connections that fail.
    pub codes: Vec<StatusCode>,
    /// `attempts`: how many times more, at most.
    pub attempts: u32,
    /// `backoff`: how long to wait before, at least.
    pub backoff: Option<Duration>,
}

/// `sessionPersistence`: a client stays with the backend's endpoint that it had first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// `sessionName`.
    pub name: String,
    /// `type`, with what belongs to it.
    pub by: PersistenceBy,
    /// `absoluteTimeout`.
    pub absolute: Option<Duration>,
    /// `idleTimeout`.
    pub idle: Option<Duration>,
}

/// The carrier of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistenceBy {
    /// A cookie; one that outlives the browser if it is permanent.
    Cookie {
        /// `cookieConfig.lifetimeType: Permanent`.
        permanent: bool,
    },
    /// A header.
    Header,
}

impl Match {
    /// The match that is true of every request (Gateway API: a rule without matches).
    pub fn all() -> Self {
        Self {
            path: PathMatch::Prefix("/".to_owned()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }
    }
}
