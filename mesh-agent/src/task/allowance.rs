//! An allowance of things that may come: so many at once, and more with time.

use tokio::time::{Duration, Instant};

/// How many may still come: `BURST` at once, and one more in each `EACH_MS` milliseconds. Each
/// connection has one, so that it holds no more than it must.
#[derive(Debug)]
pub struct Allowance<const BURST: u32, const EACH_MS: u64> {
    left: u32,
    /// Until when time has bought something.
    since: Instant,
}

impl<const BURST: u32, const EACH_MS: u64> Allowance<BURST, EACH_MS> {
    /// A full one.
    pub const fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// Takes so many. False: there are not as many left.
    pub fn take(&mut self, count: u32, now: Instant) -> bool {
        let each = const { Duration::from_millis(EACH_MS) };
        let passed = now.saturating_duration_since(self.since).as_millis();
        let bought = u32::try_from(passed / each.as_millis()).unwrap_or(u32::MAX);
        self.since += each * bought;
        self.left = BURST.min(self.left.saturating_add(bought));
        let Some(left) = self.left.checked_sub(count) else { return false };
        self.left = left;
        true
    }
}
