//! Contents of the maps, case by case.

mod room;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::addr::user::from_ip;
use mesh_common::backend::CHUNK_SLOTS;
use mesh_common::connect::{Action as Verb, Caller, Maps, decide, may_go_past};
use mesh_common::destination::{ASK, HAS_CONSUMERS};
use mesh_common::source::{BY_CGROUP, CGROUP};
use mesh_common::verdict::{ALLOW, ASK_AGENT, DENY};

use proptest::prelude::*;

use super::*;
use crate::authz::tests::{addresses, http_policies, principals};
use crate::authz::{self, Request};
use crate::model::external::External;
use crate::model::http;
use crate::model::policy::{Action, AuthorizationPolicy, Block, Egress, Operation, Rule, Text};
use crate::model::policy::{PortPolicy, Source as From};
use crate::model::service::Service;
use crate::model::snapshot::{Backend, Endpoint, Endpoints, Split, Target};
use crate::model::spiffe::SpiffeId;
use crate::model::trust_domain::TrustDomains;
use crate::model::workload::{NamedPort, Place, Workload as Known};

const NODE: u64 = 1;

fn workload(name: &str, node: Option<&str>, address: &str) -> Known {
    Known {
        name: ResourceName::new("demo", name),
        identity: SpiffeId::new("cluster.local", "demo", name).unwrap(),
        node: node.map(Into::into),
        addresses: vec![address.parse().unwrap()],
        labels: BTreeMap::new(),
        ports: Vec::new(),
        place: Place::Unplaced,
        ready: true,
        probes: Vec::new(),
    }
}

fn mesh(workloads: Vec<Known>) -> Snapshot {
    let mut mesh = Snapshot::default();
    for workload in workloads.into_iter().map(Arc::new) {
        for address in &workload.addresses {
            mesh.by_address.entry(*address).or_default().push(Arc::clone(&workload));
            for port in &workload.ports {
                let at = (*address, port.port).into();
                mesh.by_port.entry(at).or_default().push(Arc::clone(&workload));
            }
        }
        mesh.workloads.insert(workload.name.clone(), workload);
    }
    mesh
}

fn three() -> Snapshot {
    mesh(vec![
        workload("here", Some("a"), "10.0.0.1"),
        workload("there", Some("b"), "10.0.0.2"),
        workload("outside", None, "10.0.0.3"),
    ])
}

fn pod(name: &str, netns: u64) -> Enrolled {
    let source = SourceKey::netns(netns);
    Enrolled { name: ResourceName::new("demo", name), source, netns, ready: true, device: 0 }
}

fn unit(name: &str, cgroup: u64) -> Enrolled {
    let source = SourceKey::cgroup(cgroup);
    Enrolled { name: ResourceName::new("demo", name), source, netns: NODE, ready: true, device: 0 }
}

fn places(enrolled: &[Enrolled]) -> Places {
    enrolled.iter().cloned().collect()
}

fn compile(mesh: &Snapshot, enrolled: &[Enrolled]) -> Entries {
    entries(mesh, &places(enrolled), NODE, &mut SetIds::after(0))
}

fn id(name: &str) -> u64 {
    id_of(&ResourceName::new("demo", name))
}

fn at(entries: &Entries, address: &str, port: u16) -> Option<Destination> {
    let key = DestinationKey::tcp(from_ip(address.parse().unwrap()), port.to_be());
    entries.destinations.get(&key).copied()
}

fn policy(action: Action, rules: Vec<Rule>) -> Arc<AuthorizationPolicy> {
    let name = ResourceName::new("demo", "policy");
    Arc::new(AuthorizationPolicy { name, selector: BTreeMap::new(), action, dry_run: false, rules })
}

fn restrict(mesh: &mut Snapshot, name: &str, policies: Vec<Arc<AuthorizationPolicy>>) {
    let policy = WorkloadPolicy { authorization: policies, ..WorkloadPolicy::default() };
    mesh.policies.insert(ResourceName::new("demo", name), Arc::new(policy));
}

#[test]
fn a_workload_of_this_node_owns_its_address() {
    let entries = compile(&three(), &[pod("here", 42)]);
    let here = at(&entries, "10.0.0.1", 0).unwrap();
    assert_eq!((here.owner, here.workload), (42, id("here")));
    let there = at(&entries, "10.0.0.2", 0).unwrap();
    assert_eq!((there.owner, there.workload), (0, 0));
    assert_eq!(at(&entries, "10.0.0.3", 0), None);
    assert_eq!(entries.workloads[&id("here")].netns, 42);
    assert_eq!(entries.sources.len(), 1);
}

#[test]
fn what_is_not_ready_is_captured_and_not_connected_to() {
    let waiting = Enrolled { ready: false, ..pod("here", 42) };
    let entries = compile(&three(), &[waiting]);
    let source = entries.sources[&SourceKey::netns(42)];
    assert_eq!((source.workload, source.flags & WAITING), (id("here"), WAITING));
    assert!(entries.inbound.contains_key(&PortKey::new(42, 0)));
    assert!(entries.workloads.is_empty());
}

#[test]
fn units_share_an_address_by_their_ports() {
    let unit_of = |name: &str, port: u16| Known {
        ports: vec![NamedPort { name: "main".into(), port }],
        place: Place::Cgroup(name.into()),
        ..workload(name, Some("a"), "10.0.0.1")
    };
    let mesh = mesh(vec![unit_of("db", 5432), unit_of("web", 80)]);
    let entries = compile(&mesh, &[unit("db", 7), unit("web", 8)]);
    assert_eq!(at(&entries, "10.0.0.1", 0), None);
    assert_eq!(at(&entries, "10.0.0.1", 80).unwrap().workload, id("web"));
    assert_eq!(at(&entries, "10.0.0.1", 5432).unwrap().owner, 0);
    assert_eq!(entries.inbound[&PortKey::new(NODE, 5432_u16.to_be())].workload, id("db"));
    assert_eq!(entries.inbound.get(&PortKey::new(NODE, 0)), None);
    assert_eq!(entries.sources[&SourceKey::cgroup(7)].flags & ENROLLED, ENROLLED);
    assert_eq!(
        entries.sources[&SourceKey::netns(NODE)].flags,
        BY_CGROUP | mesh_common::source::NODE
    );
    assert_eq!(entries.sources.keys().filter(|key| key.kind == CGROUP).count(), 2);
}

#[test]
fn ports_of_the_agent_are_no_units() {
    let both = ["main", "other"].into_iter().zip([80, 15000]);
    let ports = both.map(|(name, port)| NamedPort { name: name.into(), port });
    let web = Known {
        ports: ports.collect(),
        place: Place::Cgroup("web".into()),
        ..workload("web", Some("a"), "10.0.0.1")
    };
    let mesh = mesh(vec![web]);
    let awaited =
        Awaited { name: ResourceName::new("demo", "web"), path: PathKey { path: [0; 256] } };
    for enrolled in [vec![unit("web", 7)], vec![]] {
        let own = Arc::new(BTreeSet::from([15000]));
        let places = enrolled.into_iter().collect::<Places>();
        let places = places.awaiting(vec![awaited.clone()]).without_ports(own);
        let entries = entries(&mesh, &places, NODE, &mut SetIds::after(0));
        let has = |port: u16| entries.inbound.contains_key(&PortKey::new(NODE, port.to_be()));
        assert_eq!([has(80), has(15000)], [true, false]);
    }
}

#[test]
fn a_place_is_one_workloads() {
    let mut mesh = mesh(vec![
        workload("here", Some("a"), "10.0.0.1"),
        workload("thief", Some("a"), "10.0.0.9"),
    ]);
    let strict = WorkloadPolicy { mtls: MtlsMode::Strict, ..WorkloadPolicy::default() };
    mesh.policies.insert(ResourceName::new("demo", "here"), Arc::new(strict));
    let open = PortPolicy { mtls: MtlsMode::Disable, ..PortPolicy::default() };
    let open = WorkloadPolicy {
        mtls: MtlsMode::Disable,
        failure: Some(FailureMode::Open),
        ports: BTreeMap::from([(80, open)]),
        ..WorkloadPolicy::default()
    };
    mesh.policies.insert(ResourceName::new("demo", "thief"), Arc::new(open));
    for (here, thief) in [
        (pod("here", 42), pod("thief", 42)),
        (pod("here", 42), Enrolled { ready: false, ..pod("thief", 42) }),
        (unit("here", 7), unit("thief", 7)),
    ] {
        let alone = compile(&mesh, std::slice::from_ref(&here));
        let both = compile(&mesh, &[here.clone(), thief]);
        assert_eq!(both.sources[&here.source], alone.sources[&here.source]);
        assert_eq!((both.inbound, both.workloads), (alone.inbound, alone.workloads));
    }
}

#[test]
fn the_nodes_probes_are_let_to_the_ports_that_declare_them() {
    let probed = Known { probes: vec![8081], ..workload("here", Some("a"), "10.0.0.1") };
    let entries = compile(&mesh(vec![probed]), &[pod("here", 42)]);
    let key = DestinationKey::tcp(from_ip([10, 0, 0, 1].into()), 8081_u16.to_be());
    assert_eq!(entries.probes[&key], id("here"));
    assert_eq!(entries.sources[&SourceKey::netns(NODE)].flags, mesh_common::source::NODE);
}

#[test]
fn modes_and_ports_become_flags() {
    let mut mesh = three();
    let strict =
        PortPolicy { mtls: MtlsMode::Strict, same_node: SameNode::Mtls, ..PortPolicy::default() };
    let policy = WorkloadPolicy {
        ports: BTreeMap::from([(80, strict)]),
        acceleration: Acceleration::Sockmap,
        ..WorkloadPolicy::default()
    };
    mesh.policies.insert(ResourceName::new("demo", "here"), Arc::new(policy));
    let entries = compile(&mesh, &[pod("here", 42)]);
    let source = entries.sources[&SourceKey::netns(42)];
    // One of its ports takes no plaintext.
    assert_eq!(source.flags, ENROLLED | ACCELERATE | FAIL_OPEN | GUARDED);
    assert_eq!(entries.workloads[&id("here")].flags, ACCELERATE | BY_PORT);
    assert_eq!(entries.ports[&PortKey::new(id("here"), 80_u16.to_be())], VIA_AGENT);
    let inbound = |port: u16| entries.inbound[&PortKey::new(42, port.to_be())].flags;
    assert_eq!(inbound(0), CAPTURE | FAIL_OPEN);
    assert_eq!(inbound(80), CAPTURE | GUARDED | FAIL_OPEN);
    assert_eq!(at(&entries, "10.0.0.1", 80).unwrap().flags, GUARDED);
    assert_eq!(at(&entries, "10.0.0.1", 0).unwrap().flags, 0);
}

#[test]
fn a_source_has_the_workloads_first_address_of_each_family() {
    let addresses = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let known = Known { addresses, ..workload("here", Some("a"), "10.0.0.1") };
        let source = compile(&mesh(vec![known]), &[pod("here", 42)]).sources[&SourceKey::netns(42)];
        (source.v4_be, source.v6)
    };
    let (v4, v6) = (0x0a00_0001_u32.to_be(), from_ip("fd00::1".parse().unwrap()));
    assert_eq!(addresses(&["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]), (v4, v6));
    assert_eq!(addresses(&["fd00::1"]), (0, v6));
    assert_eq!(addresses(&["10.0.0.1"]), (v4, [0; 4]));
}

/// The flags of an arrival and of both kinds of destination, for a policy on both `here`, which is
/// of this node, and `there`: whether each is guarded.
fn guards(policy: &WorkloadPolicy) -> [bool; 4] {
    let mut mesh = three();
    for name in ["here", "there"] {
        mesh.policies.insert(ResourceName::new("demo", name), Arc::new(policy.clone()));
    }
    service(&mut mesh, &[(1, &["here", "there"])], None);
    let entries = compile(&mesh, &[pod("here", 42)]);
    let slots = entries.sets.values().next().unwrap();
    let at = |address| at(&entries, address, 0).unwrap().flags;
    assert_eq!([slots[0].flags, slots[1].flags], [at("10.0.0.1"), at("10.0.0.2")]);
    let arrival = entries.inbound[&PortKey::new(42, 0)].flags;
    let fails_open = arrival & FAIL_OPEN != 0;
    [arrival & GUARDED != 0, at("10.0.0.1") != 0, at("10.0.0.2") != 0, fails_open]
}

#[test]
fn a_policy_that_needs_the_agent_is_not_passed_without_it() {
    let who = From { principals: vec![Text::Present], ..From::default() };
    let by_who = Rule { from: vec![who], ..Rule::default() };
    let by_port =
        Rule { to: vec![Operation { ports: vec![80], ..Operation::default() }], ..Rule::default() };
    let check = |policies: &[Arc<AuthorizationPolicy>], failure, expect: [bool; 4]| {
        let authorization = policies.to_vec();
        let policy = WorkloadPolicy { failure, authorization, ..WorkloadPolicy::default() };
        assert_eq!(guards(&policy), expect, "{policies:?} {failure:?}");
    };
    let (yes, no) = (true, false);
    let deny = |rule: &Rule| policy(Action::Deny, vec![rule.clone()]);
    check(&[], None, [no, no, no, yes]);
    // From elsewhere it is the workload's own agent that judges, and an identity is what it misses.
    check(&[deny(&by_port)], None, [yes, yes, no, yes]);
    check(&[deny(&by_who)], None, [yes, yes, yes, yes]);
    check(&[policy(Action::Allow, vec![by_who.clone()])], None, [yes, yes, yes, yes]);
    check(&[deny(&by_who)], Some(FailureMode::Static), [yes, yes, yes, no]);
    // Only by its own word, and never where nobody is let in anyway.
    check(&[deny(&by_who)], Some(FailureMode::Open), [no, no, no, yes]);
    check(&[deny(&Rule::default())], Some(FailureMode::Open), [yes, yes, no, yes]);
    check(&[policy(Action::Allow, vec![])], Some(FailureMode::Open), [yes, yes, no, yes]);
    // Neither of these decides anything.
    check(&[policy(Action::Audit, vec![by_who.clone()])], None, [no, no, no, yes]);
    check(&[policy(Action::Deny, vec![])], None, [no, no, no, yes]);
    let tried = AuthorizationPolicy { dry_run: true, ..(*deny(&by_who)).clone() };
    check(&[Arc::new(tried)], None, [no, no, no, yes]);
}

#[test]
fn verdicts_are_those_of_the_policies() {
    let mut mesh = mesh(vec![
        workload("a", Some("n"), "10.0.0.1"),
        workload("b", Some("n"), "10.0.0.2"),
        workload("c", Some("n"), "10.0.0.3"),
    ]);
    let from_a = From {
        principals: vec![Text::Exact("cluster.local/ns/demo/sa/a".into())],
        ..From::default()
    };
    let to_80 = Operation { ports: vec![80], ..Operation::default() };
    let rule = Rule { from: vec![from_a], to: vec![to_80], ..Rule::default() };
    restrict(&mut mesh, "c", vec![policy(Action::Allow, vec![rule])]);
    let enrolled = [pod("a", 11), pod("b", 12), pod("c", 13)];
    let entries = compile(&mesh, &enrolled);
    let class = entries.workloads[&id("c")].class;
    assert_ne!(class, 0);
    assert_eq!(entries.workloads[&id("a")].class, 0);
    let verdict = |source: &str, port: u16| {
        let exact = entries.verdicts.get(&VerdictKey::new(id(source), class, port.to_be()));
        exact.or(entries.verdicts.get(&VerdictKey::new(id(source), class, 0))).unwrap().says
    };
    assert_eq!((verdict("a", 80), verdict("a", 81)), (ALLOW, DENY));
    assert_eq!((verdict("b", 80), verdict("b", 81)), (DENY, DENY));
    let policy = id_of(&ResourceName::new("demo", "policy"));
    assert_eq!(entries.verdicts[&VerdictKey::new(id("b"), class, 0)].policy, policy);
}

#[test]
fn what_depends_on_which_address_is_left_to_the_agent() {
    let two = Known {
        addresses: vec!["10.0.0.1".parse().unwrap(), "10.1.0.1".parse().unwrap()],
        ..workload("a", Some("n"), "10.0.0.1")
    };
    let mut mesh = mesh(vec![two, workload("c", Some("n"), "10.0.0.3")]);
    let block = Block { network: [10, 1, 0, 0].into(), prefix: 16 };
    let from = From { ip_blocks: vec![block], ..From::default() };
    let rule = Rule { from: vec![from], ..Rule::default() };
    restrict(&mut mesh, "c", vec![policy(Action::Deny, vec![rule])]);
    let entries = compile(&mesh, &[pod("a", 11), pod("c", 13), unit("x", 5)]);
    let class = entries.workloads[&id("c")].class;
    assert_eq!(entries.verdicts[&VerdictKey::new(id("a"), class, 0)].says, ASK_AGENT);
    assert_eq!(entries.verdicts[&VerdictKey::new(id("c"), class, 0)].says, ALLOW);
}

#[test]
fn a_changed_policy_is_another_class() {
    let mut mesh = three();
    let class = |mesh: &Snapshot| compile(mesh, &[pod("here", 42)]).workloads[&id("here")].class;
    restrict(&mut mesh, "here", vec![policy(Action::Allow, vec![])]);
    let first = class(&mesh);
    restrict(&mut mesh, "here", vec![policy(Action::Deny, vec![])]);
    assert_ne!(class(&mesh), first);
    restrict(&mut mesh, "here", vec![policy(Action::Allow, vec![])]);
    assert_eq!(class(&mesh), first);
}

fn service(mesh: &mut Snapshot, weights: &[(u32, &[&str])], consumer: Option<&str>) -> SocketAddr {
    let service = Arc::new(Service {
        name: ResourceName::new("demo", "echo"),
        hostname: "echo.demo.svc.cluster.local".into(),
        addresses: Vec::new(),
        ports: Vec::new(),
        selector: BTreeMap::new(),
    });
    let endpoint = |name: &&str| {
        let workload = Arc::clone(&mesh.workloads[&ResourceName::new("demo", *name)]);
        Endpoint { address: SocketAddr::new(workload.addresses[0], 8080), workload }
    };
    let backend = |(weight, names): &(u32, &[&str])| Backend {
        service: service.name.clone(),
        port: 80,
        weight: *weight,
        endpoints: Endpoints::Resolved {
            service: Arc::clone(&service),
            endpoints: names.iter().map(endpoint).collect(),
        },
    };
    let split =
        || Split { route: None, backends: weights.iter().map(backend).collect(), http: None };
    let by_namespace = consumer.map(|namespace| (namespace.into(), split())).into_iter().collect();
    let (port, default) = (80, split());
    let target = Target { service: Arc::clone(&service), port, default, by_namespace };
    let address = "10.96.0.10:80".parse().unwrap();
    mesh.services.insert(address, Arc::new(target));
    address
}

#[test]
fn a_set_has_its_endpoints_and_says_which_are_here() {
    let mut mesh = three();
    service(&mut mesh, &[(90, &["here", "there"]), (10, &["outside"]), (0, &[])], Some("shop"));
    let mut ids = SetIds::after(7);
    let entries = entries(&mesh, &places(&[pod("here", 42)]), NODE, &mut ids);
    let found = at(&entries, "10.96.0.10", 80).unwrap();
    assert_eq!((found.set, found.flags & HAS_CONSUMERS), (8, HAS_CONSUMERS));
    let slots = &entries.sets[&8];
    assert_eq!((slots.len(), slots[0].backends, slots[0].total), (3, 3, 100));
    let who: Vec<_> = slots.iter().map(|slot| slot.workload).collect();
    assert_eq!(who, [id("here"), 0, 0]);
    let ranges: Vec<_> = slots.iter().map(|slot| (slot.first, slot.count)).collect();
    assert_eq!(ranges, [(0, 2), (2, 1), (3, 0)]);
    let key = ConsumerKey { namespace: id_of(&"shop"), set: 8, pad: 0 };
    assert_eq!(entries.sets[&entries.consumers[&key]], *slots);
}

/// The maps as the kernel would ask them, with each random number of a list in turn.
struct Kernel<'a>(&'a Entries, std::cell::Cell<u32>);

impl Maps for Kernel<'_> {
    fn destination(&self, key: &DestinationKey) -> Option<Destination> {
        self.0.destinations.get(key).copied()
    }
    fn consumer(&self, key: &ConsumerKey) -> Option<u32> {
        self.0.consumers.get(key).copied()
    }
    fn slot(&self, set: u32, index: u32) -> Option<&Slot> {
        self.0.sets.get(&set)?.get(usize::try_from(index).ok()?)
    }
    fn workload(&self, id: u64) -> Option<Workload> {
        self.0.workloads.get(&id).copied()
    }
    fn port(&self, key: &PortKey) -> Option<u32> {
        self.0.ports.get(key).copied()
    }
    fn verdict(&self, key: &VerdictKey) -> Option<Verdict> {
        self.0.verdicts.get(key).copied()
    }
    fn external(&self, key: &ExternalKey) -> bool {
        self.0.externals.contains(&(*key, mesh_common::external::ALL_BITS))
    }
    fn inbound(&self, key: &PortKey) -> Option<Inbound> {
        self.0.inbound.get(key).copied()
    }
    fn random(&self) -> u32 {
        // The steps of Weyl's sequence by the golden ratio fall everywhere.
        self.1.set(self.1.get().wrapping_add(0x9e37_79b9));
        self.1.get()
    }
}

/// A service whose endpoints are all on this node, with HTTP routes for clients of the scopes that
/// say so: all, and those of `shop`, if that has routes of its own.
fn routed(default: bool, shop: Option<bool>) -> Snapshot {
    let mut mesh = mesh(vec![
        workload("client", Some("a"), "10.0.0.1"),
        workload("one", Some("a"), "10.0.0.2"),
        workload("two", Some("a"), "10.0.0.3"),
    ]);
    let address = service(&mut mesh, &[(1, &["one", "two", "client"])], shop.map(|_| "shop"));
    let mut target = Arc::into_inner(mesh.services.remove(&address).unwrap()).unwrap();
    let rules = || {
        let (kind, rules, table) = (http::Kind::Http, Vec::new(), http::table::Table::default());
        Some(Arc::new(http::rules::HttpRules { kind, rules, table: table.into() }))
    };
    target.default.http = if default { rules() } else { None };
    for split in target.by_namespace.values_mut() {
        split.http = if shop == Some(true) { rules() } else { None };
    }
    mesh.services.insert(address, Arc::new(target));
    mesh
}

proptest! {
    #[test]
    fn requests_that_are_routed_always_come_to_the_agent(
        default: bool, shop: Option<bool>, in_shop: bool, denied: bool, flags: u32, seed: u32,
    ) {
        let mut mesh = routed(default, shop);
        if denied {
            restrict(&mut mesh, "one", vec![policy(Action::Allow, vec![])]);
        }
        let here = [pod("client", 11), pod("one", 12), pod("two", 13)];
        let entries = compile(&mesh, &here);
        let namespace = id_of(&if in_shop { "shop" } else { "demo" });
        let source = Source { namespace, flags, ..entries.sources[&SourceKey::netns(11)] };
        let caller = Caller { netns: 11, source, shares: false };
        let kernel = Kernel(&entries, seed.into());
        let to = from_ip([10, 96, 0, 10].into());
        let is_routed = if in_shop { shop.unwrap_or(default) } else { default };
        for _ in 0..32 {
            let decision = decide(&caller, to, 80_u16.to_be(), &kernel);
            if is_routed {
                prop_assert_eq!((decision.verdict, decision.port_be), (Verb::Proxy, 0));
                // Nor past an agent that does not answer: nobody would look into the requests.
                prop_assert!(!may_go_past(&source, to, &decision));
            } else {
                prop_assert_eq!(decision.port_be, 8080_u16.to_be());
            }
        }
    }
}

#[test]
fn routes_for_one_namespace_leave_the_others_direct() {
    let mesh = routed(false, Some(true));
    let entries = compile(&mesh, &[pod("client", 11), pod("one", 12), pod("two", 13)]);
    let source = entries.sources[&SourceKey::netns(11)];
    let kernel = Kernel(&entries, 0.into());
    let to = from_ip([10, 96, 0, 10].into());
    let by = |namespace: &str| {
        let source = Source { namespace: id_of(&namespace), ..source };
        let caller = Caller { netns: 11, source, shares: false };
        decide(&caller, to, 80_u16.to_be(), &kernel).verdict
    };
    assert_eq!((by("demo"), by("shop")), (Verb::Direct, Verb::Proxy));
}

#[test]
fn numbers_of_sets_stay_and_are_not_given_out_again() {
    let mut mesh = three();
    let address = service(&mut mesh, &[(1, &["here"])], None);
    let mut ids = SetIds::after(0);
    let set = |mesh: &Snapshot, ids: &mut SetIds| {
        let entries = entries(mesh, &Places::default(), NODE, ids);
        entries.sets.keys().next().copied()
    };
    assert_eq!(set(&mesh, &mut ids), Some(1));
    assert_eq!(set(&mesh, &mut ids), Some(1));
    let target = mesh.services.remove(&address).unwrap();
    assert_eq!(set(&mesh, &mut ids), None);
    mesh.services.insert(address, target);
    assert_eq!(set(&mesh, &mut ids), Some(2));
    // Other slots are another set: no program sees half of each.
    service(&mut mesh, &[(1, &["there"])], None);
    assert_eq!(set(&mesh, &mut ids), Some(3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// One decision, compiled: what the kernel lets pass or refuses, the agent would let pass or
    /// refuse for the same reason, from every address of the source, and whatever it carries.
    #[test]
    fn the_kernel_says_what_the_agent_says_or_asks_it(
        policies in http_policies(), principal in principals(), port in 79_u16..84,
        addresses in prop::collection::vec(addresses(), 1..3), shares: bool,
    ) {
        let source = Known {
            identity: principal.clone(),
            addresses: addresses.clone(),
            ..workload("a", Some("n"), "10.0.0.1")
        };
        let mut mesh = mesh(vec![source, workload("c", Some("n"), "10.0.0.3")]);
        restrict(&mut mesh, "c", policies.clone());
        let from = if shares { unit("a", 11) } else { pod("a", 11) };
        let entries = compile(&mesh, &[from, pod("c", 13)]);
        let class = entries.workloads[&id("c")].class;
        let says = if class == 0 {
            Verdict { policy: 0, says: ALLOW, pad: 0 }
        } else {
            let exact = entries.verdicts.get(&VerdictKey::new(id("a"), class, port.to_be()));
            *exact.or(entries.verdicts.get(&VerdictKey::new(id("a"), class, 0))).unwrap()
        };
        let agent: Vec<_> = addresses.iter().map(|address| {
            let request =
                Request { principal: Some(&principal), address: *address, port, http: None };
            authz::decide(&policies, &request)
        }).collect();
        match says.says {
            ALLOW => prop_assert!(agent.iter().all(|verdict| *verdict == authz::Verdict::Allow)),
            DENY => prop_assert!(agent.iter().all(|verdict| matches!(
                verdict, authz::Verdict::Deny(denial) if id_of(denial.policy()) == says.policy
            ))),
            _ => {
                let seen = agent.iter().any(|one| matches!(one, authz::Verdict::ByRequest(_)));
                let differs = agent.iter().any(|one| *one != agent[0]);
                prop_assert!(seen || differs || shares, "asked in vain: {agent:?}");
            }
        }
    }
}

/// The policies with their principals as documents of a mesh of `domains` mean them.
fn meant(
    policies: &[Arc<AuthorizationPolicy>],
    domains: &TrustDomains,
) -> Vec<Arc<AuthorizationPolicy>> {
    let texts = |texts: &mut Vec<Text>| {
        let each = texts.iter().map(|text| (text.clone(), domains.principals(text)));
        let meant =
            each.flat_map(|(text, meant)| if meant.is_empty() { vec![text] } else { meant });
        *texts = meant.collect();
    };
    let one = |policy: &Arc<AuthorizationPolicy>| {
        let mut policy = AuthorizationPolicy::clone(policy);
        for rule in &mut policy.rules {
            for source in rule.from.iter_mut().chain(rule.when.iter_mut().map(|w| &mut w.source)) {
                texts(&mut source.principals);
                texts(&mut source.not_principals);
            }
        }
        Arc::new(policy)
    };
    policies.iter().map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Of a workload under each of its names: the kernel says of its own what the agent says of a
    /// peer's certificate in an alias.
    #[test]
    fn a_workload_is_judged_alike_in_every_trust_domain_of_the_mesh(
        written in http_policies(), principal in principals(), port in 79_u16..84,
        alias in "[a-z]{1,2}", is_renamed: bool,
    ) {
        // A mesh that has moved to another trust domain, or one with a further alias.
        let (own, aliases) = if is_renamed {
            ("renamed".to_owned(), vec![principal.trust_domain().to_owned(), alias])
        } else {
            (principal.trust_domain().to_owned(), vec![alias])
        };
        let policies = meant(&written, &TrustDomains::new(&own, aliases.clone()));
        let twin = |domain: &String| {
            SpiffeId::new(domain, principal.namespace(), principal.service_account()).unwrap()
        };
        let source = Known { identity: twin(&own), ..workload("a", Some("n"), "10.0.0.1") };
        let address = source.addresses[0];
        let mut mesh = mesh(vec![source, workload("c", Some("n"), "10.0.0.3")]);
        restrict(&mut mesh, "c", policies.clone());
        let entries = compile(&mesh, &[pod("a", 11), pod("c", 13)]);
        let class = entries.workloads[&id("c")].class;
        let exact = entries.verdicts.get(&VerdictKey::new(id("a"), class, port.to_be()));
        let any = || entries.verdicts.get(&VerdictKey::new(id("a"), class, 0));
        let says = exact.or_else(any).map_or(ALLOW, |verdict| verdict.says);
        for domain in aliases.iter().chain([&own]) {
            let twin = twin(domain);
            let request = Request { principal: Some(&twin), address, port, http: None };
            let agent = match authz::decide(&policies, &request) {
                authz::Verdict::Allow => ALLOW,
                authz::Verdict::Deny(_) => DENY,
                authz::Verdict::ByRequest(_) => ASK_AGENT,
            };
            prop_assert_eq!(says, agent, "{}", twin);
        }
    }
}

#[test]
fn what_lies_outside_is_known_only_where_somebody_asks() {
    let mut mesh = three();
    let block = |network: [u8; 4], prefix| Block { network: network.into(), prefix };
    let external = External {
        name: ResourceName::new("demo", "api"),
        blocks: vec![block([192, 0, 2, 0], 24)],
        ports: vec![443],
        exported_to: Some(vec!["demo".into()]),
    };
    mesh.externals = vec![Arc::new(external)];
    assert!(compile(&mesh, &[pod("here", 42)]).externals.is_empty());
    for (egress, flag) in [(Egress::Log, REPORT_OUTSIDE), (Egress::RegistryOnly, DENY_OUTSIDE)] {
        let policy = WorkloadPolicy { egress, ..WorkloadPolicy::default() };
        mesh.policies.insert(ResourceName::new("demo", "here"), Arc::new(policy));
        let entries = compile(&mesh, &[pod("here", 42)]);
        let source = entries.sources[&SourceKey::netns(42)];
        assert_eq!(source.flags & (REPORT_OUTSIDE | DENY_OUTSIDE), flag);
        let network = from_ip([192, 0, 2, 0].into());
        let listed = ExternalKey::new(id_of(&"demo"), 443_u16.to_be(), network);
        // A workload without an agent is known as well.
        let bare = ExternalKey::new(0, 0, from_ip([10, 0, 0, 3].into()));
        let expect = [(listed, 96 + 96 + 24), (bare, 96 + 128)];
        assert_eq!(entries.externals, expect.into());
    }
}
