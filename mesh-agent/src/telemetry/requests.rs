//! Requests of HTTP: how many, how they were answered, and how long it took. They are counted in the
//! series of the connections between the same parties.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::telemetry::Telemetry;
use crate::telemetry::labels::{Counters, NO_FLAGS};

/// Upper bounds of the buckets of durations, in milliseconds: Istio's.
pub(super) const BOUNDS_MS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5,
    1.8e6, 3.6e6,
];

/// Kinds of answers that are kept apart in one series. A backend chooses its statuses: further ones
/// are counted together, with the status 0.
const MAX_KINDS: usize = 64;

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKind {
    /// It was one of gRPC.
    pub is_grpc: bool,
    /// The status of HTTP; 0: there was no answer.
    pub code: u16,
    /// The status of gRPC, if there was one.
    pub grpc_status: Option<u16>,
    /// Envoy's flags for what went wrong.
    pub flags: &'static str,
}

impl RequestKind {
    /// It was answered with `code`, and nothing went wrong.
    pub const fn well(code: u16) -> Self {
        Self { is_grpc: false, code, grpc_status: None, flags: NO_FLAGS }
    }

    /// The word used in the metrics.
    pub(super) const fn protocol(&self) -> &'static str {
        if self.is_grpc { "grpc" } else { "http" }
    }
}

/// The end of a request that asks to switch protocols (RFC 9110, section 7.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// The server has switched to a protocol that it was not asked for.
    Refused,
    /// None of the protocols is allowed: the request went on without it.
    Removed,
    /// The server has switched.
    Switched,
}

impl Upgrade {
    /// All of them, in the order of their numbers.
    pub(super) const ALL: [Self; 3] = [Self::Refused, Self::Removed, Self::Switched];

    /// The word used in the metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Refused => "refused",
            Self::Switched => "switched",
        }
    }
}

/// The reason why a request is sent once alone, where it was to be sent again if it fails, or a copy of
/// it to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unkept {
    /// Its body is too long to be kept.
    Long,
    /// The client's workload has too much kept already.
    Room,
    /// Too many copies are under way.
    Copies,
}

impl Unkept {
    /// All of them, in the order of their numbers.
    pub(super) const ALL: [Self; 3] = [Self::Long, Self::Room, Self::Copies];

    /// The word used in the metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::Room => "room",
            Self::Copies => "copies",
        }
    }
}

impl Telemetry {
    /// Counts a request that was not kept, or not copied.
    pub fn unkept(&self, reason: Unkept) {
        self.shared.unkept[reason as usize].add(1);
    }

    /// Counts a request that asked to switch protocols, or an answer that did.
    pub fn upgrade(&self, end: Upgrade) {
        self.shared.upgrades[end as usize].add(1);
    }
}

/// Where the requests between two parties are counted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestSeries(pub(super) Arc<Counters>);

impl RequestSeries {
    /// Counts a request that was answered as `kind` says, and took so long.
    pub fn answered(&self, kind: RequestKind, lasted: Duration) {
        self.0.requests.answered(kind, lasted);
    }
}

/// The requests of one series.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<Vec<Sums>>);

/// Those that were answered alike.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sums {
    pub(super) kind: RequestKind,
    /// One for each of [`BOUNDS_MS`], and one for what is beyond.
    pub(super) buckets: [u64; BOUNDS_MS.len() + 1],
    /// In milliseconds.
    pub(super) lasted: f64,
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, Vec<Sums>> {
        // A panic elsewhere leaves whole numbers.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, kind: RequestKind, lasted: Duration) {
        let lasted = lasted.as_secs_f64() * 1e3;
        let bucket = BOUNDS_MS.partition_point(|bound| *bound < lasted);
        let mut all = self.lock();
        let place = all.iter().position(|sums| sums.kind == kind).unwrap_or_else(|| {
            if all.len() < MAX_KINDS {
                all.push(Sums { kind, buckets: [0; BOUNDS_MS.len() + 1], lasted: 0.0 });
            } else if let Some(last) = all.last_mut() {
                last.kind = RequestKind { code: 0, grpc_status: None, ..last.kind };
            }
            all.len() - 1
        });
        if let Some(sums) = all.get_mut(place) {
            sums.buckets[bucket] += 1;
            sums.lasted += lasted;
        }
    }

    /// The counts.
    pub(super) fn all(&self) -> Vec<Sums> {
        self.lock().clone()
    }
}

impl Sums {
    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let requests = Requests::default();
        let check = |micros: u64, bucket: usize| {
            requests.answered(RequestKind::well(200), Duration::from_micros(micros));
            assert_eq!(requests.all()[0].buckets[bucket], 1, "{micros}");
        };
        check(0, 0);
        check(501, 1);
        check(1_000_001, 10);
        check(4_000_000_000, 19);
        assert_eq!(requests.all()[0].count(), 4);
    }

    #[test]
    fn a_backend_that_invents_statuses_fills_no_memory() {
        let requests = Requests::default();
        for code in 100..1000 {
            requests.answered(RequestKind::well(code), Duration::ZERO);
        }
        let all = requests.all();
        assert_eq!(all.len(), MAX_KINDS);
        assert_eq!(all.iter().map(Sums::count).sum::<u64>(), 900);
        assert_eq!((all[0].kind.code, all[MAX_KINDS - 1].kind.code), (100, 0));
    }
}
