//! Authorization, compiled: who may connect to whom on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use mesh_common::source::CGROUP;
use mesh_common::verdict::{ALLOW, ASK_AGENT, DENY, Verdict, VerdictKey};

use crate::authz::{self, Request};
use crate::datapath::desired::ids::id_of;
use crate::datapath::desired::locals::Local;
use crate::datapath::desired::room::{Shortages, Want, tables};
use crate::model::id::ResourceName;
use crate::model::policy::{AuthorizationPolicy, Operation, Rule, Source, WorkloadPolicy};
use crate::model::workload::Workload;
use crate::store::update::Kind;

/// How many values are compared in the time that is reckoned for one entry.
const ENTRY_VALUES: usize = 64;

/// The policies that apply to one destination.
type Policies = Vec<Arc<AuthorizationPolicy>>;

/// The different sets of policies on this node, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Classes {
    by_id: BTreeMap<u64, Class>,
}

/// A set of policies, and a workload that they are for.
#[derive(Debug)]
struct Class {
    policies: Policies,
    workload: ResourceName,
}

impl Classes {
    /// The number of a workload's policies: a function of what they say. 0 without any; `None` if
    /// others have this number, so that the kernel could not tell them apart.
    pub(super) fn of(&mut self, workload: &ResourceName, policy: &WorkloadPolicy) -> Option<u64> {
        if policy.authorization.is_empty() {
            return Some(0);
        }
        let mut text = String::new();
        for policy in &policy.authorization {
            // The output of `Debug` for plain data is all of it.
            let _infallible = writeln!(text, "{policy:?}");
        }
        let id = id_of(&text);
        let known = self.by_id.entry(id).or_insert_with(|| Class {
            policies: policy.authorization.clone(),
            workload: workload.clone(),
        });
        (known.policies == policy.authorization).then_some(id)
    }

    /// Judges every workload of this node against every class that there is room for.
    pub(super) fn verdicts(
        &self,
        locals: &[Local<'_>],
        short: &mut Shortages,
        wanted: &mut BTreeMap<VerdictKey, Verdict>,
    ) {
        let without = "the agent judges connections of this node to it";
        let named: Vec<_> = self.by_id.values().map(|class| ports(&class.policies)).collect();
        // As if each port made a difference: it is not judged what there is no room for.
        let wants = self.by_id.values().zip(&named).map(|(class, ports)| {
            let entries = locals.len().saturating_mul(1 + ports.len());
            // Nor what takes much longer to judge than to write.
            let work = entries.saturating_mul(values(&class.policies)) / ENTRY_VALUES;
            let entries = entries.max(work);
            Want::new(Kind::Workload, &class.workload, entries, without)
        });
        let [granted] = short.share(tables::VERDICTS, 0, &[wants.collect()]);
        let all = self.by_id.iter().zip(&named).zip(granted);
        for ((id, class), ports) in all.filter(|(_, granted)| *granted).map(|(one, _)| one) {
            for local in locals {
                let shares = local.enrolled.source.kind == CGROUP;
                // No policy names port 0: it stands for all that are not named.
                let other = judge(&class.policies, local.workload, shares, 0);
                wanted.insert(VerdictKey::new(local.id, *id, 0), other);
                for port in ports {
                    let verdict = judge(&class.policies, local.workload, shares, *port);
                    if verdict != other {
                        wanted.insert(VerdictKey::new(local.id, *id, port.to_be()), verdict);
                    }
                }
            }
        }
    }
}

/// The ports that policies name.
fn ports(policies: &Policies) -> BTreeSet<u16> {
    let named = operations(policies).flat_map(|it| it.ports.iter().chain(&it.not_ports));
    named.copied().collect()
}

/// How many values the policies have: what judging looks at.
fn values(policies: &Policies) -> usize {
    let ports = operations(policies).map(|it| it.ports.len() + it.not_ports.len());
    rules(policies).count() + sources(policies).map(Source::values).chain(ports).sum::<usize>()
}

fn sources(policies: &Policies) -> impl Iterator<Item = &Source> {
    rules(policies).flat_map(|rule| rule.from.iter().chain(rule.when.iter().map(|it| &it.source)))
}

fn operations(policies: &Policies) -> impl Iterator<Item = &Operation> {
    rules(policies).flat_map(|rule| rule.to.iter().chain(rule.when.iter().map(|it| &it.operation)))
}

fn rules(policies: &Policies) -> impl Iterator<Item = &Rule> {
    policies.iter().flat_map(|policy| &policy.rules)
}

/// The verdict of the policies on connections of `source`. Where its addresses matter and it may use one
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
    sources(policies).any(|source| !source.ip_blocks.is_empty() || !source.not_ip_blocks.is_empty())
}
