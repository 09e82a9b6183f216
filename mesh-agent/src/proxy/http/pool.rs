//! Connections to endpoints that wait for the next request.
//!
//! One pool belongs to one data thread of one namespace. A connection is used for one workload's
//! requests to one endpoint only, as long as both are who they were and the way from one to the other
//! is the same: it shows who asks, and was opened as the configuration of then demanded.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1;
use tokio::time::Instant;

use crate::model::id::ResourceName;
use crate::model::policy::SameNode;
use crate::model::snapshot::{Endpoint, Snapshot};
use crate::model::spiffe::SpiffeId;
use crate::model::workload::Workload;
use crate::proxy::http::body::Body;
use crate::proxy::http::detect::Version;
use crate::proxy::http::http2::client::Requests;
use crate::proxy::http::places::{Place, Places};

/// Connections that wait for one endpoint, at most. Further ones are closed.
pub const MAX_IDLE: usize = 64;

/// How long one waits. Servers that close idle connections mostly wait longer (nginx: 75 s), so that
/// a request rarely meets one that is being closed.
pub const IDLE: Duration = Duration::from_mins(1);

/// The same while the agent drains: those that it serves open hardly any requests, and it ends when all of
/// its connections have ended.
pub const DRAINING_IDLE: Duration = Duration::from_secs(1);

/// Which requests a connection may carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The workload whose requests they are.
    pub source: ResourceName,
    /// As whom it asks: the service account of a workload may change.
    pub identity: SpiffeId,
    /// To whom.
    pub destination: ResourceName,
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// How it is reached.
    pub way: Way,
    /// In which version.
    pub version: Version,
}

/// The configuration's facts about the way to an endpoint. A connection that was opened when it said
/// something else carries no further request: it may be in plaintext, or end at another node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// The identity that has to be there.
    identity: SpiffeId,
    /// The node whose agent serves it; `None`: it is reached in plaintext.
    node: Option<Arc<str>>,
    /// The security demanded within a node.
    same_node: SameNode,
}

impl Way {
    /// The way from `source` to `endpoint`, as `mesh` has it now.
    pub fn of(mesh: &Snapshot, source: &Workload, endpoint: &Endpoint) -> Self {
        let (workload, port) = (&endpoint.workload, endpoint.address.port());
        let theirs = mesh.policy(&workload.name).same_node(port);
        Self {
            identity: workload.identity.clone(),
            node: workload.node.clone(),
            same_node: mesh.policy(&source.name).same_node.max(theirs),
        }
    }
}

/// A connection to an endpoint, for one request.
pub enum Sender {
    /// For one request at a time.
    Http1(http1::SendRequest<Body>),
    /// One of several requests.
    Http2(Requests, Place),
}

/// A connection of HTTP/2, and the places that it has for requests.
#[derive(Clone)]
pub struct Shared {
    sender: Requests,
    places: Places,
}

impl Shared {
    /// Shares a connection.
    pub const fn new(sender: Requests, places: Places) -> Self {
        Self { sender, places }
    }

    /// It, for one more request, if it has a place.
    pub fn sender(&self) -> Option<Sender> {
        let place = self.places.take()?;
        (!self.sender.is_closed()).then(|| Sender::Http2(self.sender.clone(), place))
    }
}

/// The idle connections.
#[derive(Default)]
pub struct Pool(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    alone: HashMap<Key, VecDeque<(Instant, http1::SendRequest<Body>)>>,
    shared: HashMap<Key, Vec<Shared>>,
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
            // The first ones are filled first, so that the last ones end when they are not needed.
            return idle.shared.get(key)?.iter().find_map(Shared::sender);
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
    pub fn put(&self, key: &Key, sender: http1::SendRequest<Body>) {
        let mut idle = self.lock();
        let waiting = idle.alone.entry(key.clone()).or_default();
        waiting.push_back((Instant::now(), sender));
        let surplus = waiting.len().saturating_sub(MAX_IDLE);
        waiting.drain(..surplus);
    }

    /// Lets others use one of HTTP/2, unless there are very many: then it ends with its request.
    pub fn share(&self, key: &Key, shared: Shared) {
        let mut idle = self.lock();
        let all = idle.shared.entry(key.clone()).or_default();
        all.retain(|one| !one.sender.is_closed());
        if all.len() < MAX_IDLE {
            all.push(shared);
        }
    }

    /// Closes those that have waited for `longest`. Called now and then by each one's task.
    pub fn sweep(&self, longest: Duration) {
        let now = Instant::now();
        let mut idle = self.lock();
        idle.alone.retain(|_, waiting| {
            waiting.retain(|(since, sender)| now - *since < longest && !sender.is_closed());
            !waiting.is_empty()
        });
        idle.shared.retain(|_, all| {
            all.retain(|one| !one.sender.is_closed());
            !all.is_empty()
        });
    }

    /// Closes all that wait, and those of HTTP/2 when their requests have ended.
    pub fn close_idle(&self) {
        let mut idle = self.lock();
        idle.alone.clear();
        idle.shared.clear();
    }

    /// Lets go of the HTTP/2 connection with these places: no request uses it, and none has for a
    /// while.
    pub fn forget(&self, key: &Key, places: &Places) {
        if let Some(all) = self.lock().shared.get_mut(key) {
            all.retain(|one| !one.places.are(places));
        }
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
            Self::Http2(..) => "Http2",
        })
    }
}
