//! How connections of this node's workloads went: what the observer has counted, by name, and what
//! the agent knows of those that it carried.

use std::collections::{BTreeMap, HashMap};

use crate::admin::{Covered, Way};
use crate::datapath::Kernel;
use crate::datapath::desired::id_of;
use crate::model::snapshot::Snapshot;
use crate::telemetry::{CoverageCount, Reporter, Telemetry};

/// Counts of the observer for workloads that there are.
pub(super) fn counts(kernel: &Kernel, mesh: &Snapshot) -> Vec<CoverageCount> {
    let names: HashMap<_, _> = mesh.workloads.keys().map(|name| (id_of(name), name)).collect();
    let counted = kernel.coverage().counts().into_iter();
    let mut all: Vec<_> = counted
        .filter_map(|covered| {
            Some(CoverageCount {
                workload: (*names.get(&covered.workload)?).clone(),
                direction: covered.direction,
                how: covered.how,
                count: covered.count,
            })
        })
        .collect();
    all.sort();
    all
}

/// The same by workload, for the admin server: of what went through the agent, how it was carried.
pub(super) fn shown(
    kernel: &Kernel,
    mesh: &Snapshot,
    telemetry: &Telemetry,
    node: &str,
) -> Vec<Covered> {
    let secured = telemetry.secured();
    let mut counted = BTreeMap::<_, BTreeMap<_, u64>>::new();
    for count in counts(kernel, mesh) {
        let of = counted.entry(count.workload).or_default();
        of.insert((count.direction, count.how), count.count);
    }
    let mut workloads: Vec<_> = mesh.on_node(node).map(|workload| &workload.name).collect();
    workloads.sort();
    let way = |name: &_, reporter, direction| {
        let seen = |how| {
            counted.get(name).and_then(|of| of.get(&(direction, how))).copied().unwrap_or_default()
        };
        let carried = secured.get(&(reporter, Clone::clone(name))).copied().unwrap_or_default();
        Way {
            agent: seen("agent"),
            mutual_tls: carried.mutual_tls,
            plaintext: carried.plaintext,
            direct: seen("direct"),
            bypassed: seen("bypassed"),
            other_namespace: seen("other_namespace"),
            outside: seen("outside"),
        }
    };
    let covered = workloads.into_iter().map(|name| Covered {
        workload: name.to_string(),
        outbound: way(name, Reporter::Source, "outbound"),
        inbound: way(name, Reporter::Destination, "inbound"),
        sockets: counted.get(name).map_or_else(BTreeMap::new, |of| {
            let made = of.iter().filter(|((direction, _), _)| *direction == "socket");
            made.map(|((_, how), count)| (*how, *count)).collect()
        }),
    });
    covered.collect()
}
