//! The same requests twice in one run: in a calm, and beside what disturbs them.
//!
//! A run is calm for a quarter of its time, disturbed for half of it, and calm again for the rest,
//! so that what changes slowly meets both alike. One task directs it; all others look.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Calm, Report, Tally};

/// The phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing disturbs the requests.
    Calm,
    /// The disturbance begins or ends: requests go on, and are not counted.
    Between,
    /// The phase that is measured.
    Disturbed,
    /// Nobody sends any more.
    Over,
}

/// The phases with their beginnings, for all threads of a run, in the order of time.
#[derive(Debug, Default)]
pub(super) struct Stage(Mutex<Vec<(Instant, Phase)>>);

/// How long the phases were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// Both calm phases.
    pub calm: Duration,
    pub disturbed: Duration,
}

/// The one who says what goes on. In any case, the run is over with it.
#[derive(Debug)]
pub(super) struct Director<'a>(&'a Stage);

/// The observations in the phases that count.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub calm: Tally,
    pub disturbed: Tally,
}

impl Stage {
    /// The phase at that time.
    pub(super) fn at(&self, time: Instant) -> Phase {
        let phases = self.phases();
        let last = phases.iter().rev().find(|(since, _)| *since <= time);
        last.map_or(Phase::Between, |(_, phase)| *phase)
    }

    /// How long the phases were that have ended.
    pub(super) fn spent(&self) -> Spent {
        let phases = self.phases();
        let mut spent = Spent::default();
        for ((since, phase), (until, _)) in phases.iter().zip(phases.iter().skip(1)) {
            let length = until.saturating_duration_since(*since);
            match phase {
                Phase::Calm => spent.calm += length,
                Phase::Disturbed => spent.disturbed += length,
                Phase::Between | Phase::Over => {}
            }
        }
        spent
    }

    fn phases(&self) -> MutexGuard<'_, Vec<(Instant, Phase)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Director<'a> {
    pub(super) fn of(stage: &'a Stage) -> Self {
        Self(stage)
    }

    /// Begins a phase, which ends the one before it.
    pub(super) fn enter(&mut self, phase: Phase, now: Instant) {
        self.0.phases().push((now, phase));
    }
}

impl Drop for Director<'_> {
    fn drop(&mut self) {
        self.enter(Phase::Over, Instant::now());
    }
}

impl Compared {
    /// Counts an exchange that went well and was due at `start`, in `phase`: one that is held up
    /// longer than its phase is that phase's all the same.
    pub(super) fn done(&mut self, phase: Phase, start: Instant) {
        match phase {
            Phase::Calm => self.calm.done(start),
            Phase::Disturbed => self.disturbed.done(start),
            Phase::Between | Phase::Over => {}
        }
    }

    /// Counts one that did not go well, whatever went on.
    pub(super) fn failed(&mut self) {
        self.disturbed.failed += 1;
    }

    /// Adds what another task saw at the same time.
    pub(super) fn add(&mut self, other: Self) {
        self.calm.add(other.calm);
        self.disturbed.add(other.disturbed);
    }

    /// The observations while it was disturbed, and beside them those in the calm.
    pub(super) fn report(mut self, spent: Spent) -> Report {
        self.calm.elapsed = spent.calm;
        self.disturbed.elapsed = spent.disturbed;
        let calm = self.calm.report();
        let calm = Calm { rps: calm.rps(), p50_us: calm.p50_us, p99_us: calm.p99_us };
        Report { calm: Some(calm), ..self.disturbed.report() }
    }
}

/// How long each calm phase is, and the disturbed one, of a run of `seconds`.
pub(super) fn lengths(seconds: f64) -> [Duration; 2] {
    [seconds / 4.0, seconds / 2.0].map(Duration::from_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_what_is_calm_or_disturbed_counts() {
        let (stage, begin) = (Stage::default(), Instant::now());
        let mut director = Director::of(&stage);
        let phases = [Phase::Calm, Phase::Between, Phase::Disturbed, Phase::Between, Phase::Calm];
        for (second, phase) in (1..).zip(phases) {
            director.enter(phase, begin + SECOND * second);
        }
        director.enter(Phase::Over, begin + SECOND * 9);
        // The last one was from the fifth second to the ninth.
        assert_eq!(stage.spent(), Spent { calm: SECOND * 5, disturbed: SECOND });
        let at = |quarters: u32| stage.at(begin + SECOND * quarters / 4);
        let [begun, calm] = [3, 7].map(at);
        assert_eq!((begun, calm), (Phase::Between, Phase::Calm));
        assert_eq!([8, 12, 36].map(at), [Phase::Between, Phase::Disturbed, Phase::Over]);
    }

    #[test]
    fn a_run_is_over_without_its_director() {
        let stage = Stage::default();
        let mut director = Director::of(&stage);
        director.enter(Phase::Disturbed, Instant::now());
        drop(director);
        assert_eq!(stage.at(Instant::now()), Phase::Over);
    }

    #[test]
    fn a_report_has_both_rates() {
        let mut seen = Compared::default();
        let phases = [Phase::Calm, Phase::Calm, Phase::Between, Phase::Disturbed, Phase::Over];
        for phase in phases {
            seen.done(phase, Instant::now());
        }
        seen.failed();
        let report = seen.report(Spent { calm: SECOND * 4, disturbed: SECOND * 2 });
        assert_eq!((report.done, report.failed), (1, 1));
        let rates = (report.rps(), report.calm.unwrap().rps);
        assert_eq!(rates, (0.5, 0.5));
    }

    #[test]
    fn half_of_a_run_is_disturbed() {
        assert_eq!(lengths(2.0), [SECOND / 2, SECOND]);
    }
}
