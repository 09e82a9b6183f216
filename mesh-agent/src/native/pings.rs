//! How many pings a peer may send: each has an answer, which waits until the peer reads it.

use tokio::time::Instant;

use crate::native::Error;
use crate::task::allowance::Allowance;

/// How many may come at once.
const BURST: u32 = 64;

/// Milliseconds in which one more may come. Ours come each 10 s.
const EACH_MS: u64 = 100;

/// How many may still come.
#[derive(Debug)]
pub(super) struct Pings(Allowance<BURST, EACH_MS>);

impl Pings {
    /// As many as may come at once.
    pub(super) const fn new(now: Instant) -> Self {
        Self(Allowance::new(now))
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
        if self.0.take(count, now) { Ok(()) } else { Err(Error::Flood) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;

    const EACH: Duration = Duration::from_millis(EACH_MS);

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
