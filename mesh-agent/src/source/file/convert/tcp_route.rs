//! Gateway API `TCPRoute`.

use crate::model::condition::Reason;
use crate::model::id::ResourceName;
use crate::model::route::{BackendRef, TcpRoute};

use super::super::schema;
use super::{Problems, check, refs};

pub(super) fn convert(written: schema::TcpRoute, problems: &mut Problems) -> Option<TcpRoute> {
    let name = check::name(&written.metadata, check::is_subdomain, problems)?;
    let created = check::created(&written.metadata, problems);
    let parents = refs::parents(&written.spec.parent_refs, &name, problems);
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

fn backend_ref(
    path: &str,
    written: &schema::BackendRef,
    route: &ResourceName,
    problems: &mut Problems,
) -> Option<BackendRef> {
    let weight = refs::weight(path, written.weight, problems);
    let (service, port) = refs::backend(path, &written.into(), route, problems)?;
    Some(BackendRef { service, port, weight: weight? })
}
