//! HTTP applications in pods: what clients ask, what servers saw, and what came back.
//!
//! `mesh-app http-serve` echoes as [`Seen`] what it was asked, and `mesh-app http` reports an
//! [`Answer`] to each [`Ask`]. Names of fields keep their case, which libraries hide: see [`wire`].

mod ask;
pub mod grpc;
pub mod route;
pub mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

pub use ask::{Ask, Check, Version};

use crate::pod::Pod;
use crate::process::Process;
use crate::report::Event;

/// The field in which a server of HTTP says its name, in this case.
pub const SERVED_BY: &str = "X-Served-By";

/// Fields or trailers, in their order and case.
pub type Fields = Vec<(String, String)>;

/// A request, as the server saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The name of the server.
    pub server: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub version: String,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The field `host` or the pseudo-field `:authority`.
    pub authority: Option<String>,
    /// All fields.
    pub headers: Fields,
    /// The body, as far as it is text.
    pub body: String,
    /// Fields after the body.
    pub trailers: Fields,
    /// Which of the server's connections it came by, from 0.
    pub connection: u64,
    /// Which request of its connection it was, from 0.
    pub request: u64,
}

/// The result of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Which of the asks it belongs to, from 0.
    pub ask: usize,
    /// The status; 0 if there was no answer.
    pub status: u16,
    /// All fields.
    pub headers: Fields,
    /// The body, as far as it is text, up to [`Answer::MAX_BODY_BYTES`].
    pub body: String,
    /// The length of the whole body in bytes.
    pub length: u64,
    /// Fields after the body.
    pub trailers: Fields,
    /// The messages of an answer of gRPC.
    pub messages: Vec<String>,
    /// The bytes that came back after `101 Switching Protocols`.
    pub echoed: Option<String>,
    /// The error, as in [`crate::report::Connection::error`].
    pub error: Option<String>,
    /// How long it took, in microseconds.
    pub total_us: u64,
}

/// The answers to a client that goes on since the last mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests that ended, well or not.
    pub requests: u64,
    /// How many were answered by each server.
    pub servers: BTreeMap<String, u64>,
    /// How many had each status.
    #[serde(with = "pairs")]
    pub statuses: BTreeMap<u16, u64>,
    /// How many ended with each error.
    pub errors: BTreeMap<String, u64>,
    /// The median of the durations of what a client reports as a whole, in microseconds.
    pub p50_us: u64,
    /// The 99th percentile of the durations, likewise.
    pub p99_us: u64,
}

/// A map whose keys are numbers as an array of pairs: a tagged enum (`Event`) cannot have it otherwise
/// (serde issue 1183).
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<u16, u64>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<u16, u64>, D::Error> {
        Vec::<(u16, u64)>::deserialize(from).map(BTreeMap::from_iter)
    }
}

/// The value of the first field of this name, in any case.
pub fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = fields.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

/// The values of all fields of this name, joined as lists are (RFC 9110, section 5.3).
pub fn joined(fields: &[(String, String)], name: &str) -> Option<String> {
    let values = fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
    let values: Vec<_> = values.map(|(_, value)| value.as_str()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

impl Answer {
    /// How much of a body is reported.
    pub const MAX_BODY_BYTES: usize = 64 * 1024;

    /// Takes over a body.
    pub fn set_body(&mut self, body: &[u8]) {
        self.length = body.len() as u64;
        let part = body.get(..Self::MAX_BODY_BYTES).unwrap_or(body);
        self.body = String::from_utf8_lossy(part).into_owned();
    }

    /// The value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.headers, name)
    }

    /// The status of gRPC: of the trailers, or of the fields if there is no more than these.
    pub fn grpc_status(&self) -> Option<&str> {
        field(&self.trailers, "grpc-status").or_else(|| self.header("grpc-status"))
    }

    /// The server that answered.
    pub fn server(&self) -> Option<&str> {
        self.header(SERVED_BY)
    }

    /// The server's view.
    ///
    /// # Errors
    ///
    /// No server has answered with an echo.
    pub fn seen(&self) -> Result<Seen> {
        let text = self.messages.first().unwrap_or(&self.body);
        serde_json::from_str(text).with_context(|| format!("no echo: {self:?}"))
    }
}

impl Tally {
    /// Counts an answer.
    pub fn count(&mut self, answer: &Answer) {
        self.requests += 1;
        match (&answer.error, answer.server()) {
            (Some(error), _) => *self.errors.entry(error.clone()).or_default() += 1,
            (None, Some(server)) => *self.servers.entry(server.to_owned()).or_default() += 1,
            (None, None) => {}
        }
        if answer.status > 0 {
            *self.statuses.entry(answer.status).or_default() += 1;
        }
    }

    /// How many did not end with an answer of status 200.
    pub fn failed(&self) -> u64 {
        let errors: u64 = self.errors.values().sum();
        let statuses = self.statuses.iter().filter(|(status, _)| **status != 200);
        errors + statuses.map(|(_, count)| count).sum::<u64>()
    }

    /// Adds what came later. Percentiles cannot be added: those of the later one are kept.
    pub fn add(&mut self, more: &Self) {
        self.requests += more.requests;
        for (into, from) in [(&mut self.servers, &more.servers), (&mut self.errors, &more.errors)] {
            for (key, count) in from {
                *into.entry(key.clone()).or_default() += count;
            }
        }
        for (status, count) in &more.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        (self.p50_us, self.p99_us) = (more.p50_us, more.p99_us);
    }

    /// How many each server answered, of a number of answers.
    pub fn of(answers: &[Answer]) -> Self {
        let mut tally = Self::default();
        for answer in answers {
            tally.count(answer);
        }
        tally
    }
}

/// Asks from `pod`, one ask after the other, and waits for all answers.
///
/// # Errors
///
/// The client cannot be started. A missing answer is no error: see [`Answer::error`].
pub fn ask(pod: &Pod, to: SocketAddr, asks: &[Ask]) -> Result<Vec<Answer>> {
    let asks = serde_json::to_string(asks)?;
    let process = pod.start(["http", "--to", &to.to_string(), "--asks", &asks])?;
    answers(process)
}

/// Reads the answers that a client reports until it ends.
pub(crate) fn answers(process: Process) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    loop {
        match process.event()? {
            Event::Answer(answer) => answers.push(answer),
            Event::Tally(_) => {
                process.finish()?;
                return Ok(answers);
            }
            other => bail!("a client said {other:?}"),
        }
    }
}

/// A client that asks the same again and again until it is stopped.
#[derive(Debug)]
pub struct Load {
    process: Process,
}

impl Load {
    /// Starts it in `pod`.
    ///
    /// # Errors
    ///
    /// The client cannot be started.
    pub fn start(pod: &Pod, to: SocketAddr, ask: &Ask) -> Result<Self> {
        let asks = serde_json::to_string(&[ask])?;
        let args = ["http", "--to", &to.to_string(), "--asks", &asks, "--continuous"];
        Ok(Self { process: pod.start(args)? })
    }

    /// The answers since the last mark.
    ///
    /// # Errors
    ///
    /// The client died.
    pub fn mark(&mut self) -> Result<Tally> {
        self.process.say("mark")?;
        match self.process.event()? {
            Event::Tally(tally) => Ok(tally),
            other => bail!("a client said {other:?}"),
        }
    }

    /// Lets it finish what it has begun, and returns what was answered since the last mark.
    ///
    /// # Errors
    ///
    /// The client died.
    pub fn stop(self) -> Result<Tally> {
        match self.process.finish()?.pop() {
            Some(Event::Tally(tally)) => Ok(tally),
            other => bail!("a client said {other:?} at its end"),
        }
    }
}

/// A running server of HTTP.
#[derive(Debug)]
pub struct Web {
    process: Process,
    /// Where it listens first, in its pod.
    pub addr: SocketAddr,
}

impl Web {
    /// Starts a server called `name` on these ports of `pod`, that reports each request, and waits
    /// until it listens.
    ///
    /// # Errors
    ///
    /// It cannot be started or cannot listen.
    pub fn start(pod: &Pod, name: &str, ports: &[u16]) -> Result<Self> {
        let listen: Vec<_> = ports.iter().map(|port| format!("--listen=[::]:{port}")).collect();
        let args = ["http-serve", "--log", "--name", name].into_iter();
        Self::ready(pod.start(args.chain(listen.iter().map(String::as_str)))?)
    }

    /// The same, of a server that reports no requests.
    ///
    /// # Errors
    ///
    /// It cannot be started or cannot listen.
    pub fn quiet(pod: &Pod, name: &str, ports: &[u16]) -> Result<Self> {
        let listen: Vec<_> = ports.iter().map(|port| format!("--listen=[::]:{port}")).collect();
        let args = ["http-serve", "--name", name].into_iter();
        Self::ready(pod.start(args.chain(listen.iter().map(String::as_str)))?)
    }

    /// Waits until a server listens.
    pub(crate) fn ready(process: Process) -> Result<Self> {
        match process.event()? {
            Event::Ready(ready) => Ok(Self { process, addr: ready.addr }),
            other => bail!("a server said {other:?} before it was ready"),
        }
    }

    /// Waits for the next request.
    ///
    /// # Errors
    ///
    /// There is none in time.
    pub fn seen(&self) -> Result<Seen> {
        seen(self.process.event())
    }

    /// The requests that have come since somebody asked, without waiting for one.
    ///
    /// # Errors
    ///
    /// The server said something else.
    pub fn seen_so_far(&self) -> Result<Vec<Seen>> {
        self.process.so_far().map(seen).collect()
    }

    /// Sends the server a signal, for example `SIGSTOP`.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Closes the server and returns the requests that were not asked for yet.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn finish(self) -> Result<Vec<Seen>> {
        self.process.finish()?.into_iter().map(|event| seen(Ok(event))).collect()
    }
}

fn seen(event: Result<Event>) -> Result<Seen> {
    match event? {
        Event::Seen(seen) => Ok(seen),
        other => bail!("a server said {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_is_read_as_it_was_written() {
        let answer = Answer {
            status: 200,
            headers: vec![(SERVED_BY.to_owned(), "a".to_owned())],
            ..Answer::default()
        };
        let tally = Tally::of(&[answer.clone(), Answer { error: Some("x".to_owned()), ..answer }]);
        assert_eq!((tally.requests, tally.servers["a"], tally.errors["x"]), (2, 1, 1));
        let text = serde_json::to_string(&Event::Tally(tally.clone())).unwrap();
        let Event::Tally(read) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        assert_eq!(read, tally);
    }
}
