//! Wall-clock time, in one place.

use std::time::SystemTime;

/// The time of day, for certificates and logs. Never for durations: it may jump.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}
