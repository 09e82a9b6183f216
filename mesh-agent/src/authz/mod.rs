//! Whether a connection is allowed, by the policies of its destination (pure).
//!
//! The one evaluation: the agent asks it for each connection, and the kernel's verdicts are
//! compiled from its answers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::id::ResourceName;
use crate::model::policy::{Action, AuthorizationPolicy, Block, Operation, Rule, Source, Text};
use crate::model::spiffe::SpiffeId;

/// What is known of a connection when it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The identity that the source has proved, by mutual TLS or to this node's kernel.
    pub principal: Option<&'a SpiffeId>,
    /// The source's address.
    pub address: IpAddr,
    /// The destination workload's port.
    pub port: u16,
}

/// The judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be.
    Allow,
    /// It may not be.
    Deny(Denial),
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// A `DENY` policy matches, by its rule with this index.
    Matched(ResourceName, usize),
    /// There are `ALLOW` policies, of which this is the first, and none of them matches.
    NoneAllows(ResourceName),
}

/// Judges a connection by the policies whose scope its destination is in.
///
/// Istio's order: a `DENY` that matches refuses; without any `ALLOW` everything is allowed; an
/// `ALLOW` that matches allows; the rest is refused.
pub fn decide(policies: &[Arc<AuthorizationPolicy>], request: &Request<'_>) -> Verdict {
    let by = |action| policies.iter().filter(move |policy| policy.action == action);
    for policy in by(Action::Deny) {
        if let Some(rule) = matching(policy, request) {
            return Verdict::Deny(Denial::Matched(policy.name.clone(), rule));
        }
    }
    match by(Action::Allow).next() {
        None => Verdict::Allow,
        Some(_) if by(Action::Allow).any(|policy| matching(policy, request).is_some()) => {
            Verdict::Allow
        }
        Some(first) => Verdict::Deny(Denial::NoneAllows(first.name.clone())),
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matched(policy, rule) => {
                write!(f, "AuthorizationPolicy {policy} denies it by `spec.rules[{rule}]`")
            }
            Self::NoneAllows(policy) => write!(
                f,
                "no AuthorizationPolicy allows it; {policy} is the first of those that could"
            ),
        }
    }
}

fn matching(policy: &AuthorizationPolicy, request: &Request<'_>) -> Option<usize> {
    policy.rules.iter().position(|rule| applies(rule, request))
}

fn applies(rule: &Rule, request: &Request<'_>) -> bool {
    !rule.never
        && (rule.from.is_empty() || rule.from.iter().any(|source| comes_from(source, request)))
        && (rule.to.is_empty() || rule.to.iter().any(|operation| goes_to(operation, request.port)))
        && rule
            .when
            .iter()
            .all(|when| comes_from(&when.source, request) && goes_to(&when.operation, request.port))
}

fn comes_from(source: &Source, request: &Request<'_>) -> bool {
    let is_principal = |text: &Text| request.principal.is_some_and(|id| is(text, id));
    let namespace = request.principal.map(SpiffeId::namespace);
    let is_namespace = |text: &Text| text.matches(namespace);
    let is_block = |block: &Block| block.contains(request.address);
    among(&source.principals, &source.not_principals, is_principal)
        && among(&source.namespaces, &source.not_namespaces, is_namespace)
        && among(&source.ip_blocks, &source.not_ip_blocks, is_block)
}

/// Whether `text` means the principal `<trust domain>/ns/<namespace>/sa/<account>`.
fn is(text: &Text, id: &SpiffeId) -> bool {
    let parts = [id.trust_domain(), "/ns/", id.namespace(), "/sa/", id.service_account()];
    text.matches_joined(&parts)
}

/// Whether one of `yes` matches, if there are any, and none of `no` does. A connection without
/// the attribute matches nothing, so it is in every "not".
fn among<T>(yes: &[T], no: &[T], matches: impl Fn(&T) -> bool) -> bool {
    (yes.is_empty() || yes.iter().any(&matches)) && !no.iter().any(&matches)
}

fn goes_to(operation: &Operation, port: u16) -> bool {
    among(&operation.ports, &operation.not_ports, |own| *own == port)
}

impl Denial {
    /// The policy that denies.
    pub const fn policy(&self) -> &ResourceName {
        match self {
            Self::Matched(policy, _) | Self::NoneAllows(policy) => policy,
        }
    }
}

#[cfg(test)]
mod tests;
