//! Entries of this node's own workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::addr::user::from_ip;
use mesh_common::destination::DestinationKey;
use mesh_common::source::{BY_CGROUP, CGROUP, ENROLLED, NODE, PathKey, Source, SourceKey, WAITING};
use mesh_common::workload::{BY_PORT, CAPTURE, FAIL_CLOSED, GUARDED, Inbound, PortKey, VIA_AGENT};

use crate::datapath::desired::room::{Shortages, Want, tables};
use crate::datapath::desired::verdicts::Classes;
use crate::datapath::desired::{
    Awaited, Enrolled, Entries, Places, View, destination, inbound, source,
};
use crate::model::policy::{SameNode, WorkloadPolicy};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;
use crate::store::update::Kind;

/// The entry of ports of which nobody knows whose they are: no record of the kernel's is for them, and the
/// agent refuses what arrives.
const NOBODYS: Inbound = Inbound { workload: 0, flags: CAPTURE | GUARDED | FAIL_CLOSED, pad: 0 };

/// A workload of this node.
pub(super) struct Local<'a> {
    pub(super) enrolled: &'a Enrolled,
    pub(super) workload: &'a Arc<Workload>,
    pub(super) policy: Arc<WorkloadPolicy>,
    pub(super) id: u64,
    /// Those of a unit, which share its namespace with others.
    ports: Option<&'a BTreeSet<u16>>,
}

/// The workloads that the kernel has room for.
pub(super) fn within_room(enrolled: &Places, short: &mut Shortages) -> Places {
    let wants = enrolled
        .iter()
        .map(|local| Want::new(Kind::Workload, &local.name, 1, "the workload is not enrolled"));
    let [granted] = short.share(tables::SOURCES, 0, &[wants.collect()]);
    let granted = enrolled.iter().zip(granted).filter(|(_, granted)| *granted);
    granted.map(|(local, _)| local.clone()).collect()
}

/// The workloads of this node that there are.
pub(super) fn all<'a>(view: &'a View<'_>) -> Vec<Local<'a>> {
    of(view, view.enrolled)
}

/// Units that do not run, of the node whose namespace is `node`.
pub(super) fn missing(mesh: &Snapshot, places: &Places, node: u64) -> Vec<Enrolled> {
    let found: BTreeSet<_> = places.iter().map(|enrolled| &enrolled.name).collect();
    let mut missing = BTreeSet::new();
    for awaited in &places.awaited {
        if !found.contains(&awaited.name) && mesh.workloads.contains_key(&awaited.name) {
            missing.insert(awaited.name.clone());
        }
    }
    // No cgroup has this id.
    let source = SourceKey::cgroup(0);
    let enrolled = |name| Enrolled { name, source, netns: node, ready: false, device: 0 };
    missing.into_iter().map(enrolled).collect()
}

/// The sources of cgroups that are made at the places of units: nobody serves them yet.
pub(super) fn places(
    view: &View<'_>,
    awaited: &[Awaited],
    short: &mut Shortages,
) -> BTreeMap<PathKey, Source> {
    let without =
        "a unit that restarts is guarded some milliseconds later, when the agent has found it";
    let wants = awaited.iter().map(|one| Want::new(Kind::Workload, &one.name, 1, without));
    let [granted] = short.share(tables::PLACES, 0, &[wants.collect()]);
    let granted = awaited.iter().zip(granted).filter(|(_, granted)| *granted);
    let mut places = BTreeMap::new();
    for (Awaited { name, path }, _) in granted {
        let enrolled = [Enrolled {
            name: name.clone(),
            source: SourceKey::cgroup(0),
            netns: 0,
            ready: false,
            device: 0,
        }];
        if let Some(local) = of(view, &enrolled).first() {
            places.entry(*path).or_insert_with(|| source(local));
        }
    }
    places
}

/// Workloads of `enrolled` that the snapshot has.
pub(super) fn of<'a>(view: &'a View<'_>, enrolled: &'a [Enrolled]) -> Vec<Local<'a>> {
    let known = enrolled.iter().filter_map(|enrolled| {
        let workload = view.mesh.workloads.get(&enrolled.name)?;
        let is_unit = enrolled.source.kind == CGROUP;
        let none: &BTreeSet<u16> = &view.no_ports;
        let ports = is_unit.then(|| view.by_port.get(&enrolled.name).unwrap_or(none));
        let (policy, id) = (view.mesh.policy(&enrolled.name), view.ids.of(&enrolled.name));
        Some(Local { enrolled, workload, policy, id, ports })
    });
    known.collect()
}

/// Workloads that were found, and that the snapshot does not have.
pub(super) fn gone<'a>(view: &'a View<'_>) -> Vec<&'a Enrolled> {
    let is_gone = |enrolled: &&Enrolled| !view.mesh.workloads.contains_key(&enrolled.name);
    view.enrolled.iter().filter(is_gone).collect()
}

impl<'a> Local<'a> {
    fn want(&self, entries: usize, without: &'static str) -> Want<'a> {
        Want::new(Kind::Workload, &self.enrolled.name, entries, without)
    }
}

/// Adds what is known of them, `node` being the cookie of the agent's own namespace.
pub(super) fn add(
    mesh: &Snapshot,
    (all, gone, missing): (&[Local<'_>], &[&Enrolled], &[Local<'_>]),
    node: u64,
    classes: &mut Classes,
    short: &mut Shortages,
    wanted: &mut Entries,
) {
    for local in all {
        wanted.sources.insert(local.enrolled.source, source(local));
    }
    for unit in all.iter().chain(missing).filter(|local| local.ports.is_some()) {
        let shared = Source::new(BY_CGROUP | NODE);
        wanted.sources.insert(SourceKey::netns(unit.enrolled.netns), shared);
    }
    for enrolled in gone {
        // The snapshot is newer than what is known of its place: nothing passes until that is known.
        let flags = ENROLLED | WAITING | FAIL_CLOSED;
        wanted.sources.insert(enrolled.source, Source::new(flags));
        if enrolled.source.kind != CGROUP {
            wanted.inbound.insert(PortKey::new(enrolled.netns, 0), NOBODYS);
        }
    }
    add_arrivals(mesh, (all, missing), short, wanted);
    add_probes(mesh, all, short, wanted);
    if !wanted.probes.is_empty() {
        let own = Source::new(NODE);
        wanted.sources.entry(SourceKey::netns(node)).or_insert(own);
    }
    add_workloads(all, classes, short, wanted);
}

/// Of a pod, the entry for all ports is always there: without one for a port, it stands for it.
/// Ports of units are guarded also while these do not run: whoever takes their ports meanwhile is not them.
fn add_arrivals(
    mesh: &Snapshot,
    (all, missing): (&[Local<'_>], &[Local<'_>]),
    short: &mut Shortages,
    wanted: &mut Entries,
) {
    let units = all.iter().chain(missing);
    let units: Vec<_> = units.filter_map(|local| Some((local, local.ports?))).collect();
    let pods: Vec<_> = all.iter().filter(|local| local.ports.is_none()).collect();
    let (open, strictest) = (
        "nothing that arrives at the unit is captured",
        "the strictest of its ports stands for all",
    );
    let groups = [
        units.iter().map(|(local, ports)| local.want(ports.len(), open)).collect(),
        pods.iter().map(|local| local.want(local.policy.ports.len(), strictest)).collect(),
    ];
    let [of_units, of_pods] = short.share(tables::INBOUND, pods.len(), &groups);
    for ((local, ports), granted) in units.into_iter().zip(of_units) {
        for port in ports.iter().filter(|_| granted) {
            let key = PortKey::new(local.enrolled.netns, port.to_be());
            if mesh.owns(local.workload, *port) {
                wanted.inbound.insert(key, inbound(local.id, &local.policy, *port));
            } else {
                // It is another's, or nobody's, and is so also while that one is not here: what arrives
                // goes to the agent, which refuses it.
                wanted.inbound.entry(key).or_insert(NOBODYS);
            }
        }
    }
    for (local, granted) in pods.into_iter().zip(of_pods) {
        let key = |port: u16| PortKey::new(local.enrolled.netns, port.to_be());
        let entry = |port: u16| inbound(local.id, &local.policy, port);
        let mut any = entry(0);
        for port in local.policy.ports.keys() {
            if granted {
                wanted.inbound.insert(key(*port), entry(*port));
            } else {
                any = Inbound {
                    flags: any.flags | (entry(*port).flags & (CAPTURE | GUARDED)),
                    ..any
                };
            }
        }
        wanted.inbound.insert(key(0), any);
    }
}

fn add_probes(mesh: &Snapshot, all: &[Local<'_>], short: &mut Shortages, wanted: &mut Entries) {
    let without = "its health probes arrive as connections of strangers";
    let n_entries =
        |local: &Local<'_>| local.workload.addresses.len() * local.workload.probes.len();
    let wants = all.iter().map(|local| local.want(n_entries(local), without)).collect();
    let [granted] = short.share(tables::PROBES, 0, &[wants]);
    for (local, _) in all.iter().zip(granted).filter(|(_, granted)| *granted) {
        let has = |address: &&IpAddr| mesh.keeps(local.workload, **address);
        for address in local.workload.addresses.iter().filter(has) {
            for port in &local.workload.probes {
                let key = DestinationKey::tcp(from_ip(*address), port.to_be());
                wanted.probes.insert(key, local.id);
            }
        }
    }
}

/// Those that others of this node may connect to directly.
fn add_workloads(
    all: &[Local<'_>],
    classes: &mut Classes,
    short: &mut Shortages,
    wanted: &mut Entries,
) {
    let ready: Vec<_> = all.iter().filter(|one| one.enrolled.ready && one.id != 0).collect();
    let without = "connections of this node to it go through the agent";
    let wants = ready.iter().map(|local| local.want(local.policy.ports.len(), without)).collect();
    let [granted] = short.share(tables::PORTS, 0, &[wants]);
    for (local, granted) in ready.into_iter().zip(granted) {
        let class = classes.of(&local.enrolled.name, &local.policy);
        let mut entry = destination(local.enrolled.netns, class, &local.policy);
        if !granted {
            entry.flags = (entry.flags & !BY_PORT) | VIA_AGENT;
        }
        wanted.workloads.insert(local.id, entry);
        for (port, settings) in local.policy.ports.iter().filter(|_| granted) {
            let flags = if settings.same_node == SameNode::Direct { 0 } else { VIA_AGENT };
            wanted.ports.insert(PortKey::new(local.id, port.to_be()), flags);
        }
    }
}
