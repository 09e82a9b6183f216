//! How many pings a peer may send: each has an answer, which waits until the peer reads it.

use tokio::time::{Duration, Instant};

use crate::native::Error;

/// How many may come at once.
const BURST: u32 = 64;

/// Time in which one more may come. Ours come each 10 s.
const EACH: Duration = Duration::from_millis(100);

/// How many may still come.
#[derive(Debug)]
pub(super) struct Pings {
    left: u32,
    /// Until when time has bought something.
    since: Instant,
}

impl Pings {
    /// As many as may come at once.
    pub(super) const fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// So many have come.
    ///
    /// # Errors
    ///
    /// They are more than may come: [`Error::Flood`].
    pub(super) fn check(&mut self, count: u32) -> Result<(), Error> {
        if count > 0 { self.take(count, Instant::now()) } else { Ok(()) }
    }

    fn take(&mut self, count: u32, now: Instant) -> Result<(), Error> {
        let passed = now.saturating_duration_since(self.since).as_millis();
        let bought = u32::try_from(passed / EACH.as_millis()).unwrap_or(u32::MAX);
        self.since += EACH * bought;
        self.left = BURST.min(self.left.saturating_add(bought));
        self.left = self.left.checked_sub(count).ok_or(Error::Flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_bounded_by_time() {
        let start = Instant::now();
        let mut pings = Pings::new(start);
        assert!(pings.take(64, start).is_ok());
        assert!(pings.take(1, start + EACH).is_ok());
        assert!(matches!(pings.take(1, start + EACH), Err(Error::Flood)));
        let mut quiet = Pings::new(start);
        assert!(matches!(quiet.take(65, start + Duration::from_hours(1)), Err(Error::Flood)));
    }
}
