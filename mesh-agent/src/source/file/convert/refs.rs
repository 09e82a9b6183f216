//! References of routes: their parents and their backends, which are services here.

use crate::model::condition::Reason;
use crate::model::id::ResourceName;
use crate::model::route::ParentRef;

use super::super::schema::{self, Reference};
use super::{Problems, check};

/// The largest weight (Gateway API, `BackendRef.weight`).
const MAX_WEIGHT: u32 = 1_000_000;

/// The group of a parent that names none (Gateway API, `ParentReference.group`).
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// The most parents of a route (Gateway API, `CommonRouteSpec.parentRefs`).
const MAX_PARENTS: usize = 32;

/// `spec.parentRefs`: those that are services. Others are reported and left to those whom they
/// concern.
pub(super) fn parents(
    written: &[schema::ParentRef],
    route: &ResourceName,
    problems: &mut Problems,
) -> Vec<ParentRef> {
    check::at_most("spec.parentRefs", written.len(), MAX_PARENTS, problems);
    let mut parents = Vec::new();
    for (i, written) in written.iter().take(MAX_PARENTS).enumerate() {
        parents.extend(parent(&format!("spec.parentRefs[{i}]"), written, route, problems));
    }
    parents
}

fn parent(
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

/// A backend at `path`: a service and its port.
pub(super) fn backend(
    path: &str,
    written: &Reference<'_>,
    route: &ResourceName,
    problems: &mut Problems,
) -> Option<(ResourceName, u16)> {
    if (written.group.unwrap_or_default(), written.kind.unwrap_or("Service")) != ("", "Service") {
        let message = "only services are backends; write `kind: Service` and no group";
        problems.refuse(path, Reason::InvalidKind, message);
        return None;
    }
    let service = check::reference(path, (written.namespace, written.name), route, problems);
    let Some(number) = written.port else {
        problems.invalid(format!("{path}.port"), "the service's port is missing; add it");
        return None;
    };
    let port = check::port(&format!("{path}.port"), number, problems)?;
    Some((service, port))
}

/// The `weight` of the backend at `path`.
pub(super) fn weight(path: &str, written: Option<i64>, problems: &mut Problems) -> Option<u32> {
    let weight = written.unwrap_or(1);
    u32::try_from(weight).ok().filter(|weight| *weight <= MAX_WEIGHT).or_else(|| {
        let message = format!("{weight} is not a weight; write a number from 0 to {MAX_WEIGHT}");
        problems.invalid(format!("{path}.weight"), message);
        None
    })
}
