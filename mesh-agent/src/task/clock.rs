//! Wall-clock time, in one place.

use std::time::SystemTime;

use rustls_pki_types::UnixTime;

/// The time of day, for certificates and logs. Never for durations: it may jump.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// The same moment as TLS counts it. Before 1970 is 1970.
pub fn for_tls(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
