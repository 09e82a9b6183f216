//! Gateway API `TCPRoute`.

use crate::model::condition::Reason;
use crate::model::id::ResourceName;
use crate::model::route::{BackendRef, ParentRef, TcpRoute};

use super::super::schema;
use super::{Problems, check};

/// The largest weight (Gateway API, `BackendRef.weight`).
const MAX_WEIGHT: u32 = 1_000_000;

/// The group of a parent that names none (Gateway API, `ParentReference.group`).
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

pub(super) fn convert(written: schema::TcpRoute, problems: &mut Problems) -> Option<TcpRoute> {
    let name = check::name(&written.metadata, check::is_subdomain, problems)?;
    let created = check::created(&written.metadata, problems);
    let mut parents = Vec::new();
    for (i, parent) in written.spec.parent_refs.iter().enumerate() {
        parents.extend(parent_ref(&format!("spec.parentRefs[{i}]"), parent, &name, problems));
    }
    let rules = written.spec.rules;
    if rules.len() > 1 {
        let message = "a TCP connection matches every rule, so only the first one is used; remove \
                       the others";
        problems.note("spec.rules[1]", Reason::UnsupportedValue, message);
    }
    let backends = rules.into_iter().next().map(|rule| rule.backend_refs).unwrap_or_default();
    if backends.is_empty() {
        problems.invalid("spec.rules", "the route has no backend; add a rule with backendRefs");
    }
    let backends = backends
        .iter()
        .enumerate()
        .filter_map(|(i, backend)| {
            backend_ref(&format!("spec.rules[0].backendRefs[{i}]"), backend, &name, problems)
        })
        .collect();
    Some(TcpRoute { name, created, parents, backends })
}

/// A parent that is a service. Others are reported and left to those whom they concern.
fn parent_ref(
    path: &str,
    written: &schema::ParentRef,
    route: &ResourceName,
    problems: &mut Problems,
) -> Option<ParentRef> {
    let group = written.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = written.kind.as_deref().unwrap_or("Gateway");
    if (group, kind) != ("", "Service") {
        let message = "only services are parents here, and a parent that names no group and kind \
                       is a Gateway; write `group: \"\"` and `kind: Service`";
        problems.note(path, Reason::InvalidKind, message);
        return None;
    }
    if written.section_name.is_some() {
        let message = "ports by name are not supported, this parent is left out; write its number \
                       as `port`";
        problems.note(format!("{path}.sectionName"), Reason::UnsupportedValue, message);
        return None;
    }
    let names = (written.namespace.as_deref(), written.name.as_str());
    let service = check::reference(path, names, route, problems);
    let port = match written.port {
        Some(number) => Some(check::port(&format!("{path}.port"), number, problems)?),
        None => None,
    };
    Some(ParentRef { service, port })
}

/// A backend that is a service.
fn backend_ref(
    path: &str,
    written: &schema::BackendRef,
    route: &ResourceName,
    problems: &mut Problems,
) -> Option<BackendRef> {
    let group = written.group.as_deref().unwrap_or_default();
    let kind = written.kind.as_deref().unwrap_or("Service");
    if (group, kind) != ("", "Service") {
        let message = "only services are backends; write `kind: Service` and no group";
        problems.refuse(path, Reason::InvalidKind, message);
        return None;
    }
    let names = (written.namespace.as_deref(), written.name.as_str());
    let service = check::reference(path, names, route, problems);
    let weight = written.weight.unwrap_or(1);
    let weight = u32::try_from(weight).ok().filter(|weight| *weight <= MAX_WEIGHT).or_else(|| {
        let message = format!("{weight} is not a weight; write a number from 0 to {MAX_WEIGHT}");
        problems.invalid(format!("{path}.weight"), message);
        None
    });
    let Some(number) = written.port else {
        problems.invalid(format!("{path}.port"), "the service's port is missing; add it");
        return None;
    };
    let port = check::port(&format!("{path}.port"), number, problems)?;
    Some(BackendRef { service, port, weight: weight? })
}
