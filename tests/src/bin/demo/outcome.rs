//! Result of the delivery, and the claims about it.

use std::collections::BTreeMap;

use mesh_tests::http::Tally;
use serde_json::{Value, json};

use crate::claims::Claim;
use crate::screen::Screen;
use crate::shop::{CANARY, Routing, STABLE};

/// How many standard deviations a share may be off. Chance exceeds it once in a million runs.
const DEVIATIONS: f64 = 5.0;

/// The median from which it is noticed that the shadow hangs.
///
/// If each request waited for its copy, for 300 ms only, the 8 connections of the users would have
/// 8 / 0.3 s = 27 answers a second of the 200 that are due: half of 200 would be later than this. A
/// machine that has too much to do makes them half a second late.
const NOTICED_US: u64 = 3_000_000;

/// Which part of the requests must have a copy: on such a machine more may be under way than the
/// agent allows, which makes no further ones then.
const COPIED: f64 = 0.95;

/// The result of an edit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Act {
    pub route: Routing,
    pub users: Tally,
    pub testers: Tally,
    /// Requests that the workloads have seen.
    pub served: u64,
    /// Those of them of which the shadow has a copy.
    pub copied: u64,
}

/// The result of all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Everybody on the stable version.
    pub stable: Act,
    /// Testers on the canary.
    pub testers: Act,
    /// The others as well, more and more.
    pub steps: Vec<Act>,
    /// The shadow does not answer.
    pub hang: Act,
    /// Everybody but the testers on the stable version again.
    pub back: Act,
    /// Requests that the canary saw before it had a weight, and that were no tester's.
    pub untested: u64,
    /// The answers to the clients, from start to end.
    pub total: Tally,
    /// Requests that the workloads have served, each counted once.
    pub served: u64,
    /// Those of them that were served more than once.
    pub repeated: u64,
    /// Those of them that were copied more than once.
    pub copied_again: u64,
    /// The requests that each version has served.
    pub versions: BTreeMap<String, u64>,
    /// The requests that the client's agent has counted as answered by a backend, with 200.
    pub answered: u64,
    /// And in another way.
    pub answered_otherwise: u64,
}

impl Act {
    /// Prints it.
    pub(crate) fn show(&self, screen: &Screen) {
        bar(screen, "users", &self.users);
        if self.route.testers {
            bar(screen, "testers", &self.testers);
        }
        let (sent, failed) = (self.sent(), self.failed());
        let failed = format!("{failed} failed");
        let failed = if self.failed() == 0 { failed } else { screen.red(&failed) };
        screen.detail(&format!(
            "answers    {sent} sent, {failed}; half within {} µs, 99 % within {} µs",
            self.users.p50_us, self.users.p99_us
        ));
        screen.detail(&format!(
            "copies     of {} requests at the workloads, {} at the shadow",
            self.served, self.copied
        ));
    }

    /// Whether no request goes where none should, and copies go out.
    pub(crate) fn is_settled(&self) -> bool {
        let is_pure = |tally: &Tally, canary: u32| match canary {
            0 => count(tally, CANARY) == 0,
            100 => count(tally, STABLE) == 0,
            _ => true,
        };
        is_pure(&self.users, self.route.share())
            && is_pure(&self.testers, self.testers_share())
            && self.copied > 0
    }

    /// Whether everybody is where they should be, as far as chance allows.
    fn is_divided(&self) -> bool {
        let is_near = |tally: &Tally, canary: u32| {
            let share = f64::from(canary) / 100.0;
            let deviation = (share * (1.0 - share) / float(tally.requests)).sqrt();
            (self::share(tally) - share).abs() <= DEVIATIONS * deviation && tally.requests > 0
        };
        is_near(&self.users, self.route.share()) && is_near(&self.testers, self.testers_share())
    }

    fn testers_share(&self) -> u32 {
        if self.route.testers { 100 } else { self.route.share() }
    }

    fn sent(&self) -> u64 {
        self.users.requests + self.testers.requests
    }

    fn failed(&self) -> u64 {
        self.users.failed() + self.testers.failed()
    }

    fn json(&self) -> Value {
        json!({
            "canary_percent": self.route.share(),
            "users": self.users.servers,
            "testers": self.testers.servers,
            "sent": self.sent(),
            "failed": self.failed(),
            "served": self.served,
            "copied": self.copied,
            "p50_us": self.users.p50_us,
            "p99_us": self.users.p99_us,
        })
    }
}

impl Outcome {
    /// Prints what everybody has counted.
    pub(crate) fn show(&self, screen: &Screen) {
        let versions = |versions: &BTreeMap<String, u64>| {
            let all: Vec<_> =
                versions.iter().map(|(name, count)| format!("{name} {count}")).collect();
            all.join(", ")
        };
        let Tally { requests, servers, .. } = &self.total;
        let failed = self.total.failed();
        screen
            .detail(&format!("clients    {requests} sent, {failed} failed: {}", versions(servers)));
        screen.detail(&format!(
            "workloads  {} served, {} of them twice: {}",
            self.served,
            self.repeated,
            versions(&self.versions)
        ));
        screen.detail(&format!(
            "agent a    {} answered by a backend, {} in another way",
            self.answered, self.answered_otherwise
        ));
    }

    /// The claims.
    pub(crate) fn claims(&self) -> Vec<Claim> {
        let shares: Vec<_> = self.steps.iter().map(|act| percent(&act.users)).collect();
        let copied = self.acts().map(|act| act.copied).sum::<u64>();
        let served = self.acts().map(|act| act.served).sum::<u64>();
        let Tally { requests, .. } = self.total;
        vec![
            Claim {
                holds: self.stable.is_divided(),
                what: "by the first route nobody is on v2",
                seen: format!("{} of {}", count(&self.stable.users, CANARY), self.stable.sent()),
            },
            Claim {
                holds: self.testers.is_divided() && self.untested == 0,
                what: "only x-canary: yes reaches v2",
                seen: format!(
                    "{} of {} testers, {} others",
                    count(&self.testers.testers, CANARY),
                    self.testers.testers.requests,
                    self.untested
                ),
            },
            Claim {
                holds: !self.steps.is_empty() && self.steps.iter().all(Act::is_divided),
                what: "v2 has 0, then 10, 50 and 100 % of the users",
                seen: shares.join(", "),
            },
            Claim {
                holds: float(copied) >= COPIED * float(served)
                    && served > 0
                    && self.copied_again == 0,
                what: "the shadow has one copy of each request",
                seen: format!("{copied} of {served}, {} twice", self.copied_again),
            },
            Claim {
                holds: self.hang.is_divided()
                    && self.hang.failed() == 0
                    && self.hang.users.p50_us < NOTICED_US,
                what: "a shadow that hangs is not noticed",
                seen: format!(
                    "{} answered meanwhile, {} failed",
                    self.hang.sent(),
                    self.hang.failed()
                ),
            },
            Claim {
                holds: self.back.is_divided(),
                what: "one edit brings everybody back to v1",
                seen: format!("{} of v2", percent(&self.back.users)),
            },
            Claim {
                holds: self.total.failed() == 0 && requests > 0,
                what: "no request is lost, from start to end",
                seen: format!("{} of {requests}{}", self.total.failed(), self.errors()),
            },
            Claim {
                holds: self.total.servers == self.versions
                    && (self.served, self.repeated) == (requests, 0)
                    && (self.answered, self.answered_otherwise) == (requests, 0),
                what: "clients, workloads and agent count the same",
                seen: format!("{requests}, {}, {}", self.served, self.answered),
            },
        ]
    }

    /// The same for machines.
    pub(crate) fn json(&self) -> Value {
        json!({
            "stable": self.stable.json(),
            "testers": self.testers.json(),
            "steps": self.steps.iter().map(Act::json).collect::<Vec<_>>(),
            "hang": self.hang.json(),
            "back": self.back.json(),
            "untested_at_canary": self.untested,
            "requests": self.total.requests,
            "failed": self.total.failed(),
            "served": self.served,
            "served_twice": self.repeated,
            "copied_twice": self.copied_again,
            "counted_by_agent": self.answered,
        })
    }

    /// Those in which the shadow answers.
    fn acts(&self) -> impl Iterator<Item = &Act> {
        [&self.stable, &self.testers].into_iter().chain(&self.steps).chain([&self.back])
    }

    fn errors(&self) -> String {
        let Tally { errors, statuses, .. } = &self.total;
        let statuses = statuses.iter().filter(|(status, _)| **status != 200);
        let statuses = statuses.map(|(status, count)| format!(", {count} × {status}"));
        let errors = errors.iter().map(|(error, count)| format!(", {count} × {error}"));
        errors.chain(statuses).collect()
    }
}

fn bar(screen: &Screen, name: &str, tally: &Tally) {
    let (stable, canary) = (count(tally, STABLE), count(tally, CANARY));
    screen.detail(&format!(
        "{name:<9}  {}  {STABLE} {stable}, {CANARY} {canary} ({})",
        screen.split(share(tally)),
        percent(tally)
    ));
}

fn count(tally: &Tally, server: &str) -> u64 {
    tally.servers.get(server).copied().unwrap_or_default()
}

/// The share of the canary, from 0 to 1.
fn share(tally: &Tally) -> f64 {
    let (stable, canary) = (count(tally, STABLE), count(tally, CANARY));
    if stable + canary == 0 { 0.0 } else { float(canary) / float(stable + canary) }
}

fn percent(tally: &Tally) -> String {
    format!("{:.1} %", share(tally) * 100.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a demo are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn tally(v1: u64, v2: u64) -> Tally {
        let servers = [(STABLE.to_owned(), v1), (CANARY.to_owned(), v2)];
        let servers = servers.into_iter().filter(|(_, count)| *count > 0).collect();
        let statuses = [(200, v1 + v2)].into();
        Tally { requests: v1 + v2, servers, statuses, p50_us: 1_000, ..Tally::default() }
    }

    fn act(testers: bool, weight: u32, users: (u64, u64)) -> Act {
        let testers_at = if testers { tally(0, 40) } else { tally(40, 0) };
        Act {
            route: Routing { testers, weight: Some(weight) },
            users: tally(users.0, users.1),
            testers: testers_at,
            served: 10,
            copied: 10,
        }
    }

    /// One of which every claim holds.
    pub(crate) fn good() -> Outcome {
        Outcome {
            stable: act(false, 0, (400, 0)),
            testers: act(true, 0, (400, 0)),
            steps: vec![
                act(true, 0, (400, 0)),
                act(true, 10, (905, 95)),
                act(true, 50, (490, 510)),
                act(true, 100, (0, 400)),
            ],
            hang: act(true, 100, (0, 400)),
            back: act(true, 0, (400, 0)),
            total: tally(3_000, 2_000),
            versions: tally(3_000, 2_000).servers,
            served: 5_000,
            answered: 5_000,
            ..Outcome::default()
        }
    }

    #[track_caller]
    fn check(damage: impl FnOnce(&mut Outcome), expect: bool) {
        let mut outcome = good();
        damage(&mut outcome);
        let failed: Vec<_> = outcome.claims().into_iter().filter(|claim| !claim.holds).collect();
        assert_eq!(failed.is_empty(), expect, "{failed:?}");
    }

    #[test]
    fn all_must_hold() {
        check(|_| {}, true);
        check(|outcome| outcome.stable.users = tally(399, 1), false);
        check(|outcome| outcome.testers.testers = tally(1, 39), false);
        check(|outcome| outcome.testers.users = tally(399, 1), false);
        check(|outcome| outcome.untested = 1, false);
        check(|outcome| outcome.steps[0].users = tally(399, 1), false);
        // 10 % of 1,000, by five standard deviations of 9.5: 52 to 147.
        check(|outcome| outcome.steps[1].users = tally(947, 53), true);
        check(|outcome| outcome.steps[1].users = tally(949, 51), false);
        check(|outcome| outcome.steps[1].users = tally(852, 148), false);
        check(|outcome| outcome.steps[2].users = tally(0, 0), false);
        check(|outcome| outcome.steps[3].users = tally(1, 399), false);
        check(|outcome| outcome.steps.clear(), false);
        check(|outcome| outcome.back.users = tally(399, 1), false);
        check(|outcome| outcome.back.copied = 6, false);
        check(|outcome| outcome.copied_again = 1, false);
        check(|outcome| outcome.hang.users.p50_us = NOTICED_US, false);
        check(|outcome| _ = outcome.hang.users.errors.insert("timeout".to_owned(), 1), false);
        check(|outcome| _ = outcome.total.statuses.insert(503, 1), false);
        check(|outcome| _ = outcome.total.errors.insert("timeout".to_owned(), 1), false);
        check(|outcome| outcome.total = tally(0, 0), false);
        check(|outcome| outcome.served = 4_999, false);
        check(|outcome| outcome.repeated = 1, false);
        check(|outcome| outcome.answered = 4_999, false);
        check(|outcome| outcome.answered_otherwise = 1, false);
        check(|outcome| outcome.versions = tally(3_001, 1_999).servers, false);
    }
}
