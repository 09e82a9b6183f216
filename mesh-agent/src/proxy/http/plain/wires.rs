//! Connections to endpoints that wait for the next plain request.
//!
//! One table belongs to one data thread of one namespace. A connection is used for one workload's
//! requests to one endpoint only, as long as both are who they were and the way from one to the other
//! is the same: it shows who asks, and was opened as the configuration of then demanded. None has a task
//! of its own: whether one still stands is seen when it is taken, and now and then.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, sleep, timeout};

use crate::failure::Failure;
use crate::model::id::ResourceName;
use crate::model::snapshot::Endpoint;
use crate::model::spiffe::SpiffeId;
use crate::proxy;
use crate::proxy::http::Site;
use crate::proxy::http::pool::{IDLE, MAX_IDLE, Way};
use crate::proxy::http::upstream::{self, Counted, Report, To};
use crate::proxy::inbound::application::Forbidden;
use crate::proxy::realm::Realm;
use crate::telemetry::RequestSeries;

/// How often those are looked at that wait.
const SWEEP: Duration = Duration::from_secs(5);

/// How many of them policies judge before others on the thread have their turn.
const TURN_JUDGED: usize = 4;

/// How long an application may take to close what we have closed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to an endpoint, for one request at a time. In a box: it is moved between tasks and
/// tables.
pub struct Wire(Box<Held>);

/// The parts of a connection.
struct Held {
    io: Counted,
    report: Report,
    source: ResourceName,
    identity: SpiffeId,
    destination: ResourceName,
    way: Way,
    since: Instant,
    /// The revision of the mesh at which policies have last allowed it while it waited.
    judged: u64,
}

/// Connections that wait.
#[derive(Default)]
pub struct Wires(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    by_endpoint: HashMap<SocketAddr, Vec<Wire>>,
    /// A task looks at them.
    is_swept: bool,
}

impl Wire {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// It could not be made, or may not be, and that was reported.
    pub async fn open(site: &Site, to: &To) -> Result<Self, Failure> {
        // Before it is opened: what changes meanwhile is for those that come after it.
        let way = way(site, &to.endpoint);
        let (io, report) = upstream::open(site, to).await?;
        Ok(Self(Box::new(Held {
            io,
            report,
            source: site.local.workload.name.clone(),
            identity: site.local.identity.id().clone(),
            destination: to.endpoint.workload.name.clone(),
            way,
            since: Instant::now(),
            judged: 0,
        })))
    }

    /// Reports the end, whose reason `result` is.
    pub fn finish(self, result: Result<(), Failure>) {
        self.0.report.finish(result);
    }

    /// Ends it, since it may not be any more.
    pub fn forbid(self, forbidden: Forbidden) -> Failure {
        self.0.report.forbid(forbidden)
    }

    /// Where requests that it carries are counted.
    pub fn requests(&self) -> Option<RequestSeries> {
        self.0.report.requests()
    }

    /// The stream that is read and written, and the wait until policies forbid it.
    pub fn parts<'a>(
        &'a mut self,
        context: &'a proxy::Context,
    ) -> (&'a mut Counted, impl Future<Output = Forbidden> + Send + 'a) {
        let Held { io, report, .. } = &mut *self.0;
        (io, report.forbidden(context))
    }

    /// Ends it in order, which takes as long as the application wants.
    pub async fn end(mut self) {
        let ending = async {
            self.0.io.shutdown().await?;
            // Its bytes from now on are for nobody.
            while self.0.io.read(&mut [0; 256]).await? > 0 {}
            Ok::<_, std::io::Error>(())
        };
        // A server that keeps it open, or resets it, loses nothing.
        let _ended = timeout(PATIENCE, ending).await;
        self.finish(Ok(()));
    }

    /// Whether nothing has come, not even an end: what comes between an answer and a request is
    /// none of HTTP.
    fn is_quiet(&mut self) -> bool {
        let mut one = [0];
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut self.0.io).poll_read(&mut context, &mut ReadBuf::new(&mut one)).is_pending()
    }

    fn is_for(&self, site: &Site, endpoint: &Endpoint, way: &Way) -> bool {
        self.0.destination == endpoint.workload.name
            && self.0.way == *way
            && self.0.source == site.local.workload.name
            && self.0.identity == *site.local.identity.id()
    }

    /// Why it may not be any more.
    fn refusal(&self, context: &proxy::Context) -> Option<Forbidden> {
        self.0.report.refusal(context)
    }
}

impl Wires {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        // A panic elsewhere leaves it whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that can take a request of `site` to `endpoint` at once. The one that was used last comes
    /// first.
    pub fn take(&self, site: &Site, endpoint: &Endpoint) -> Option<Wire> {
        let way = way(site, endpoint);
        loop {
            let mut wire = {
                let mut idle = self.lock();
                let waiting = idle.by_endpoint.get_mut(&endpoint.address)?;
                let at = waiting.iter().rposition(|wire| wire.is_for(site, endpoint, &way))?;
                waiting.remove(at)
            };
            match wire.refusal(&site.context) {
                Some(forbidden) => drop(wire.forbid(forbidden)),
                None if wire.is_quiet() => return Some(wire),
                None => end_now(wire),
            }
        }
    }

    /// Keeps one for the next request.
    pub fn put(&self, site: &Site, endpoint: SocketAddr, mut wire: Wire) {
        let scope = &site.local.scope;
        if scope.is_draining() {
            return scope.spawn(Box::pin(wire.end()));
        }
        wire.0.since = Instant::now();
        let (surplus, is_first) = {
            let mut idle = self.lock();
            let waiting = idle.by_endpoint.entry(endpoint).or_default();
            let surplus = (waiting.len() >= MAX_IDLE).then(|| waiting.remove(0));
            waiting.push(wire);
            (surplus, !std::mem::replace(&mut idle.is_swept, true))
        };
        if let Some(wire) = surplus {
            scope.spawn(Box::pin(wire.end()));
        }
        if is_first {
            let (context, realm) = (Arc::clone(&site.context), Arc::clone(&site.realm));
            site.realm.scope.spawn(Box::pin(sweep(context, realm, site.worker)));
        }
    }

    /// Ends all that wait.
    pub fn close_idle(&self, context: &proxy::Context) {
        for endpoint in self.endpoints() {
            let (all, _none) = self.stale(context, endpoint, true);
            for (wire, _forbidden) in all {
                end_now(wire);
            }
        }
    }

    /// The endpoints to which some wait.
    fn endpoints(&self) -> Vec<SocketAddr> {
        self.lock().by_endpoint.keys().copied().collect()
    }

    /// Whether any wait. If not, whoever puts one back begins to look at them again.
    fn goes_on(&self) -> bool {
        let mut idle = self.lock();
        idle.by_endpoint.retain(|_, waiting| !waiting.is_empty());
        idle.is_swept = !idle.by_endpoint.is_empty();
        idle.is_swept
    }

    /// Takes those to `endpoint` out that have waited for too long, or all of them, and those that do
    /// not stand any more, or may not be. True: there are some that were not judged, as to judge takes
    /// long: others are to have their turn first.
    fn stale(
        &self,
        context: &proxy::Context,
        endpoint: SocketAddr,
        all: bool,
    ) -> (Vec<Stale>, bool) {
        let (now, revision) = (Instant::now(), context.mesh.load().revision);
        let mut idle = self.lock();
        let Some(waiting) = idle.by_endpoint.get_mut(&endpoint) else { return (Vec::new(), false) };
        let (mut stale, mut left) = (Vec::new(), TURN_JUDGED);
        let mut at = 0;
        while let Some(wire) = waiting.get_mut(at) {
            let is_over = all || now - wire.0.since >= IDLE || !wire.is_quiet();
            let mut forbidden = None;
            if !is_over && wire.0.judged != revision {
                if left == 0 {
                    return (stale, true);
                }
                left -= 1;
                forbidden = wire.refusal(context);
                wire.0.judged = revision;
            }
            if is_over || forbidden.is_some() {
                stale.push((waiting.remove(at), forbidden));
            } else {
                at += 1;
            }
        }
        (stale, false)
    }
}

/// How an endpoint is reached now.
fn way(site: &Site, endpoint: &Endpoint) -> Way {
    Way::of(&site.context.mesh.load(), &site.local.workload, endpoint)
}

/// One that is taken out, and why it may not be any more.
type Stale = (Wire, Option<Forbidden>);

/// Ends one that has ended at its other end.
fn end_now(mut wire: Wire) {
    let mut context = Context::from_waker(Waker::noop());
    let _told: Poll<_> = Pin::new(&mut wire.0.io).poll_shutdown(&mut context);
    wire.finish(Ok(()));
}

/// Looks at the connections of one data thread until there are none.
async fn sweep(context: Arc<proxy::Context>, realm: Arc<Realm>, worker: usize) {
    let Some(wires) = realm.wires.get(worker) else { return };
    loop {
        let is_draining = tokio::select! {
            biased;
            () = realm.scope.draining() => true,
            () = sleep(SWEEP) => false,
        };
        for endpoint in wires.endpoints() {
            loop {
                let (stale, has_more) = wires.stale(&context, endpoint, is_draining);
                for (wire, forbidden) in stale {
                    match forbidden {
                        Some(forbidden) => drop(wire.forbid(forbidden)),
                        None => realm.scope.spawn(Box::pin(wire.end())),
                    }
                }
                tokio::task::yield_now().await;
                if !has_more {
                    break;
                }
            }
        }
        if !wires.goes_on() {
            return;
        }
    }
}

impl fmt::Debug for Wires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wires").finish_non_exhaustive()
    }
}
