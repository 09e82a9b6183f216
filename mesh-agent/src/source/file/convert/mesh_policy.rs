//! nodemesh.dev/v1alpha1 `MeshPolicy`, and Istio's `PeerAuthentication`, which says a part of it.

use std::collections::BTreeMap;

use crate::model::condition::Reason;
use crate::model::policy::upgrade::{self, Upgrades};
use crate::model::policy::{
    Acceleration, AmbiguousPaths, Egress, FailureMode, MeshPolicy, MtlsMode, PolicyKind, SameNode,
};

use super::super::schema;
use super::super::yaml::printable;
use super::{Problems, check};

/// The most ports with a mode of their own in a policy.
const MAX_PORTS: usize = 128;

/// Istio's words. `UNSET` is read as if the field were not there.
const MTLS: &[(&str, Option<MtlsMode>)] = &[
    ("STRICT", Some(MtlsMode::Strict)),
    ("PERMISSIVE", Some(MtlsMode::Permissive)),
    ("DISABLE", Some(MtlsMode::Disable)),
    ("UNSET", None),
];

const AMBIGUOUS_PATHS: &[(&str, Option<AmbiguousPaths>)] =
    &[("judge", Some(AmbiguousPaths::Judge)), ("refuse", Some(AmbiguousPaths::Refuse))];

const SAME_NODE: &[(&str, Option<SameNode>)] = &[
    ("direct", Some(SameNode::Direct)),
    ("agent", Some(SameNode::Agent)),
    ("mtls", Some(SameNode::Mtls)),
];

const FAILURE: &[(&str, Option<FailureMode>)] = &[
    ("closed", Some(FailureMode::Closed)),
    ("open", Some(FailureMode::Open)),
    ("static", Some(FailureMode::Static)),
];

const EGRESS: &[(&str, Option<Egress>)] = &[
    ("open", Some(Egress::Open)),
    ("log", Some(Egress::Log)),
    ("registry-only", Some(Egress::RegistryOnly)),
];

const ACCELERATION: &[(&str, Option<Acceleration>)] =
    &[("none", Some(Acceleration::Off)), ("sockmap", Some(Acceleration::Sockmap))];

pub(super) fn convert(written: schema::MeshPolicy, problems: &mut Problems) -> Option<MeshPolicy> {
    let spec = written.spec.unwrap_or_default();
    resolve(PolicyKind::Mesh, &written.metadata, spec, problems)
}

/// Istio's document of the same settings.
pub(super) fn peer_authentication(
    written: schema::PeerAuthentication,
    problems: &mut Problems,
) -> Option<MeshPolicy> {
    let spec = written.spec.unwrap_or_default().into();
    resolve(PolicyKind::PeerAuthentication, &written.metadata, spec, problems)
}

fn resolve(
    kind: PolicyKind,
    metadata: &schema::Metadata,
    spec: schema::MeshPolicySpec,
    problems: &mut Problems,
) -> Option<MeshPolicy> {
    let name = check::name(metadata, check::is_subdomain, problems);
    let created = check::created(metadata, problems);
    let selector = check::selector(spec.selector, problems);
    let mtls = spec.mtls.and_then(|mtls| mtls.mode);
    let by_port = spec.port_level_mtls.unwrap_or_default();
    let has_many_mtls = has_many("spec.portLevelMtls", by_port.len(), "STRICT", problems);
    let by_port = by_port.into_iter().filter(|_| !has_many_mtls);
    let by_port = by_port.filter_map(|(port, mtls)| Some((port, mtls.mode?)));
    let port_mtls = ports("spec.portLevelMtls", ".mode", MTLS, by_port, problems);
    let by_port = spec.port_level_same_node.unwrap_or_default();
    let has_many_ways = has_many("spec.portLevelSameNode", by_port.len(), "mtls", problems);
    let by_port = by_port.into_iter().filter(|_| !has_many_ways);
    let port_same_node = ports("spec.portLevelSameNode", "", SAME_NODE, by_port, problems);
    let given = [
        ("spec.portLevelMtls", port_mtls.is_empty()),
        ("spec.portLevelSameNode", port_same_node.is_empty()),
    ];
    for (path, _) in given.iter().filter(|(_, is_empty)| selector.is_empty() && !is_empty) {
        let message = "the ports of different workloads have nothing in common; add a \
                       spec.selector that says whose ports are meant";
        problems.invalid(*path, message);
    }
    let upgrades = upgrades(spec.upgrades, problems);
    let mtls = word("spec.mtls.mode", MTLS, mtls, problems);
    let same_node = word("spec.sameNode", SAME_NODE, spec.same_node, problems);
    Some(MeshPolicy {
        kind,
        name: name?,
        created,
        selector,
        ambiguous_paths: word(
            "spec.ambiguousPaths",
            AMBIGUOUS_PATHS,
            spec.ambiguous_paths,
            problems,
        ),
        mtls: if has_many_mtls { Some(MtlsMode::Strict) } else { mtls },
        port_mtls,
        same_node: if has_many_ways { Some(SameNode::Mtls) } else { same_node },
        port_same_node,
        failure: word("spec.failureMode", FAILURE, spec.failure_mode, problems),
        egress: word("spec.egress", EGRESS, spec.egress, problems),
        acceleration: word("spec.acceleration", ACCELERATION, spec.acceleration, problems),
        upgrades,
        is_closed: false,
    })
}

/// Whether there are more ports than are taken; then the strictest word is in force at all of them.
fn has_many(path: &str, found: usize, strictest: &str, problems: &mut Problems) -> bool {
    if found > MAX_PORTS {
        let message = format!(
            "these are {found} ports, and at most {MAX_PORTS} are taken: {strictest} is in force at \
             all ports until there are fewer"
        );
        problems.note(path, Reason::LimitExceeded, message);
    }
    found > MAX_PORTS
}

/// The protocols that are listed; `None`: there is no list.
fn upgrades(written: schema::List<String>, problems: &mut Problems) -> Option<Upgrades> {
    let words = written.0?;
    for (index, word) in words.iter().enumerate() {
        if let Err(wrong) = upgrade::check(word) {
            problems.invalid(
                format!("spec.upgrades[{index}]"),
                format!("`{}` {wrong}", printable(word)),
            );
        }
    }
    Some(Upgrades::only(&words))
}

/// The meaning of a word at `path`.
fn word<T: Copy>(
    path: &str,
    words: &[(&str, Option<T>)],
    written: Option<String>,
    problems: &mut Problems,
) -> Option<T> {
    let written = written?;
    let known = words.iter().find(|(word, _)| *word == written);
    if known.is_none() {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let (written, words) = (printable(&written), words.join(", "));
        problems.invalid(path, format!("`{written}` is not known; write one of: {words}"));
    }
    known.and_then(|(_, meaning)| *meaning)
}

/// The meaning of words by port; a port's word is at `<path>.<port><end>`.
fn ports<T: Copy>(
    path: &str,
    end: &str,
    words: &[(&str, Option<T>)],
    written: impl Iterator<Item = (String, String)>,
    problems: &mut Problems,
) -> BTreeMap<u16, T> {
    let mut ports = BTreeMap::new();
    for (number, written) in written {
        let path = format!("{path}.{}", printable(&number));
        let port = check::port_text(&path, &number, problems);
        let meaning = word(&format!("{path}{end}"), words, Some(written), problems);
        let (Some(port), Some(meaning)) = (port, meaning) else { continue };
        if ports.insert(port, meaning).is_some() {
            problems.invalid(path, format!("port {port} is written twice; remove one of them"));
        }
    }
    ports
}
