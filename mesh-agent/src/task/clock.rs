//! The clocks of the system, in one place.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use rustls_pki_types::UnixTime;

/// The time of day, for certificates and logs. Never for durations: it may jump.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// The kernel's clock of running time (`CLOCK_MONOTONIC`), as `bpf_ktime_get_ns()` answers it.
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// The processor time that the calling thread has used.
pub fn of_thread() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// The same moment as TLS counts it. Before 1970 is 1970.
pub fn for_tls(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
