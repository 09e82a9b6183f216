//! Which entries the maps should hold, by the snapshot and this node's workloads. Pure.

mod destinations;
mod externals;
mod ids;
mod locals;
mod ports;
mod room;
mod services;
mod sets;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::Arc;

use mesh_common::addr::to_v4_be;
use mesh_common::addr::user::from_ip;
use mesh_common::backend::Slot;
use mesh_common::destination::{ConsumerKey, Destination, DestinationKey};
use mesh_common::external::ExternalKey;
use mesh_common::source::{
    DENY_OUTSIDE, ENROLLED, PathKey, REPORT_OUTSIDE, Source, SourceKey, WAITING,
};
use mesh_common::verdict::{Verdict, VerdictKey};
use mesh_common::workload::{
    ACCELERATE, BY_PORT, CAPTURE, FAIL_CLOSED, FAIL_OPEN, GUARDED, Inbound, PortKey, VIA_AGENT,
    Workload,
};

use self::ids::Ids;
pub use self::ids::id_of;
use self::locals::Local;
use self::room::Shortages;
pub use self::sets::SetIds;
use crate::model::condition::Finding;
use crate::model::id::ResourceName;
use crate::model::policy::{Acceleration, Egress, FailureMode, MtlsMode, SameNode, WorkloadPolicy};
use crate::model::snapshot::Snapshot;

/// A workload of this node that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// Which one.
    pub name: ResourceName,
    /// How its sockets are recognized.
    pub source: SourceKey,
    /// The cookie of the network namespace that its sockets are in.
    pub netns: u64,
    /// Its listeners and its certificate are there. Until then its connections have the agent
    /// neither way, and its failure mode says what happens to them.
    pub ready: bool,
    /// The network device that has its first addresses. 0: none has all of them, or it is not known yet.
    pub device: u32,
}

/// The workloads of this node that were found: one at each place. Of several at one place the first
/// is taken: no other replaces what the kernel knows of a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    all: Vec<Enrolled>,
    awaited: Vec<Awaited>,
    /// Ports of the node that are the agent's own.
    own_ports: Arc<BTreeSet<u16>>,
    /// The snapshot's revision for which they were looked for.
    revision: u64,
    /// Enrolled as far as they can be.
    are_settled: bool,
}

/// A unit of this node, or another workload that is known by its cgroup, whether it runs or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// Its name.
    pub name: ResourceName,
    /// A path at which its cgroup is made.
    pub path: PathKey,
}

impl Places {
    /// Cgroups that may be made at any time are to be known at once.
    #[must_use]
    pub fn awaiting(mut self, awaited: Vec<Awaited>) -> Self {
        self.awaited = awaited;
        self
    }

    /// Without these ports of the node, which are the agent's own, whoever declares them.
    #[must_use]
    pub fn without_ports(mut self, own: Arc<BTreeSet<u16>>) -> Self {
        self.own_ports = own;
        self
    }

    /// They were looked for when `revision` was the snapshot's, and, if they `are_settled`, enrolled as
    /// far as they can be.
    #[must_use]
    pub const fn of(mut self, revision: u64, are_settled: bool) -> Self {
        (self.revision, self.are_settled) = (revision, are_settled);
        self
    }

    /// Whether those that can be are enrolled: until then the snapshot is not all in force.
    pub const fn are_settled(&self) -> bool {
        self.are_settled
    }

    /// The snapshot's revision for which they were looked for.
    pub const fn revision(&self) -> u64 {
        self.revision
    }
}

impl FromIterator<Enrolled> for Places {
    fn from_iter<T: IntoIterator<Item = Enrolled>>(all: T) -> Self {
        let mut taken = BTreeSet::new();
        let all = all.into_iter().filter(|one| taken.insert(one.source)).collect();
        Self { all, revision: 0, are_settled: false, ..Self::default() }
    }
}

impl Deref for Places {
    type Target = [Enrolled];

    fn deref(&self) -> &[Enrolled] {
        &self.all
    }
}

/// The wanted content of the maps, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// `SOURCES`.
    pub sources: BTreeMap<SourceKey, Source>,
    /// `PLACES`.
    pub places: BTreeMap<PathKey, Source>,
    /// `WORKLOADS`.
    pub workloads: BTreeMap<u64, Workload>,
    /// `DESTINATIONS`.
    pub destinations: BTreeMap<DestinationKey, Destination>,
    /// `CONSUMERS`.
    pub consumers: BTreeMap<ConsumerKey, u32>,
    /// `BACKENDS`.
    pub sets: BTreeMap<u32, Arc<[Slot]>>,
    /// `VERDICTS`.
    pub verdicts: BTreeMap<VerdictKey, Verdict>,
    /// `PORTS`.
    pub ports: BTreeMap<PortKey, u32>,
    /// `INBOUND`.
    pub inbound: BTreeMap<PortKey, Inbound>,
    /// `PROBES`.
    pub probes: BTreeMap<DestinationKey, u64>,
    /// `EXTERNALS`, with how many bits of each count.
    pub externals: BTreeSet<(ExternalKey, u32)>,
    /// Demands of documents that the maps do not hold.
    pub findings: Vec<Finding>,
}

/// Sources of the entries.
struct View<'a> {
    mesh: &'a Snapshot,
    enrolled: &'a Places,
    ids: Ids<'a>,
    /// The ports of the workloads that are known by them.
    by_port: HashMap<&'a ResourceName, BTreeSet<u16>>,
    no_ports: BTreeSet<u16>,
    no_policy: Arc<WorkloadPolicy>,
}

/// The entries that the maps should hold; `node` is the cookie of the agent's own namespace, `sets` which
/// numbers the sets of backends have.
///
/// Every service port and every address of a workload that an agent serves is a destination. An
/// address without an agent is one only through a service: elsewhere it is not the mesh's business.
///
/// It is never more than the maps hold: see [`room`].
pub fn entries(mesh: &Snapshot, enrolled: &Places, node: u64, sets: &mut SetIds) -> Entries {
    let mut wanted = Entries::default();
    let mut short = Shortages::default();
    let missing = &locals::missing(mesh, enrolled, node);
    let (awaited, own_ports) = (&enrolled.awaited, &enrolled.own_ports);
    let enrolled = &locals::within_room(enrolled, &mut short);
    let view = View {
        mesh,
        enrolled,
        ids: Ids::new(mesh, enrolled),
        by_port: ports::by_workload(mesh, own_ports),
        no_ports: BTreeSet::new(),
        no_policy: Arc::default(),
    };
    let locals = locals::all(&view);
    wanted.places = locals::places(&view, awaited, &mut short);
    let mut classes = verdicts::Classes::default();
    let known = (&*locals, &*locals::gone(&view), &*locals::of(&view, missing));
    locals::add(mesh, known, node, &mut classes, &mut short, &mut wanted);
    classes.verdicts(&locals, &mut short, &mut wanted.verdicts);
    if wanted.sources.values().any(|source| source.flags & (REPORT_OUTSIDE | DENY_OUTSIDE) != 0) {
        wanted.externals = externals::known(mesh, &mut short);
    }
    destinations::add(&view, sets, &mut short, &mut wanted);
    wanted.findings = short.into_findings();
    wanted
}

/// `SOURCES` of a workload.
fn source(local: &Local<'_>) -> Source {
    let (id, policy) = (local.id, &*local.policy);
    let mut flags = ENROLLED | failure(policy) | accelerated(policy);
    if !local.enrolled.ready {
        flags |= WAITING;
    }
    // Without an id the kernel could not judge, and the agent has to.
    if policy.same_node != SameNode::Direct || id == 0 {
        flags |= VIA_AGENT;
    }
    flags |= match policy.egress {
        Egress::Open => 0,
        Egress::Log => REPORT_OUTSIDE,
        Egress::RegistryOnly => DENY_OUTSIDE,
    };
    // Of a unit's processes in other namespaces, where nothing that arrives is captured.
    let ports = policy.ports.keys().copied().chain([0]);
    flags |= guard(ports.into_iter().any(|port| policy.is_guarded(port)));
    let namespace = id_of(&local.enrolled.name.namespace);
    let addresses = &local.workload.addresses;
    let first = |v4: bool| addresses.iter().find(|ip| ip.is_ipv4() == v4).map(|ip| from_ip(*ip));
    let v4_be = first(true).and_then(to_v4_be).unwrap_or_default();
    let v6 = first(false).unwrap_or_default();
    let device = local.enrolled.device;
    Source { workload: id, namespace, v6, v4_be, device, ..Source::new(flags) }
}

/// `WORKLOADS` of a workload.
fn destination(netns: u64, class: Option<u64>, policy: &WorkloadPolicy) -> Workload {
    let mut flags = accelerated(policy);
    if policy.same_node != SameNode::Direct || class.is_none() {
        flags |= VIA_AGENT;
    }
    if !policy.ports.is_empty() && class.is_some() {
        flags |= BY_PORT;
    }
    Workload { netns, class: class.unwrap_or_default(), flags, pad: 0 }
}

/// `INBOUND` of a port; 0: of every port without settings of its own.
fn inbound(id: u64, policy: &WorkloadPolicy, port: u16) -> Inbound {
    let mode = policy.mtls(port);
    let mut flags = failure(policy) | guard(policy.is_guarded(port));
    if mode != MtlsMode::Disable || !policy.authorization.is_empty() {
        flags |= CAPTURE;
    }
    Inbound { workload: id, flags, pad: 0 }
}

/// `GUARDED` or nothing.
fn guard(is_guarded: bool) -> u32 {
    if is_guarded { GUARDED } else { 0 }
}

/// The same for a destination, as clients of this node see it; whether that is their own node.
fn guard_of(policy: &WorkloadPolicy, port: u16, is_here: bool) -> u32 {
    guard(if is_here { policy.is_guarded(port) } else { policy.is_guarded_elsewhere(port) })
}

fn failure(policy: &WorkloadPolicy) -> u32 {
    match policy.failure() {
        FailureMode::Closed => FAIL_CLOSED,
        FailureMode::Open => FAIL_OPEN,
        FailureMode::Static => 0,
    }
}

fn accelerated(policy: &WorkloadPolicy) -> u32 {
    match policy.acceleration {
        Acceleration::Off => 0,
        Acceleration::Sockmap => ACCELERATE,
    }
}

#[cfg(test)]
mod tests;
