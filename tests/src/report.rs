//! Reports of `mesh-app` to the harness: one JSON object a line, on its standard output.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::http::{Answer, Seen, Tally};

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A server listens.
    Ready(Ready),
    /// A server's connection ended (only with `--log`).
    Served(Served),
    /// A client's connection ended.
    Connection(Connection),
    /// The totals of a client since the last mark, or since its start.
    Totals(Totals),
    /// A client's transfer ended.
    Transfer(Transfer),
    /// A server of HTTP was asked (only with `--log`).
    Seen(Seen),
    /// A client of HTTP was answered.
    Answer(Answer),
    /// The answers to a client of HTTP since the last mark, or since its start.
    Tally(Tally),
}

/// A server listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// The address that it is bound to.
    pub addr: SocketAddr,
}

/// The line that servers with a name send first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banner {
    /// The name of the server.
    pub version: String,
    /// The client by `accept(2)`.
    pub peer: SocketAddr,
    /// The client by `getpeername(2)`.
    pub peername: SocketAddr,
    /// The server by `getsockname(2)`.
    pub local: SocketAddr,
}

/// A connection, as the server saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Served {
    /// The client by `accept(2)`.
    pub peer: SocketAddr,
    /// Bytes from the client.
    pub received: u64,
    /// The [`crate::pattern::Digest`] of the bytes from the client.
    pub digest: String,
    /// The error, as in [`Connection::error`].
    pub error: Option<String>,
}

/// How far a client's connection came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// `connect(2)` has not succeeded.
    #[default]
    Connect,
    /// The server's banner has not been read.
    Banner,
    /// Not all bytes were sent and answered.
    Exchange,
    /// The server's end of stream has not been read.
    Close,
    /// All went well.
    Done,
}

/// A connection, as the client saw it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Connection {
    /// How far it came.
    pub stage: Stage,
    /// The error: the name of an errno as `ECONNREFUSED`, `timeout`, or words.
    pub error: Option<String>,
    /// The first message of the server.
    pub banner: Option<Banner>,
    /// The server by `getpeername(2)`.
    pub peername: Option<SocketAddr>,
    /// The client by `getsockname(2)`.
    pub local: Option<SocketAddr>,
    /// How long `connect(2)` took, in microseconds.
    pub connect_us: u64,
    /// How long all of it took, in microseconds.
    pub total_us: u64,
}

/// The totals of a client since the last mark, or since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connections that ended, well or not; for a holding client, those that are open.
    pub connections: u64,
    /// Those of them with an error.
    pub failed: u64,
    /// How many were answered by each version.
    pub versions: BTreeMap<String, u64>,
    /// How many ended with each error: its stage and name, as `connect ECONNREFUSED`.
    pub errors: BTreeMap<String, u64>,
    /// The median of the durations, in microseconds.
    pub p50_us: u64,
    /// The 99th percentile of the durations, in microseconds.
    pub p99_us: u64,
}

/// A client's transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// Bytes to the server.
    pub sent: u64,
    /// Bytes from the server, all as expected and in order if there is no error.
    pub received: u64,
    /// Whether the server said that it had received what was sent: `None` if the server closed its
    /// direction first, so that it could not say.
    pub confirmed: Option<bool>,
    /// The error, as in [`Connection::error`].
    pub error: Option<String>,
    /// How long it took, in microseconds.
    pub total_us: u64,
}

/// The line by which a server confirms what it has received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Bytes received.
    pub received: u64,
    /// Their [`crate::pattern::Digest`].
    pub digest: String,
}

impl Connection {
    /// The version that answered.
    pub fn version(&self) -> Option<&str> {
        self.banner.as_ref().map(|banner| banner.version.as_str())
    }
}

impl Totals {
    /// Counts a connection. Durations are the caller's, who can sort them.
    pub fn count(&mut self, connection: &Connection) {
        self.connections += 1;
        if let Some(version) = connection.version() {
            *self.versions.entry(version.to_owned()).or_default() += 1;
        }
        if let Some(error) = &connection.error {
            self.failed += 1;
            let stage = format!("{:?}", connection.stage).to_lowercase();
            *self.errors.entry(format!("{stage} {error}")).or_default() += 1;
        }
    }

    /// The share of the connections that `version` answered, from 0 to 1.
    pub fn share(&self, version: &str) -> f64 {
        let answered: u64 = self.versions.values().sum();
        let of_version = self.versions.get(version).copied().unwrap_or_default();
        ratio(of_version, answered)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
