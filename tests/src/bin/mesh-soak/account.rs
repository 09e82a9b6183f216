//! What became of every connection, request and byte.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use anyhow::Result;
use mesh_tests::apps::Traffic;
use mesh_tests::capture::Capture;
use mesh_tests::http::{Ask, Tally};
use mesh_tests::pair::PORT;
use mesh_tests::report::Totals;
use serde_json::json;

use crate::event::Event;
use crate::slope;
use crate::world::{HTTP, World};

/// A client says so of bytes that are not those that were sent, of connections and of requests.
const WRONG: &str = Ask::ANOTHER_ECHO;

/// The part of the time after which memory is looked at: a third.
const WARM_UP: f64 = 3.0;

/// The account.
#[derive(Debug)]
pub(crate) struct Account {
    began: Instant,
    connections: u64,
    requests: u64,
    /// Failures while something broke them, by what it was.
    explained: BTreeMap<Event, u64>,
    /// Other failures: when, and with which error.
    unexplained: BTreeMap<String, u64>,
    plaintext_bytes: u64,
    wrong_bytes: u64,
    /// Events that happened.
    events: BTreeMap<Event, u64>,
    /// The memory of the agent that is never replaced, in KiB, by seconds.
    memory: Vec<(f64, f64)>,
    /// Its descriptors before there was traffic, and how many more it has at the end.
    descriptors: usize,
    descriptors_left: i64,
}

impl Account {
    /// An empty one.
    pub(crate) fn new(world: &World) -> Result<Self> {
        Ok(Self {
            began: Instant::now(),
            connections: 0,
            requests: 0,
            explained: BTreeMap::new(),
            unexplained: BTreeMap::new(),
            plaintext_bytes: 0,
            wrong_bytes: 0,
            events: BTreeMap::new(),
            memory: Vec::new(),
            descriptors: world.b.descriptors()?,
            descriptors_left: 0,
        })
    }

    /// Seconds since the begin.
    pub(crate) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Adds what has happened in a time in which nothing broke.
    pub(crate) fn calm(&mut self, world: &mut World) -> Result<()> {
        self.add(world, None)
    }

    /// Adds what has happened since, in which `event` did.
    pub(crate) fn after(&mut self, world: &mut World, event: Event) -> Result<()> {
        *self.events.entry(event).or_default() += 1;
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
        let World { connections, requests, wire, b, .. } = world;
        for traffic in connections {
            self.add_connections(&traffic.stop()?, None);
        }
        self.add_requests(&requests.stop()?, None);
        if let Some(wire) = wire {
            self.look(wire)?;
        }
        let (now, before) = (i64::try_from(b.descriptors()?)?, i64::try_from(self.descriptors)?);
        self.descriptors_left = now - before;
        Ok(())
    }

    fn add(&mut self, world: &mut World, during: Option<Event>) -> Result<()> {
        let totals: Vec<_> =
            world.connections.iter_mut().map(Traffic::mark).collect::<Result<_>>()?;
        for totals in totals {
            self.add_connections(&totals, during);
        }
        let tally = world.requests.mark()?;
        self.add_requests(&tally, during);
        Ok(())
    }

    fn add_connections(&mut self, totals: &Totals, during: Option<Event>) {
        self.connections += totals.connections;
        for (error, count) in &totals.errors {
            if error.contains(WRONG) {
                self.wrong_bytes += count;
            }
            self.fail(during, error, *count);
        }
    }

    fn add_requests(&mut self, tally: &Tally, during: Option<Event>) {
        self.requests += tally.requests;
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

    fn fail(&mut self, during: Option<Event>, error: &str, count: u64) {
        match during {
            Some(event) if event.breaks() => *self.explained.entry(event).or_default() += count,
            _ => {
                let at = during.map_or_else(|| "calm".to_owned(), |event| format!("{event:?}"));
                let what = format!("{:.1} s, {at}: {error}", self.seconds());
                *self.unexplained.entry(what).or_default() += count;
            }
        }
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
        self.unexplained.is_empty() && self.plaintext_bytes == 0 && self.wrong_bytes == 0
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
            "events": named(&self.events),
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
            writeln!(f, "{count:>14}  {event:?}")?;
        }
        writeln!(f, "{:>10}  failed while an event broke them", sum(&self.explained))?;
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
