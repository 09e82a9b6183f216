//! Which policies are in force for which workload (pure).
//!
//! Of a `MeshPolicy`'s settings each is inherited for itself: the policies closest to the workload
//! that say something about it win, of several equally close ones the oldest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::model::condition::{Condition, Reason};
use crate::model::id::ResourceName;
use crate::model::policy::{
    AmbiguousPaths, AuthorizationPolicy, FailureMode, MeshPolicy, MtlsMode, PolicyKind, PortPolicy,
    ROOT_NAMESPACES, SameNode, WorkloadPolicy, is_root,
};
use crate::model::workload::Workload;
use crate::store::build::conflict;
use crate::store::index::{Index, Placed};
use crate::store::update::{Key, Kind};

/// The field that says what happens while the agent does not answer.
const FAILURE_MODE: &str = "spec.failureMode";

/// The most ports of a workload with settings of their own, by all policies. Beyond that the strictest
/// is in force at every port.
const MAX_PORTS: usize = 256;

/// How close a policy is to a workload; the closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// In the place of one that cannot be read.
    Closed,
    /// Of its namespace, for some workloads.
    Selected,
    /// Of the root namespace, for some workloads.
    RootSelected,
    /// For its namespace.
    Namespace,
    /// For the mesh.
    Mesh,
}

/// Resolves the policies of every workload. Workloads in the scope of the same policies share one.
pub(super) fn resolve(
    index: &Index<'_>,
    conditions: &mut Vec<Condition>,
) -> HashMap<ResourceName, Arc<WorkloadPolicy>> {
    let mesh = by_namespace(index.mesh_policies.iter().map(|((_kind, name), one)| (*name, *one)));
    let authorization = by_namespace(index.authorization.iter().map(|(name, one)| (*name, *one)));
    let mut shared: HashMap<(Vec<_>, Vec<_>), Arc<WorkloadPolicy>> = HashMap::new();
    let mut policies = HashMap::with_capacity(index.workloads.len());
    let mut conflicts = Conflicts::default();
    let mut limits = Limits::default();
    let mut open = BTreeMap::new();
    // Workloads come in the order of their namespaces.
    let (mut namespace, mut near) = (None, (Vec::new(), Vec::new()));
    for (name, (_, workload)) in &index.workloads {
        if namespace.replace(&*name.namespace) != Some(&*name.namespace) {
            near = (in_reach(&mesh, &name.namespace), in_reach(&authorization, &name.namespace));
        }
        let (mut carried, authorized) = (in_scope(&near.0, workload), in_scope(&near.1, workload));
        let key: (Vec<_>, Vec<_>) = (
            carried.iter().map(|(_, policy)| (policy.kind, &policy.name)).collect(),
            authorized.iter().map(|(_, policy)| &policy.name).collect(),
        );
        let policy = shared.entry(key).or_insert_with(|| {
            carried.sort_by(|(_, a), (_, b)| order(a).cmp(&order(b)));
            let mut resolver = Resolver {
                policies: &carried,
                workload,
                conflicts: &mut conflicts,
                limits: &mut limits,
            };
            let mut policy = resolver.resolve();
            policy.authorization =
                authorized.iter().map(|(_, policy)| Arc::clone(policy)).collect();
            policy.authorization.sort_by(|a, b| a.name.cmp(&b.name));
            if let (Some(from), Some(unasked)) = (resolver.fails_open(), policy.unasked()) {
                open.entry(&from.1.name).or_insert_with(|| fails_open(from, unasked, workload));
            }
            Arc::new(policy)
        });
        policies.insert((*name).clone(), Arc::clone(policy));
    }
    for ((kind, loser, field), (placed, message)) in conflicts.0 {
        let key = Key { kind: kind.into(), name: loser.clone() };
        conditions.push(conflict(placed.0, &key, &field, message));
    }
    conditions.extend(limits.into_values());
    conditions.extend(open.into_values());
    policies
}

/// The condition of a policy by which a workload fails open that another one is for.
fn fails_open(
    (location, policy): Placed<'_, MeshPolicy>,
    unasked: &AuthorizationPolicy,
    workload: &Workload,
) -> Condition {
    let message = format!(
        "while the agent does not answer, plaintext reaches Workload {} without AuthorizationPolicy \
         {} being asked; remove this, or write `static` or `closed`, to refuse it instead",
        workload.name, unasked.name
    );
    Condition {
        location: location.clone(),
        subject: Key { kind: policy.kind.into(), name: policy.name.clone() }.to_string(),
        field: FAILURE_MODE.to_owned(),
        reason: Reason::FailsOpen,
        message,
    }
}

/// Something that may be for some workloads of its scope only.
trait Scoped {
    fn selector(&self) -> &BTreeMap<String, String>;
}

impl Scoped for MeshPolicy {
    fn selector(&self) -> &BTreeMap<String, String> {
        &self.selector
    }
}

impl Scoped for AuthorizationPolicy {
    fn selector(&self) -> &BTreeMap<String, String> {
        &self.selector
    }
}

type ByNamespace<'a, T> = HashMap<&'a str, Vec<Placed<'a, T>>>;

fn by_namespace<'a, T: Scoped>(
    policies: impl Iterator<Item = (&'a ResourceName, Placed<'a, T>)>,
) -> ByNamespace<'a, T> {
    let mut map: ByNamespace<'a, T> = HashMap::new();
    for (name, placed) in policies {
        map.entry(&name.namespace).or_default().push(placed);
    }
    map
}

/// The policies that may be for workloads of a namespace: its own and those of the root.
fn in_reach<'a, T>(policies: &ByNamespace<'a, T>, namespace: &str) -> Vec<Placed<'a, T>> {
    let mut namespaces = BTreeSet::from(ROOT_NAMESPACES);
    namespaces.insert(namespace);
    let near = namespaces.iter().filter_map(|namespace| policies.get(namespace)).flatten();
    near.copied().collect()
}

/// Those of them whose scope `workload` is in.
fn in_scope<'a, T: Scoped>(near: &[Placed<'a, T>], workload: &Workload) -> Vec<Placed<'a, T>> {
    let is_for = |(_, policy): &&Placed<'a, T>| {
        policy.selector().iter().all(|(key, value)| workload.labels.get(key) == Some(value))
    };
    near.iter().filter(is_for).copied().collect()
}

fn level(policy: &MeshPolicy) -> Level {
    if policy.is_closed {
        return Level::Closed;
    }
    match (is_root(&policy.name.namespace), policy.selector.is_empty()) {
        (false, false) => Level::Selected,
        (true, false) => Level::RootSelected,
        (false, true) => Level::Namespace,
        (true, true) => Level::Mesh,
    }
}

/// The key that sorts policies by precedence.
fn order(policy: &MeshPolicy) -> (Level, &str, &ResourceName) {
    (level(policy), &policy.created, &policy.name)
}

/// Settings that have no effect, by policy and field: where the policy is, and why.
#[derive(Default)]
struct Conflicts<'a>(
    BTreeMap<(PolicyKind, &'a ResourceName, String), (Placed<'a, MeshPolicy>, String)>,
);

/// Resolves the settings of one workload.
struct Resolver<'r, 'a> {
    /// Those whose scope it is in, by who wins.
    policies: &'r [Placed<'a, MeshPolicy>],
    workload: &'r Workload,
    conflicts: &'r mut Conflicts<'a>,
    limits: &'r mut Limits<'a>,
}

/// The conditions of policies by which workloads have too many ports.
type Limits<'a> = BTreeMap<(PolicyKind, &'a ResourceName), Condition>;

impl<'a> Resolver<'_, 'a> {
    fn resolve(&mut self) -> WorkloadPolicy {
        let ambiguous = self.first(&[("spec.ambiguousPaths", &|policy| policy.ambiguous_paths)]);
        let ambiguous = ambiguous.filter(|(setting, _)| *setting == AmbiguousPaths::Refuse);
        let mtls = self.first(&[("spec.mtls.mode", &|policy| policy.mtls)]);
        let same_node = self.first(&[("spec.sameNode", &|policy| policy.same_node)]);
        let failure = self.first(&[(FAILURE_MODE, &|policy| policy.failure)]);
        let acceleration = self.first(&[("spec.acceleration", &|policy| policy.acceleration)]);
        let egress = self.first(&[("spec.egress", &|policy| policy.egress)]);
        let upgrades = self.first(&[("spec.upgrades", &|policy| policy.upgrades.clone())]);
        let ports: BTreeSet<u16> = self
            .policies
            .iter()
            .flat_map(|(_, policy)| policy.port_mtls.keys().chain(policy.port_same_node.keys()))
            .copied()
            .collect();
        let n_ports = ports.len();
        let ports = ports.into_iter().take(MAX_PORTS);
        let ports = ports.map(|port| (port, self.port(port))).collect();
        let policy = WorkloadPolicy {
            refuses_ambiguous_paths: ambiguous.map(|(_, name)| name.clone()),
            mtls: mtls.map(|(mode, _)| mode).unwrap_or_default(),
            mtls_from: mtls.map(|(_, name)| name.clone()),
            same_node: same_node.map(|(mode, _)| mode).unwrap_or_default(),
            ports,
            failure: failure.map(|(mode, _)| mode),
            acceleration: acceleration.map(|(mode, _)| mode).unwrap_or_default(),
            egress: egress.map(|(mode, _)| mode).unwrap_or_default(),
            upgrades: upgrades.map(|(protocols, _)| protocols).unwrap_or_default(),
            authorization: Vec::new(),
        };
        if n_ports > MAX_PORTS { self.strictest(n_ports, policy) } else { policy }
    }

    /// The settings of a workload with more ports than are taken.
    fn strictest(&mut self, n_ports: usize, policy: WorkloadPolicy) -> WorkloadPolicy {
        let has_ports = |policy: &MeshPolicy| {
            !(policy.port_mtls.is_empty() && policy.port_same_node.is_empty())
        };
        let last = self.policies.iter().copied().rfind(|(_, policy)| has_ports(policy));
        if let Some(last) = last {
            let message = format!(
                "with this, {n_ports} ports of Workload {} have settings of their own, and at most \
                 {MAX_PORTS} are taken: STRICT and `sameNode: mtls` are in force at all ports until \
                 there are fewer",
                self.workload.name
            );
            let key = Key { kind: last.1.kind.into(), name: last.1.name.clone() };
            self.limits.entry((last.1.kind, &last.1.name)).or_insert_with(|| Condition {
                location: last.0.clone(),
                subject: key.to_string(),
                field: "spec".to_owned(),
                reason: Reason::LimitExceeded,
                message,
            });
        }
        WorkloadPolicy {
            mtls: MtlsMode::Strict,
            mtls_from: last.map(|(_, policy)| policy.name.clone()),
            same_node: SameNode::Mtls,
            ports: BTreeMap::new(),
            ..policy
        }
    }

    /// The policy by which the workload fails open.
    fn fails_open(&mut self) -> Option<Placed<'a, MeshPolicy>> {
        let (mode, from) = self.winner(&[(FAILURE_MODE, &|policy| policy.failure)])?;
        (mode == FailureMode::Open).then_some(from)
    }

    /// A port has, at each level, its own setting before that of the workload.
    fn port(&mut self, port: u16) -> PortPolicy {
        let mtls = self.first(&[
            (&format!("spec.portLevelMtls.{port}.mode"), &|policy| {
                policy.port_mtls.get(&port).copied()
            }),
            ("spec.mtls.mode", &|policy| policy.mtls),
        ]);
        let same_node = self.first(&[
            (&format!("spec.portLevelSameNode.{port}"), &|policy| {
                policy.port_same_node.get(&port).copied()
            }),
            ("spec.sameNode", &|policy| policy.same_node),
        ]);
        PortPolicy {
            mtls: mtls.map(|(mode, _)| mode).unwrap_or_default(),
            mtls_from: mtls.map(|(_, name)| name.clone()),
            same_node: same_node.map(|(mode, _)| mode).unwrap_or_default(),
        }
    }

    /// The setting that wins, and the name of its policy.
    fn first<T>(&mut self, fields: &[Field<'_, T>]) -> Option<(T, &'a ResourceName)> {
        self.winner(fields).map(|(value, (_, policy))| (value, &policy.name))
    }

    /// The setting that wins, and its policy: of the closest level at which any of `fields` is set,
    /// the first of the fields, as the oldest policy has it.
    fn winner<T>(&mut self, fields: &[Field<'_, T>]) -> Option<(T, Placed<'a, MeshPolicy>)> {
        let levels = self.policies.chunk_by(|(_, a), (_, b)| level(a) == level(b));
        for policies in levels {
            for (field, get) in fields {
                let mut set = policies
                    .iter()
                    .filter_map(|placed| get(placed.1).map(|value| (value, *placed)));
                let Some((value, winner)) = set.next() else { continue };
                for (_, loser) in set {
                    self.conflict(field, loser, winner.1);
                }
                return Some((value, winner));
            }
        }
        None
    }

    fn conflict(&mut self, field: &str, loser: Placed<'a, MeshPolicy>, winner: &MeshPolicy) {
        let key = (loser.1.kind, &loser.1.name, field.to_owned());
        self.conflicts.0.entry(key).or_insert_with(|| {
            let message = format!(
                "{kind} {winner} is older, or first by name, and says this already for \
                 Workload {}; remove one of them or select other workloads",
                self.workload.name,
                kind = Kind::from(winner.kind).as_str(),
                winner = winner.name,
            );
            (loser, message)
        });
    }
}

/// The path of a setting, and how it is read.
type Field<'f, T> = (&'f str, &'f dyn Fn(&MeshPolicy) -> Option<T>);

#[cfg(test)]
mod tests;
