//! Authorization, compiled: who may connect to whom on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use mesh_common::source::CGROUP;
use mesh_common::verdict::{ALLOW, ASK_AGENT, DENY, Verdict, VerdictKey};

use crate::authz::{self, Request};
use crate::datapath::desired::Enrolled;
use crate::datapath::desired::ids::{Ids, id_of};
use crate::model::policy::{AuthorizationPolicy, Rule, WorkloadPolicy};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

/// The policies that apply to one destination.
type Policies = Vec<Arc<AuthorizationPolicy>>;

/// The different sets of policies on this node, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Classes {
    by_id: BTreeMap<u64, Policies>,
}

impl Classes {
    /// The number of a workload's policies: a function of what they say. 0 without any; `None` if
    /// others have this number, so that the kernel could not tell them apart.
    pub(super) fn of(&mut self, policy: &WorkloadPolicy) -> Option<u64> {
        if policy.authorization.is_empty() {
            return Some(0);
        }
        let mut text = String::new();
        for policy in &policy.authorization {
            // What `Debug` prints of plain data is all of it.
            let _infallible = writeln!(text, "{policy:?}");
        }
        let id = id_of(&text);
        let known = self.by_id.entry(id).or_insert_with(|| policy.authorization.clone());
        (*known == policy.authorization).then_some(id)
    }

    /// Judges every workload of this node against every class.
    pub(super) fn verdicts(
        &self,
        mesh: &Snapshot,
        enrolled: &[Enrolled],
        ids: &Ids<'_>,
        wanted: &mut BTreeMap<VerdictKey, Verdict>,
    ) {
        for (class, policies) in &self.by_id {
            let ports = ports(policies);
            for local in enrolled {
                let Some(workload) = mesh.workloads.get(&local.name) else { continue };
                let source = ids.of(&local.name);
                let shares = local.source.kind == CGROUP;
                // No policy names port 0: it stands for all that are not named.
                let other = judge(policies, workload, shares, 0);
                wanted.insert(VerdictKey::new(source, *class, 0), other);
                for port in &ports {
                    let verdict = judge(policies, workload, shares, *port);
                    if verdict != other {
                        wanted.insert(VerdictKey::new(source, *class, port.to_be()), verdict);
                    }
                }
            }
        }
    }
}

/// The ports that policies name.
fn ports(policies: &Policies) -> BTreeSet<u16> {
    let operations = rules(policies)
        .flat_map(|rule| rule.to.iter().chain(rule.when.iter().map(|when| &when.operation)));
    let named = operations.flat_map(|operation| operation.ports.iter().chain(&operation.not_ports));
    named.copied().collect()
}

fn rules(policies: &Policies) -> impl Iterator<Item = &Rule> {
    policies.iter().flat_map(|policy| &policy.rules)
}

/// What the policies say of connections of `source`. Where its addresses matter and it may use one
/// or the other, only the agent can tell.
fn judge(policies: &Policies, source: &Workload, shares: bool, port: u16) -> Verdict {
    let ask = Verdict { policy: 0, says: ASK_AGENT, pad: 0 };
    if shares && names_addresses(policies) {
        return ask;
    }
    let mut verdicts = source.addresses.iter().map(|address| {
        let principal = Some(&source.identity);
        authz::decide(policies, &Request { principal, address: *address, port, http: None })
    });
    let Some(first) = verdicts.next() else { return ask };
    if verdicts.any(|other| other != first) {
        return ask;
    }
    match first {
        authz::Verdict::Allow => Verdict { policy: 0, says: ALLOW, pad: 0 },
        authz::Verdict::Deny(denial) => {
            Verdict { policy: id_of(denial.policy()), says: DENY, pad: 0 }
        }
        // The kernel sees no requests.
        authz::Verdict::ByRequest(_) => ask,
    }
}

fn names_addresses(policies: &Policies) -> bool {
    let sources = rules(policies)
        .flat_map(|rule| rule.from.iter().chain(rule.when.iter().map(|when| &when.source)));
    sources
        .into_iter()
        .any(|source| !source.ip_blocks.is_empty() || !source.not_ip_blocks.is_empty())
}
