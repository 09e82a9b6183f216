//! Peers that could not be reached a moment ago, and how long they are left alone. Pure: time and
//! the random number are arguments.
//!
//! Without it each of an application's connections would make a handshake of its own with a peer
//! that refuses it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use crate::failure::Failure;
use crate::task::backoff::Backoff;

/// How long peers are left alone, and how many are remembered.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// After the first failure.
    pub first: Duration,
    /// After many.
    pub most: Duration,
    /// Peers that are remembered. Others are tried by each connection.
    pub peers: usize,
}

/// The peers that could not be reached.
#[derive(Debug)]
pub struct Breaker<K> {
    options: Options,
    /// At most [`Options::peers`].
    failing: HashMap<K, Failing>,
}

#[derive(Debug)]
struct Failing {
    backoff: Backoff,
    until: Instant,
    /// Somebody tries: until when the others wait for what comes of it.
    tried_until: Option<Instant>,
    last: Failure,
}

impl<K: Clone + Eq + Hash> Breaker<K> {
    /// All peers can be reached, as far as we know.
    pub fn new(options: Options) -> Self {
        Self { options, failing: HashMap::new() }
    }

    /// Why `peer` is not to be tried now. A caller that is told nothing tries, and reports the result;
    /// if it does not, another may try after the longest wait.
    pub fn held(&mut self, peer: &K, now: Instant) -> Option<Failure> {
        let failing = self.failing.get_mut(peer)?;
        if now < failing.until || failing.tried_until.is_some_and(|until| now < until) {
            return Some(failing.last.again());
        }
        failing.tried_until = Some(now + self.options.most);
        None
    }

    /// `peer` was reached, or need not be left alone: it may be tried by everyone.
    pub fn forget(&mut self, peer: &K) {
        self.failing.remove(peer);
    }

    /// `peer` was tried, and not reached.
    pub fn failed(&mut self, peer: &K, last: Failure, now: Instant, random: u32) {
        let Options { first, most, peers } = self.options;
        if self.failing.len() >= peers && !self.failing.contains_key(peer) {
            // A peer that was not tried again since is forgotten, with how often it has failed.
            self.failing.retain(|_, failing| now < failing.until);
            if self.failing.len() >= peers {
                return;
            }
        }
        let before = self.failing.get(peer);
        // The first time several data threads may have tried at once: that is one failure.
        if before.is_some_and(|failing| now < failing.until) {
            return;
        }
        let mut backoff = before.map_or(Backoff::new(first, most), |failing| failing.backoff);
        let until = now + backoff.next(random);
        self.failing.insert(peer.clone(), Failing { backoff, until, tried_until: None, last });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Kind, Retry, Side};

    const OPTIONS: Options =
        Options { first: Duration::from_millis(100), most: Duration::from_secs(1), peers: 2 };

    fn failure(kind: Kind) -> Failure {
        Failure::because(kind, Side::Upstream, Retry::Never, std::io::Error::other("because"))
    }

    /// For how many milliseconds a peer is left alone after each of the failures in a row, each
    /// at the moment at which it may be tried again.
    fn holds(count: usize, random: u32) -> Vec<u128> {
        let mut breaker = Breaker::new(OPTIONS);
        let mut now = Instant::now();
        (0..count)
            .map(|_| {
                breaker.failed(&1, failure(Kind::Tls), now, random);
                let until = breaker.failing[&1].until;
                assert!(breaker.held(&1, until).is_none());
                let held = until - now;
                now = until;
                held.as_millis()
            })
            .collect()
    }

    #[test]
    fn each_failure_doubles_the_wait_up_to_the_most() {
        assert_eq!(holds(6, u32::MAX), [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(holds(6, 0), [50, 100, 200, 400, 500, 500]);
    }

    #[test]
    fn meanwhile_the_last_reason_is_given() {
        let mut breaker = Breaker::new(OPTIONS);
        let now = Instant::now();
        breaker.failed(&1, failure(Kind::Identity), now, 0);
        let held = breaker.held(&1, now).unwrap();
        assert_eq!((held.kind, held.retry), (Kind::Identity, Retry::Never));
        assert_eq!(held.cause(), "because");
        assert!(breaker.held(&2, now).is_none());
    }

    #[test]
    fn one_tries_again_and_the_others_wait_for_it() {
        let mut breaker = Breaker::new(OPTIONS);
        let now = Instant::now();
        breaker.failed(&1, failure(Kind::Tls), now, 0);
        let later = now + OPTIONS.first;
        assert!(breaker.held(&1, later).is_none());
        assert!(breaker.held(&1, later).is_some());
        // Nobody has said what came of it.
        assert!(breaker.held(&1, later + OPTIONS.most).is_none());
        breaker.failed(&1, failure(Kind::Tls), later + OPTIONS.most, 0);
        assert!(breaker.held(&1, later + OPTIONS.most).is_some());
    }

    #[test]
    fn who_was_reached_is_not_left_alone() {
        let mut breaker = Breaker::new(OPTIONS);
        let now = Instant::now();
        breaker.failed(&1, failure(Kind::Tls), now, 0);
        breaker.forget(&1);
        assert!(breaker.held(&1, now).is_none());
        assert!(breaker.failing.is_empty());
    }

    #[test]
    fn failures_of_one_moment_are_one() {
        let mut breaker = Breaker::new(OPTIONS);
        let now = Instant::now();
        for _ in 0..8 {
            breaker.failed(&1, failure(Kind::Tls), now, u32::MAX);
        }
        assert!(breaker.held(&1, now + OPTIONS.first).is_none());
    }

    #[test]
    fn at_the_bound_those_that_wait_are_kept() {
        let mut breaker = Breaker::new(OPTIONS);
        let now = Instant::now();
        for peer in 1..=3 {
            breaker.failed(&peer, failure(Kind::Tls), now, 0);
        }
        assert!(breaker.held(&2, now).is_some() && breaker.held(&3, now).is_none());
        let later = now + OPTIONS.most;
        breaker.failed(&3, failure(Kind::Tls), later, 0);
        assert!(breaker.held(&3, later).is_some());
        assert_eq!(breaker.failing.len(), 1);
    }
}
