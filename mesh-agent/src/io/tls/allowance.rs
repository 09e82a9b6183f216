//! Bounds of the work that a peer causes by its records: of those without data for as long as the
//! connection lasts, and of all in one poll.

use std::task::{Context, Poll, ready};

use tokio::task::coop;
use tokio::time::{Duration, Instant};

use crate::task::units;

/// The records that may come at once without data: 32 key updates of two each. `BoringSSL` and
/// rustls allow as many, and Go 16, between any two bytes of data; here a byte does not buy another 32.
const BURST: u64 = 64;

/// Data for which one more may come: a full record (RFC 8446, section 5.1).
const BYTES_EACH: u64 = 1 << 14;

/// Time in which one more may come, so that a quiet connection can renew its keys for ever.
const TIME_EACH: Duration = Duration::from_secs(1);

/// How much of a record one unit of a task's budget opens: a full record takes five of the 128, so
/// that a poll opens at most 128 records and 416 KiB.
const UNIT_BYTES: usize = 4 * 1024;

/// How much may still come that carries no data: a record counts one, and so does each message of a
/// handshake in it.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u64,
    /// Data that came and has not bought anything.
    data: u64,
    /// Until when time has bought something.
    since: Instant,
}

impl Allowance {
    /// A full one.
    pub(super) const fn new(now: Instant) -> Self {
        Self { left: BURST, data: 0, since: now }
    }

    /// Data has come.
    pub(super) const fn earn(&mut self, bytes: usize) {
        self.data = self.data.saturating_add(bytes as u64);
    }

    /// Takes one. False: there is none left.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let ticks = now.saturating_duration_since(self.since).as_secs() / TIME_EACH.as_secs();
        self.since += TIME_EACH * u32::try_from(ticks).unwrap_or(u32::MAX);
        self.left = BURST.min(self.left + ticks + self.data / BYTES_EACH);
        self.data %= BYTES_EACH;
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        true
    }
}

/// Lets `open` open a record, unless the task has opened so many that others have their turn first:
/// then it is woken after them. `open` says how long the record was, or that there is none.
pub(super) fn poll_record<T>(cx: &mut Context<'_>, open: impl FnOnce() -> (usize, T)) -> Poll<T> {
    let begun = ready!(coop::poll_proceed(cx));
    let (length, opened) = open();
    if length > 0 {
        begun.made_progress();
    }
    units::spend(cx, length / UNIT_BYTES);
    Poll::Ready(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each step: seconds that pass, bytes that come, and how many there may be at once then.
    #[track_caller]
    fn check(steps: &[(u64, usize, u64)]) {
        let mut now = Instant::now();
        let mut allowance = Allowance::new(now);
        for (seconds, bytes, expect) in steps {
            now += Duration::from_secs(*seconds);
            allowance.earn(*bytes);
            let count = std::iter::repeat_with(|| allowance.spend(now)).take_while(|it| *it);
            assert_eq!(count.count() as u64, *expect, "{steps:?}");
        }
    }

    #[test]
    fn data_and_time_buy_records_without_data() {
        const FULL: usize = 1 << 14;
        check(&[(0, 0, BURST), (0, 0, 0)]);
        // A byte buys none, however often it comes.
        check(&[(0, 1, BURST), (0, 1, 0), (0, 1, 0)]);
        check(&[(0, 0, BURST), (0, FULL - 1, 0), (0, 1, 1), (0, 3 * FULL, 3)]);
        check(&[(0, 0, BURST), (1, 0, 1), (0, 0, 0), (5, FULL, 6)]);
        // Neither is saved up.
        check(&[(100_000, 1_000 * FULL, BURST), (0, FULL - 1, 0)]);
        check(&[(u64::from(u32::MAX), usize::MAX, BURST), (0, 1, 1), (1, 0, 1)]);
    }
}
