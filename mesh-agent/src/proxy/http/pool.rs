//! Connections to endpoints that wait for the next request.
//!
//! One pool belongs to one data thread of one namespace. A connection is used for one workload's
//! requests to one endpoint only: it shows who asks.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

use crate::model::id::ResourceName;
use crate::proxy::http::body::Body;
use crate::proxy::http::detect::Version;

/// Connections that wait for one endpoint, at most. Further ones are closed.
pub const MAX_IDLE: usize = 64;

/// How long one waits. Servers that close idle connections mostly wait longer (nginx: 75 s), so that
/// a request rarely meets one that is being closed.
pub const IDLE: Duration = Duration::from_mins(1);

/// Which requests a connection may carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Whose requests.
    pub source: ResourceName,
    /// To whom.
    pub destination: ResourceName,
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// In which version.
    pub version: Version,
}

/// A connection to an endpoint.
pub enum Sender {
    /// For one request at a time.
    Http1(http1::SendRequest<Body>),
    /// For many.
    Http2(http2::SendRequest<Body>),
}

/// What waits.
#[derive(Default)]
pub struct Pool(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    alone: HashMap<Key, VecDeque<(Instant, http1::SendRequest<Body>)>>,
    shared: HashMap<Key, http2::SendRequest<Body>>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        // A panic elsewhere leaves it whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that can take a request at once. The one that was used last comes first.
    pub fn take(&self, key: &Key) -> Option<Sender> {
        let mut idle = self.lock();
        if key.version == Version::Http2 {
            let sender = idle.shared.get(key).filter(|sender| sender.is_ready()).cloned();
            return sender.map(Sender::Http2);
        }
        let waiting = idle.alone.get_mut(key)?;
        while let Some((_, sender)) = waiting.pop_back() {
            if sender.is_ready() {
                return Some(Sender::Http1(sender));
            }
        }
        None
    }

    /// Keeps one for the next request.
    pub fn put(&self, key: &Key, sender: Sender) {
        let mut idle = self.lock();
        match sender {
            Sender::Http1(sender) => {
                let waiting = idle.alone.entry(key.clone()).or_default();
                waiting.push_back((Instant::now(), sender));
                let surplus = waiting.len().saturating_sub(MAX_IDLE);
                waiting.drain(..surplus);
            }
            Sender::Http2(sender) => {
                idle.shared.insert(key.clone(), sender);
            }
        }
    }

    /// Closes those that have waited for too long. Called now and then by each one's task.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut idle = self.lock();
        idle.alone.retain(|_, waiting| {
            waiting.retain(|(since, sender)| now - *since < IDLE && !sender.is_closed());
            !waiting.is_empty()
        });
        idle.shared.retain(|_, sender| !sender.is_closed());
    }

    /// Lets go of an HTTP/2 connection: no request uses it, and none has for a while.
    pub fn forget(&self, key: &Key) {
        self.lock().shared.remove(key);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1(_) => "Http1",
            Self::Http2(_) => "Http2",
        })
    }
}
