//! Which addresses are the mesh's, and where connections to them go.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use mesh_common::addr::user::from_ip;
use mesh_common::destination::{ASK, Destination, DestinationKey, NOBODY};
use mesh_common::workload::GUARDED;

use crate::datapath::desired::room::{Shortages, Want, tables};
use crate::datapath::desired::services::{self, Virtual};
use crate::datapath::desired::sets::SetIds;
use crate::datapath::desired::{Enrolled, Entries, View, guard_of};
use crate::model::policy::WorkloadPolicy;
use crate::model::workload::Workload;
use crate::store::update::Kind;

/// The outcome for an address without an entry.
const PASSES: &str = "connections to its addresses go past the mesh";
/// The outcome for the ports of an address that has one.
const BY_AGENT: &str = "the agent decides about its ports, and refuses while it does not answer";

/// A workload that an agent serves.
struct Served<'a> {
    workload: &'a Workload,
    local: Option<&'a Enrolled>,
    /// Its ports, if these tell it from others on its address.
    own_ports: Option<&'a BTreeSet<u16>>,
    policy: &'a WorkloadPolicy,
}

/// Adds the destinations with their sets of backends.
pub(super) fn add(view: &View<'_>, sets: &mut SetIds, short: &mut Shortages, wanted: &mut Entries) {
    let (workloads, services) = (served(view), services::by_name(view.mesh));
    // Addresses come before their ports: they make connections the mesh's.
    let groups = [
        workloads.iter().map(Served::addresses).collect(),
        services.iter().map(|one| one.want(one.addresses().len(), PASSES)).collect(),
        services.iter().map(|one| one.want(one.targets.len(), BY_AGENT)).collect(),
        workloads.iter().map(Served::settings).collect(),
    ];
    let [addresses, virtual_addresses, targets, settings] =
        short.share(tables::DESTINATIONS, 0, &groups);
    let (mut whole, mut virtual_ones) = (Vec::new(), Vec::new());
    for ((service, has_targets), has_addresses) in
        services.iter().zip(targets).zip(virtual_addresses)
    {
        if has_targets {
            whole.push(service);
        }
        match (has_targets, has_addresses) {
            (true, true) => virtual_ones.push(service),
            (false, true) => all_ports(service, ASK, wanted),
            (_, false) => {}
        }
    }
    services::add(view, &whole, sets, short, wanted);
    for ((one, has_addresses), has_settings) in workloads.iter().zip(addresses).zip(settings) {
        if has_addresses {
            add_workload(view, one, has_settings, wanted);
        }
    }
    // An address that is a service's alone, and no workload's with an agent or without, has the service's
    // ports and no others.
    for service in virtual_ones {
        if service.addresses().iter().all(|ip| !view.mesh.by_address.contains_key(ip)) {
            all_ports(service, NOBODY, wanted);
        }
    }
}

/// The workloads by name: where two claim one address or port, the first has it.
fn served<'a>(view: &'a View<'_>) -> Vec<Served<'a>> {
    let here: HashMap<_, _> = view.enrolled.iter().map(|local| (&local.name, local)).collect();
    let all = view.mesh.workloads.values().filter(|workload| workload.node.is_some());
    all.map(|workload| Served {
        workload,
        local: here.get(&workload.name).copied(),
        own_ports: view.by_port.get(&workload.name),
        policy: view.mesh.policies.get(&workload.name).unwrap_or(&view.no_policy),
    })
    .collect()
}

impl<'a> Served<'a> {
    fn addresses(&self) -> Want<'a> {
        let n_ports = self.own_ports.map_or(1, BTreeSet::len);
        self.want(n_ports, PASSES)
    }

    fn settings(&self) -> Want<'a> {
        let n_settings = self.policy.ports.len();
        self.want(if self.own_ports.is_some() { 0 } else { n_settings }, BY_AGENT)
    }

    /// Entries for each of its addresses.
    fn want(&self, each: usize, without: &'static str) -> Want<'a> {
        let entries = self.workload.addresses.len() * each;
        Want::new(Kind::Workload, &self.workload.name, entries, without)
    }
}

/// Says what becomes of all ports of a service's addresses that have no entries of their own.
fn all_ports(service: &Virtual<'_>, flags: u32, wanted: &mut Entries) {
    let entry = Destination { owner: 0, workload: 0, set: 0, flags, pad: 0 };
    for address in service.addresses() {
        let key = DestinationKey::any_tcp_port(from_ip(address));
        wanted.destinations.entry(key).or_insert(entry);
    }
}

fn add_workload(view: &View<'_>, one: &Served<'_>, has_settings: bool, wanted: &mut Entries) {
    let policy = one.policy;
    let is_here = one.local.is_some();
    let owner = one.local.filter(|_| one.own_ports.is_none()).map_or(0, |local| local.netns);
    let id = view.ids.of(&one.workload.name);
    let entry = |flags: u32| Destination { owner, workload: id, set: 0, flags, pad: 0 };
    let of_port = |port: u16| entry(guard_of(policy, port, is_here));
    // Without entries for its ports, the strictest stands for all.
    let any = || {
        let ports = policy.ports.keys().filter(|_| !has_settings);
        let strictest = ports.fold(0, |all, port| all | guard_of(policy, *port, is_here));
        entry(guard_of(policy, 0, is_here) | (strictest & GUARDED))
    };
    // Addresses that others keep are not its own, here or elsewhere.
    let own = one.workload.addresses.iter().filter(|ip| view.mesh.keeps(one.workload, **ip));
    for ip in own {
        let address = from_ip(*ip);
        if let Some(ports) = one.own_ports {
            let listens = |port: u16| view.mesh.listens(one.workload, SocketAddr::new(*ip, port));
            for port in ports.iter().filter(|port| listens(**port)) {
                let key = DestinationKey::tcp(address, port.to_be());
                wanted.destinations.entry(key).or_insert_with(|| of_port(*port));
            }
            continue;
        }
        let key = DestinationKey::any_tcp_port(address);
        let there = wanted.destinations.entry(key).or_insert_with(any);
        // A workload of this node wins an address over a stale one of elsewhere.
        if there.owner == 0 && owner != 0 {
            *there = any();
        }
        for port in policy.ports.keys().filter(|_| has_settings) {
            let key = DestinationKey::tcp(address, port.to_be());
            wanted.destinations.entry(key).or_insert_with(|| of_port(*port));
        }
    }
}
