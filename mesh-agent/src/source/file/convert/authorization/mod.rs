//! Istio `AuthorizationPolicy`, as far as connections and requests have what it asks about.
//!
//! A field that they do not have is never passed over in silence, and never allows more than is written: an
//! `ALLOW` rule that asks for it matches nothing, a `DENY` rule matches without regard to it. This
//! is what Istio does for TCP with what only requests have.

use crate::model::condition::Reason;
use crate::model::id::ResourceName;
use crate::model::policy::request::{HeaderCondition, HttpOperation, PathText};
use crate::model::policy::{
    Action, AuthorizationPolicy, Block, Operation, Rule, Source, Text, When,
};
use crate::model::trust_domain::TrustDomains;

use super::super::schema::{self, AuthorizationSpec, IntOrString, List};
use super::super::yaml::printable;
use super::{Problems, check};

mod size;
pub(super) mod value;

pub(super) fn convert(
    written: schema::AuthorizationPolicy,
    domains: &TrustDomains,
    problems: &mut Problems,
) -> Option<AuthorizationPolicy> {
    let name = check::name(&written.metadata, check::is_subdomain, problems)?;
    let annotations = written.metadata.annotations.unwrap_or_default();
    let is_dry = annotations.dry_run.is_some_and(|value| value == "true");
    let mut spec = written.spec.unwrap_or_default();
    let selector = check::selector(spec.selector.take(), problems);
    let force = force(&spec, problems)?;
    let (action, rules) = match force {
        Force::Nothing => (Action::Deny, Vec::new()),
        Force::Everything => (Action::Deny, vec![Rule::default()]),
        Force::Rules(action) => {
            let mut reader = Reader { policy: &name, domains, action, never: false, problems };
            let rules = reader.rules(spec.rules.unwrap_or_default());
            match size::exceeded(&rules) {
                None => (action, rules),
                Some(exceeded) => closed(action, &exceeded, problems),
            }
        }
    };
    Some(AuthorizationPolicy { name, selector, action, dry_run: is_dry, rules })
}

/// Puts in force what a policy comes to that says too much: nothing of what audits, and otherwise that
/// everything is refused.
fn closed(action: Action, exceeded: &str, problems: &mut Problems) -> (Action, Vec<Rule>) {
    let (said, in_force) = match action {
        Action::Audit => ("it audits nothing", (Action::Audit, Vec::new())),
        Action::Allow | Action::Deny => (
            "all connections to the workloads that it is for are refused",
            (Action::Deny, vec![Rule::default()]),
        ),
    };
    let message = format!("{exceeded}: until there are fewer, {said}");
    problems.note("spec.rules", Reason::LimitExceeded, message);
    in_force
}

/// The part of a policy that is put in force.
enum Force {
    /// Its rules.
    Rules(Action),
    /// It has no say: a `DENY` that matches nothing.
    Nothing,
    /// It would have a say that cannot be told here: a `DENY` that matches everything.
    Everything,
}

/// Says what is put in force; `None` if the document is wrong.
fn force(spec: &AuthorizationSpec, problems: &mut Problems) -> Option<Force> {
    let action = spec.action.as_deref().unwrap_or("ALLOW");
    if spec.provider.is_some() && action != "CUSTOM" {
        let message = "only the action CUSTOM has a provider; remove it";
        problems.invalid("spec.provider", message);
    }
    let mut unsupported =
        |path: &str, message: &str| problems.note(path, Reason::UnsupportedValue, message);
    let targets = spec.target_ref.iter().map(|target| ("spec.targetRef".to_owned(), target));
    let list = spec.target_refs.iter().flatten().enumerate();
    let list = list.map(|(i, target)| (format!("spec.targetRefs[{i}]"), target));
    let mut targets = targets.chain(list).peekable();
    let has_targets = targets.peek().is_some();
    if let Some((path, _)) = targets.find(|(_, target)| target.kind == "Service") {
        let message = "policies are attached to workloads here and not to services, so that it \
                       denies all connections to all workloads of its namespace; write a \
                       spec.selector instead";
        unsupported(&path, message);
        return Some(Force::Everything);
    }
    if has_targets {
        let message = "there are no gateways here, so it has no effect; write a spec.selector \
                       instead, or remove it";
        unsupported("spec.targetRefs", message);
        return Some(Force::Nothing);
    }
    match action {
        "ALLOW" => Some(Force::Rules(Action::Allow)),
        "DENY" => Some(Force::Rules(Action::Deny)),
        "AUDIT" => Some(Force::Rules(Action::Audit)),
        "CUSTOM" => {
            let message = "no other authorizer is asked here, so that it denies all connections \
                           to its workloads; write ALLOW or DENY";
            unsupported("spec.action", message);
            Some(Force::Everything)
        }
        other => {
            let message = format!(
                "`{}` is not an action; write ALLOW, DENY or AUDIT, in capital letters",
                printable(other)
            );
            problems.invalid("spec.action", message);
            None
        }
    }
}

/// Reads the rules of one policy.
struct Reader<'a> {
    policy: &'a ResourceName,
    domains: &'a TrustDomains,
    action: Action,
    /// Whether the rule that is being read asks for something that is not known here.
    never: bool,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn rules(&mut self, written: Vec<Option<schema::AuthorizationRule>>) -> Vec<Rule> {
        let mut rules = Vec::with_capacity(written.len());
        for (i, written) in written.into_iter().enumerate() {
            let path = format!("spec.rules[{i}]");
            if let Some(written) = written {
                rules.push(self.rule(&path, written));
            } else {
                let message = "the rule is empty; write `{}` for one that matches everything, or \
                               remove it";
                self.problems.invalid(path, message);
            }
        }
        rules
    }

    fn rule(&mut self, path: &str, written: schema::AuthorizationRule) -> Rule {
        self.never = false;
        let mut rule = Rule::default();
        for (i, entry) in self.given(&format!("{path}.from"), written.from).into_iter().enumerate()
        {
            rule.from.push(self.source(&format!("{path}.from[{i}].source"), entry.source));
        }
        for (i, entry) in self.given(&format!("{path}.to"), written.to).into_iter().enumerate() {
            rule.to.push(self.operation(&format!("{path}.to[{i}].operation"), entry.operation));
        }
        for (i, when) in self.given(&format!("{path}.when"), written.when).into_iter().enumerate() {
            rule.when.extend(self.when(&format!("{path}.when[{i}]"), when));
        }
        rule.never = self.never;
        rule
    }

    /// An entry stays even if nothing is left of it: without it the others would say less.
    fn source(&mut self, path: &str, written: Option<schema::AuthorizationSource>) -> Source {
        let Some(written) = written else {
            self.empty(path);
            return Source::default();
        };
        let identity = [
            &written.principals,
            &written.not_principals,
            &written.namespaces,
            &written.not_namespaces,
        ];
        let accounts = [&written.service_accounts, &written.not_service_accounts];
        let blocks = [&written.ip_blocks, &written.not_ip_blocks];
        let http = [
            ("requestPrincipals", &written.request_principals),
            ("notRequestPrincipals", &written.not_request_principals),
            ("remoteIpBlocks", &written.remote_ip_blocks),
            ("notRemoteIpBlocks", &written.not_remote_ip_blocks),
        ];
        let is_given = |lists: &[&List<String>]| lists.iter().any(|list| list.0.is_some());
        if is_given(&accounts) && is_given(&identity) {
            let message = "service accounts say the namespace and the principal; remove them, or \
                           remove principals and namespaces";
            self.problems.invalid(format!("{path}.serviceAccounts"), message);
        }
        let any_unknown = self.unknown(path, &http);
        if !(any_unknown || is_given(&accounts) || is_given(&identity) || is_given(&blocks)) {
            self.empty(path);
        }
        let mut source = Source {
            principals: self.principals(&format!("{path}.principals"), written.principals),
            not_principals: self
                .principals(&format!("{path}.notPrincipals"), written.not_principals),
            namespaces: self.texts(&format!("{path}.namespaces"), written.namespaces),
            not_namespaces: self.texts(&format!("{path}.notNamespaces"), written.not_namespaces),
            ip_blocks: self.blocks(&format!("{path}.ipBlocks"), written.ip_blocks),
            not_ip_blocks: self.blocks(&format!("{path}.notIpBlocks"), written.not_ip_blocks),
        };
        let accounts = (written.service_accounts, written.not_service_accounts);
        source.principals.extend(self.accounts(&format!("{path}.serviceAccounts"), accounts.0));
        let path = format!("{path}.notServiceAccounts");
        source.not_principals.extend(self.accounts(&path, accounts.1));
        source
    }

    fn operation(&mut self, path: &str, written: Option<schema::Operation>) -> Operation {
        let Some(written) = written else {
            self.empty(path);
            return Operation::default();
        };
        let http = [
            &written.hosts,
            &written.not_hosts,
            &written.methods,
            &written.not_methods,
            &written.paths,
            &written.not_paths,
        ];
        let ports = [&written.ports, &written.not_ports];
        let is_http = http.iter().any(|list| list.0.is_some());
        if !is_http && ports.iter().all(|list| list.0.is_none()) {
            self.empty(path);
        }
        let http = HttpOperation {
            methods: self.texts(&format!("{path}.methods"), written.methods),
            not_methods: self.texts(&format!("{path}.notMethods"), written.not_methods),
            paths: self.paths(&format!("{path}.paths"), written.paths),
            not_paths: self.paths(&format!("{path}.notPaths"), written.not_paths),
            hosts: self.hosts(&format!("{path}.hosts"), written.hosts),
            not_hosts: self.hosts(&format!("{path}.notHosts"), written.not_hosts),
        };
        Operation {
            ports: self.ports(&format!("{path}.ports"), written.ports),
            not_ports: self.ports(&format!("{path}.notPorts"), written.not_ports),
            http,
        }
    }

    /// A condition; `None` if it asks for something that is not known here.
    fn when(&mut self, path: &str, written: schema::Condition) -> Option<When> {
        let (yes, no) = (format!("{path}.values"), format!("{path}.notValues"));
        if written.values.0.is_none() && written.not_values.0.is_none() {
            self.empty(path);
        }
        let mut when = When::default();
        let Source { principals, not_principals, namespaces, not_namespaces, .. } =
            &mut when.source;
        match written.key.as_str() {
            "destination.port" => {
                when.operation.ports = self.ports(&yes, written.values);
                when.operation.not_ports = self.ports(&no, written.not_values);
            }
            "source.ip" => {
                when.source.ip_blocks = self.blocks(&yes, strings(written.values));
                when.source.not_ip_blocks = self.blocks(&no, strings(written.not_values));
            }
            "source.namespace" => {
                *namespaces = self.texts(&yes, strings(written.values));
                *not_namespaces = self.texts(&no, strings(written.not_values));
            }
            "source.principal" => {
                *principals = self.principals(&yes, strings(written.values));
                *not_principals = self.principals(&no, strings(written.not_values));
            }
            "source.serviceAccount" => {
                *principals = self.accounts(&yes, strings(written.values));
                *not_principals = self.accounts(&no, strings(written.not_values));
            }
            other if value::header(other).is_some() => {
                when.header = value::header(other).map(|name| HeaderCondition {
                    name,
                    values: self.texts(&yes, strings(written.values)),
                    not_values: self.texts(&no, strings(written.not_values)),
                });
            }
            other => {
                self.unsupported(&format!("{path}.key"), &printable(other));
                return None;
            }
        }
        Some(when)
    }

    /// Reports the fields that nothing has here. Returns whether any is given.
    fn unknown(&mut self, path: &str, fields: &[(&str, &List<String>)]) -> bool {
        let given = fields.iter().filter(|(_, list)| list.0.is_some());
        given.clone().for_each(|(field, _)| self.unsupported(&format!("{path}.{field}"), field));
        given.count() > 0
    }

    /// The rule asks for something that is not known here.
    fn unsupported(&mut self, path: &str, what: &str) {
        let effect = match self.action {
            Action::Allow => "this rule allows nothing; remove this, or the rule",
            Action::Deny => {
                "this rule denies without regard to it, which is more than is written; remove \
                 this, or the rule"
            }
            Action::Audit => "this rule matches nothing; remove this, or the rule",
        };
        self.never |= self.action != Action::Deny;
        let message = format!("`{what}` is not known here, so that {effect}");
        self.problems.note(path, Reason::UnsupportedValue, message);
    }

    /// A field that should restrict, and does not.
    fn empty(&mut self, path: &str) {
        let message = "this is empty, and would restrict nothing; say what is meant, or remove it";
        self.problems.invalid(path, message);
    }

    /// The items of a list that has some, if it is there.
    fn given<T>(&mut self, path: &str, written: List<T>) -> Vec<T> {
        if written.0.as_ref().is_some_and(Vec::is_empty) {
            self.empty(path);
        }
        written.0.unwrap_or_default()
    }

    fn texts(&mut self, path: &str, written: List<String>) -> Vec<Text> {
        self.each(path, written, |_, path, text, problems| value::text(path, text, problems))
    }

    /// Principals, each with every trust domain of the mesh. One that is nobody's stays as it is
    /// written: without it, the others would say less.
    fn principals(&mut self, path: &str, written: List<String>) -> Vec<Text> {
        let domains = self.domains;
        let read = self.each(path, written, |_, path, written, problems| {
            let text = value::text(path, written, problems)?;
            let meant = domains.principals(&text);
            if meant.is_empty() {
                value::nobody(path, written, domains, problems);
                return Some(vec![text]);
            }
            Some(meant)
        });
        read.into_iter().flatten().collect()
    }

    fn paths(&mut self, path: &str, written: List<String>) -> Vec<PathText> {
        self.each(path, written, |_, path, text, problems| value::path(path, text, problems))
    }

    /// Hosts have no case (RFC 9110, section 4.2.3).
    fn hosts(&mut self, path: &str, written: List<String>) -> Vec<Text> {
        self.each(path, written, |_, path, text, problems| {
            value::text(path, &text.to_ascii_lowercase(), problems)
        })
    }

    fn blocks(&mut self, path: &str, written: List<String>) -> Vec<Block> {
        self.each(path, written, |_, path, text, problems| value::block(path, text, problems))
    }

    /// Service accounts, of any trust domain as in Istio.
    fn accounts(&mut self, path: &str, written: List<String>) -> Vec<Text> {
        self.each(path, written, |policy, path, text, problems| {
            value::account(path, text, &policy.namespace, problems)
        })
    }

    fn ports(&mut self, path: &str, written: List<IntOrString>) -> Vec<u16> {
        self.each(path, strings(written), |_, path, text, problems| {
            check::port_text(path, text, problems)
        })
    }

    fn each<T>(
        &mut self,
        path: &str,
        written: List<String>,
        read: impl Fn(&ResourceName, &str, &str, &mut Problems) -> Option<T>,
    ) -> Vec<T> {
        let items = self.given(path, written);
        let items = items.iter().enumerate();
        items
            .filter_map(|(i, text)| read(self.policy, &format!("{path}[{i}]"), text, self.problems))
            .collect()
    }
}

/// Numbers as the text that they are in Istio.
fn strings(written: List<IntOrString>) -> List<String> {
    let string = |item| match item {
        IntOrString::Int(number) => i64::to_string(&number),
        IntOrString::String(text) => text,
    };
    List(written.0.map(|list| list.into_iter().map(string).collect()))
}

#[cfg(test)]
mod tests;
