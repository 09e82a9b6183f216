//! Updates of a source.

use std::fmt;
use std::sync::Arc;

use crate::model::condition::{Condition, Location};
use crate::model::external::External;
use crate::model::http::{self, HttpRoute};
use crate::model::id::ResourceName;
use crate::model::policy::{AuthorizationPolicy, MeshPolicy, PolicyKind};
use crate::model::route::TcpRoute;
use crate::model::service::Service;
use crate::model::workload::Workload;

/// Everything one source knows. It replaces what the same source said before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The source's name, for example `file`. The sources' order by name is their precedence.
    pub source: &'static str,
    /// The resources in force, in no particular order.
    pub resources: Vec<Resource>,
    /// Conditions of it, or of what is not in force.
    pub conditions: Vec<Condition>,
}

/// One resource, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Where it begins.
    pub location: Location,
    /// The object.
    pub object: Object,
}

/// A resource's content. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A core/v1 `Service`.
    Service(Arc<Service>),
    /// A Gateway API `TCPRoute`.
    TcpRoute(Arc<TcpRoute>),
    /// A Gateway API `HTTPRoute` or `GRPCRoute`.
    HttpRoute(Arc<HttpRoute>),
    /// A `Workload`.
    Workload(Arc<Workload>),
    /// A `MeshPolicy`, or an Istio `PeerAuthentication`.
    MeshPolicy(Arc<MeshPolicy>),
    /// An Istio `AuthorizationPolicy`.
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// An Istio `ServiceEntry`.
    External(Arc<External>),
}

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A core/v1 `Service`.
    Service,
    /// A Gateway API `TCPRoute`.
    TcpRoute,
    /// A Gateway API `HTTPRoute`.
    HttpRoute,
    /// A Gateway API `GRPCRoute`.
    GrpcRoute,
    /// A `Workload`.
    Workload,
    /// A `MeshPolicy`.
    MeshPolicy,
    /// An Istio `PeerAuthentication`.
    PeerAuthentication,
    /// An Istio `AuthorizationPolicy`.
    AuthorizationPolicy,
    /// An Istio `ServiceEntry`.
    ServiceEntry,
}

/// The identity of a resource. Prints as `Service default/echo`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub name: ResourceName,
}

impl Object {
    /// Its identity.
    pub fn key(&self) -> Key {
        let (kind, name) = match self {
            Self::Service(service) => (Kind::Service, &service.name),
            Self::TcpRoute(route) => (Kind::TcpRoute, &route.name),
            Self::HttpRoute(route) => (route.kind.into(), &route.name),
            Self::Workload(workload) => (Kind::Workload, &workload.name),
            Self::MeshPolicy(policy) => (policy.kind.into(), &policy.name),
            Self::AuthorizationPolicy(policy) => (Kind::AuthorizationPolicy, &policy.name),
            Self::External(external) => (Kind::ServiceEntry, &external.name),
        };
        Key { kind, name: name.clone() }
    }
}

impl Kind {
    /// Whether it says what may connect, or how.
    pub const fn is_policy(self) -> bool {
        matches!(self, Self::MeshPolicy | Self::PeerAuthentication | Self::AuthorizationPolicy)
    }

    /// The word of the `kind` field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::TcpRoute => "TCPRoute",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::Workload => "Workload",
            Self::MeshPolicy => "MeshPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::ServiceEntry => "ServiceEntry",
        }
    }
}

impl From<http::Kind> for Kind {
    fn from(kind: http::Kind) -> Self {
        match kind {
            http::Kind::Grpc => Self::GrpcRoute,
            http::Kind::Http => Self::HttpRoute,
        }
    }
}

impl From<PolicyKind> for Kind {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Mesh => Self::MeshPolicy,
            PolicyKind::PeerAuthentication => Self::PeerAuthentication,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}
