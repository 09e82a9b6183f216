//! Routes as data: what a `TCPRoute` says, before it is attached to anything.

use crate::model::id::ResourceName;

/// A Gateway API `TCPRoute` whose parents are services (GAMMA, GEP-1294).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRoute {
    /// Namespace and name.
    pub name: ResourceName,
    /// `metadata.creationTimestamp` as written (RFC 3339); older routes win. Empty sorts first.
    pub created: String,
    /// `spec.parentRefs` that name a service.
    pub parents: Vec<ParentRef>,
    /// `spec.rules[0].backendRefs`.
    pub backends: Vec<BackendRef>,
}

/// The parent of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRef {
    /// The service.
    pub service: ResourceName,
    /// One port of it, or all (`None`).
    pub port: Option<u16>,
}

/// Where a route sends connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// The service.
    pub service: ResourceName,
    /// Its port.
    pub port: u16,
    /// Share of connections: weight / sum of weights. Gateway API: 0 to 1,000,000, 1 by default.
    pub weight: u32,
}
