//! Random steps of two sessions' applications and of what is between them.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    Accept(Index),
    Send(usize, Index, usize),
    /// Sends what waits on all streams.
    Retry(usize),
    Read(usize, Index, usize),
    End(usize, Index),
    Reset(usize, Index, u32),
    Ping(usize, u64),
    GoAway(usize),
    /// So many bytes arrive at a side.
    Deliver(usize, usize),
    /// Nothing arrives at a side, or something does again.
    Hold(usize, bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    let side = || 0..2_usize;
    let at = any::<Index>;
    prop_oneof![
        4 => (1..4_usize).prop_map(Step::Open),
        1 => (30..70_usize).prop_map(Step::Open),
        8 => at().prop_map(Step::Accept),
        8 => (side(), at(), 0..200_000_usize).prop_map(|(side, at, size)| Step::Send(side, at, size)),
        4 => (side(), at(), 0..20_usize).prop_map(|(side, at, size)| Step::Send(side, at, size)),
        6 => side().prop_map(Step::Retry),
        8 => (side(), at(), 0..200_000_usize).prop_map(|(side, at, size)| Step::Read(side, at, size)),
        4 => (side(), at()).prop_map(|(side, at)| Step::End(side, at)),
        2 => (side(), at(), 0..600_u32).prop_map(|(side, at, code)| Step::Reset(side, at, code)),
        1 => (side(), any::<u64>()).prop_map(|(side, number)| Step::Ping(side, number)),
        10 => (side(), 1..400_000_usize).prop_map(|(side, size)| Step::Deliver(side, size)),
        5 => (side(), 1..40_usize).prop_map(|(side, size)| Step::Deliver(side, size)),
        2 => (side(), any::<bool>()).prop_map(|(side, held)| Step::Hold(side, held)),
    ]
}

/// Steps, in some of which a side goes away.
fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let away = prop::option::of((any::<Index>(), 0..2_usize));
    (prop::collection::vec(any_step(), 1..250), away).prop_map(|(mut steps, away)| {
        if let Some((at, side)) = away {
            steps.insert(at.index(steps.len()), Step::GoAway(side));
        }
        steps
    })
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let window = prop_oneof![
        2 => Just(Hello::LEAST.window),
        2 => Hello::LEAST.window..400_000,
        1 => Just(700_000),
        1 => Just(3 * MAX_WINDOW_BYTES),
    ];
    let growth =
        prop_oneof![Just(0), 1..70_000_u32, 70_000..1_000_000_u32, Just(8 * MAX_WINDOW_BYTES)];
    (Hello::LEAST.streams..70, window, growth).prop_map(|(streams, window, growth)| Limits {
        streams,
        window,
        growth,
    })
}

fn take(pair: &mut Pair, step: Step) {
    let pick = |pair: &Pair, side, at: Index| pair.pick(side, at.index(usize::MAX));
    match step {
        Step::Open(count) => (0..count).for_each(|_| pair.open()),
        Step::Accept(at) => {
            if let Some(stream) = pick(pair, SERVER, at) {
                pair.accept(stream);
            }
        }
        Step::Send(side, at, size) => {
            if let Some(stream) = pick(pair, side, at) {
                pair.send(side, stream, size);
            }
        }
        Step::Retry(side) => pair.retry(side),
        Step::Read(side, at, size) => {
            if let Some(stream) = pick(pair, side, at) {
                pair.read(side, stream, size);
            }
        }
        Step::End(side, at) => {
            if let Some(stream) = pick(pair, side, at) {
                pair.end(side, stream);
            }
        }
        Step::Reset(side, at, code) => {
            if let Some(stream) = pick(pair, side, at) {
                pair.reset(side, stream, code);
            }
        }
        Step::Ping(side, number) => pair.ping(side, number),
        Step::GoAway(side) => pair.go_away(side),
        Step::Deliver(side, size) => {
            pair.deliver(side, size);
        }
        Step::Hold(side, held) => pair.hold(side, held),
    }
    pair.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn two_sessions_agree_whatever_happens(
        client in any_limits(),
        server in any_limits(),
        steps in any_steps(),
    ) {
        let mut pair = Pair::new(client, server);
        for step in steps {
            take(&mut pair, step);
        }
        drain(&mut pair);
    }
}
