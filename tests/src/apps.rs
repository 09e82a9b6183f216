//! Real applications in pods: servers, and clients that report what they saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::netns::Netns;
use crate::pod::Pod;
use crate::process::Process;
use crate::report::{Connection, Event, Served, Totals, Transfer};

/// How long a transfer may take. It ends by itself at its `--timeout`, of which this is above all.
const TRANSFER_DEADLINE: Duration = Duration::from_mins(11);

/// A running server.
#[derive(Debug)]
pub struct Server {
    process: Process,
    /// Where it listens, in its pod.
    pub addr: SocketAddr,
}

impl Server {
    /// Starts `mesh-app serve` with `args` in `pod`, and waits until it listens.
    ///
    /// # Errors
    ///
    /// It cannot be started or cannot listen.
    pub fn start(pod: &Pod, args: &[&str]) -> Result<Self> {
        Self::start_in(pod.netns(), pod.cgroup(), args)
    }

    /// Starts it in any namespace and cgroup.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_in(netns: &Netns, cgroup: &Path, args: &[&str]) -> Result<Self> {
        let process = Process::app(netns, cgroup, ["serve"].iter().chain(args))?;
        match process.event()? {
            Event::Ready(ready) => Ok(Self { process, addr: ready.addr }),
            other => bail!("a server said {other:?} before it was ready"),
        }
    }

    /// A server for IPv4 and IPv6 that says `version`, then echoes.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn echo(pod: &Pod, port: u16, version: &str) -> Result<Self> {
        Self::start(pod, &["echo", "--listen", &format!("[::]:{port}"), "--name", version])
    }

    /// Waits for the end of the next connection of a server with `--log`.
    ///
    /// # Errors
    ///
    /// There is none in time.
    pub fn served(&self) -> Result<Served> {
        match self.process.event()? {
            Event::Served(served) => Ok(served),
            other => bail!("a server said {other:?}"),
        }
    }

    /// Lets a server with `--late` begin.
    ///
    /// # Errors
    ///
    /// It died.
    pub fn begin(&mut self) -> Result<()> {
        self.process.say("begin")
    }

    /// The process, for example to kill it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Closes the server and returns the ends of connections that were not asked for yet.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn finish(self) -> Result<Vec<Served>> {
        let served = self.process.finish()?.into_iter().map(|event| match event {
            Event::Served(served) => Ok(served),
            other => bail!("a server said {other:?}"),
        });
        served.collect()
    }

    /// Closes the server and waits for its end.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn stop(self) -> Result<()> {
        self.process.finish().map(drop)
    }
}

/// The task of a client.
#[derive(Clone, Debug)]
pub struct Client {
    args: Vec<String>,
}

impl Client {
    /// Connects to `addr`: once, reading no banner and sending nothing, unless told otherwise.
    pub fn to(addr: SocketAddr) -> Self {
        Self { args: vec!["--to".to_owned(), addr.to_string()] }
    }

    /// Adds an argument of `mesh-app connect` or `hold`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Reads a banner, sends `text`, and reads it back.
    #[must_use]
    pub fn echo(self, text: &str) -> Self {
        self.arg("--banner").arg("--send").arg(text)
    }

    /// Connects `count` times, `concurrency` of them at once.
    #[must_use]
    pub fn times(self, count: u64, concurrency: u64) -> Self {
        self.arg("--count")
            .arg(&count.to_string())
            .arg("--concurrency")
            .arg(&concurrency.to_string())
    }

    /// Begins at most so many connections a second.
    #[must_use]
    pub fn rate(self, rate: u32) -> Self {
        self.arg("--rate").arg(&rate.to_string())
    }

    /// Reaches an IPv4 address through an IPv6 socket, as `::ffff:a.b.c.d`.
    #[must_use]
    pub fn mapped(self) -> Self {
        self.arg("--mapped")
    }

    /// Does it in `pod` and waits for the end.
    ///
    /// # Errors
    ///
    /// The client cannot be started. A connection that fails is no error: see its reports.
    pub fn run(&self, pod: &Pod) -> Result<Outcome> {
        self.run_in(pod.netns(), pod.cgroup())
    }

    /// Does it in any namespace and cgroup, and waits for the end.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn run_in(&self, netns: &Netns, cgroup: &Path) -> Result<Outcome> {
        let process = Process::app(netns, cgroup, self.command("connect"))?;
        let mut connections = Vec::new();
        loop {
            match process.event()? {
                Event::Connection(connection) => connections.push(connection),
                Event::Totals(totals) => {
                    process.finish()?;
                    return Ok(Outcome { connections, totals });
                }
                other => bail!("a client said {other:?}"),
            }
        }
    }

    /// Connects again and again in `pod` until it is stopped.
    ///
    /// # Errors
    ///
    /// The client cannot be started.
    pub fn traffic(&self, pod: &Pod) -> Result<Traffic> {
        Ok(Traffic { process: pod.start(self.command("connect").chain(["--continuous"]))? })
    }

    /// Opens all connections at once in `pod` and keeps them.
    ///
    /// # Errors
    ///
    /// The client cannot be started.
    pub fn hold(&self, pod: &Pod) -> Result<(Traffic, Totals)> {
        let mut held = Traffic { process: pod.start(self.command("hold"))? };
        let opened = held.totals()?;
        Ok((held, opened))
    }

    fn command(&self, verb: &'static str) -> impl Iterator<Item = &str> {
        std::iter::once(verb).chain(self.args.iter().map(String::as_str))
    }
}

/// The reports of a client.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Each connection.
    pub connections: Vec<Connection>,
    /// Their sum.
    pub totals: Totals,
}

impl Outcome {
    /// The only connection, which must have gone well.
    ///
    /// # Errors
    ///
    /// There were more, or it failed.
    pub fn single(self) -> Result<Connection> {
        let [connection] = <[_; 1]>::try_from(self.connections)
            .or_else(|all| bail!("{} connections instead of one", all.len()))?;
        ensure!(connection.error.is_none(), "the connection failed: {connection:?}");
        Ok(connection)
    }

    /// How many connections each version answered.
    pub fn versions(&self) -> &BTreeMap<String, u64> {
        &self.totals.versions
    }
}

/// A client that goes on until it is stopped.
#[derive(Debug)]
pub struct Traffic {
    process: Process,
}

impl Traffic {
    /// The events since the last mark: of continuous traffic, the connections that ended; of
    /// held connections, another exchange on each.
    ///
    /// # Errors
    ///
    /// The client died.
    pub fn mark(&mut self) -> Result<Totals> {
        self.process.say("mark")?;
        self.totals()
    }

    /// Lets it finish what it has begun, and returns what happened since the last mark.
    ///
    /// # Errors
    ///
    /// The client died.
    pub fn stop(self) -> Result<Totals> {
        match self.process.finish()?.pop() {
            Some(Event::Totals(totals)) => Ok(totals),
            other => bail!("a client said {other:?} at its end"),
        }
    }

    fn totals(&mut self) -> Result<Totals> {
        match self.process.event()? {
            Event::Totals(totals) => Ok(totals),
            other => bail!("a client said {other:?}"),
        }
    }
}

/// Runs `mesh-app transfer` with `args` in `pod`.
///
/// # Errors
///
/// The client cannot be started. A transfer that fails is no error: see its report.
pub fn transfer(pod: &Pod, to: SocketAddr, args: &[&str]) -> Result<Transfer> {
    let to = to.to_string();
    let process = pod.start(["transfer", "--to", &to].iter().chain(args))?;
    match process.event_within(TRANSFER_DEADLINE)? {
        Event::Transfer(transfer) => Ok(transfer),
        other => bail!("a client said {other:?}"),
    }
}

/// Sends a datagram from `pod` and reads it back.
///
/// # Errors
///
/// The client cannot be started. A missing answer is no error: see its report.
pub fn datagram(pod: &Pod, to: SocketAddr) -> Result<Connection> {
    let process = pod.start(["datagram", "--to", &to.to_string(), "--timeout", "5"])?;
    match process.event()? {
        Event::Connection(connection) => Ok(connection),
        other => bail!("a client said {other:?}"),
    }
}
