//! A service: virtual addresses, ports, and which workloads are behind them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::id::ResourceName;
use crate::model::workload::Workload;

/// A core/v1 `Service`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ResourceName,
    /// `<name>.<namespace>.svc.<cluster domain>`, as metrics and logs print it.
    pub hostname: Arc<str>,
    /// `spec.clusterIPs`: the virtual addresses. Empty for a headless service.
    pub addresses: Vec<IpAddr>,
    /// `spec.ports`, TCP only.
    pub ports: Vec<ServicePort>,
    /// `spec.selector`: a workload of the same namespace with all of these labels is an endpoint.
    pub selector: BTreeMap<String, String>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; empty if there is none.
    pub name: String,
    /// `port`, host byte order.
    pub port: u16,
    /// `targetPort`; the same as `port` if a document leaves it out.
    pub target: TargetPort,
    /// `appProtocol`: what is spoken there.
    pub protocol: AppProtocol,
}

/// The protocol that the application says it speaks at a port (core/v1, `ServicePort.appProtocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppProtocol {
    /// Nothing was said: with HTTP routes it is looked for, without it is TCP.
    #[default]
    Unset,
    /// `http`: HTTP/1.1, or HTTP/2 with prior knowledge.
    Http,
    /// `kubernetes.io/h2c` (KEP-3726): HTTP/2 with prior knowledge. Also `http2`.
    H2c,
    /// `grpc`: HTTP/2 with prior knowledge, and gRPC in it.
    Grpc,
    /// `kubernetes.io/ws` (KEP-3726): HTTP/1.1 that is upgraded to WebSocket (RFC 6455).
    WebSocket,
    /// `tcp`, `https`, `kubernetes.io/wss` and every other word: bytes that are not looked into.
    Other,
}

/// `targetPort`: a number, or the name of a workload's port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// A name that each workload resolves by itself.
    Name(String),
    /// A port, host byte order.
    Number(u16),
}

impl AppProtocol {
    /// Whether requests may be found there: whether routes of HTTP can have an effect.
    pub const fn may_be_http(self) -> bool {
        match self {
            Self::Unset | Self::Http | Self::H2c | Self::Grpc | Self::WebSocket => true,
            Self::Other => false,
        }
    }
}

impl Service {
    /// Whether `workload` is behind this service. A service without selector selects nothing.
    pub fn selects(&self, workload: &Workload) -> bool {
        !self.selector.is_empty()
            && workload.name.namespace == self.name.namespace
            && self.selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
    }
}

impl TargetPort {
    /// The port of `workload` that is meant, or `None` if it has no port of that name.
    pub fn resolve(&self, workload: &Workload) -> Option<u16> {
        match self {
            Self::Name(name) => {
                workload.ports.iter().find(|port| port.name == *name).map(|port| port.port)
            }
            Self::Number(port) => Some(*port),
        }
    }
}
