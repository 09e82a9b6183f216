//! Istio `ServiceEntry`: addresses outside of the mesh that are known to it.

use std::sync::Arc;

use crate::model::condition::Reason;
use crate::model::external::External;

use super::super::schema;
use super::super::yaml::printable;
use super::authorization::value;
use super::{Problems, check};

/// The most pairs of an address and a port of an entry, for each namespace that it is exported to.
const MAX_KEYS: usize = 16_384;

/// Protocols whose ports are no concern of the mesh.
const UDP: &str = "UDP";

pub(super) fn convert(written: schema::ServiceEntry, problems: &mut Problems) -> Option<External> {
    let name = check::name(&written.metadata, check::is_subdomain, problems);
    let spec = written.spec.unwrap_or_default();
    let mut blocks = Vec::new();
    for (i, text) in spec.addresses.iter().enumerate() {
        blocks.extend(value::block(&format!("spec.addresses[{i}]"), text, problems));
    }
    if spec.addresses.is_empty() {
        let message = "external hosts are known by their addresses here; write the blocks that \
                       they are in, such as 192.0.2.0/24";
        problems.invalid("spec.addresses", message);
    }
    let mut ports = Vec::new();
    for (i, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{i}].number");
        let protocol = port.protocol.as_deref().unwrap_or_default();
        let is_udp = protocol.eq_ignore_ascii_case(UDP);
        match u16::try_from(port.number).ok().filter(|number| *number > 0) {
            Some(_) if is_udp => {}
            Some(number) => ports.push(number),
            None => problems.invalid(path, "a port is a number from 1 to 65535"),
        }
    }
    if ports.is_empty() && !spec.ports.is_empty() {
        // No port of TCP is not every port of TCP.
        blocks.clear();
    }
    let mut only = |path: &str, value: &Option<String>, meant: &str| {
        if let Some(value) = value.as_deref().filter(|value| *value != meant) {
            let message = format!(
                "`{}` is not known here, and {meant} is in force: the addresses are connected to \
                 as they are",
                printable(value)
            );
            problems.note(path, Reason::UnsupportedValue, message);
        }
    };
    only("spec.location", &spec.location, "MESH_EXTERNAL");
    only("spec.resolution", &spec.resolution, "NONE");
    for (path, is_given) in [
        ("spec.endpoints", spec.endpoints.is_some()),
        ("spec.workloadSelector", spec.workload_selector.is_some()),
        ("spec.subjectAltNames", spec.subject_alt_names.is_some()),
    ] {
        if is_given {
            let message = "it has no effect: the addresses are connected to as they are; remove it";
            problems.note(path, Reason::UnsupportedValue, message);
        }
    }
    let name = name?;
    let exported_to = exported_to(spec.export_to, &name.namespace);
    let n_namespaces = exported_to.as_ref().map_or(1, Vec::len);
    let n_keys = blocks.len().saturating_mul(ports.len().max(1)).saturating_mul(n_namespaces);
    check::at_most("spec.addresses", n_keys, MAX_KEYS, problems);
    Some(External { name, blocks, ports, exported_to })
}

/// The namespaces that may use it: `.` is its own, `*` all of them, and so is none given (Istio
/// `exportTo`).
fn exported_to(written: Option<Vec<String>>, own: &Arc<str>) -> Option<Vec<Arc<str>>> {
    let written = written.filter(|names| !names.is_empty())?;
    if written.iter().any(|name| name == "*") {
        return None;
    }
    let name = |name: String| if name == "." { Arc::clone(own) } else { name.into() };
    Some(written.into_iter().map(name).collect())
}
