//! Attacks, each of which has to be refused, to leave its reason where operators look, and to leave
//! the agent serving, a bystander too, with no more memory and descriptors than are bounded.
//! `cargo xtask security` runs and counts them.
//!
//! An attack is one call of [`Arena::attack`]. The tests are sorted by who attacks, as the threat
//! model in `SECURITY.md` is.

// How it is seen what an attack costs others.
mod bounds;
mod bystander;

mod addresses;
mod admin;
mod authors;
mod connects;
mod hung;
mod logs;
mod outages;
mod paths;
mod floods;
mod frames;
mod peers;
mod pods;
mod readings;
mod relayed;
mod slices;
mod requests;
mod strangers;
mod trust_domains;
mod tunnels;
mod turns;
mod units;
mod unread;
mod users;
mod vanished;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Duration;

use mesh_tests::agent::Agent;
use mesh_tests::expect::eventually;
use mesh_tests::metrics::Metrics;
use mesh_tests::process::DEADLINE;

use bounds::{Bounds, Growth, Watch};
use bystander::Bystander;

/// Names the file to which each attack adds a line when it begins and when it was refused.
const REPORT: &str = "MESH_ATTACKS";

/// Where a refusal leaves its reason.
#[derive(Clone, Copy, Debug)]
enum Trace<'a> {
    /// In a line of the access log that has all of these words.
    Access(&'a [&'a str]),
    /// In a line of the agent's log that has all of these words.
    Log(&'a [&'a str]),
    /// In a condition of `/conditions` that has all of these words.
    Condition(&'a [&'a str]),
    /// In a counter of `/metrics` with these labels, which goes up.
    Count(&'a str, &'a [(&'a str, &'a str)]),
    /// In what the attacker is told.
    Told,
}

/// The answers to an attacker; most are told nothing that matters.
trait Told {
    fn told(self) -> Option<String>;
}

impl Told for () {
    fn told(self) -> Option<String> {
        None
    }
}

impl Told for String {
    fn told(self) -> Option<String> {
        Some(self)
    }
}

/// An agent under attack, and how it is seen that it still serves.
struct Arena<'a> {
    /// The attacker, in the words of the threat model.
    by: &'static str,
    agent: &'a Agent,
    serves: &'a dyn Fn(),
    bystander: &'a Bystander,
}

/// An arena whose attacks have bounds of their own.
struct Within<'a> {
    arena: &'a Arena<'a>,
    bounds: Bounds,
}

/// The effect of an attack on others.
struct Effect {
    /// The duration of the bystander's fastest exchange.
    bystander: Duration,
    growth: Growth,
}

impl Arena<'_> {
    /// One attack: `act` does it and asserts that it is refused.
    #[track_caller]
    fn attack<T: Told>(&self, name: &str, trace: Trace<'_>, act: impl FnOnce() -> T) {
        self.together(&[(name, trace)], act);
    }

    /// Several attacks at one time, by one `act`.
    #[track_caller]
    fn together<T: Told>(&self, attacks: &[(&str, Trace<'_>)], act: impl FnOnce() -> T) {
        self.within(Bounds::default()).together(attacks, act);
    }

    /// The same, for attacks that rightly need more than the usual bounds, or less.
    fn within(&self, bounds: Bounds) -> Within<'_> {
        Within { arena: self, bounds }
    }

    fn conditions(&self) -> Option<Vec<String>> {
        let conditions = self.agent.conditions().ok()?;
        Some(conditions.as_array()?.iter().map(ToString::to_string).collect())
    }

    /// Waits for the reason of a refusal.
    #[track_caller]
    fn reason(
        &self,
        name: &str,
        trace: Trace<'_>,
        before: &Before,
        told: Option<&String>,
    ) -> String {
        let what = format!("the reason of `{name}`");
        let has = |line: &str, words: &[&str]| words.iter().all(|word| line.contains(word));
        let found = || match trace {
            Trace::Access(words) => {
                let lines = self.agent.access_log().ok()?;
                let mut new = lines.iter().skip(before.access).map(ToString::to_string);
                new.rfind(|line| has(line, words))
            }
            Trace::Log(words) => {
                let log = self.agent.log().split_off(before.log);
                log.lines().rfind(|line| has(line, words)).map(str::to_owned)
            }
            Trace::Condition(words) => {
                let is_new = |line: &String| has(line, words) && !before.conditions.contains(line);
                self.conditions()?.into_iter().find(is_new)
            }
            Trace::Count(name, labels) => {
                let goes_up =
                    self.agent.metrics().ok()?.sum(name, labels) > before.metrics.sum(name, labels);
                goes_up.then(|| format!("{name} counts it, with {labels:?}"))
            }
            Trace::Told => told.cloned(),
        };
        let Ok(reason) = eventually(&what, DEADLINE, found) else {
            panic!("no reason for `{name}`: {trace:?}\n{}", self.agent.log());
        };
        reason
    }
}

impl Within<'_> {
    /// As [`Arena::attack`].
    #[track_caller]
    fn attack<T: Told>(&self, name: &str, trace: Trace<'_>, act: impl FnOnce() -> T) {
        self.together(&[(name, trace)], act);
    }

    /// As [`Arena::together`].
    #[track_caller]
    fn together<T: Told>(&self, attacks: &[(&str, Trace<'_>)], act: impl FnOnce() -> T) {
        let Self { arena, bounds } = self;
        for (name, _) in attacks {
            note(arena.by, name, None);
        }
        let before = Before {
            access: arena.agent.access_log().unwrap().len(),
            log: arena.agent.log().len(),
            conditions: arena.conditions().unwrap(),
            metrics: arena.agent.metrics().unwrap(),
        };
        let watch = Watch::start(arena.agent);
        let told = act().told();
        for (name, trace) in attacks {
            let reason = arena.reason(name, *trace, &before, told.as_ref());
            (arena.serves)();
            let bystander = arena.bystander.served();
            let growth = watch.check(name, *bounds);
            note(arena.by, name, Some((&reason, &Effect { bystander, growth })));
        }
    }
}

/// The state before an attack.
struct Before {
    /// Lines of the access log.
    access: usize,
    /// Bytes of the agent's log.
    log: usize,
    conditions: Vec<String>,
    metrics: Metrics,
}

/// Adds a line to the report, if one is asked for, with tabs between: whether it was refused; by whom
/// it is, its name and the reason, as strings of JSON; and if it was, microseconds of the bystander's
/// exchange, bytes of memory, and descriptors during and after the attack.
fn note(by: &str, name: &str, refused: Option<(&str, &Effect)>) {
    let Some(path) = std::env::var_os(REPORT) else { return };
    let (reason, effect) = refused.unzip();
    let [by, name, reason] = [by, name, reason.unwrap_or_default()].map(serde_json::Value::from);
    let figures = |Effect { bystander, growth: Growth { most, descriptors_after } }: &Effect| {
        let (us, bytes, descriptors) = (bystander.as_micros(), most.memory_bytes, most.descriptors);
        format!("\t{us}\t{bytes}\t{descriptors}\t{descriptors_after}")
    };
    let figures = effect.map(figures).unwrap_or_default();
    let line = format!("{}\t{by}\t{name}\t{reason}{figures}\n", u8::from(refused.is_some()));
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    // In one call: tests run side by side.
    file.write_all(line.as_bytes()).unwrap();
}
