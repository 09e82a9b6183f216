//! Decisions about a `connect()`, case by case.

use std::collections::BTreeMap;

use super::*;
use crate::addr::from_v4_be;
use crate::verdict::ASK_AGENT;
use crate::workload::{FAIL_CLOSED, FAIL_OPEN};

/// The caller's namespace and workload, and another workload of the node.
const HERE: u64 = 7;
const CALLER: u64 = 70;
const OTHER: u64 = 80;
const CLASS: u64 = 5;
const PORT: u16 = 8080_u16.to_be();

#[derive(Default)]
struct World {
    destinations: BTreeMap<DestinationKey, Destination>,
    consumers: BTreeMap<ConsumerKey, u32>,
    sets: BTreeMap<u32, Vec<Slot>>,
    workloads: BTreeMap<u64, Workload>,
    ports: BTreeMap<PortKey, u32>,
    verdicts: BTreeMap<VerdictKey, Verdict>,
    inbound: BTreeMap<PortKey, Inbound>,
    externals: Vec<(ExternalKey, u32)>,
}

impl Maps for World {
    fn destination(&self, key: &DestinationKey) -> Option<Destination> {
        self.destinations.get(key).copied()
    }
    fn consumer(&self, key: &ConsumerKey) -> Option<u32> {
        self.consumers.get(key).copied()
    }
    fn slot(&self, set: u32, index: u32) -> Option<&Slot> {
        self.sets.get(&set)?.get(usize::try_from(index).ok()?)
    }
    fn workload(&self, id: u64) -> Option<Workload> {
        self.workloads.get(&id).copied()
    }
    fn port(&self, key: &PortKey) -> Option<u32> {
        self.ports.get(key).copied()
    }
    fn verdict(&self, key: &VerdictKey) -> Option<Verdict> {
        self.verdicts.get(key).copied()
    }
    fn external(&self, key: &ExternalKey) -> bool {
        let bits = |key: &ExternalKey| {
            let words = key.namespace.iter().chain([&key.port_be]).chain(&key.addr);
            let bytes = words.flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
            bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect()
        };
        let asked: Vec<u8> = bits(key);
        self.externals.iter().any(|(known, prefix)| {
            let (known, prefix): (Vec<u8>, _) = (bits(known), usize::try_from(*prefix).unwrap());
            known[..prefix] == asked[..prefix]
        })
    }
    fn inbound(&self, key: &PortKey) -> Option<Inbound> {
        self.inbound.get(key).copied()
    }
    fn random(&self) -> u32 {
        0
    }
}

fn addr(last: u32) -> Addr {
    from_v4_be(last)
}

fn destination(owner: u64, workload: u64, set: u32, flags: u32) -> Destination {
    Destination { owner, workload, set, flags, pad: 0 }
}

/// A pod of the node at address 2, that anybody may connect to.
fn world() -> World {
    let mut world = World::default();
    let key = DestinationKey::any_tcp_port(addr(2));
    world.destinations.insert(key, destination(8, OTHER, 0, 0));
    world.workloads.insert(OTHER, Workload { netns: 8, class: 0, flags: 0, pad: 0 });
    world
}

/// A service at address 9, with one endpoint: this workload at address 2.
fn serve(world: &mut World, set: u32, workload: u64) {
    let slot = Slot {
        addr: addr(2),
        workload,
        port_be: PORT,
        threshold: 1,
        count: 1,
        backends: 1,
        total: 1,
        ..Slot::EMPTY
    };
    world.sets.insert(set, vec![slot]);
    let key = DestinationKey::tcp(addr(9), 80_u16.to_be());
    world.destinations.entry(key).or_insert_with(|| destination(0, 0, set, 0));
}

fn caller(flags: u32, shares: bool) -> Caller {
    let source = Source { workload: CALLER, namespace: 3, ..Source::new(flags) };
    Caller { netns: HERE, source, shares }
}

fn ask(world: &World, to: Addr, port_be: u16) -> Action {
    decide(&caller(0, false), to, port_be, world).verdict
}

#[test]
fn what_is_not_the_meshs_passes() {
    let mut world = world();
    serve(&mut world, 1, OTHER);
    assert_eq!(ask(&world, addr(3), PORT), Action::Pass);
    assert_eq!(ask(&world, addr(9), 81_u16.to_be()), Action::Pass);
}

#[test]
fn a_pod_that_talks_to_itself_passes() {
    let mut world = world();
    let own = DestinationKey::any_tcp_port(addr(1));
    world.destinations.insert(own, destination(HERE, CALLER, 0, 0));
    assert_eq!(ask(&world, addr(1), PORT), Action::Pass);
}

#[test]
fn a_workload_of_the_node_is_connected_to_directly() {
    let mut world = world();
    serve(&mut world, 1, OTHER);
    for (to, port) in [(addr(2), PORT), (addr(9), 80_u16.to_be())] {
        let decision = decide(&caller(0, false), to, port, &world);
        assert_eq!(decision.verdict, Action::Direct);
        assert_eq!((decision.addr, decision.port_be, decision.workload), (addr(2), PORT, OTHER));
    }
}

#[test]
fn what_is_elsewhere_or_not_ready_goes_to_the_agent_with_the_pick() {
    let mut world = world();
    world.workloads.clear();
    for workload in [0, OTHER] {
        serve(&mut world, 1, workload);
        let decision = decide(&caller(0, false), addr(9), 80_u16.to_be(), &world);
        assert_eq!((decision.verdict, decision.port_be), (Action::Proxy, PORT));
    }
    assert_eq!(ask(&world, addr(2), PORT), Action::Proxy);
}

#[test]
fn settings_of_either_end_send_it_to_the_agent() {
    let mut world = world();
    let by = |world: &World, flags| decide(&caller(flags, false), addr(2), PORT, world).verdict;
    assert_eq!(by(&world, VIA_AGENT), Action::Proxy);
    world.workloads.get_mut(&OTHER).unwrap().flags = VIA_AGENT | BY_PORT;
    assert_eq!(by(&world, 0), Action::Proxy);
    world.ports.insert(PortKey::new(OTHER, PORT), 0);
    assert_eq!(by(&world, 0), Action::Direct, "the port's own setting counts");
    world.ports.insert(PortKey::new(OTHER, PORT), VIA_AGENT);
    world.workloads.get_mut(&OTHER).unwrap().flags = BY_PORT;
    assert_eq!(by(&world, 0), Action::Proxy);
}

#[test]
fn the_verdict_of_the_port_counts_before_that_of_all_others() {
    let mut world = world();
    world.workloads.get_mut(&OTHER).unwrap().class = CLASS;
    assert_eq!(ask(&world, addr(2), PORT), Action::Proxy, "what is not known is not allowed");
    let say = |world: &mut World, port, says| {
        let value = Verdict { policy: 4, says, pad: 0 };
        world.verdicts.insert(VerdictKey::new(CALLER, CLASS, port), value);
    };
    say(&mut world, 0, DENY);
    let decision = decide(&caller(VIA_AGENT, false), addr(2), PORT, &world);
    assert_eq!((decision.verdict, decision.policy), (Action::Deny, 4), "also through the agent");
    say(&mut world, PORT, ALLOW);
    assert_eq!(ask(&world, addr(2), PORT), Action::Direct);
    assert_eq!(ask(&world, addr(2), 1), Action::Deny);
    say(&mut world, PORT, ASK_AGENT);
    assert_eq!(ask(&world, addr(2), PORT), Action::Proxy);
    say(&mut world, PORT, 77);
    assert_eq!(ask(&world, addr(2), PORT), Action::Proxy, "an unknown word is not allowed");
}

#[test]
fn nobody_and_unknown_sets() {
    let mut world = world();
    serve(&mut world, 1, OTHER);
    world.sets.get_mut(&1).unwrap()[0].count = 0;
    assert_eq!(ask(&world, addr(9), 80_u16.to_be()), Action::Nobody);
    world.sets.clear();
    assert_eq!(ask(&world, addr(9), 80_u16.to_be()), Action::Proxy, "the agent knows");
}

#[test]
fn a_namespace_may_have_a_set_of_its_own() {
    let mut world = world();
    let key = DestinationKey::tcp(addr(9), 80_u16.to_be());
    world.destinations.insert(key, destination(0, 0, 1, HAS_CONSUMERS));
    serve(&mut world, 1, 0);
    serve(&mut world, 2, OTHER);
    assert_eq!(ask(&world, addr(9), 80_u16.to_be()), Action::Proxy);
    world.consumers.insert(ConsumerKey { namespace: 3, set: 1, pad: 0 }, 2);
    assert_eq!(ask(&world, addr(9), 80_u16.to_be()), Action::Direct);
}

#[test]
fn families_are_not_mixed() {
    let mut world = world();
    serve(&mut world, 1, OTHER);
    let v6 = [1, 2, 3, 4];
    let at_v6 = destination(0, 0, 1, 0);
    world.destinations.insert(DestinationKey::tcp(v6, PORT), at_v6);
    assert_eq!(ask(&world, v6, PORT), Action::Proxy);
    let decision = decide(&caller(FAIL_OPEN, false), v6, PORT, &world);
    assert!(!may_go_past(&caller(FAIL_OPEN, false).source, v6, &decision));
}

#[test]
fn units_of_a_host_meet_on_loopback() {
    let mut world = world();
    let inbound = |workload| Inbound { workload, flags: 0, pad: 0 };
    world.inbound.insert(PortKey::new(HERE, PORT), inbound(OTHER));
    world.inbound.insert(PortKey::new(HERE, 1), inbound(CALLER));
    let loopback = from_v4_be(0x7f00_0001_u32.to_be());
    let by = |port, shares| decide(&caller(0, shares), loopback, port, &world).verdict;
    assert_eq!(by(PORT, true), Action::Direct);
    assert_eq!(by(1, true), Action::Itself);
    assert_eq!(by(2, true), Action::Pass);
    assert_eq!(by(PORT, false), Action::Pass, "a pod's loopback is its own");
}

#[test]
fn only_open_goes_past_the_agent_and_only_where_plaintext_is_acceptable() {
    let mut world = world();
    world.workloads.clear();
    serve(&mut world, 1, 0);
    let check = |world: &World, flags, expect| {
        let caller = caller(flags, false);
        let decision = decide(&caller, addr(9), 80_u16.to_be(), world);
        assert_eq!(may_go_past(&caller.source, addr(9), &decision), expect);
    };
    check(&world, FAIL_OPEN, true);
    check(&world, FAIL_CLOSED, false);
    check(&world, 0, false);
    world.sets.get_mut(&1).unwrap()[0].flags = GUARDED;
    check(&world, FAIL_OPEN, false);
    world.sets.clear();
    check(&world, FAIL_OPEN, false);
}

#[test]
fn what_the_mesh_does_not_know_is_denied_or_reported_where_that_is_asked_for() {
    let mut world = world();
    let to = |world: &World, flags, last, port: u16| {
        decide(&caller(flags, false), addr(last), port.to_be(), world).verdict
    };
    assert_eq!(to(&world, 0, 3, 443), Action::Pass);
    assert_eq!(to(&world, REPORT_OUTSIDE, 3, 443), Action::Outside);
    assert_eq!(to(&world, DENY_OUTSIDE, 3, 443), Action::OutsideDenied);
    assert_eq!(to(&world, REPORT_OUTSIDE | DENY_OUTSIDE, 3, 443), Action::OutsideDenied);
    // A destination that the mesh knows is decided as ever, and what stays in the namespace passes.
    assert_eq!(to(&world, DENY_OUTSIDE, 2, 8080), Action::Direct);
    let loopback = from_v4_be(0x7f00_0001_u32.to_be());
    for inside in [loopback, [0, 0, 0, 1_u32.to_be()], [0; 4], from_v4_be(0)] {
        let decision = decide(&caller(DENY_OUTSIDE, false), inside, PORT, &world);
        assert_eq!(decision.verdict, Action::Pass);
    }
    // The caller's namespace is 3.
    for (namespace, port, known) in
        [(0, 0, true), (0, 443, true), (3, 0, true), (3, 443, true), (0, 80, false), (4, 0, false)]
    {
        let key = ExternalKey::new(namespace, u16::to_be(port), addr(3));
        world.externals = vec![(key, crate::external::ALL_BITS)];
        let expect = if known { Action::Pass } else { Action::OutsideDenied };
        assert_eq!(to(&world, DENY_OUTSIDE, 3, 443), expect, "{namespace} {port}");
        assert_eq!(to(&world, DENY_OUTSIDE, 4, 443), Action::OutsideDenied);
    }
    let network = ExternalKey::new(0, 0, from_v4_be(u32::from_be_bytes([10, 0, 0, 0]).to_be()));
    world.externals = vec![(network, crate::external::prefix_bits(96 + 8))];
    let at = |bytes: [u8; 4]| {
        let to = from_v4_be(u32::from_be_bytes(bytes).to_be());
        decide(&caller(DENY_OUTSIDE, false), to, PORT, &world).verdict
    };
    assert_eq!((at([10, 9, 8, 7]), at([11, 9, 8, 7])), (Action::Pass, Action::OutsideDenied));
}

#[test]
fn the_observer_sees_where_connections_really_go() {
    use crate::coverage::{
        FROM_AGENT, FROM_DIRECT, FROM_OTHERS, TO_AGENT, TO_BYPASS, TO_DIRECT, TO_OUTSIDE, inbound,
        outbound,
    };
    use crate::{HBONE_PORT, OUTBOUND_PORT};
    let mut world = world();
    serve(&mut world, 1, OTHER);
    let own = DestinationKey::any_tcp_port(addr(1));
    world.destinations.insert(own, destination(HERE, CALLER, 0, 0));
    let far = DestinationKey::any_tcp_port(addr(4));
    world.destinations.insert(far, destination(0, 0, 0, 0));
    let loopback = from_v4_be(0x7f00_0001_u32.to_be());
    for (to, port, expect) in [
        (loopback, OUTBOUND_PORT, Some(TO_AGENT)),
        (loopback, 8080, None),
        (addr(1), 8080, None),
        (addr(2), 8080, Some(TO_DIRECT)),
        (addr(3), 8080, Some(TO_OUTSIDE)),
        (addr(4), 8080, Some(TO_BYPASS)),
        // Nobody has a virtual address: who comes here, has not been redirected.
        (addr(9), 80, Some(TO_BYPASS)),
    ] {
        let seen =
            |is_authorized| outbound(&caller(0, false), (to, port.to_be()), is_authorized, &world);
        assert_eq!(seen(true), expect, "{to:?} {port}");
        let without = if expect == Some(TO_DIRECT) { Some(TO_BYPASS) } else { expect };
        assert_eq!(seen(false), without, "{to:?} {port}");
    }
    world.inbound.insert(PortKey::new(HERE, 0), Inbound { workload: CALLER, flags: 0, pad: 0 });
    for (port, remote, expect) in [
        (8080, addr(1), Some((CALLER, FROM_AGENT))),
        (8080, addr(2), Some((CALLER, FROM_DIRECT))),
        (8080, addr(3), Some((CALLER, FROM_OTHERS))),
        (HBONE_PORT, addr(3), None),
    ] {
        let seen =
            |is_authorized| inbound(HERE, (addr(1), port.to_be()), remote, is_authorized, &world);
        assert_eq!(seen(true), expect, "{port}");
        let is_direct = expect == Some((CALLER, FROM_DIRECT));
        let without = if is_direct { Some((CALLER, FROM_OTHERS)) } else { expect };
        assert_eq!(seen(false), without, "{port}");
    }
    assert_eq!(inbound(99, (addr(1), PORT), addr(3), true, &world), None);
}
