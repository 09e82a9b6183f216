//! Whether a connection, or a request, is allowed by the policies of its destination (pure).
//!
//! The one evaluation: the agent asks it for each connection, and for each request where policies
//! look at requests, and the kernel's verdicts are compiled from its answers.

mod header;
mod host;
pub mod path;
mod work;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::HOST;

use crate::authz::path::Readings;
use crate::authz::work::Work;
use crate::model::id::ResourceName;
use crate::model::policy::request::{HeaderCondition, HttpOperation, PathText};
use crate::model::policy::{
    Action, AuthorizationPolicy, Block, Operation, Rule, Source, Text, When,
};
use crate::model::spiffe::SpiffeId;

/// The facts of a connection, and of a request on it, when it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The identity that the source has proved, by mutual TLS or to this node's kernel.
    pub principal: Option<&'a SpiffeId>,
    /// The source's address.
    pub address: IpAddr,
    /// The destination workload's port.
    pub port: u16,
    /// The request; `None`: the connection is judged, and what it will carry is not known.
    pub http: Option<&'a HttpRequest<'a>>,
}

/// The parts of a request of HTTP that policies ask about.
#[derive(Clone, Debug)]
pub struct HttpRequest<'a> {
    /// The method.
    pub method: &'a str,
    /// `Host` or `:authority`, in lower case.
    pub host: Option<Cow<'a, str>>,
    /// The path, in all the ways that an application may read it.
    pub paths: Readings<'a>,
    /// The fields.
    pub headers: &'a HeaderMap,
}

/// The judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be.
    Allow,
    /// It may not be.
    Deny(Denial),
    /// It depends on the requests that it carries, because of this policy; of a request never.
    ByRequest(ResourceName),
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// A `DENY` policy matches, by its rule with this index.
    Matched(ResourceName, usize),
    /// There are `ALLOW` policies, of which this is the first, and none of them matches.
    NoneAllows(ResourceName),
    /// A policy looks at requests, and whoever carries this sees none.
    Unseen(ResourceName),
    /// This policy looks at paths, and the request's has more readings than are judged.
    Readings(ResourceName),
    /// This `MeshPolicy` refuses paths that servers read in different ways, and the request's is one.
    Ambiguous(ResourceName),
    /// This policy, or those before it, would have to be compared with more than is judged.
    Costly(ResourceName),
    /// The mesh does not have the workload with this name any more, and nobody knows its policies.
    Gone(ResourceName),
}

/// Result of a rule: of a connection perhaps only that some of its requests may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    Perhaps,
    Yes,
}

/// Judges by the policies whose scope the destination is in.
///
/// Istio's order: a `DENY` that matches refuses; without any `ALLOW` everything is allowed; an
/// `ALLOW` that matches allows; the rest is refused.
///
/// A connection is allowed or refused only if all its requests would be.
pub fn decide(policies: &[Arc<AuthorizationPolicy>], request: &Request<'_>) -> Verdict {
    weigh(policies, request, |policy| !policy.dry_run)
}

/// A verdict on a connection or a request that is only told, and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The policy that it comes from.
    pub policy: ResourceName,
    /// The rule that matches; `None`: none does.
    pub rule: Option<usize>,
    /// The verdict.
    pub outcome: Outcome,
}

/// Verdict of a policy that is not enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An `AUDIT` policy matches.
    Audited,
    /// With the policies that are tried out, it would be allowed.
    WouldAllow,
    /// With them, it would be refused.
    WouldDeny,
}

/// The verdicts to be told: each `AUDIT` policy that matches, and, of what is allowed now, what would
/// become of it if the policies that are tried out were in force.
///
/// Of a connection that depends on its requests nothing is told: they are judged one by one.
pub fn told(policies: &[Arc<AuthorizationPolicy>], request: &Request<'_>) -> Vec<Told> {
    let audits = policies.iter().filter(|policy| !policy.dry_run && policy.action == Action::Audit);
    let judging = Judging::new(request);
    let audited = audits.filter_map(|policy| match matching(policy, &judging) {
        (Match::Yes, rule) if !judging.work.is_spent() => {
            Some(Told { policy: policy.name.clone(), rule: Some(rule), outcome: Outcome::Audited })
        }
        _ => None,
    });
    let mut told: Vec<_> = audited.collect();
    let tried = |policy: &&Arc<AuthorizationPolicy>| {
        policy.dry_run && matches!(policy.action, Action::Allow | Action::Deny)
    };
    let Some(first) = policies.iter().find(tried) else { return told };
    if matches!(decide(policies, request), Verdict::Deny(_)) {
        return told;
    }
    match weigh(policies, request, |_policy| true) {
        Verdict::Deny(denial) => told.push(Told {
            policy: denial.policy().clone(),
            rule: denial.rule(),
            outcome: Outcome::WouldDeny,
        }),
        Verdict::Allow => {
            let judging = Judging::new(request);
            let allows = policies.iter().filter(tried).find_map(|policy| {
                let (matches, rule) = matching(policy, &judging);
                (matches == Match::Yes).then_some((policy, rule))
            });
            let rule = allows.map(|(_, rule)| rule);
            let policy = allows.map_or(first, |(policy, _)| policy).name.clone();
            told.push(Told { policy, rule, outcome: Outcome::WouldAllow });
        }
        Verdict::ByRequest(_) => {}
    }
    told
}

fn weigh(
    policies: &[Arc<AuthorizationPolicy>],
    request: &Request<'_>,
    counts: impl Fn(&AuthorizationPolicy) -> bool + Copy,
) -> Verdict {
    if request.http.is_some_and(|http| !http.paths.is_complete)
        && let Some(policy) =
            policies.iter().find(|policy| counts(policy) && policy.asks_for_paths())
    {
        return Verdict::Deny(Denial::Readings(policy.name.clone()));
    }
    let by =
        |action| policies.iter().filter(move |policy| policy.action == action && counts(policy));
    let judging = &Judging::new(request);
    let mut perhaps = None;
    for policy in by(Action::Deny) {
        let matches = matching(policy, judging);
        if judging.work.is_spent() {
            return Verdict::Deny(Denial::Costly(policy.name.clone()));
        }
        match matches {
            (Match::Yes, rule) => return Verdict::Deny(Denial::Matched(policy.name.clone(), rule)),
            (Match::Perhaps, _) => perhaps = perhaps.or(Some(policy)),
            (Match::No, _) => {}
        }
    }
    if let Some(first) = by(Action::Allow).next() {
        let mut best = (Match::No, first);
        for policy in by(Action::Allow) {
            let (matches, _) = matching(policy, judging);
            if judging.work.is_spent() {
                return Verdict::Deny(Denial::Costly(policy.name.clone()));
            }
            if best.0 < matches {
                best = (matches, policy);
            }
        }
        match best {
            (Match::Yes, _) => {}
            (Match::Perhaps, policy) => perhaps = perhaps.or(Some(policy)),
            (Match::No, first) => return Verdict::Deny(Denial::NoneAllows(first.name.clone())),
        }
    }
    perhaps.map_or(Verdict::Allow, |policy| Verdict::ByRequest(policy.name.clone()))
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
            Self::Unseen(policy) => write!(
                f,
                "AuthorizationPolicy {policy} looks at requests of HTTP, and this is not HTTP, or its \
                 requests are not seen"
            ),
            Self::Readings(policy) => write!(
                f,
                "AuthorizationPolicy {policy} looks at paths, and servers may read this one in more \
                 ways than are judged"
            ),
            Self::Ambiguous(policy) => write!(
                f,
                "MeshPolicy {policy} refuses ambiguous paths, and servers read this one in different \
                 ways"
            ),
            Self::Gone(workload) => {
                write!(f, "Workload {workload} is not in the mesh any more, nor are its policies")
            }
            Self::Costly(policy) => write!(
                f,
                "there is more to compare than is judged, up to AuthorizationPolicy {policy}: too \
                 much of what policies look at is in the request, or in the policies of its \
                 destination"
            ),
        }
    }
}

/// A judgement under way. When nothing is left of its work, what comes of it does not count.
struct Judging<'a> {
    request: &'a Request<'a>,
    work: Work,
}

impl<'a> Judging<'a> {
    fn new(request: &'a Request<'a>) -> Self {
        Self { request, work: Work::default() }
    }
}

/// The verdict of a policy's rules, and the first rule that gives it.
fn matching(policy: &AuthorizationPolicy, judging: &Judging<'_>) -> (Match, usize) {
    let mut best = (Match::No, 0);
    for (index, rule) in policy.rules.iter().enumerate() {
        if judging.work.is_spent() {
            break;
        }
        let matches = applies(policy.action, rule, judging);
        if matches == Match::Yes {
            return (Match::Yes, index);
        }
        if best.0 < matches {
            best = (matches, index);
        }
    }
    best
}

/// Whether a rule applies. A path that can be read in several ways is denied if one of them is, and
/// allowed if all of them are: what the application takes it for is not known.
fn applies(action: Action, rule: &Rule, judging: &Judging<'_>) -> Match {
    let of_all = applies_to(rule, judging, None);
    let Some(http) = judging.request.http.filter(|_| of_all == Match::Perhaps) else {
        // Every request of the connection is the same to the rule, or there is none.
        return of_all;
    };
    let read = |path| Read { http, path, is_refused: action != Action::Allow };
    let paths = http.paths.iter().take_while(|_| !judging.work.is_spent());
    let paths = paths.map(|path| applies_to(rule, judging, Some(read(path))));
    match action {
        Action::Audit | Action::Deny => paths.max(),
        Action::Allow => paths.min(),
    }
    .unwrap_or(Match::No)
}

/// A request, and how its path is read.
#[derive(Clone, Copy, Debug)]
struct Read<'a> {
    http: &'a HttpRequest<'a>,
    path: &'a str,
    /// The rule refuses what it matches.
    is_refused: bool,
}

fn applies_to(rule: &Rule, judging: &Judging<'_>, read: Option<Read<'_>>) -> Match {
    let is_from =
        rule.from.is_empty() || rule.from.iter().any(|source| comes_from(source, judging));
    if rule.never || !is_from {
        return Match::No;
    }
    let to = rule.to.iter().map(|operation| goes_to(operation, judging, read));
    let to = if rule.to.is_empty() { Match::Yes } else { to.max().unwrap_or(Match::No) };
    let when = rule.when.iter().map(|when| is_when(when, judging, read));
    when.fold(to, Match::min)
}

fn is_when(when: &When, judging: &Judging<'_>, read: Option<Read<'_>>) -> Match {
    if !comes_from(&when.source, judging) {
        return Match::No;
    }
    let header = when.header.as_ref();
    let header =
        header.map_or(Match::Yes, |header| known(read, |read| has(header, read, &judging.work)));
    goes_to(&when.operation, judging, read).min(header)
}

fn comes_from(source: &Source, Judging { request, work }: &Judging<'_>) -> bool {
    let is_principal =
        |text: &Text| work.spend(0) || request.principal.is_some_and(|id| is(text, id));
    let namespace = request.principal.map(SpiffeId::namespace);
    let is_namespace = |text: &Text| work.spend(0) || text.matches(namespace);
    let is_block = |block: &Block| work.spend(0) || block.contains(request.address);
    among(&source.principals, &source.not_principals, is_principal)
        && among(&source.namespaces, &source.not_namespaces, is_namespace)
        && among(&source.ip_blocks, &source.not_ip_blocks, is_block)
}

/// Whether `text` means the principal `<trust domain>/ns/<namespace>/sa/<account>`.
fn is(text: &Text, id: &SpiffeId) -> bool {
    let parts = [id.trust_domain(), "/ns/", id.namespace(), "/sa/", id.service_account()];
    text.matches_joined(&parts)
}

/// Whether one of `yes` matches, if there are any, and none of `no` does. A request without the
/// attribute matches nothing, so it is in every "not".
fn among<T>(yes: &[T], no: &[T], matches: impl Fn(&T) -> bool) -> bool {
    (yes.is_empty() || yes.iter().any(&matches)) && !no.iter().any(&matches)
}

fn goes_to(operation: &Operation, judging: &Judging<'_>, read: Option<Read<'_>>) -> Match {
    let Judging { request, work } = judging;
    let is_port = |own: &u16| work.spend(0) || *own == request.port;
    if !among(&operation.ports, &operation.not_ports, is_port) {
        return Match::No;
    }
    if operation.http.is_empty() {
        return Match::Yes;
    }
    known(read, |read| asks_for(&operation.http, read, work))
}

/// Whether one of `yes` matches, if there are any, and none of `no` does, where texts have several
/// readings. A list that refuses is taken broadly: `yes` of a rule that refuses, `no` of one that
/// allows.
fn among_readings<T>(
    (yes, no): (&[T], &[T]),
    is_refused: bool,
    matches: impl Fn(&T, bool) -> bool,
) -> bool {
    (yes.is_empty() || yes.iter().any(|text| matches(text, is_refused)))
        && !no.iter().any(|text| matches(text, !is_refused))
}

/// Whether a request is one of those that are meant.
fn asks_for(operation: &HttpOperation, read: Read<'_>, work: &Work) -> bool {
    let Read { http, path, is_refused } = read;
    let HttpOperation { methods, not_methods, paths, not_paths, hosts, not_hosts } = operation;
    let is_path = |text: &PathText, broadly| {
        work.spend(path.len()) || if broadly { text.covers(path) } else { text.matches(path) }
    };
    let is_host = |text: &Text, broadly| is_host(text, http, broadly, work);
    // Methods have a case (RFC 9110, section 9.1), but not for each server.
    let is_method = |text: &Text, broadly| {
        let upper = || text.matches(Some(&http.method.to_ascii_uppercase()));
        work.spend(http.method.len()) || text.matches(Some(http.method)) || (broadly && upper())
    };
    among_readings((methods, not_methods), is_refused, is_method)
        && among_readings((paths, not_paths), is_refused, is_path)
        && among_readings((hosts, not_hosts), is_refused, is_host)
}

/// Whether a request has a header.
fn has(condition: &HeaderCondition, read: Read<'_>, work: &Work) -> bool {
    let Read { http, is_refused, .. } = read;
    let HeaderCondition { name, values, not_values } = condition;
    // HTTP/2 has it as `:authority`; it is settled which of them counts.
    if *name == HOST {
        let is = |text: &Text, broadly| is_host(text, http, broadly, work);
        return among_readings((values, not_values), is_refused, is);
    }
    if work.is_spent() {
        return true;
    }
    let readings = header::Readings::of(http.headers, name);
    work.spend(readings.bytes());
    among_readings((values, not_values), is_refused, |text: &Text, broadly| {
        // One that is empty is there as well.
        let is_there = broadly && *text == Text::Present;
        readings.matches(broadly, |value| {
            work.spend(value.map_or(0, str::len))
                || text.matches(value)
                || (is_there && value.is_some())
        })
    })
}

fn is_host(text: &Text, http: &HttpRequest<'_>, broadly: bool, work: &Work) -> bool {
    let host = http.host.as_deref();
    if work.spend(host.map_or(0, str::len)) {
        return true;
    }
    match host {
        Some(host) if broadly => host::readings(host).any(|host| text.matches(Some(host))),
        host => text.matches(host),
    }
}

fn known(read: Option<Read<'_>>, is: impl Fn(Read<'_>) -> bool) -> Match {
    match read {
        None => Match::Perhaps,
        Some(read) if is(read) => Match::Yes,
        Some(_) => Match::No,
    }
}

impl Denial {
    /// The rule that denies; `None`: it is the want of one that allows.
    pub const fn rule(&self) -> Option<usize> {
        match self {
            Self::Matched(_, rule) => Some(*rule),
            Self::NoneAllows(_)
            | Self::Unseen(_)
            | Self::Readings(_)
            | Self::Ambiguous(_)
            | Self::Costly(_)
            | Self::Gone(_) => None,
        }
    }

    /// The reason in one word, for metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Matched(..) => "rule_denies",
            Self::NoneAllows(_) => "no_rule_allows",
            Self::Unseen(_) => "requests_unseen",
            Self::Readings(_) => "path_readings",
            Self::Ambiguous(_) => "path_ambiguous",
            Self::Costly(_) => "too_costly",
            Self::Gone(_) => "destination_gone",
        }
    }

    /// The policy that denies, or the workload that is [`Self::Gone`].
    pub const fn policy(&self) -> &ResourceName {
        match self {
            Self::Matched(policy, _)
            | Self::NoneAllows(policy)
            | Self::Unseen(policy)
            | Self::Readings(policy)
            | Self::Ambiguous(policy)
            | Self::Costly(policy)
            | Self::Gone(policy) => policy,
        }
    }
}

impl Outcome {
    /// It in one word, for metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Audited => "audited",
            Self::WouldAllow => "would_allow",
            Self::WouldDeny => "would_deny",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod work_tests;
