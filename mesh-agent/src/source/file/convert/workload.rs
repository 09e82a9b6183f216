//! nodemesh.dev/v1alpha1 `Workload`.

use std::path::{Component, Path, PathBuf};

use crate::model::id::ResourceName;
use crate::model::spiffe::SpiffeId;
use crate::model::workload::{NamedPort, Place, Workload};

use super::super::schema::{self, IntOrString, WorkloadSpec};
use super::super::yaml::printable;
use super::{Problems, check};

/// The most addresses of a workload.
const MAX_ADDRESSES: usize = 64;

/// The most ports of a workload.
const MAX_PORTS: usize = 1_024;

/// The most probes of a workload.
const MAX_PROBES: usize = 64;

/// The service account of a workload that names none, as on Kubernetes.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

pub(super) fn convert(
    written: schema::Workload,
    trust_domain: &str,
    problems: &mut Problems,
) -> Option<Workload> {
    let spec = written.spec;
    if spec.addresses.is_empty() {
        problems.invalid("spec.addresses", "the workload has no address; add at least one");
    }
    let fits = check::at_most("spec.addresses", spec.addresses.len(), MAX_ADDRESSES, problems)
        & check::at_most("spec.ports", spec.ports.len(), MAX_PORTS, problems)
        & check::at_most("spec.probes", spec.probes.len(), MAX_PROBES, problems);
    if !fits {
        return None;
    }
    let addresses = check::addresses("spec.addresses", &spec.addresses, problems);
    if let Some(node) = spec.node.as_deref().filter(|node| !check::is_subdomain(node)) {
        problems.invalid("spec.node", check::not_a_name(node));
    }
    let place = place(&spec, problems);
    let ports = ports(spec.ports, problems);
    let probes = probes(&spec.probes, &ports, problems);
    let ready = ready(&written.status.unwrap_or_default(), problems);
    let name = check::name(&written.metadata, check::is_subdomain, problems);
    let account = spec.service_account.as_deref().unwrap_or(DEFAULT_SERVICE_ACCOUNT);
    let identity = identity(trust_domain, name.as_ref(), account, problems);
    Some(Workload {
        name: name?,
        identity: identity?,
        node: spec.node.map(Into::into),
        addresses,
        labels: written.metadata.labels.unwrap_or_default(),
        ports,
        probes,
        ready,
        place: place?,
    })
}

fn identity(
    trust_domain: &str,
    name: Option<&ResourceName>,
    account: &str,
    problems: &mut Problems,
) -> Option<SpiffeId> {
    if !check::is_subdomain(account) {
        problems.invalid("spec.serviceAccount", check::not_a_name(account));
        return None;
    }
    SpiffeId::new(trust_domain, &name?.namespace, account)
        .map_err(|error| {
            let message = format!("no SPIFFE ID can be made of it: {error}; change it");
            problems.invalid("spec.serviceAccount", message);
        })
        .ok()
}

fn ports(written: Vec<schema::WorkloadPort>, problems: &mut Problems) -> Vec<NamedPort> {
    let mut ports: Vec<NamedPort> = Vec::with_capacity(written.len());
    for (i, written) in written.into_iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        if !check::is_label(&written.name) {
            problems.invalid(format!("{path}.name"), check::not_a_name(&written.name));
        } else if ports.iter().any(|port| port.name == written.name) {
            let message = format!("`{}` is written twice; rename one of them", written.name);
            problems.invalid(format!("{path}.name"), message);
        }
        if let Some(port) = check::port(&format!("{path}.port"), written.port, problems) {
            ports.push(NamedPort { name: written.name, port });
        }
    }
    ports
}

/// The probed ports, each once: probes of several kinds may share one.
fn probes(
    written: &[schema::WorkloadProbe],
    ports: &[NamedPort],
    problems: &mut Problems,
) -> Vec<u16> {
    let mut probes = Vec::with_capacity(written.len());
    for (i, written) in written.iter().enumerate() {
        let path = format!("spec.probes[{i}].port");
        let port = match &written.port {
            IntOrString::Int(number) => check::port(&path, *number, problems),
            IntOrString::String(name) => {
                let port = ports.iter().find(|port| port.name == *name).map(|port| port.port);
                if port.is_none() {
                    let name = printable(name);
                    let message = format!(
                        "`{name}` is none of the workload's ports; write one of their names, or a \
                         number"
                    );
                    problems.invalid(path, message);
                }
                port
            }
        };
        probes.extend(port.filter(|port| !probes.contains(port)));
    }
    probes
}

/// Whether the condition `Ready` is `True`, as endpoints of Kubernetes have it; here nobody need
/// write it.
fn ready(status: &schema::WorkloadStatus, problems: &mut Problems) -> bool {
    let mut ready = true;
    for (i, condition) in status.conditions.iter().enumerate() {
        if condition.kind != "Ready" {
            continue;
        }
        match condition.status.as_str() {
            "True" => {}
            "False" | "Unknown" => ready = false,
            other => {
                let other = printable(other);
                let message =
                    format!("`{other}` is no status; write \"True\", \"False\" or \"Unknown\"");
                problems.invalid(format!("status.conditions[{i}].status"), message);
            }
        }
    }
    ready
}

/// At most one of `cgroup`, `netns` and `systemdUnit`, and only with `node`.
fn place(spec: &WorkloadSpec, problems: &mut Problems) -> Option<Place> {
    let places = [
        ("spec.netns", spec.netns.is_some()),
        ("spec.cgroup", spec.cgroup.is_some()),
        ("spec.systemdUnit", spec.systemd_unit.is_some()),
    ];
    let mut given = places.iter().filter(|(_, given)| *given).map(|(path, _)| *path);
    let first = given.next();
    if let Some(second) = given.next() {
        let message = "a workload is in one place; keep one of netns, cgroup and systemdUnit";
        problems.invalid(second, message);
        return None;
    }
    if let Some(path) = first.filter(|_| spec.node.is_none()) {
        let message = "a place is somewhere on a node; add spec.node, or remove this for a \
                       workload that no agent serves";
        problems.invalid(path, message);
    }
    if let Some(netns) = &spec.netns {
        let path = Path::new(netns);
        // It is in messages of the agent's log as it is.
        let is_printable = !netns.contains(char::is_control);
        let fine = path.is_absolute() && !has_parent(path) && is_printable;
        let place = fine.then(|| Place::Netns(path.to_owned()));
        return place.or_else(|| {
            let message = "this is not an absolute path; write one such as /run/netns/web";
            problems.invalid("spec.netns", message);
            None
        });
    }
    if let Some(cgroup) = &spec.cgroup {
        return below_root(cgroup).map(Place::Cgroup).or_else(|| {
            let message = "this is not below the cgroup v2 root; write a path such as \
                           system.slice/web.service, without the mount point";
            problems.invalid("spec.cgroup", message);
            None
        });
    }
    let Some(unit) = &spec.systemd_unit else { return Some(Place::Unplaced) };
    if unit.is_empty() || unit.contains('/') || unit.chars().any(char::is_whitespace) {
        let message = "this is not the name of a unit; write one such as web.service";
        problems.invalid("spec.systemdUnit", message);
        return None;
    }
    Some(Place::SystemdUnit(unit.clone()))
}

/// A cgroup's path without the leading slash; `None` for the root itself and what is above it.
fn below_root(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let path = path.strip_prefix("/").unwrap_or(path);
    let outside = has_parent(path) || path.starts_with("sys/fs/cgroup");
    (!outside && path.components().next().is_some()).then(|| path.to_owned())
}

fn has_parent(path: &Path) -> bool {
    path.components().any(|component| component == Component::ParentDir)
}
