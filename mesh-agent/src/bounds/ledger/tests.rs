//! Sequences of holders, greedy and small.

use proptest::prelude::*;

use super::*;
use crate::model::spiffe::SpiffeId;

const MOST: Most = Most { all: 4000, tunnels: 100, reserved: 8, few: 8 };

fn identity(n: usize) -> Client {
    Client::Identity(SpiffeId::new("cluster.local", "demo", &format!("w{n}")).unwrap())
}

/// Takes all that `used` may have; returns how many that are, and the limit that was met.
fn flood(ledger: &mut Ledger, workload: u64, used: Use, client: Option<&Client>) -> (usize, Limit) {
    let mut count = 0;
    loop {
        match ledger.admit(Holder { workload, used, client }) {
            Ok(_) => count += 1,
            Err(limit) => return (count, limit),
        }
    }
}

#[test]
fn a_party_that_is_alone_comes_to_its_share() {
    let check = |used, client: Option<Client>, expect| {
        let mut ledger = Ledger::new(MOST);
        let workload = ledger.open();
        assert_eq!(flood(&mut ledger, workload, used, client.as_ref()), expect);
    };
    // 3,500 are shared: two thirds to a workload, four fifths of that to a use, and of that to a
    // client.
    check(Use::Outbound, None, (1868, Limit::Use));
    check(Use::Plaintext, Some(Client::at([10, 0, 0, 1].into())), (1495, Limit::Client));
    check(Use::Tunnel, Some(identity(1)), (80, Limit::Client));
}

#[test]
fn the_tunnels_of_a_workload_are_bounded_whoever_has_them() {
    let mut ledger = Ledger::new(MOST);
    let workload = ledger.open();
    let each = (0..300).map(|n| flood(&mut ledger, workload, Use::Tunnel, Some(&identity(n))).0);
    let all: usize = each.sum();
    // A hundred, and half of the small holders' part: 4,000 / 8 / 5 = 100.
    assert_eq!(all, 150);
}

#[test]
fn one_client_of_all_workloads_leaves_a_third_of_the_node() {
    let mut ledger = Ledger::new(MOST);
    let stranger = Client::at([10, 0, 0, 1].into());
    let mut all = 0;
    for _ in 0..100 {
        let workload = ledger.open();
        all += flood(&mut ledger, workload, Use::Plaintext, Some(&stranger)).0;
    }
    // Two thirds of the 3,500, and what the small holders' part has for plaintext.
    assert!((2334..=2434).contains(&all), "{all}");
}

#[test]
fn addresses_of_one_network_are_one_client_and_yet_apart() {
    let mut ledger = Ledger::new(MOST);
    let workload = ledger.open();
    let at = |n: u16| Client::at(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into());
    // 1,495 for the network, four fifths of that for the first address.
    assert_eq!(flood(&mut ledger, workload, Use::Plaintext, Some(&at(1))), (1196, Limit::Client));
    assert!(flood(&mut ledger, workload, Use::Plaintext, Some(&at(2))).0 > 100);
    let rest: usize =
        (3..3000).map(|n| flood(&mut ledger, workload, Use::Plaintext, Some(&at(n))).0).sum();
    assert!(rest < 1495 - 1196, "{rest}");
    let other = Client::at(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1).into());
    assert!(flood(&mut ledger, workload, Use::Plaintext, Some(&other)).0 > 100);
}

#[test]
fn what_is_no_connection_lowers_what_is_shared() {
    let mut ledger = Ledger::new(MOST);
    ledger.keep(3500);
    let workload = ledger.open();
    assert_eq!(flood(&mut ledger, workload, Use::Outbound, None), (8, Limit::Node));
    ledger.let_go(3500);
    assert!(flood(&mut ledger, workload, Use::Outbound, None).0 > 1000);
}

#[test]
fn refusals_are_counted_by_use_and_limit() {
    let mut ledger = Ledger::new(MOST);
    let workload = ledger.open();
    flood(&mut ledger, workload, Use::Tunnel, Some(&identity(1)));
    let refused = ledger.counts(Memory::default()).refused;
    assert_eq!(refused[Use::Tunnel as usize][Limit::Client as usize], 1);
    assert_eq!(refused.iter().flatten().sum::<u64>(), 1);
}

/// One step of a sequence: who wants a socket, or gives one back.
#[derive(Clone, Debug)]
struct Step {
    workload: u64,
    used: Use,
    client: usize,
    times: usize,
    release: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let used = prop::sample::select(Use::ALL);
    let step = (1..5_u64, used, 0..4_usize, 1..900_usize, prop::bool::weighted(0.2)).prop_map(
        |(workload, used, client, times, release)| Step { workload, used, client, times, release },
    );
    prop::collection::vec(step, 1..40)
}

/// The client of a step: a workload's own connections have none.
fn client(used: Use, n: usize) -> Option<Client> {
    (used != Use::Outbound).then(|| identity(n))
}

proptest! {
    /// For all steps of four clients with four workloads: the sum is never above the bound, a client
    /// that holds nothing is admitted, and in the end nothing is counted.
    #[test]
    fn the_greedy_never_shut_out_the_small(steps in steps()) {
        let mut ledger = Ledger::new(MOST);
        let workloads: Vec<_> = (0..5).map(|_| ledger.open()).collect();
        let mut held = Vec::new();
        for step in steps {
            let client = client(step.used, step.client);
            for _ in 0..step.times {
                if step.release && !held.is_empty() {
                    let (workload, used, client, pool): (_, _, Option<Client>, _) =
                        held.swap_remove(held.len() / 2);
                    ledger.release(Holder { workload, used, client: client.as_ref() }, pool, 1);
                    continue;
                }
                let (workload, used) = (step.workload, step.used);
                match ledger.admit(Holder { workload, used, client: client.as_ref() }) {
                    Ok(pool) => held.push((workload, used, client.clone(), pool)),
                    Err(_) => break,
                }
            }
            prop_assert!(held.len() <= MOST.all);
            prop_assert_eq!(ledger.counts(Memory::default()).held.iter().sum::<usize>(), held.len());
            for workload in &workloads {
                for used in Use::ALL {
                    if *used == Use::Outbound && *workload < 5 {
                        continue; // These may be greedy themselves.
                    }
                    let new = (*used != Use::Outbound).then(|| identity(99));
                    let holder = Holder { workload: *workload, used: *used, client: new.as_ref() };
                    let pool = ledger.admit(holder);
                    prop_assert!(pool.is_ok(), "{used:?} of {workload}: {pool:?}");
                    ledger.release(holder, pool.unwrap(), 1);
                }
            }
        }
        for (workload, used, client, pool) in held {
            ledger.release(Holder { workload, used, client: client.as_ref() }, pool, 1);
        }
        prop_assert_eq!(ledger.counts(Memory::default()).held, [0; 5]);
        prop_assert_eq!((ledger.shared, ledger.reserved), (0, [0; 5]));
        prop_assert!(ledger.clients.is_empty());
        prop_assert!(ledger.workloads.values().all(|workload| workload.all == 0));
    }

    /// A party that holds less than a small holder is admitted until the node has nothing left, whatever
    /// order the others came in.
    #[test]
    fn strangers_with_many_addresses_leave_identities_and_other_workloads_alone(
        addresses in 1..6000_u32,
        each in 1..20_usize,
    ) {
        let mut ledger = Ledger::new(MOST);
        let (flooded, other) = (ledger.open(), ledger.open());
        for n in 0..addresses {
            let client = Client::at(std::net::Ipv4Addr::from(n).into());
            let holder = Holder { workload: flooded, used: Use::Plaintext, client: Some(&client) };
            for _ in 0..each {
                let _refused_or_not = ledger.admit(holder);
            }
        }
        let stranger = Client::at([192, 0, 2, 1].into());
        for (workload, used, client) in [
            (flooded, Use::Outbound, None),
            (flooded, Use::Handshake, Some(&stranger)),
            (flooded, Use::Tunnel, Some(&identity(1))),
            (flooded, Use::Stream, Some(&identity(1))),
            (other, Use::Plaintext, Some(&stranger)),
        ] {
            for _ in 0..8 {
                prop_assert!(ledger.admit(Holder { workload, used, client }).is_ok(), "{used:?}");
            }
        }
    }
}

/// Prints what a connection costs; `cargo test --release … admission_costs -- --nocapture`.
#[test]
fn admission_costs_less_than_a_system_call() {
    let (sockets, Most { tunnels, few, .. }) = (1 << 18, MOST);
    let options = crate::bounds::Options { sockets, tunnels, few, promised: 0, bodies: 0 };
    let node = crate::bounds::Node::new(options);
    let accounts: Vec<_> = (0..100).map(|_| node.account()).collect();
    let clients: Vec<_> = (0..100).map(identity).collect();
    let rounds = 100_000;
    let mut held = std::collections::VecDeque::new();
    let start = tokio::time::Instant::now();
    for n in 0..rounds {
        let client = Some(clients[n * 7 % clients.len()].clone());
        held.push_back(accounts[n % accounts.len()].admit(Use::Stream, client).unwrap());
        if held.len() > 10_000 {
            held.pop_front();
        }
    }
    drop(held);
    let each = start.elapsed() / u32::try_from(rounds).unwrap();
    println!("{each:?} for a socket, taken and given back, of 10,000");
    assert!(each < std::time::Duration::from_micros(50), "{each:?}");
}
