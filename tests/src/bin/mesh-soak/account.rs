//! The fate of every connection, request and byte.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_tests::capture::Capture;
use mesh_tests::expect::eventually;
use mesh_tests::http::{Ask, Tally};
use mesh_tests::pair::PORT;
use mesh_tests::report::Totals;
use serde_json::json;

use crate::event::{Event, Kind};
use crate::slope;
use crate::starved::Starvation;
use crate::world::{HTTP, World};

/// A client says so of bytes that are not those that were sent, of connections and of requests.
const WRONG: &str = Ask::ANOTHER_ECHO;

/// The part of the time after which memory is looked at: a third.
const WARM_UP: f64 = 3.0;

/// The kernel refuses a connection so whose agent gives no sign of life.
const GONE: &str = "EPERM";

/// All works again within this after an event.
const RECOVERY: Duration = Duration::from_secs(15);

/// Within this, after its peers have ended, an agent has closed what it had for them.
const TIDIED: Duration = Duration::from_secs(30);

/// The account.
#[derive(Debug)]
pub(crate) struct Account {
    began: Instant,
    connections: u64,
    requests: u64,
    /// Failures while something broke them, by what it was.
    explained: BTreeMap<Event, u64>,
    /// Failures because the machine kept the agent from running, and the longest time for which it did.
    starvation: Starvation,
    starved: u64,
    longest_wait: Duration,
    /// Other failures: when, and with which error.
    unexplained: BTreeMap<String, u64>,
    plaintext_bytes: u64,
    wrong_bytes: u64,
    /// Events that happened, and the longest time until all worked again after one.
    events: BTreeMap<Event, u64>,
    recoveries: BTreeMap<Event, Duration>,
    /// The memory of the agent that is never replaced, in KiB, by seconds.
    memory: Vec<(f64, f64)>,
    /// How many more descriptors it has at the end than after the first connections.
    descriptors_left: i64,
}

impl Account {
    /// An empty one.
    pub(crate) fn new(starvation: Starvation) -> Self {
        Self {
            starvation,
            starved: 0,
            longest_wait: Duration::ZERO,
            began: Instant::now(),
            connections: 0,
            requests: 0,
            explained: BTreeMap::new(),
            unexplained: BTreeMap::new(),
            plaintext_bytes: 0,
            wrong_bytes: 0,
            events: BTreeMap::new(),
            recoveries: BTreeMap::new(),
            memory: Vec::new(),
            descriptors_left: 0,
        }
    }

    /// Seconds since the begin.
    pub(crate) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Adds what has happened in a time in which nothing broke, and opens connections that the next
    /// event finds.
    pub(crate) fn calm(&mut self, world: &mut World) -> Result<()> {
        let opened = world.hold()?;
        self.add(world, None)?;
        for (kind, totals) in [Kind::HeldFar, Kind::HeldNear].into_iter().zip(&opened) {
            self.add_connections(kind, totals, None);
        }
        Ok(())
    }

    /// Adds what has happened since, in which `event` did. It took all so long to work again.
    pub(crate) fn after(
        &mut self,
        world: &mut World,
        event: Event,
        recovery: Duration,
    ) -> Result<()> {
        *self.events.entry(event).or_default() += 1;
        let longest = self.recoveries.entry(event).or_default();
        *longest = recovery.max(*longest);
        if recovery > RECOVERY {
            self.note(Some(event), &format!("took {recovery:?} until all worked"), 1);
        }
        let held = world.release()?;
        for (kind, totals) in [Kind::HeldFar, Kind::HeldNear].into_iter().zip(&held) {
            self.add_connections(kind, totals, Some(event));
        }
        self.add(world, Some(event))?;
        let kib = f64::from(u32::try_from(world.b.memory_bytes()? >> 10)?);
        self.memory.push((self.seconds(), kib));
        // A capture keeps all that it sees.
        let next = Capture::start(world.pair.lab.fabric())?;
        if let Some(before) = world.wire.replace(next) {
            self.look(before)?;
        }
        Ok(())
    }

    /// Stops all traffic, and adds the rest.
    pub(crate) fn close(&mut self, world: World) -> Result<()> {
        let World { connections, requests, wire, a, former, b, descriptors, .. } = world;
        for (kind, traffic) in [Kind::Far, Kind::Near].into_iter().zip(connections) {
            self.add_connections(kind, &traffic.stop()?, None);
        }
        self.add_requests(&requests.stop()?, None);
        if let Some(wire) = wire {
            self.look(wire)?;
        }
        a.terminate()?;
        for mut former in former {
            former.ended()?;
        }
        // More than that are reported; there is nothing to wait for then.
        let tidied = || b.descriptors().is_ok_and(|now| now <= descriptors).then_some(());
        let _or_left: Result<()> = eventually("descriptors to be closed", TIDIED, tidied);
        let (now, before) = (i64::try_from(b.descriptors()?)?, i64::try_from(descriptors)?);
        self.descriptors_left = now - before;
        b.terminate().map(drop)
    }

    fn add(&mut self, world: &mut World, during: Option<Event>) -> Result<()> {
        let before = self.unexplained.len();
        for (kind, traffic) in [Kind::Far, Kind::Near].into_iter().zip(&mut world.connections) {
            self.add_connections(kind, &traffic.mark()?, during);
        }
        let tally = world.requests.mark()?;
        self.add_requests(&tally, during);
        self.longest_wait = self.longest_wait.max(self.starvation.longest());
        self.starvation.forget();
        if self.unexplained.len() > before {
            for line in world.failures()? {
                eprintln!("          {line}");
            }
        }
        world.empty_logs()
    }

    fn add_connections(&mut self, kind: Kind, totals: &Totals, during: Option<Event>) {
        self.connections += totals.connections;
        for (error, count) in &totals.errors {
            if error.contains(WRONG) {
                self.wrong_bytes += count;
            }
            self.fail((during, kind), error, *count);
        }
    }

    fn add_requests(&mut self, tally: &Tally, during: Option<Event>) {
        self.requests += tally.requests;
        let during = (during, Kind::Requests);
        for (status, count) in tally.statuses.iter().filter(|(status, _)| **status != 200) {
            self.fail(during, &format!("status {status}"), *count);
        }
        for (error, count) in &tally.errors {
            if error.contains(WRONG) {
                self.wrong_bytes += count;
            }
            self.fail(during, error, *count);
        }
    }

    fn fail(&mut self, (during, kind): (Option<Event>, Kind), error: &str, count: u64) {
        match during {
            Some(event) if event.explains(kind) => {
                *self.explained.entry(event).or_default() += count;
            }
            _ if error.ends_with(GONE) && self.starvation.is_late() => self.starved += count,
            _ => self.note(during, &format!("{kind:?}: {error}"), count),
        }
    }

    /// Notes what nothing explains.
    fn note(&mut self, during: Option<Event>, what: &str, count: u64) {
        let at = during.map_or_else(|| "calm".to_owned(), |event| format!("{event:?}"));
        let what = format!("{:.1} s, {at}: {what}", self.seconds());
        eprintln!("  unexplained: {what} ({count})");
        *self.unexplained.entry(what).or_default() += count;
    }

    fn look(&mut self, wire: Capture) -> Result<()> {
        let wire = wire.stop()?;
        let open = wire.of_port(PORT).chain(wire.of_port(HTTP));
        self.plaintext_bytes += open.map(|stream| stream.bytes.len() as u64).sum::<u64>();
        Ok(())
    }

    /// By how much the memory grows, in KiB a minute, after a third of the time: the agent has its
    /// buffers and caches by then.
    fn slope(&self) -> f64 {
        let warm = self.memory.last().map_or(0.0, |(at, _)| at / WARM_UP);
        let after = self.memory.iter().filter(|(at, _)| *at >= warm).copied();
        slope::median(&after.collect::<Vec<_>>()) * 60.0
    }

    /// Whether nothing has failed that should not have.
    pub(crate) fn is_good(&self) -> bool {
        self.unexplained.is_empty()
            && self.plaintext_bytes == 0
            && self.wrong_bytes == 0
            && self.descriptors_left <= 0
    }

    /// One line for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        let named = |counts: &BTreeMap<Event, u64>| -> BTreeMap<String, u64> {
            counts
                .iter()
                .map(|(event, count)| (format!("{event:?}").to_lowercase(), *count))
                .collect()
        };
        json!({
            "connections": self.connections,
            "requests": self.requests,
            "failed_unexplained": self.unexplained.values().sum::<u64>(),
            "unexplained": self.unexplained,
            "failed_explained": named(&self.explained),
            "failed_starved": self.starved,
            "starved_ms": self.longest_wait.as_millis(),
            "events": named(&self.events),
            "recovery_ms": self.recoveries.iter().map(|(event, longest)| {
                (format!("{event:?}").to_lowercase(), longest.as_millis())
            }).collect::<BTreeMap<_, _>>(),
            "plaintext_bytes": self.plaintext_bytes,
            "wrong_bytes": self.wrong_bytes,
            "rss_slope_kib_per_min": (self.slope() * 10.0).round() / 10.0,
            "fds_left": self.descriptors_left,
        })
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |counts: &BTreeMap<Event, u64>| counts.values().sum::<u64>();
        writeln!(f, "{:>10}  connections", self.connections)?;
        writeln!(f, "{:>10}  requests", self.requests)?;
        writeln!(f, "{:>10}  events", sum(&self.events))?;
        for (event, count) in &self.events {
            let longest = self.recoveries.get(event).copied().unwrap_or_default();
            writeln!(f, "{count:>14}  {event:?}, all worked again within {longest:.1?}")?;
        }
        writeln!(f, "{:>10}  failed while an event broke them", sum(&self.explained))?;
        let (starved, wait) = (self.starved, self.longest_wait);
        writeln!(
            f,
            "{starved:>10}  failed while the agent got no processor, for up to {wait:.1?}"
        )?;
        writeln!(f, "{:>10}  failed otherwise", self.unexplained.values().sum::<u64>())?;
        for (what, count) in &self.unexplained {
            writeln!(f, "{count:>14}  {what}")?;
        }
        writeln!(f, "{:>10}  bytes in plaintext between the nodes", self.plaintext_bytes)?;
        writeln!(f, "{:>10}  answers with wrong bytes", self.wrong_bytes)?;
        writeln!(f, "{:>10.1}  KiB a minute by which the agent's memory grows", self.slope())?;
        writeln!(f, "{:>10}  descriptors that it has kept", self.descriptors_left)
    }
}
