//! Why a connection failed, in the terms that operators and retries need.

use std::error::Error as StdError;
use std::fmt;

/// An error and its causes, in one line.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// One failed connection, or one that its client has reset ([`Kind::is_failure`]).
///
/// `Display` prints this level only; walk [`StdError::source`] for the cause.
#[derive(Debug)]
pub struct Failure {
    /// The kind of failure.
    pub kind: Kind,
    /// The side at fault.
    pub side: Side,
    /// Whether another attempt may be made.
    pub retry: Retry,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kind of a failure. Every variant has its own code; there is no "other".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The client has reset the connection after it was made: an end of its own, and no failure.
    ClientReset,
    /// The TCP connection was refused, unreachable or could not be made.
    Connect,
    /// An authorization policy of the destination does not allow it.
    Denied,
    /// The destination is not the mesh's, and the source may connect to nothing else.
    Egress,
    /// The peer's certificate is not one that this connection may use: another identity than the
    /// destination's, another trust domain, or a node on which that identity does not run.
    Identity,
    /// A defect of the agent: a connection's task panicked.
    Internal,
    /// The agent has as many sockets as it may: for the client, the workload, or all together.
    Limit,
    /// The agent did not answer the kernel, and the workload's failure mode lets nothing past it.
    NoAgent,
    /// The destination's service has no endpoint.
    NoEndpoint,
    /// The listener was reached without a record from the kernel: nobody asked for a destination.
    NoOrigin,
    /// The chosen backend of the route does not exist, or every backend has weight 0; or the peer's
    /// gateway has no route.
    NoRoute,
    /// The destination demands mutual TLS, and the connection came in plaintext.
    Plaintext,
    /// The peer broke the protocol of the tunnel, or answered `CONNECT` with another status.
    Protocol,
    /// A side closed abruptly (RST) after the connection was made.
    Reset,
    /// The agent was stopped and the time for draining was over.
    Shutdown,
    /// A deadline passed.
    Timeout,
    /// The TLS handshake failed.
    Tls,
    /// More of what the peer has sent was unread than this agent keeps for it, or for the workload.
    Unread,
}

/// The side at fault for a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The application, or the peer's agent, that opened the connection.
    Client,
    /// This agent or the mesh's configuration.
    Mesh,
    /// The endpoint that we were talking to, or its agent.
    Upstream,
}

/// Whether another attempt may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Retry {
    /// The endpoint may have acted, so only what is idempotent may be tried again.
    IfIdempotent,
    /// Another attempt would fail the same way.
    Never,
    /// Nothing reached the endpoint, so anything may be tried again.
    Safe,
}

impl Failure {
    /// A failure without a cause below it.
    pub const fn new(kind: Kind, side: Side, retry: Retry) -> Self {
        Self { kind, side, retry, source: None }
    }

    /// A failure with a cause.
    pub fn because(
        kind: Kind,
        side: Side,
        retry: Retry,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, side, retry, source: Some(source.into()) }
    }

    /// The same failure, for the report of the connection's other end.
    #[must_use]
    pub fn again(&self) -> Self {
        let source = self.source.is_some().then(|| self.cause().into());
        Self { kind: self.kind, side: self.side, retry: self.retry, source }
    }

    /// The cause and its causes, outermost first, joined with `: `. Empty without a cause.
    pub fn cause(&self) -> String {
        let mut text = String::new();
        let mut next = self.source();
        while let Some(error) = next {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl Kind {
    /// Every kind, for documentation and tests.
    pub const ALL: &[Self] = &[
        Self::ClientReset,
        Self::Connect,
        Self::Denied,
        Self::Egress,
        Self::Identity,
        Self::Internal,
        Self::Limit,
        Self::NoAgent,
        Self::NoEndpoint,
        Self::NoOrigin,
        Self::NoRoute,
        Self::Plaintext,
        Self::Protocol,
        Self::Reset,
        Self::Shutdown,
        Self::Timeout,
        Self::Tls,
        Self::Unread,
    ];

    /// Whether it is a failure at all, and not an end of the client's own.
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::ClientReset)
    }

    /// The word used in the access log and the metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::ClientReset => "client_reset",
            Self::Connect => "connect",
            Self::Denied => "denied",
            Self::Egress => "egress",
            Self::Identity => "identity",
            Self::Internal => "internal",
            Self::Limit => "limit",
            Self::NoAgent => "no_agent",
            Self::NoEndpoint => "no_endpoint",
            Self::NoOrigin => "no_origin",
            Self::NoRoute => "no_route",
            Self::Plaintext => "plaintext",
            Self::Protocol => "protocol",
            Self::Reset => "reset",
            Self::Shutdown => "shutdown",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Unread => "unread",
        }
    }

    /// The value of Istio's `response_flags` that users of Envoy and ztunnel know.
    pub const fn response_flags(self) -> &'static str {
        match self {
            Self::Connect => "UF",
            Self::Denied | Self::Egress | Self::Plaintext => "DENY",
            Self::Identity => "IDENTITY_ERROR",
            Self::ClientReset | Self::Internal | Self::Shutdown => "DC",
            Self::NoAgent => "LH",
            Self::NoEndpoint => "UH",
            Self::NoOrigin | Self::NoRoute => "NR",
            Self::Protocol => "UPE",
            Self::Reset => "UC",
            Self::Timeout => "UT",
            Self::Tls => "TLS_FAILURE",
            Self::Limit | Self::Unread => "OM",
        }
    }

    /// The status with which a `CONNECT` that failed so is answered, by HBONE and the native transport
    /// (as ztunnel does, but 403 for a policy's refusal, as Envoy: RFC 9110, section 15.5.4).
    pub const fn connect_status(self) -> u16 {
        match self {
            Self::Denied | Self::Egress | Self::Plaintext => 403,
            Self::Identity => 401,
            Self::NoOrigin | Self::Protocol => 400,
            Self::Timeout => 504,
            Self::ClientReset
            | Self::Connect
            | Self::Internal
            | Self::Limit
            | Self::NoAgent
            | Self::NoEndpoint
            | Self::NoRoute
            | Self::Reset
            | Self::Shutdown
            | Self::Tls
            | Self::Unread => 503,
        }
    }
}

impl Kind {
    /// The meaning of a status with which a peer of any implementation answers an HBONE `CONNECT`, and
    /// whether another attempt may be made. A refusal by policy is 401 of ztunnel
    /// (`src/proxy/inbound.rs`), and 403 of Envoy and of this agent: all that is wrong with an identity
    /// is seen in the handshake.
    pub const fn of_hbone_status(status: u16) -> (Self, Retry) {
        match status {
            401 | 403 | 407 => (Self::Denied, Retry::Never),
            404 => (Self::NoRoute, Retry::Never),
            408 | 504 => (Self::Timeout, Retry::Safe),
            429 | 500..=599 => (Self::Connect, Retry::Safe),
            _ => (Self::Protocol, Retry::Never),
        }
    }

    /// The meaning of a status of the native transport (`docs/transport.md`, "Codes"), and whether
    /// another attempt may be made.
    pub const fn of_native_status(status: u16) -> (Self, Retry) {
        match status {
            400 => (Self::Protocol, Retry::Never),
            401 => (Self::Identity, Retry::Never),
            403 => (Self::Denied, Retry::Never),
            504 => (Self::Timeout, Retry::Safe),
            _ => (Self::Connect, Retry::Safe),
        }
    }
}

impl Side {
    /// The word used in the access log and the metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Mesh => "mesh",
            Self::Upstream => "upstream",
        }
    }
}

impl Retry {
    /// The word used in the access log.
    pub const fn code(self) -> &'static str {
        match self {
            Self::IfIdempotent => "if_idempotent",
            Self::Never => "never",
            Self::Safe => "safe",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kind.code(), self.side.code())
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_a_code_of_its_own() {
        let codes: HashSet<_> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
    }

    #[test]
    fn statuses_of_other_implementations_mean_what_they_mean_there() {
        for (status, expect) in [
            (401, (Kind::Denied, Retry::Never)),
            (403, (Kind::Denied, Retry::Never)),
            (407, (Kind::Denied, Retry::Never)),
            (400, (Kind::Protocol, Retry::Never)),
            (404, (Kind::NoRoute, Retry::Never)),
            (405, (Kind::Protocol, Retry::Never)),
            (408, (Kind::Timeout, Retry::Safe)),
            (429, (Kind::Connect, Retry::Safe)),
            (500, (Kind::Connect, Retry::Safe)),
            (502, (Kind::Connect, Retry::Safe)),
            (503, (Kind::Connect, Retry::Safe)),
            (504, (Kind::Timeout, Retry::Safe)),
            (101, (Kind::Protocol, Retry::Never)),
            (204, (Kind::Protocol, Retry::Never)),
            (302, (Kind::Protocol, Retry::Never)),
        ] {
            assert_eq!(Kind::of_hbone_status(status), expect, "{status}");
        }
        assert_eq!(Kind::of_native_status(401).0, Kind::Identity);
        assert_eq!(Kind::of_native_status(599).0, Kind::Connect);
    }

    #[test]
    fn the_cause_is_printed_without_repetition() {
        let inner = std::io::Error::other("refused");
        let failure = Failure::because(Kind::Connect, Side::Upstream, Retry::Safe, inner);
        assert_eq!(format!("{failure}: {}", failure.cause()), "connect (upstream): refused");
    }
}
