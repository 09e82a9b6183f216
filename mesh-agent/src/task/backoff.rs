//! Exponential delays with jitter. Pure: the random number is an argument.

use std::time::Duration;

/// Delays that double from `first` up to `most`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    attempt: u32,
}

impl Backoff {
    /// Starts at `first`; no delay is longer than `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, attempt: 0 }
    }

    /// The next delay: between half of the full one and all of it, by `random`.
    pub fn next(&mut self, random: u32) -> Duration {
        let full = self.first.saturating_mul(1 << self.attempt.min(16)).min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        let half = full / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Back to the first delay, after a success.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_most() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let delays: Vec<_> = (0..3).map(|_| backoff.next(u32::MAX).as_millis()).collect();
        assert_eq!(delays, [100, 200, 300]);
        assert_eq!(backoff.next(0).as_millis(), 150);
        backoff.reset();
        assert_eq!(backoff.next(0).as_millis(), 50);
    }
}
