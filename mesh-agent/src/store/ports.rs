//! Owners of the ports of a host (pure).
//!
//! The units of a host share its addresses and its kernel's sockets, and are told apart by their ports
//! alone. Authors of several namespaces may not trust each other: none of them takes a port that
//! workloads of another have, or had while both claimed it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::condition::Condition;
use crate::model::snapshot::{Contested, Endpoint, Snapshot, is_told_by_port};
use crate::model::workload::Workload;
use crate::store::build::{Lost, conflict};
use crate::store::index::Index;
use crate::store::update::{Key, Kind};

type ByAddress = HashMap<IpAddr, Vec<Arc<Workload>>>;

/// The namespaces that claim each port of a node.
type Claims = BTreeMap<(Arc<str>, u16), BTreeSet<Arc<str>>>;

/// Which ports are contested after `last`.
///
/// The owner of a port when another namespace begins to claim it keeps it, and keeps the right to it while
/// it is away: otherwise the other would have it as soon as the document is replaced. If nobody had it,
/// as when the agent starts, it is nobody's.
pub(super) fn contested<'a>(
    last: &Snapshot,
    workloads: impl Iterator<Item = &'a Arc<Workload>>,
    by_address: &ByAddress,
    endpoints: impl Iterator<Item = &'a Endpoint>,
) -> Contested {
    let now = claims(workloads, by_address, endpoints);
    let mut before = None;
    let mut contested = Contested::new();
    for (key, namespaces) in now {
        let record = last.contested.get(&key);
        let is_alone = namespaces.len() == 1
            && record.is_none_or(|owner| owner.as_ref().is_none_or(|it| namespaces.contains(it)));
        if is_alone {
            continue;
        }
        let owner = record.cloned().unwrap_or_else(|| {
            let before = before.get_or_insert_with(|| {
                let endpoints = last.services.values().flat_map(|target| target.endpoints());
                claims(last.workloads.values(), by_address, endpoints)
            });
            let had = before.get(&key).filter(|had| had.len() == 1)?;
            had.first().cloned()
        });
        contested.insert(key, owner);
    }
    contested
}

fn claims<'a>(
    workloads: impl Iterator<Item = &'a Arc<Workload>>,
    by_address: &ByAddress,
    endpoints: impl Iterator<Item = &'a Endpoint>,
) -> Claims {
    let mut claims = Claims::new();
    let mut are_told = HashSet::new();
    let mut claim = |workload: &'a Workload, port: u16| {
        let Some(node) = &workload.node else { return };
        let key = (Arc::clone(node), port);
        claims.entry(key).or_default().insert(Arc::clone(&workload.name.namespace));
    };
    for workload in workloads {
        if is_told_by_port(workload, by_address) {
            are_told.insert(&workload.name);
            for port in &workload.ports {
                claim(workload, port.port);
            }
        }
    }
    // Endpoints are many, and most meshes have no such workload.
    for endpoint in endpoints.take_while(|_| !are_told.is_empty()) {
        if are_told.contains(&endpoint.workload.name) {
            claim(&endpoint.workload, endpoint.address.port());
        }
    }
    claims
}

/// Says which workloads do not have what they claim.
pub(super) fn conditions(
    index: &Index<'_>,
    owns: impl Fn(&Workload, u16) -> bool,
    contested: &Contested,
    conditions: &mut Vec<Condition>,
) {
    if contested.is_empty() {
        return;
    }
    for (location, workload) in index.workloads.values() {
        let Some(node) = &workload.node else { continue };
        let mut lost = Lost::default();
        for port in workload.ports.iter().filter(|port| !owns(workload, port.port)) {
            let owner = contested.get(&(Arc::clone(node), port.port)).cloned().flatten();
            lost.to(port.port, owner.unwrap_or_default());
        }
        let Some((port, owner, rest)) = lost.told() else { continue };
        let whose = if owner.is_empty() {
            format!(
                "workloads of several namespaces claim port {port} of node {node}, so that it is \
                 nobody's, and who connects there is refused{rest}"
            )
        } else {
            format!(
                "port {port} of node {node} is namespace {owner}'s, whose policies count there{rest}"
            )
        };
        let message = format!("{whose}; give one of them another port");
        let key = Key { kind: Kind::Workload, name: workload.name.clone() };
        conditions.push(conflict(location, &key, "spec.ports", message));
    }
}
