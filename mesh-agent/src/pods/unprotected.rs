//! Workloads that were found and that the mesh cannot protect, or not as a whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::model::condition::{Finding, Reason};
use crate::model::id::ResourceName;
use crate::model::workload::Workload;
use crate::pods::Options;
use crate::pods::finder::Finder;
use crate::pods::place::Spot;
use crate::store::update::{Key, Kind};
use crate::sys::strays;

/// Those of this node, with why. `spots` are the places that were found.
pub fn all(
    finder: &Finder,
    spots: &BTreeMap<ResourceName, Spot>,
    wanted: &BTreeMap<&ResourceName, &Arc<Workload>>,
    options: &Options,
) -> Vec<Finding> {
    let units: HashMap<u64, &ResourceName> =
        spots.iter().filter_map(|(name, spot)| Some((spot.cgroup()?, name))).collect();
    let finding = |(name, workload): (&&ResourceName, &&Arc<Workload>)| {
        if let Some(error) = finder.error(name) {
            return by_error(workload, error);
        }
        let own = spots.get(*name)?.cgroup()?;
        let folder = finder.folder(&workload.place, &options.cgroup_root)?;
        let is_other = |id: u64| id != own && units.contains_key(&id);
        in_cgroup(workload, &folder, is_other).unwrap_or_else(|error| {
            tracing::debug!(workload = %name, %error, "its processes cannot be looked at");
            None
        })
    };
    let own_port = |workload: &&Arc<Workload>| own_port(workload, &options.own_ports);
    wanted.iter().filter_map(finding).chain(wanted.values().filter_map(own_port)).collect()
}

/// Logs those that are not protected and were before. Of places that are not there, others tell.
pub fn log_new(now: &[Finding], before: &[Finding]) {
    let is_there = |finding: &&Finding| {
        let is_same =
            |old: &Finding| old.subject == finding.subject && old.reason == finding.reason;
        before.iter().any(is_same)
    };
    let is_new = |finding: &&Finding| finding.reason.is_unprotected() && !is_there(finding);
    for finding in now.iter().filter(is_new) {
        let (reason, message) = (finding.reason.as_str(), &finding.message);
        tracing::warn!(subject = %finding.subject, reason, "not protected: {message}");
    }
}

/// Why the workload whose cgroup is `folder` is not protected as a whole. `is_other`: a cgroup is another
/// workload's, by its id.
///
/// # Errors
///
/// It cannot be told.
pub fn in_cgroup(
    workload: &Workload,
    folder: &Path,
    is_other: impl Fn(u64) -> bool,
) -> io::Result<Option<Finding>> {
    let Some(pid) = strays::find(folder, is_other)? else { return Ok(None) };
    let message = format!(
        "process {pid} of it is in another network namespace than the node: there connections follow \
         the failure mode, nothing that arrives is captured, and no port can be bound where plaintext \
         is not allowed; name the namespace in `spec.netns`, or run it in the node's namespace \
         (PrivateNetwork=no, host network)"
    );
    Ok(Some(finding(workload, Reason::OtherNamespace, message)))
}

/// A unit that declares a port that is the agent's own.
fn own_port(workload: &Workload, own: &BTreeSet<u16>) -> Option<Finding> {
    let units = if workload.is_unit() { &workload.ports[..] } else { &[] };
    let port = units.iter().find(|port| own.contains(&port.port))?.port;
    let message = format!(
        "port {port} of this node is the agent's own (--admin or --metrics), and what arrives there is not \
         for this workload; remove it, or start the agent with another port"
    );
    Some(Finding { field: "spec.ports", ..finding(workload, Reason::Conflicted, message) })
}

/// Why a workload is not protected whose place cannot be opened: it may not be there.
pub fn by_error(workload: &Workload, error: &io::Error) -> Option<Finding> {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let message = format!(
                "the agent is not allowed to enter its place, and does not protect it: {error}; grant \
                 CAP_SYS_ADMIN over the user namespace that owns it, or name another place"
            );
            Some(finding(workload, Reason::PlaceForbidden, message))
        }
        io::ErrorKind::NotFound => {
            let message = format!(
                "its place is not on this node: {error}; it is enrolled as soon as the place is \
                 there. If it does not run here, correct `spec.node` or the path"
            );
            Some(finding(workload, Reason::PlaceNotFound, message))
        }
        _ => None,
    }
}

fn finding(workload: &Workload, reason: Reason, message: String) -> Finding {
    let field = workload.place.field();
    let subject = Key { kind: Kind::Workload, name: workload.name.clone() }.to_string();
    Finding { subject, field, reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spiffe::SpiffeId;
    use crate::model::workload::{NamedPort, Place};

    fn web() -> Workload {
        Workload {
            name: ResourceName::new("demo", "web"),
            identity: SpiffeId::new("cluster.local", "demo", "web").unwrap(),
            node: Some("n".into()),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            ports: Vec::new(),
            probes: Vec::new(),
            ready: true,
            place: Place::Netns("/run/netns/web".into()),
        }
    }

    #[test]
    fn a_port_of_the_agent_is_told() {
        let ports = vec![NamedPort { name: "main".into(), port: 15000 }];
        let unit = Workload { place: Place::Cgroup("web".into()), ports, ..web() };
        let own = BTreeSet::from([15000]);
        let found = own_port(&unit, &own).unwrap();
        assert!(found.message.contains("port 15000 of this node"), "{}", found.message);
        assert_eq!(own_port(&unit, &BTreeSet::new()), None);
        // A pod has ports of its own.
        let pod = Workload { place: web().place, ..unit };
        assert_eq!(own_port(&pod, &own), None);
    }

    #[test]
    fn a_place_that_is_forbidden_or_not_there_is_told() {
        let check = |kind: io::ErrorKind, reason| {
            let found = by_error(&web(), &kind.into());
            assert_eq!(found.as_ref().map(|found| found.reason), reason, "{kind}");
            found
        };
        let found = check(io::ErrorKind::PermissionDenied, Some(Reason::PlaceForbidden)).unwrap();
        assert_eq!((found.field, &*found.subject), ("spec.netns", "Workload demo/web"));
        check(io::ErrorKind::NotFound, Some(Reason::PlaceNotFound));
        check(io::ErrorKind::TimedOut, None);
    }
}
