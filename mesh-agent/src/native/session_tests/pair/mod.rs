//! Two sessions that speak to each other, in steps that are chosen here or at random.

use super::*;
use crate::native::pair::{CLIENT, PERIOD, Pair, SERVER};

mod steps;

/// Lets everything come to its end. The growth of windows was given back then.
fn drain(pair: &mut Pair) {
    pair.drain();
    for end in &pair.ends {
        assert_eq!(end.session.growth, end.limits.growth, "growth was not given back");
    }
}

/// One stream's data is not read, on both sides; all others send a megabyte each way.
#[track_caller]
fn check_stopped_reader(limits: Limits) {
    let mut pair = Pair::new(limits, limits);
    let window = usize::try_from(limits.window).unwrap();
    (0..limits.streams).for_each(|_| pair.open());
    pair.deliver(SERVER, usize::MAX);
    (1..=limits.streams).for_each(|stream| pair.accept(stream));
    // The first stream's windows grow as far as they can before its readers stop.
    let mut rounds = [0, 0];
    for stream in 1..=limits.streams {
        for side in [CLIENT, SERVER] {
            while pair.ends[side].halves[&stream].sent < 1 << 20 && rounds[side] < 10_000 {
                rounds[side] += 1;
                pair.send(side, stream, 100_000);
                pair.deliver(1 - side, usize::MAX);
                pair.read(1 - side, stream, usize::MAX);
                pair.deliver(side, usize::MAX);
            }
        }
        if stream == 1 {
            for side in [CLIENT, SERVER] {
                while !pair.ends[side].halves[&stream].blocked {
                    pair.send(side, stream, PERIOD);
                    pair.deliver(1 - side, usize::MAX);
                }
            }
        }
    }
    pair.check();
    for end in &pair.ends {
        let (stopped, others) =
            end.halves.iter().partition::<Vec<_>, _>(|(stream, _)| **stream == 1);
        assert!(stopped.iter().all(|(_, half)| half.blocked && half.unread >= window));
        assert!(others.iter().all(|(_, half)| half.sent >= 1 << 20 && half.got >= 1 << 20));
    }
    drain(&mut pair);
}

#[test]
fn a_stopped_reader_does_not_hold_up_the_others() {
    check_stopped_reader(Limits { streams: 64, window: 1 << 16, growth: 0 });
    // All growth is the stopped stream's.
    check_stopped_reader(Limits { streams: 64, window: 1 << 16, growth: 15 << 16 });
}
