//! Results of handshakes that many peers begin.

use proptest::prelude::*;

use super::*;

/// More than any test needs.
const PLENTY: Most = Most { rate: Rate { per_second: 1_000, burst: 1_000 }, under_way: 1_000 };

const NOTHING: Most = Most { rate: Rate { per_second: 1, burst: 0 }, under_way: 0 };

const OPTIONS: Options = Options {
    total: Rate { per_second: 10, burst: 6 },
    per_peer: Rate { per_second: 5, burst: 3 },
    under_way: 100,
    under_way_per_peer: 50,
    own: NOTHING,
    peers: 3,
};

fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

/// Results of the handshakes that `(milliseconds, peer)` began, each over at once.
#[track_caller]
fn check(options: Options, knocks: &[(u64, u8)], expect: &[Option<Limit>]) {
    let start = Instant::now();
    let (mut admission, mut node) = (Admission::new(options), Budget::new(PLENTY));
    let mut seen = Vec::new();
    for (at_ms, peer) in knocks {
        let now = start + Duration::from_millis(*at_ms);
        match admission.admit(address(*peer), &mut node, now) {
            Ok(place) => {
                admission.finished(place, &mut node);
                seen.push(None);
            }
            Err(refused) => seen.push(Some(refused.limit)),
        }
    }
    assert_eq!(seen, expect);
}

const PEER: Option<Limit> = Some(Limit::PeerRate);
const TOTAL: Option<Limit> = Some(Limit::TotalRate);

#[test]
fn a_peer_has_its_burst_and_then_its_rate() {
    let knocks = [(0, 1), (0, 1), (0, 1), (0, 1), (199, 1), (200, 1), (201, 1), (400, 1)];
    check(OPTIONS, &knocks, &[None, None, None, PEER, PEER, None, PEER, None]);
}

#[test]
fn a_rest_gives_no_more_than_the_burst() {
    let knocks = [(0, 1), (9000, 1), (9000, 1), (9000, 1), (9000, 1)];
    check(OPTIONS, &knocks, &[None, None, None, None, PEER]);
}

#[test]
fn what_one_peer_is_refused_costs_the_others_nothing() {
    let mut knocks = vec![(0, 1); 50];
    knocks.extend([(0, 2), (0, 2), (0, 2)]);
    let mut expect = vec![None; 3];
    expect.extend([PEER; 47]);
    expect.extend([None; 3]);
    check(OPTIONS, &knocks, &expect);
}

#[test]
fn many_peers_together_have_the_total_and_no_more() {
    let knocks = [(0, 1), (0, 1), (0, 1), (0, 2), (0, 2), (0, 2), (0, 3), (99, 3), (100, 3)];
    check(OPTIONS, &knocks, &[None, None, None, None, None, None, TOTAL, TOTAL, None]);
}

#[test]
fn peers_beyond_the_table_are_counted_as_one() {
    let total = Rate { per_second: 1000, burst: 1000 };
    let options = Options { total, ..OPTIONS };
    let knocks = [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (0, 7), (0, 1), (0, 1)];
    check(options, &knocks, &[None, None, None, None, None, None, PEER, None, None]);
    // Once another's bucket is full again there is room.
    let later = [(0, 1), (0, 2), (0, 3), (0, 4), (0, 4), (0, 4), (0, 4), (300, 4), (300, 4)];
    check(options, &later, &[None, None, None, None, None, None, PEER, None, None]);
}

#[test]
fn what_is_under_way_is_bounded_by_peer_and_in_all() {
    let rate = Rate { per_second: 1000, burst: 1000 };
    let options = Options { total: rate, per_peer: rate, under_way: 3, ..OPTIONS };
    let mut admission = Admission::new(Options { under_way_per_peer: 2, ..options });
    let mut node = Budget::new(PLENTY);
    let now = Instant::now();
    let mut admit = |admission: &mut Admission, peer| {
        admission.admit(address(peer), &mut node, now).map_err(|refused| refused.limit)
    };
    let first = admit(&mut admission, 1).unwrap();
    admit(&mut admission, 1).unwrap();
    assert_eq!(admit(&mut admission, 1), Err(Limit::PeerUnderWay));
    admit(&mut admission, 2).unwrap();
    assert_eq!(admit(&mut admission, 2), Err(Limit::TotalUnderWay));
    admission.finished(first, &mut Budget::new(PLENTY));
    admit(&mut admission, 2).unwrap();
}

#[test]
fn a_refused_peer_is_mentioned_once_a_second_with_how_often() {
    let (mut admission, mut node) = (Admission::new(OPTIONS), Budget::new(PLENTY));
    let start = Instant::now();
    let mut admit =
        |at_ms| admission.admit(address(1), &mut node, start + Duration::from_millis(at_ms));
    for _ in 0..3 {
        admit(0).unwrap();
    }
    let mentions = [0, 1, 2].map(|at_ms| admit(at_ms).unwrap_err().mention);
    assert_eq!(mentions, [Some(1), None, None]);
    for _ in 0..6 {
        if let Err(refused) = admit(1100) {
            assert_eq!(refused.mention, Some(3));
            return;
        }
    }
    panic!("the rate is 5 a second");
}

#[test]
fn both_forms_of_an_address_are_one_peer() {
    let (mut admission, mut node) = (Admission::new(OPTIONS), Budget::new(PLENTY));
    let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
    let place = admission.admit(mapped, &mut node, Instant::now()).unwrap();
    assert_eq!(place.holder, Holder::Known(address(1)));
}

/// A namespace with few handshakes of its own.
fn namespace() -> Admission {
    let own = Most { rate: Rate { per_second: 10, burst: 2 }, under_way: 3 };
    let rate = Rate { per_second: 1000, burst: 1000 };
    Admission::new(Options { total: rate, per_peer: rate, own, ..OPTIONS })
}

/// Results of `knocks` handshakes of a namespace at one moment: how many are of the node's,
/// how many of the namespace's own, and why the last was refused.
fn knock(
    namespace: &mut Admission,
    node: &mut Budget,
    (knocks, now): (usize, Instant),
) -> (Vec<Place>, (usize, usize, Option<Limit>)) {
    let (mut places, mut limit) = (Vec::new(), None);
    for _ in 0..knocks {
        match namespace.admit(address(1), node, now) {
            Ok(place) => places.push(place),
            Err(refused) => limit = Some(refused.limit),
        }
    }
    let of_node = places.iter().filter(|place| place.share == Share::Node).count();
    let own = places.len() - of_node;
    (places, (of_node, own, limit))
}

#[test]
fn a_flooded_namespace_leaves_each_other_its_own() {
    let most = Most { rate: Rate { per_second: 10, burst: 20 }, under_way: 1_000 };
    let mut node = Budget::new(most);
    let (mut flooded, mut other) = (namespace(), namespace());
    let mut check = |namespace: &mut Admission, knocks, now, expect| {
        let (places, seen) = knock(namespace, &mut node, (knocks, now));
        assert_eq!(seen, expect);
        for place in places {
            namespace.finished(place, &mut node);
        }
    };
    let start = Instant::now();
    let rate = Some(Limit::NodeRate);
    check(&mut flooded, 40, start, (20, 2, rate));
    check(&mut other, 10, start, (0, 2, rate));
    // The one that knocks first has what the node has again, and each its own.
    let later = start + Duration::from_millis(100);
    check(&mut flooded, 40, later, (1, 1, rate));
    check(&mut other, 10, later, (0, 1, rate));
    // After a rest there is enough for both.
    let rested = start + Duration::from_secs(5);
    check(&mut other, 10, rested, (10, 0, None));
    check(&mut flooded, 10, rested, (10, 0, None));
}

#[test]
fn what_is_under_way_on_the_node_is_bounded_and_given_back() {
    let mut node = Budget::new(Most { under_way: 5, ..PLENTY });
    let (mut flooded, mut other, now) = (namespace(), namespace(), Instant::now());
    let crowded = Some(Limit::NodeUnderWay);
    let (places, seen) = knock(&mut flooded, &mut node, (40, now));
    assert_eq!(seen, (5, 2, crowded), "a burst of two");
    let (own, seen) = knock(&mut other, &mut node, (10, now));
    assert_eq!(seen, (0, 2, crowded));
    // A place that one gives back, any can have.
    flooded.finished(places[0], &mut node);
    assert_eq!(knock(&mut other, &mut node, (10, now)).1, (1, 0, crowded));
    // And its own only itself.
    other.finished(own[0], &mut node);
    let later = now + Duration::from_secs(1);
    assert_eq!(knock(&mut flooded, &mut node, (10, later)).1, (0, 1, crowded));
    assert_eq!(knock(&mut other, &mut node, (10, later)).1, (0, 2, crowded));
}

#[test]
fn who_is_refused_for_itself_takes_nothing_of_the_node() {
    let mut node = Budget::new(Most { under_way: 4, ..PLENTY });
    let (mut flooded, mut other, now) = (Admission::new(OPTIONS), namespace(), Instant::now());
    let (_places, seen) = knock(&mut flooded, &mut node, (100, now));
    assert_eq!(seen, (3, 0, PEER));
    assert_eq!(knock(&mut other, &mut node, (1, now)).1, (1, 0, None));
}

proptest! {
    #[test]
    fn no_more_than_burst_and_rate_begin_and_the_table_is_bounded(
        knocks in proptest::collection::vec((0_u64..300, 0_u8..8, any::<bool>()), 1..200),
    ) {
        let start = Instant::now();
        let (mut admission, mut node) = (Admission::new(OPTIONS), Budget::new(PLENTY));
        let (mut now, mut begun, mut open) = (start, HashMap::<u8, u32>::new(), Vec::new());
        for (wait_ms, peer, finishes) in knocks {
            now += Duration::from_millis(wait_ms);
            if let Ok(place) = admission.admit(address(peer), &mut node, now) {
                *begun.entry(peer).or_default() += 1;
                open.push(place);
            }
            if finishes && let Some(place) = open.pop() {
                admission.finished(place, &mut node);
            }
            let lasted = (now - start).as_secs_f64();
            let most = |rate: Rate| f64::from(rate.burst) + lasted * f64::from(rate.per_second);
            prop_assert!(f64::from(begun.values().sum::<u32>()) <= most(OPTIONS.total) + 1.0);
            // Once as a stranger, and once as itself.
            let each = 2.0 * most(OPTIONS.per_peer) + 1.0;
            prop_assert!(begun.values().all(|n| f64::from(*n) <= each));
            prop_assert!(admission.peers.len() <= OPTIONS.peers);
            prop_assert_eq!(admission.under_way, open.len());
        }
        for place in open {
            admission.finished(place, &mut node);
        }
        prop_assert!(admission.peers.values().all(|peer| peer.under_way == 0));
    }

    #[test]
    fn the_node_is_bounded_and_no_flood_takes_what_is_a_namespaces_own(
        knocks in proptest::collection::vec(
            (0_u64..100, 0_usize..4, 0_u8..4, any::<bool>()),
            1..300,
        ),
    ) {
        let most = Most { rate: Rate { per_second: 20, burst: 8 }, under_way: 6 };
        let mut node = Budget::new(most);
        let mut flooded: Vec<_> = (0..4).map(|_| namespace()).collect();
        let own = flooded[0].options.own;
        let start = Instant::now();
        let (mut now, mut begun, mut open) = (start, [0_u32; 2], Vec::new());
        for (wait_ms, at, peer, finishes) in knocks {
            now += Duration::from_millis(wait_ms);
            if let Ok(place) = flooded[at].admit(address(peer), &mut node, now) {
                begun[usize::from(place.share == Share::Own)] += 1;
                open.push((at, place));
            }
            if finishes && let Some((at, place)) = open.pop() {
                flooded[at].finished(place, &mut node);
            }
            let of = |share, at| {
                let is_it = |(of, place): &&(usize, Place)| place.share == share && *of == at;
                open.iter().filter(is_it).count()
            };
            let under_way: usize = (0..4).map(|at| of(Share::Node, at)).sum();
            prop_assert!(under_way == node.under_way() && under_way <= most.under_way);
            prop_assert!((0..4).all(|at| of(Share::Own, at) <= own.under_way));
            let lasted = (now - start).as_secs_f64();
            let may = |rate: Rate| f64::from(rate.burst) + lasted * f64::from(rate.per_second);
            prop_assert!(f64::from(begun[0]) <= may(most.rate) + 1.0);
            prop_assert!(f64::from(begun[1]) <= 4.0 * (may(own.rate) + 1.0));
        }
        // However the others are flooded.
        let (_places, (of_node, of_own, _limit)) = knock(&mut namespace(), &mut node, (2, now));
        prop_assert_eq!(of_node + of_own, 2);
        for (at, place) in open {
            flooded[at].finished(place, &mut node);
        }
        prop_assert!(flooded.iter().all(|one| one.own.under_way() == 0 && one.under_way == 0));
    }
}
