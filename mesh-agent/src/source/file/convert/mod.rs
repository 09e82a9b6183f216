//! From documents to the model: every value is checked here, and what is wrong is named.

mod check;
mod refs;
mod authorization;
mod http_route;
mod mesh_policy;
mod service;
mod service_entry;
mod tcp_route;
mod workload;

use std::sync::Arc;

use crate::model::condition::Reason;
use crate::model::http::pattern;
use crate::model::trust_domain::TrustDomains;
use crate::store::update::Object;

use super::schema;

pub(super) use check::DEFAULT_NAMESPACE;

/// A document as it was written.
#[derive(Debug)]
pub(super) enum Written {
    Service(schema::Service),
    TcpRoute(schema::TcpRoute),
    HttpRoute(schema::HttpRoute),
    GrpcRoute(schema::GrpcRoute),
    Workload(schema::Workload),
    MeshPolicy(schema::MeshPolicy),
    PeerAuthentication(schema::PeerAuthentication),
    ServiceEntry(schema::ServiceEntry),
    AuthorizationPolicy(schema::AuthorizationPolicy),
}

/// An error of a field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The field's path in the document.
    pub(super) path: String,
    pub(super) reason: Reason,
    /// The error and the remedy, without a full stop.
    pub(super) message: String,
    /// Whether the document cannot be used because of it.
    pub(super) fatal: bool,
}

/// The most problems of a document that are told.
const MAX_PROBLEMS: usize = 100;

/// The problems found in a document so far, and what it has used.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// In the order of finding, the first [`MAX_PROBLEMS`] of them.
    pub(super) found: Vec<Problem>,
    /// One of them is fatal, whether it is told or not.
    is_fatal: bool,
    /// How many bytes its regular expressions take, compiled.
    expression_bytes: usize,
}

impl Problems {
    /// Whether the document may have another regular expression.
    const fn have_room(&self) -> bool {
        self.expression_bytes <= pattern::MAX_BYTES
    }

    /// Has the document's regular expressions take `bytes` more, as many as those of a port of a service may
    /// take at the most: more of them are in force nowhere. Once that was too much, nothing more is taken.
    const fn take_room(&mut self, bytes: usize) -> bool {
        self.expression_bytes = self.expression_bytes.saturating_add(bytes);
        self.expression_bytes <= pattern::MAX_BYTES
    }

    /// The field has a value it may not have; the document is not used.
    fn invalid(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.push(path, Reason::Invalid, message, true);
    }

    /// The document is not used, for another reason.
    fn refuse(&mut self, path: impl Into<String>, reason: Reason, message: impl Into<String>) {
        self.push(path, reason, message, true);
    }

    /// The document is used without this.
    fn note(&mut self, path: impl Into<String>, reason: Reason, message: impl Into<String>) {
        self.push(path, reason, message, false);
    }

    fn push(
        &mut self,
        path: impl Into<String>,
        reason: Reason,
        message: impl Into<String>,
        fatal: bool,
    ) {
        self.is_fatal |= fatal;
        if self.found.len() < MAX_PROBLEMS {
            self.found.push(Problem { path: path.into(), reason, message: message.into(), fatal });
        }
        if self.found.len() == MAX_PROBLEMS {
            let message =
                "there may be more problems, which are not told; mend those before this one";
            self.found.push(Problem {
                path: String::new(),
                reason,
                message: message.into(),
                fatal,
            });
        }
    }
}

/// The resource that `written` says, or `None` if a problem is fatal.
pub(super) fn convert(
    written: Written,
    domains: &TrustDomains,
    problems: &mut Problems,
) -> Option<Object> {
    let object = match written {
        Written::Service(service) => {
            service::convert(service, problems).map(|service| Object::Service(Arc::new(service)))
        }
        Written::TcpRoute(route) => {
            tcp_route::convert(route, problems).map(|route| Object::TcpRoute(Arc::new(route)))
        }
        Written::HttpRoute(route) => {
            http_route::http(route, problems).map(|route| Object::HttpRoute(Arc::new(route)))
        }
        Written::GrpcRoute(route) => {
            http_route::grpc(route, problems).map(|route| Object::HttpRoute(Arc::new(route)))
        }
        Written::Workload(workload) => workload::convert(workload, domains.own(), problems)
            .map(|workload| Object::Workload(Arc::new(workload))),
        Written::MeshPolicy(policy) => mesh_policy::convert(policy, problems)
            .map(|policy| Object::MeshPolicy(Arc::new(policy))),
        Written::PeerAuthentication(policy) => mesh_policy::peer_authentication(policy, problems)
            .map(|policy| Object::MeshPolicy(Arc::new(policy))),
        Written::ServiceEntry(entry) => service_entry::convert(entry, problems)
            .map(|external| Object::External(Arc::new(external))),
        Written::AuthorizationPolicy(policy) => authorization::convert(policy, domains, problems)
            .map(|policy| Object::AuthorizationPolicy(Arc::new(policy))),
    };
    object.filter(|_| !problems.is_fatal)
}
