//! How the shop's second version is delivered: one edit after the other, under traffic.

use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::expect::eventually;
use mesh_tests::http::{Ask, Load, Seen, Tally, field};
use mesh_tests::process::DEADLINE;
use nix::sys::signal::Signal;

use crate::outcome::{Act, Outcome};
use crate::screen::Screen;
use crate::shop::{CANARY, FILE, Routing, SHOP, Shop, TESTER};
use crate::story::SECRET;
use crate::world::World;

/// Requests a second, and the connections that they have: half of what a machine with two
/// processors can do besides, which all of this runs on.
const USERS: (u32, u64) = (200, 8);
const TESTERS: (u32, u64) = (20, 2);

/// Requests of an act in which all go one way.
const FEW: usize = 200;

/// Requests of an act in which they are divided.
const MANY: usize = 500;

/// Requests after an edit, by which those that were decided before it have ended.
const SETTLED: usize = 40;

/// How long copies and counts may be behind, before what is there is what there is.
const PATIENCE: Duration = Duration::from_secs(10);

/// The traffic, and what has been seen of it.
#[derive(Debug)]
struct Delivery<'a> {
    screen: &'a Screen,
    world: &'a mut World,
    users: Load,
    testers: Load,
    /// Of both, from start to end.
    total: Tally,
    ledger: Ledger,
}

/// The workloads' view.
#[derive(Debug, Default)]
struct Ledger {
    /// How often each request was served, by its path.
    served: BTreeMap<String, u64>,
    /// How often each was copied.
    copied: BTreeMap<String, u64>,
    /// How many each version has served.
    versions: BTreeMap<String, u64>,
    /// How many of the canary's had no tester's header.
    untested: u64,
    /// The requests that were served since the last look.
    recent: Vec<String>,
}

/// Tells it.
pub(crate) fn tell(screen: &Screen, world: &mut World) -> Result<Outcome> {
    let before = Answers::of(world)?;
    let route = Routing { testers: false, weight: None };
    let title = "8  Everybody on v1, by an HTTPRoute; 220 requests a second from now on";
    let (mut delivery, stable) = screen.step(title, || {
        let edit = "+ everybody → shop-v1, with a mirror of 100 % → shop-shadow";
        apply(screen, world, edit, route)?;
        let mut delivery = Delivery::start(screen, world)?;
        let act = delivery.watch(route, FEW)?;
        Ok((delivery, act))
    })?;
    let route = Routing { testers: true, ..route };
    let testers = screen.step("9  Version 2, for testers only", || {
        let (name, value) = TESTER;
        delivery.act(&format!("+ headers: {name}: \"{value}\" → shop-v2"), route, FEW)
    })?;
    let (steps, untested) =
        screen.step("10 Version 2, for 0, 10, 50 and 100 % of all", || delivery.weights(route))?;
    let route = Routing { weight: Some(100), ..route };
    let hang = screen.step("11 The shadow hangs", || delivery.hang(route))?;
    let back = screen.step("12 Back to version 1 with one edit", || {
        let route = Routing { weight: Some(0), ..route };
        delivery.act("shop-v1: weight 0 → 100, shop-v2: weight 100 → 0", route, FEW)
    })?;
    screen.step("13 What everybody has counted", || {
        let outcome = Outcome { untested, ..delivery.finish(before)? };
        outcome.show(screen);
        Ok(Outcome { stable, testers, steps, hang, back, ..outcome })
    })
}

/// Edits the file, and waits until the client's agent follows it.
fn apply(screen: &Screen, world: &World, edit: &str, route: Routing) -> Result<()> {
    let revision =
        || world.agent_a.metrics().map(|metrics| metrics.sum("mesh_snapshot_revision", &[]));
    let before = revision()?;
    let edited = Instant::now();
    world.config.write_file(FILE, &route.yaml())?;
    until("the agent to read the file", DEADLINE, || Ok(revision()? > before))?;
    let took = edited.elapsed().as_millis();
    let conditions = world.agent_a.metrics()?.sum("mesh_conditions", &[]);
    ensure!(conditions < 1.0, "the agent complains: {}", world.agent_a.conditions()?);
    screen.detail(&format!("edit       {}; in force after {took} ms", screen.cyan(edit)));
    Ok(())
}

impl<'a> Delivery<'a> {
    /// Starts the traffic, which goes on to the end.
    fn start(screen: &'a Screen, world: &'a mut World) -> Result<Self> {
        let load = |path, (rate, connections), header: Option<(&str, &str)>| {
            let ask = Ask::get(path).header("x-note", SECRET).headers(header.as_slice());
            let ask = ask.times(1, connections).rate(rate);
            Load::start(&world.machines.client, SHOP, &ask)
        };
        let users = load("/user/{n}", USERS, None)?;
        let testers = load("/tester/{n}", TESTERS, Some(TESTER))?;
        let (total, ledger) = (Tally::default(), Ledger::default());
        Ok(Self { screen, world, users, testers, total, ledger })
    }

    /// Edits the file, and watches what comes of it.
    fn act(&mut self, edit: &str, route: Routing, requests: usize) -> Result<Act> {
        apply(self.screen, self.world, edit, route)?;
        self.watch(route, requests)
    }

    /// The canary's share grows. Returns as well how many came to it before that and are no testers.
    fn weights(&mut self, route: Routing) -> Result<(Vec<Act>, u64)> {
        let mut acts = Vec::new();
        let mut untested = 0;
        for (edit, weight, requests) in [
            ("+ shop-v2: weight 0, shop-v1: weight 100", 0, FEW),
            ("shop-v1: weight 100 → 90, shop-v2: weight 0 → 10", 10, MANY),
            ("shop-v1: weight 90 → 50, shop-v2: weight 10 → 50", 50, MANY),
            ("shop-v1: weight 50 → 0, shop-v2: weight 50 → 100", 100, FEW),
        ] {
            acts.push(self.act(edit, Routing { weight: Some(weight), ..route }, requests)?);
            if weight == 0 {
                untested = self.ledger.untested;
            }
        }
        Ok((acts, untested))
    }

    /// The shadow is stopped, so that it neither answers a copy nor refuses it.
    fn hang(&mut self, route: Routing) -> Result<Act> {
        self.world.shop.shadow.signal(Signal::SIGSTOP)?;
        self.screen.detail("shadow     is stopped (SIGSTOP): answers no copy, and refuses none");
        // Requests that were answered before count for the act before.
        let before = self.mark(route);
        let act = before.and_then(|_| self.served(FEW)).and_then(|()| self.mark(route));
        // In any case: a stopped process would not end.
        self.world.shop.shadow.signal(Signal::SIGCONT)?;
        let act = act?;
        act.show(self.screen);
        Ok(act)
    }

    /// Waits until the requests follow `route`, and watches so many of them.
    fn watch(&mut self, route: Routing, requests: usize) -> Result<Act> {
        until("the requests to follow the file", DEADLINE, || {
            self.served(SETTLED)?;
            Ok(self.mark(route)?.is_settled())
        })?;
        self.served(requests)?;
        let mut act = self.mark(route)?;
        let recent = mem::take(&mut self.ledger.recent);
        let behind = until("the copies", PATIENCE, || {
            self.ledger.look(&self.world.shop)?;
            act.copied = self.ledger.n_copied(&recent);
            Ok(act.copied == act.served)
        });
        // If some never come, it is a claim that fails, and not the wait for them.
        drop(behind);
        act.show(self.screen);
        Ok(act)
    }

    /// Waits until the workloads have served so many more.
    fn served(&mut self, requests: usize) -> Result<()> {
        self.ledger.recent.clear();
        until(&format!("{requests} requests at the workloads"), DEADLINE, || {
            self.ledger.look(&self.world.shop)?;
            Ok(self.ledger.recent.len() >= requests)
        })
    }

    /// The answers to the clients since the last mark, and what the workloads have seen of it.
    fn mark(&mut self, route: Routing) -> Result<Act> {
        let (users, testers) = (self.users.mark()?, self.testers.mark()?);
        self.total.add(&users);
        self.total.add(&testers);
        let recent = &self.ledger.recent;
        let served = u64::try_from(recent.len())?;
        Ok(Act { route, users, testers, served, copied: self.ledger.n_copied(recent) })
    }

    /// Ends the traffic, and asks everybody.
    fn finish(self, before: Answers) -> Result<Outcome> {
        let Self { world, users, testers, mut total, mut ledger, .. } = self;
        total.add(&users.stop()?);
        total.add(&testers.stop()?);
        let mut answers = before;
        let behind = until("the last counts", PATIENCE, || {
            ledger.look(&world.shop)?;
            answers = Answers::of(world)?;
            let counted = answers.all - before.all;
            Ok(ledger.n_served() == total.requests && counted == total.requests)
        });
        // As with copies: if they stay behind, that is what is claimed not to be.
        drop(behind);
        let repeated = |counts: &BTreeMap<String, u64>| {
            let more = counts.values().filter(|count| **count > 1).count();
            u64::try_from(more).unwrap_or(u64::MAX)
        };
        Ok(Outcome {
            repeated: repeated(&ledger.served),
            copied_again: repeated(&ledger.copied),
            served: ledger.n_served(),
            versions: ledger.versions,
            answered: answers.good - before.good,
            answered_otherwise: (answers.all - answers.good) - (before.all - before.good),
            total,
            ..Outcome::default()
        })
    }
}

impl Ledger {
    /// Takes over what the workloads have seen since the last look.
    fn look(&mut self, shop: &Shop) -> Result<()> {
        let [a, b] = &shop.stable;
        for web in [a, b, &shop.canary] {
            web.seen_so_far()?.into_iter().for_each(|seen| self.serve(seen));
        }
        for copy in shop.shadow.seen_so_far()? {
            *self.copied.entry(copy.path).or_default() += 1;
        }
        Ok(())
    }

    fn serve(&mut self, seen: Seen) {
        let (name, value) = TESTER;
        let is_tester = field(&seen.headers, name) == Some(value);
        self.untested += u64::from(seen.server == CANARY && !is_tester);
        *self.versions.entry(seen.server).or_default() += 1;
        *self.served.entry(seen.path.clone()).or_default() += 1;
        self.recent.push(seen.path);
    }

    /// How many requests were served, each counted once.
    fn n_served(&self) -> u64 {
        u64::try_from(self.served.len()).unwrap_or(u64::MAX)
    }

    /// How many of these were copied.
    fn n_copied(&self, paths: &[String]) -> u64 {
        let copied = paths.iter().filter(|path| self.copied.contains_key(*path)).count();
        u64::try_from(copied).unwrap_or(u64::MAX)
    }
}

/// The answers that the client's agent says it has given.
#[derive(Clone, Copy, Debug)]
struct Answers {
    /// With what a backend has said, and 200.
    good: u64,
    all: u64,
}

impl Answers {
    fn of(world: &World) -> Result<Self> {
        let metrics = world.agent_a.metrics()?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let sum = |labels: &[(&str, &str)]| metrics.sum("mesh_http_requests_total", labels) as u64;
        let good = sum(&[("response_code", "200"), ("answered_by", "backend")]);
        Ok(Self { good, all: sum(&[]) })
    }
}

/// Waits for a condition.
fn until(what: &str, deadline: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually(what, deadline, || match is_so() {
        Ok(is_so) => is_so.then_some(Ok(())),
        Err(error) => Some(Err(error)),
    })?
}
