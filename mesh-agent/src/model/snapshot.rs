//! One consistent view of the mesh, with its indices.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::model::condition::{Condition, Location, Locations};
use crate::model::external::External;
use crate::model::http::rules::HttpRules;
use crate::model::id::ResourceName;
use crate::model::policy::WorkloadPolicy;
use crate::model::service::{AppProtocol, Service};
use crate::model::spiffe::SpiffeId;
use crate::model::workload::Workload;

/// The ports of nodes that several namespaces claim, with the namespace that has each, if one does.
pub type Contested = HashMap<(Arc<str>, u16), Option<Arc<str>>>;

/// The nodes that each identity is scheduled on.
pub type Placements = HashMap<SpiffeId, BTreeSet<Arc<str>>>;

/// Everything the proxies know, as of one revision. Never changes after it is published.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Counts up by one with each publication; 0 is the empty view before the first.
    pub revision: u64,
    /// Workloads by name.
    pub workloads: BTreeMap<ResourceName, Arc<Workload>>,
    /// Workloads by address. Several may share one: units of one host. Never empty; by name, those of
    /// other namespaces that came later after the others.
    pub by_address: HashMap<IpAddr, Vec<Arc<Workload>>>,
    /// Of addresses that several workloads share: whose each port is that one of them declares, or
    /// that a service reaches one of them by. By name, of one namespace. Empty: several namespaces
    /// claim it, and none of those that are here has it. See [`Snapshot::listeners`].
    pub by_port: HashMap<SocketAddr, Vec<Arc<Workload>>>,
    /// The ports of nodes that several namespaces claim, and which of them has each. See
    /// [`Snapshot::owns`].
    pub contested: Contested,
    /// The target behind each virtual address and port.
    pub services: HashMap<SocketAddr, Arc<Target>>,
    /// On which nodes each identity is scheduled; the same as the last snapshot's as long as no workload
    /// changes.
    pub placements: Arc<Placements>,
    /// The settings in force for each workload; see [`Snapshot::policy`].
    pub policies: HashMap<ResourceName, Arc<WorkloadPolicy>>,
    /// Known destinations outside, by name.
    pub externals: Vec<Arc<External>>,
    /// The documents that ask for acceleration, which a kernel may not have.
    pub acceleration: Vec<(Location, ResourceName)>,
    /// The locations of services, workloads and external addresses, for the conditions that only a
    /// node finds ([`Finding`]).
    ///
    /// [`Finding`]: crate::model::condition::Finding
    pub locations: Locations,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// One port of a service, with its routes resolved.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// The service.
    pub service: Arc<Service>,
    /// Its port.
    pub port: u16,
    /// For clients of every namespace that has no route of its own.
    pub default: Split,
    /// Consumer routes: for clients of these namespaces (GEP-1294).
    pub by_namespace: HashMap<Arc<str>, Split>,
}

/// Weighted backends.
#[derive(Debug, PartialEq, Eq)]
pub struct Split {
    /// The route that says so; `None` without a route: all connections go to the service itself.
    pub route: Option<ResourceName>,
    /// The backends, in the order of the route. Those of weight 0 are kept, for people to see
    /// and for clients with a session.
    pub backends: Vec<Backend>,
    /// The HTTP routes, which decide for each request. `backends` is the service itself then.
    pub http: Option<Arc<HttpRules>>,
}

/// One backend of a split.
#[derive(Debug, PartialEq, Eq)]
pub struct Backend {
    /// The service as the route names it.
    pub service: ResourceName,
    /// Its port.
    pub port: u16,
    /// `weight`.
    pub weight: u32,
    /// Its endpoints.
    pub endpoints: Endpoints,
}

/// The endpoints of a backend.
#[derive(Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// The backend does not exist; its share of connections is refused (Gateway API, `TCPRoute`).
    Invalid,
    /// The service exists; its endpoints may be none.
    Resolved {
        /// The backend's service.
        service: Arc<Service>,
        /// Its endpoints in the order of their addresses, shared with the requests that may go to
        /// each of them.
        endpoints: Arc<[Endpoint]>,
    },
}

/// One address of one workload behind a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where the application listens.
    pub address: SocketAddr,
    /// The workload that listens there.
    pub workload: Arc<Workload>,
}

impl Endpoints {
    /// Those that there are.
    pub fn as_slice(&self) -> &[Endpoint] {
        match self {
            Self::Invalid => &[],
            Self::Resolved { endpoints, .. } => endpoints,
        }
    }
}

impl Target {
    /// The protocol of its port, as far as the service says.
    pub fn protocol(&self) -> AppProtocol {
        let port = self.service.ports.iter().find(|port| port.port == self.port);
        port.map(|port| port.protocol).unwrap_or_default()
    }

    /// All endpoints that its splits may choose; one may be there several times.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let splits = self.by_namespace.values().chain([&self.default]);
        splits.flat_map(Split::reachable).flat_map(|backend| backend.endpoints.as_slice())
    }
}

impl Split {
    /// Every backend that connections or requests may go to, also by HTTP rules and as copies. One
    /// may be there several times.
    pub fn reachable(&self) -> impl Iterator<Item = &Backend> {
        let rules = self.http.iter().flat_map(|http| &http.rules);
        self.backends.iter().chain(rules.flat_map(|rule| rule.backends.iter().chain(&rule.mirrors)))
    }
}

impl Snapshot {
    /// Whether a workload with the identity `id` is scheduled on `node`.
    pub fn runs_on(&self, id: &SpiffeId, node: &str) -> bool {
        self.placements.get(id).is_some_and(|nodes| nodes.contains(node))
    }

    /// The settings in force for a workload; the defaults for one that is not known.
    pub fn policy(&self, workload: &ResourceName) -> Arc<WorkloadPolicy> {
        self.policies.get(workload).cloned().unwrap_or_default()
    }

    /// The workloads that may listen at `at`: all of the address that declare the port or are
    /// reached by it through a service; if none does, the first of the address. Empty if no workload
    /// has the address, or workloads of several namespaces claim the port.
    ///
    /// More than one only if the configuration gives one port of one address to several.
    pub fn listeners(&self, at: SocketAddr) -> &[Arc<Workload>] {
        let first = || self.by_address.get(&at.ip()).and_then(|all| all.get(..1));
        self.by_port.get(&at).map(Vec::as_slice).or_else(first).unwrap_or_default()
    }

    /// Whether a workload declares a port, or a service reaches it there. Looks at every service.
    pub fn serves(&self, workload: &Workload, port: u16) -> bool {
        workload.ports.iter().any(|named| named.port == port)
            || self.services.values().map(|target| &target.service).any(|service| {
                service.selects(workload)
                    && service.ports.iter().any(|to| to.target.resolve(workload) == Some(port))
            })
    }

    /// Whether a port that a workload claims is its namespace's: one that is told from others of its
    /// node by its ports does not have what another namespace had before.
    pub fn owns(&self, workload: &Workload, port: u16) -> bool {
        let Some(node) = workload.node.as_ref().filter(|_| !self.contested.is_empty()) else {
            return true;
        };
        let owner = self.contested.get(&(Arc::clone(node), port));
        owner.is_none_or(|owner| {
            owner.as_ref() == Some(&workload.name.namespace)
                || !is_told_by_port(workload, &self.by_address)
        })
    }

    /// Whether an address that a workload claims is its own: others keep theirs.
    pub fn keeps(&self, workload: &Workload, address: IpAddr) -> bool {
        self.by_address.get(&address).is_some_and(|all| is_among(all, workload))
    }

    /// Whether a workload may listen at `at`, an address that it claims.
    pub fn listens(&self, workload: &Workload, at: SocketAddr) -> bool {
        self.owns(workload, at.port()) && is_among(self.listeners(at), workload)
    }

    /// Whether several workloads have this address.
    pub fn is_shared(&self, address: IpAddr) -> bool {
        self.by_address.get(&address).is_some_and(|workloads| workloads.len() > 1)
    }

    /// The workloads that the agent of `node` serves.
    pub fn on_node<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads.values().filter(move |workload| workload.node.as_deref() == Some(node))
    }

    /// The workload with this address; of several that share it, the first by name.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address).and_then(|workloads| workloads.first())
    }
}

/// Whether a workload is told from others of its node by its ports: a unit, or one that shares an
/// address.
pub(crate) fn is_told_by_port(
    workload: &Workload,
    by_address: &HashMap<IpAddr, Vec<Arc<Workload>>>,
) -> bool {
    let is_shared =
        |address: &IpAddr| by_address.get(address).is_some_and(|workloads| workloads.len() > 1);
    workload.is_unit() || workload.addresses.iter().any(is_shared)
}

/// Whether a workload is one of those.
fn is_among(workloads: &[Arc<Workload>], workload: &Workload) -> bool {
    workloads.iter().any(|one| one.name == workload.name)
}
