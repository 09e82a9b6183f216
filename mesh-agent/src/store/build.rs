//! From what the sources say to one snapshot (pure).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::model::condition::{Condition, Location, Locations, Reason};
use crate::model::id::ResourceName;
use crate::model::policy::Acceleration;
use crate::model::snapshot::{Placements, Snapshot, Target};
use crate::model::workload::Workload;
use crate::store::attach::Attached;
use crate::store::endpoints::Catalog;
use crate::store::index::{Family, Index};
use crate::store::tables::Tables;
use crate::store::update::{Key, Kind, Update};
use crate::store::{policies, ports};

/// Builds the snapshot of what all sources say, which comes after `last`. The order within an update
/// does not matter. Parts that are the same as in `last` are shared with it instead of being made again; what
/// else depends on it is whose an address or a port is that workloads of several namespaces claim: who
/// had it keeps it.
pub fn build(last: &Snapshot, updates: &BTreeMap<&'static str, Update>) -> Snapshot {
    let mut conditions: Vec<_> =
        updates.values().flat_map(|update| update.conditions.iter().cloned()).collect();
    let index = Index::new(updates, &mut conditions);
    let attached = Attached::new(&index, &mut conditions);
    let mut catalog = Catalog::new();
    let services =
        targets((&index, &mut catalog), &attached, &mut Tables::of(last), &mut conditions);
    conditions.extend(catalog.conditions(&index));
    let by_address = by_address(last, &index, &services, &mut conditions);
    let workloads = index
        .workloads
        .iter()
        .map(|(name, (_, workload))| ((*name).clone(), Arc::clone(workload)))
        .collect();
    let placements = placements(last, &index);
    let policies = policies::resolve(&index, &mut conditions);
    let acceleration = index.mesh_policies.values();
    let acceleration = acceleration
        .filter(|(_, policy)| policy.acceleration == Some(Acceleration::Sockmap))
        .map(|(location, policy)| ((*location).clone(), policy.name.clone()))
        .collect();
    let endpoints = services.values().flat_map(|target| target.endpoints());
    let all = index.workloads.values().map(|(_, workload)| *workload);
    let contested = ports::contested(last, all, &by_address, endpoints);
    let mesh = Snapshot { by_address, contested, ..Snapshot::default() };
    let owns = |workload: &Workload, port| mesh.owns(workload, port);
    ports::conditions(&index, owns, &mesh.contested, &mut conditions);
    let by_port = by_port(owns, &mesh.by_address, &services);
    let locations = locations(&index);
    Snapshot {
        revision: last.revision + 1,
        workloads,
        by_port,
        services,
        placements,
        policies,
        externals: index.externals.values().map(|(_, one)| Arc::clone(one)).collect(),
        acceleration,
        locations,
        conditions,
        ..mesh
    }
}

/// The locations of the resources that nodes have conditions of.
fn locations(index: &Index<'_>) -> Locations {
    let services = index.services.iter().map(|(name, (at, _))| (Kind::Service, *name, *at));
    let workloads = index.workloads.iter().map(|(name, (at, _))| (Kind::Workload, *name, *at));
    let externals = index.externals.iter().map(|(name, (at, _))| (Kind::ServiceEntry, *name, *at));
    // In the order in which they are kept.
    let all = services.chain(externals).chain(workloads);
    all.map(|(kind, name, at)| (kind.as_str(), name.clone(), at.clone())).collect()
}

/// The owners of the ports of addresses that several workloads share.
fn by_port(
    owns: impl Fn(&Workload, u16) -> bool,
    by_address: &HashMap<IpAddr, Vec<Arc<Workload>>>,
    targets: &HashMap<SocketAddr, Arc<Target>>,
) -> HashMap<SocketAddr, Vec<Arc<Workload>>> {
    let shared: HashMap<_, _> =
        by_address.iter().filter(|(_, workloads)| workloads.len() > 1).collect();
    let mut map: HashMap<SocketAddr, Vec<Arc<Workload>>> = HashMap::new();
    if shared.is_empty() {
        return map;
    }
    for (address, workloads) in &shared {
        for workload in *workloads {
            for port in &workload.ports {
                let at = SocketAddr::new(**address, port.port);
                map.entry(at).or_default().push(Arc::clone(workload));
            }
        }
    }
    for endpoint in targets.values().flat_map(|target| target.endpoints()) {
        if shared.contains_key(&endpoint.address.ip()) {
            map.entry(endpoint.address).or_default().push(Arc::clone(&endpoint.workload));
        }
    }
    for (at, workloads) in &mut map {
        workloads.sort_by(|a, b| a.name.cmp(&b.name));
        workloads.dedup_by(|a, b| a.name == b.name);
        workloads.retain(|workload| owns(workload, at.port()));
    }
    map
}

/// Whether workloads are of several namespaces, whose authors may not trust each other.
fn are_of_several(workloads: &[Arc<Workload>]) -> bool {
    let namespaces = || workloads.iter().map(|workload| &workload.name.namespace);
    namespaces().zip(namespaces().skip(1)).any(|(one, other)| one != other)
}

/// On which nodes each identity is scheduled.
fn placements(last: &Snapshot, index: &Index<'_>) -> Arc<Placements> {
    let now = index.workloads.values().map(|(_, workload)| Arc::as_ptr(workload));
    if now.eq(last.workloads.values().map(Arc::as_ptr)) {
        return Arc::clone(&last.placements);
    }
    let mut placements = Placements::new();
    for (_, workload) in index.workloads.values() {
        if let Some(node) = &workload.node {
            placements.entry(workload.identity.clone()).or_default().insert(Arc::clone(node));
        }
    }
    Arc::new(placements)
}

/// The target behind each virtual address and port. The first service by name wins, but none takes the
/// address of a workload of another namespace that has an agent: what is sent to it would go to
/// whoever writes services.
fn targets<'a>(
    (index, catalog): (&Index<'a>, &mut Catalog<'a>),
    attached: &Attached<'a>,
    tables: &mut Tables,
    conditions: &mut Vec<Condition>,
) -> HashMap<SocketAddr, Arc<Target>> {
    let served = served(index);
    let mut targets: HashMap<SocketAddr, Arc<Target>> = HashMap::new();
    for (location, service) in index.services.values() {
        for address in &service.addresses {
            let owner = served
                .get(address)
                .filter(|owner| owner.iter().all(|name| name.namespace != service.name.namespace));
            if let Some([owner, ..]) = owner.map(Vec::as_slice) {
                let message = format!(
                    "{address} is the address of Workload {owner}, which has an agent and keeps it; \
                     give the service another"
                );
                let key = Key { kind: Kind::Service, name: service.name.clone() };
                conditions.push(conflict(location, &key, "spec.clusterIPs", message));
                continue;
            }
            let mut lost = Lost::default();
            for port in &service.ports {
                let at = SocketAddr::new(*address, port.port);
                if let Some(winner) = targets.get(&at) {
                    lost.to(port.port, winner.service.name.clone());
                } else {
                    let (at_port, family) = ((*service, port), Family::of(*address));
                    let target = attached.target((index, catalog), at_port, family, tables);
                    targets.insert(at, Arc::new(target));
                }
            }
            if let Some((port, winner, rest)) = lost.told() {
                let at = SocketAddr::new(*address, port);
                let message = format!(
                    "Service {winner} has {at} already{rest}; give one of them another address or \
                     port"
                );
                let key = Key { kind: Kind::Service, name: service.name.clone() };
                conditions.push(conflict(location, &key, "spec.clusterIPs", message));
            }
        }
    }
    targets
}

/// The names of the workloads that have an agent, by address, where that is a service's too.
fn served<'a>(index: &Index<'a>) -> HashMap<IpAddr, Vec<&'a ResourceName>> {
    let services = index.services.values();
    let virtual_ones: HashSet<_> =
        services.flat_map(|(_, service)| &service.addresses).copied().collect();
    let mut served: HashMap<_, Vec<_>> = HashMap::new();
    for (name, (_, workload)) in &index.workloads {
        let addresses = workload.addresses.iter().filter(|_| workload.node.is_some());
        for address in addresses.filter(|address| virtual_ones.contains(address)) {
            served.entry(*address).or_default().push(*name);
        }
    }
    served
}

/// The workloads by address. One whose address is also a service's virtual address is reported, and so
/// are several that claim one port.
fn by_address(
    last: &Snapshot,
    index: &Index<'_>,
    targets: &HashMap<SocketAddr, Arc<Target>>,
    conditions: &mut Vec<Condition>,
) -> HashMap<IpAddr, Vec<Arc<Workload>>> {
    let virtual_addresses: HashMap<IpAddr, &ResourceName> =
        targets.iter().map(|(at, target)| (at.ip(), &target.service.name)).collect();
    let mut map: HashMap<IpAddr, Vec<Arc<Workload>>> =
        HashMap::with_capacity(index.workloads.len());
    for (location, workload) in index.workloads.values() {
        for address in &workload.addresses {
            if virtual_addresses.contains_key(address) {
                let message = format!(
                    "{address} is the virtual address of a service too, which wins on its ports; \
                     change one of them"
                );
                let key = Key { kind: Kind::Workload, name: workload.name.clone() };
                conditions.push(conflict(location, &key, "spec.addresses", message));
            }
            map.entry(*address).or_default().push(Arc::clone(workload));
        }
    }
    let mut shared: Vec<_> = map.iter_mut().filter(|(_, workloads)| workloads.len() > 1).collect();
    shared.sort_unstable_by_key(|(address, _)| **address);
    for (address, workloads) in shared {
        if are_of_several(workloads) {
            let had = last.by_address.get(address).map(Vec::as_slice).unwrap_or_default();
            let place = |name: &ResourceName| had.iter().position(|had| had.name == *name);
            workloads.sort_by_key(|workload| place(&workload.name).unwrap_or(usize::MAX));
        }
        settle(*address, workloads, &mut |workload, field, message| {
            let key = Key { kind: Kind::Workload, name: workload.name.clone() };
            let location = index.workloads.get(&workload.name).map(|(location, _)| *location);
            conditions.extend(location.map(|at| conflict(at, &key, field, message)));
        });
    }
    map
}

/// Leaves an address to those of its workloads that have an agent, and one agent, if one has: to them
/// nothing is sent in plaintext, or to another node, because of another. Tells `report` whom it takes
/// the address from, and who claims a port that another of its namespace has.
fn settle(
    address: IpAddr,
    workloads: &mut Vec<Arc<Workload>>,
    report: &mut impl FnMut(&Workload, &str, String),
) {
    let served = workloads.iter().find(|workload| workload.node.is_some()).cloned();
    if let Some(served) = served {
        let others = workloads.extract_if(.., |workload| {
            // The units of a host share its address, whose they are; a pod shares its own with nobody.
            let are_units = workload.is_unit() && served.is_unit();
            let is_strange = workload.name.namespace != served.name.namespace;
            workload.node != served.node || (is_strange && !are_units)
        });
        for workload in others {
            let message = format!(
                "{address} is the address of Workload {} too, which has an agent and keeps it; \
                 remove one of them",
                served.name
            );
            report(&workload, "spec.addresses", message);
        }
    }
    // Those of other namespaces are told of elsewhere.
    let mut ports: HashMap<(&str, u16), &ResourceName> = HashMap::new();
    for workload in &*workloads {
        let mut lost = Lost::default();
        for port in &workload.ports {
            let key = (&*workload.name.namespace, port.port);
            let owner = ports.entry(key).or_insert(&workload.name);
            if **owner != workload.name {
                lost.to(port.port, (*owner).clone());
            }
        }
        if let Some((port, owner, rest)) = lost.told() {
            let message = format!(
                "port {port} of {address} is Workload {owner}'s, whose policies count there{rest}; \
                 give one of them another port or address"
            );
            report(workload, "spec.ports", message);
        }
    }
}

/// Ports of an address that a resource claims and others have. They are told together: each by itself
/// would be a thousand conditions for each address of a document.
pub(super) struct Lost<Owner> {
    first: Option<(u16, Owner)>,
    more: usize,
}

impl<Owner> Default for Lost<Owner> {
    fn default() -> Self {
        Self { first: None, more: 0 }
    }
}

impl<Owner> Lost<Owner> {
    /// Adds a port that `owner` has.
    pub(super) fn to(&mut self, port: u16, owner: Owner) {
        match self.first {
            None => self.first = Some((port, owner)),
            Some(_) => self.more += 1,
        }
    }

    /// The first of them, whose it is, and words for the others.
    pub(super) fn told(self) -> Option<(u16, Owner, String)> {
        let (port, owner) = self.first?;
        let rest = match self.more {
            0 => String::new(),
            1 => ", and 1 more port is another's".to_owned(),
            more => format!(", and {more} more ports are others'"),
        };
        Some((port, owner, rest))
    }
}

/// Something that two resources claim.
pub(super) fn conflict(location: &Location, key: &Key, field: &str, message: String) -> Condition {
    Condition {
        location: location.clone(),
        subject: key.to_string(),
        field: field.to_owned(),
        reason: Reason::Conflicted,
        message,
    }
}
