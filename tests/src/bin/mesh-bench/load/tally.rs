//! Observations of a thread of a client.

use std::time::{Duration, Instant};

use super::Report;

/// Counts and durations.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Bytes that servers have confirmed.
    pub bytes: u64,
    /// The exchanges that did not go well.
    pub failed: u64,
    /// How long it worked.
    pub elapsed: Duration,
    nanoseconds: Vec<u64>,
}

impl Tally {
    /// Counts an exchange that went well, and was due at `start`.
    pub(super) fn done(&mut self, start: Instant) {
        self.nanoseconds.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds what another thread saw at the same time.
    pub(super) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.nanoseconds.extend(other.nanoseconds);
    }

    pub(super) fn report(mut self) -> Report {
        self.nanoseconds.sort_unstable();
        Report {
            bytes: self.bytes,
            done: self.nanoseconds.len() as u64,
            failed: self.failed,
            seconds: self.elapsed.as_secs_f64(),
            p50_us: percentile(&self.nanoseconds, 50),
            p99_us: percentile(&self.nanoseconds, 99),
            max_us: percentile(&self.nanoseconds, 100),
            calm: None,
        }
    }
}

/// The smallest duration that `percent` of all do not exceed, in microseconds; 0 without any.
#[expect(clippy::cast_precision_loss, reason = "durations are far below 2^52 ns")]
fn percentile(sorted: &[u64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).map_or(0.0, |&nanoseconds| nanoseconds as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sorted: &[u64], percent: usize, expect: f64) {
        assert!((percentile(sorted, percent) - expect).abs() < f64::EPSILON);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let hundred: Vec<u64> = (1..=100).map(|number| number * 1000).collect();
        check(&hundred, 50, 50.0);
        check(&hundred, 99, 99.0);
        check(&hundred, 100, 100.0);
        check(&[7000], 50, 7.0);
        check(&[], 50, 0.0);
    }
}
