//! A pod, a unit or an external machine: something with an identity.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::id::ResourceName;
use crate::model::spiffe::SpiffeId;

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Namespace and name.
    pub name: ResourceName,
    /// Its identity for its peers.
    pub identity: SpiffeId,
    /// The node whose agent serves it. `None`: no agent does; it is reached in plaintext.
    pub node: Option<Arc<str>>,
    /// Its own addresses, the primary one first. Never empty.
    pub addresses: Vec<IpAddr>,
    /// Labels; services select by them.
    pub labels: BTreeMap<String, String>,
    /// Ports that services may name in `targetPort`.
    pub ports: Vec<NamedPort>,
    /// Ports at which its node looks whether it is healthy, host byte order; each once.
    pub probes: Vec<u16>,
    /// Whether services may send connections to it. Its own address works in any case.
    pub ready: bool,
    /// Where on its node it is found.
    pub place: Place,
}

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// The name that `targetPort` refers to.
    pub name: String,
    /// The port, host byte order.
    pub port: u16,
}

/// How the node's agent finds a workload's sockets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// All sockets of this cgroup and those below it; the path is relative to the cgroup v2 root.
    Cgroup(PathBuf),
    /// All sockets of this network namespace, by path (for example `/run/netns/web`).
    Netns(PathBuf),
    /// All sockets of this systemd unit.
    SystemdUnit(String),
    /// Nothing on this node: an endpoint elsewhere.
    Unplaced,
}

impl Place {
    /// The field of a `Workload` document that names it.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Cgroup(_) => "spec.cgroup",
            Self::Netns(_) => "spec.netns",
            Self::SystemdUnit(_) => "spec.systemdUnit",
            Self::Unplaced => "",
        }
    }
}

impl Workload {
    /// Whether it is a unit of its host: told from others there by its cgroup, and by its ports.
    pub const fn is_unit(&self) -> bool {
        matches!(self.place, Place::Cgroup(_) | Place::SystemdUnit(_))
    }

    /// The label that Istio and Kubernetes take as the application's name, or the workload's own.
    pub fn canonical_name(&self) -> &str {
        ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]
            .iter()
            .find_map(|key| self.labels.get(*key))
            .map_or(&self.name.name, String::as_str)
    }

    /// The label that Istio and Kubernetes take as the application's version, or `latest`.
    pub fn canonical_revision(&self) -> &str {
        ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]
            .iter()
            .find_map(|key| self.labels.get(*key))
            .map_or("latest", String::as_str)
    }

    /// The label `key`, or `unknown`, as Istio's metrics print an absent one.
    pub fn label_or_unknown(&self, key: &str) -> &str {
        self.labels.get(key).map_or("unknown", String::as_str)
    }
}
