//! What becomes of handshakes that many peers begin.

use proptest::prelude::*;

use super::*;

const OPTIONS: Options = Options {
    total: Rate { per_second: 10, burst: 6 },
    per_peer: Rate { per_second: 5, burst: 3 },
    under_way: 100,
    under_way_per_peer: 50,
    peers: 3,
};

fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

/// What became of the handshakes that `(milliseconds, peer)` began, each over at once.
#[track_caller]
fn check(options: Options, knocks: &[(u64, u8)], expect: &[Option<Limit>]) {
    let start = Instant::now();
    let mut admission = Admission::new(options);
    let mut seen = Vec::new();
    for (at_ms, peer) in knocks {
        let now = start + Duration::from_millis(*at_ms);
        match admission.admit(address(*peer), now) {
            Ok(place) => {
                admission.finished(place);
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
    let now = Instant::now();
    let admit = |admission: &mut Admission, peer| {
        admission.admit(address(peer), now).map_err(|refused| refused.limit)
    };
    let first = admit(&mut admission, 1).unwrap();
    admit(&mut admission, 1).unwrap();
    assert_eq!(admit(&mut admission, 1), Err(Limit::PeerUnderWay));
    admit(&mut admission, 2).unwrap();
    assert_eq!(admit(&mut admission, 2), Err(Limit::TotalUnderWay));
    admission.finished(first);
    assert_eq!(admit(&mut admission, 2), Ok(Place::Known(address(2))));
}

#[test]
fn a_refused_peer_is_mentioned_once_a_second_with_how_often() {
    let mut admission = Admission::new(OPTIONS);
    let start = Instant::now();
    for _ in 0..3 {
        admission.admit(address(1), start).unwrap();
    }
    let mut mention = |at_ms| {
        let refused = admission.admit(address(1), start + Duration::from_millis(at_ms));
        refused.unwrap_err().mention
    };
    assert_eq!([mention(0), mention(1), mention(2)], [Some(1), None, None]);
    for _ in 0..6 {
        let now = start + Duration::from_millis(1100);
        if let Err(refused) = admission.admit(address(1), now) {
            assert_eq!(refused.mention, Some(3));
            return;
        }
    }
    panic!("the rate is 5 a second");
}

#[test]
fn both_forms_of_an_address_are_one_peer() {
    let mut admission = Admission::new(OPTIONS);
    let now = Instant::now();
    let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
    assert_eq!(admission.admit(mapped, now), Ok(Place::Known(address(1))));
}

proptest! {
    #[test]
    fn no_more_than_burst_and_rate_begin_and_the_table_is_bounded(
        knocks in proptest::collection::vec((0_u64..300, 0_u8..8, any::<bool>()), 1..200),
    ) {
        let start = Instant::now();
        let mut admission = Admission::new(OPTIONS);
        let (mut now, mut begun, mut open) = (start, HashMap::<u8, u32>::new(), Vec::new());
        for (wait_ms, peer, finishes) in knocks {
            now += Duration::from_millis(wait_ms);
            if let Ok(place) = admission.admit(address(peer), now) {
                *begun.entry(peer).or_default() += 1;
                open.push(place);
            }
            if finishes && let Some(place) = open.pop() {
                admission.finished(place);
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
            admission.finished(place);
        }
        prop_assert!(admission.peers.values().all(|peer| peer.under_way == 0));
    }
}
