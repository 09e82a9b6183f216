//! Workloads that were found and cannot be enrolled, and whether a successor takes over without them (pure).

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::condition::{Finding, Reason};
use crate::model::workload::Workload;
use crate::store::update::{Key, Kind};
use crate::task::backoff::Backoff;

/// How long a successor tries to enroll all workloads of its predecessor before it takes over without those
/// that it cannot: five tries of each, and half of the time after which the predecessor is not ready, because
/// it changes nothing meanwhile.
pub(super) const LEAVES: Duration = Duration::from_secs(5);

/// A workload that could not be started.
#[derive(Debug)]
pub(super) struct Failing {
    backoff: Backoff,
    /// When it is tried again.
    pub(super) next: Instant,
    /// Cause of the last try's failure.
    pub(super) cause: Cause,
    error: String,
}

/// Why a workload could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It has no certificate: an authority that does not answer leaves all of them without.
    Certificate,
    /// No port is free in its namespace. Its own processes have them.
    Ports,
    /// Anything else.
    Place,
}

impl Cause {
    /// The cause of an error that is not about certificates.
    pub(super) fn of(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::AddrInUse { Self::Ports } else { Self::Place }
    }
}

impl Failing {
    /// One that has not failed yet, and is tried again after these delays at first and at most.
    pub(super) fn new(now: Instant, (first, most): (Duration, Duration)) -> Self {
        let backoff = Backoff::new(first, most);
        Self { backoff, next: now, cause: Cause::Place, error: String::new() }
    }

    /// It has failed once more.
    pub(super) fn again(&mut self, now: Instant, cause: Cause, error: &io::Error) {
        self.next = now + self.backoff.next(rand::random());
        self.cause = cause;
        self.error = error.to_string();
    }

    /// The condition of the workload. Of certificates, metrics and the log tell.
    pub(super) fn finding(&self, workload: &Workload) -> Option<Finding> {
        if self.cause == Cause::Certificate {
            return None;
        }
        Some(Finding {
            subject: Key { kind: Kind::Workload, name: workload.name.clone() }.to_string(),
            field: workload.place.field(),
            reason: Reason::NotEnrolled,
            message: format!(
                "the agent cannot serve it: {}; its failure mode is in force, and it is tried again: free \
                 what its processes hold, or restart it",
                self.error
            ),
        })
    }
}

/// Whether a successor takes over without those that it could not enroll until now. `missing` are their
/// causes; `None`: it is not there. `has_some`: others of the predecessor's are enrolled.
///
/// Not where the reason may be the successor's own, or the authority's: then the one that runs serves them
/// better.
pub(super) fn may_leave(has_some: bool, missing: impl IntoIterator<Item = Option<Cause>>) -> bool {
    missing.into_iter().all(|cause| match cause {
        Some(Cause::Certificate) => false,
        Some(Cause::Ports) => true,
        Some(Cause::Place) | None => has_some,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_keeps_others_from_a_successor_but_all_of_them_do() {
        let (certificate, ports, place) =
            (Some(Cause::Certificate), Some(Cause::Ports), Some(Cause::Place));
        for (has_some, missing, expect) in [
            (true, vec![ports, place, None], true),
            (true, vec![ports, certificate], false),
            (false, vec![ports, ports], true),
            (false, vec![ports, place], false),
            (false, vec![None], false),
            (false, vec![certificate], false),
        ] {
            assert_eq!(may_leave(has_some, missing.clone()), expect, "{has_some} {missing:?}");
        }
    }

    #[test]
    fn ports_in_use_are_told_from_other_errors() {
        assert_eq!(Cause::of(&io::ErrorKind::AddrInUse.into()), Cause::Ports);
        assert_eq!(Cause::of(&io::ErrorKind::PermissionDenied.into()), Cause::Place);
    }
}
