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

/// The time since the system was started, also while it slept (`CLOCK_BOOTTIME`). Nobody sets it.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// By less than this the clock may have been corrected without a word: NTP slews what is below 128 ms
/// (`STEPT` of RFC 5905, appendix A.1.1), and a moment passes between two readings.
const STEP: Duration = Duration::from_secs(1);

/// Notices that the time of day was set, in either direction.
#[derive(Debug, Default)]
pub struct Steps {
    /// When the system was started, by the time of day when that was last looked at.
    booted: Option<SystemTime>,
}

/// How the time of day was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is so much later.
    Ahead(Duration),
    /// It is so much earlier.
    Back(Duration),
}

impl Steps {
    /// How the time of day, which is `now`, was set since the last look; `None`: it was not. The
    /// system was started `running` ago, by a clock that nobody sets.
    pub fn look(&mut self, now: SystemTime, running: Duration) -> Option<Step> {
        let booted = now.checked_sub(running)?;
        let before = self.booted.replace(booted)?;
        let step = match booted.duration_since(before) {
            Ok(by) => Step::Ahead(by),
            Err(error) => Step::Back(error.duration()),
        };
        let (Step::Ahead(by) | Step::Back(by)) = step;
        (by >= STEP).then_some(step)
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ahead(by) => write!(f, "{:.1} s ahead", by.as_secs_f64()),
            Self::Back(by) => write!(f, "{:.1} s back", by.as_secs_f64()),
        }
    }
}

/// The same moment as TLS counts it. Before 1970 is 1970.
pub fn for_tls(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_seen_once_in_either_direction() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
        let mut steps = Steps::default();
        // The time of day, and that since the system was started, in seconds.
        let mut check = |day: u64, running: u64, expect| {
            let now = start + Duration::from_secs(day);
            assert_eq!(steps.look(now, Duration::from_secs(running)), expect, "{day} {running}");
        };
        check(0, 100, None);
        check(60, 160, None);
        check(90, 180, Some(Step::Ahead(Duration::from_secs(10))));
        check(92, 182, None);
        check(80, 190, Some(Step::Back(Duration::from_secs(20))));
        check(81, 191, None);
        // It slept for a day.
        check(86_481, 86_591, None);
    }

    #[test]
    fn what_is_slewed_is_no_step() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
        let mut steps = Steps::default();
        for second in 0..100 {
            let now = start + Duration::from_secs(second) + Duration::from_millis(500 * second);
            assert_eq!(steps.look(now, Duration::from_secs(second)), None);
        }
    }
}
