//! Tunnels by who asks, whom they reach, and who must be there.
//!
//! One pool belongs to one data thread of one workload's namespace: tunnels are never shared
//! between threads, and never between two source identities.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::hbone::connect::Open;
use crate::io::link::Link;
use crate::io::silence::News;
use crate::model::id::ResourceName;
use crate::model::spiffe::SpiffeId;
use crate::native::quota::{self, Quota};
use crate::task::clock;
use crate::task::ending::Unanswered;
use crate::task::scope::Scope;
use crate::telemetry::{Mention, Telemetry};
use crate::tunnels::choice::{Choice, choose};
use crate::tunnels::{Dialed, Error, Lease, Options, Stream, Tunnel, Validity};

/// Which tunnels may carry a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The source: the identity that our certificate shows.
    pub source: SpiffeId,
    /// The address of the peer's agent.
    pub peer: SocketAddr,
    /// The identity that must be there.
    pub destination: SpiffeId,
    /// Which of several workloads on one address is asked for; `None`: there is only one.
    pub workload: Option<ResourceName>,
}

impl Key {
    /// Says that the peer has not answered on a tunnel, which was closed, unless that is said too often.
    fn mention_silence(&self, silence: Duration, telemetry: &Telemetry) {
        if let Some(mentioned) = telemetry.mention(Mention::Silence, self) {
            tracing::warn!(
                source = %self.source, peer = %self.peer, destination = %self.destination,
                workload = self.workload.as_ref().map(tracing::field::display),
                silent_ms = silence.as_millis(), left_out = mentioned.left_out,
                "a peer's agent does not answer: its tunnel is closed and the connections in it are \
                 reset; the next connection opens another"
            );
        }
    }
}

/// Tunnels that are open or being opened.
#[derive(Debug)]
pub struct Pool {
    options: Options,
    scope: Scope,
    telemetry: Telemetry,
    quotas: Quotas,
    peers: Mutex<HashMap<Key, Arc<Peer>>>,
}

/// The quotas of the peers that a namespace's workloads have connected to, on all
/// data threads. Cheap to clone; all clones are one.
pub type Quotas = Arc<Mutex<quota::Quotas<Key, SpiffeId>>>;

/// A tunnel that takes streams.
#[derive(Debug)]
struct Pooled {
    tunnel: Tunnel,
    validity: Validity,
}

/// The tunnels to one peer.
#[derive(Debug)]
struct Peer {
    /// Its quota, if it speaks the native transport.
    quota: Option<Arc<Quota>>,
    tunnels: Mutex<Vec<Pooled>>,
    /// Held while a tunnel is opened, so that many connections at once open one.
    opening: tokio::sync::Mutex<()>,
    /// When one could last not be opened that was to carry what others are too busy for.
    failed: Mutex<Option<Instant>>,
    /// Told by tunnels that are silent or heard again.
    news: Arc<News>,
}

impl Pool {
    /// An empty pool, whose tunnels live in `scope`.
    pub fn new(options: &Options, scope: Scope, telemetry: Telemetry, quotas: Quotas) -> Self {
        Self { options: *options, scope, telemetry, quotas, peers: Mutex::default() }
    }

    /// Opens a stream; `dial` makes a TLS connection to the peer if a new tunnel is needed.
    ///
    /// A tunnel that turns out to have gone away, or to be silent, is replaced once: nothing was sent
    /// on it.
    ///
    /// # Errors
    ///
    /// The peer could not be reached, is not who it must be, or refused.
    pub async fn stream<Io, Dial, Dialing>(
        &self,
        key: &Key,
        open: &Open,
        hostname: Option<&str>,
        dial: Dial,
    ) -> Result<(Stream, Lease), Error>
    where
        Io: Link + AsyncRead + AsyncWrite + Unpin + Send + 'static,
        Dial: Fn() -> Dialing,
        Dialing: Future<Output = Result<Dialed<Io>, Error>>,
    {
        let mut lease = self.lease(key, &dial).await?;
        match self.answered(&mut lease, open, hostname).await {
            Err(error) if error.is_stale_tunnel() => {
                tracing::debug!(%error, peer = %key.peer, "a stale tunnel is replaced");
                lease.close();
                let mut lease = self.lease(key, &dial).await?;
                Ok((self.answered(&mut lease, open, hostname).await?, lease))
            }
            other => Ok((other?, lease)),
        }
    }

    /// Opens the stream of a lease, unless the peer takes too long to answer.
    async fn answered(
        &self,
        lease: &mut Lease,
        open: &Open,
        hostname: Option<&str>,
    ) -> Result<Stream, Error> {
        let answer = timeout(self.options.answer_timeout, lease.open(open, hostname)).await;
        answer.unwrap_or(Err(Error::Timeout))
    }

    async fn lease<Io, Dial, Dialing>(&self, key: &Key, dial: &Dial) -> Result<Lease, Error>
    where
        Io: Link + AsyncRead + AsyncWrite + Unpin + Send + 'static,
        Dial: Fn() -> Dialing,
        Dialing: Future<Output = Result<Dialed<Io>, Error>>,
    {
        let peer = self.peer(key);
        if let Some(lease) = peer.lease(&self.options) {
            return Ok(lease);
        }
        // The first of these: a tunnel that was silent may be heard again.
        tokio::select! {
            biased;
            lease = peer.heard(&self.options) => Ok(lease),
            opened = self.open_alone((key, &peer), dial) => opened,
        }
    }

    /// Opens a tunnel if whoever was about to has not.
    async fn open_alone<Io, Dial, Dialing>(
        &self,
        (key, peer): (&Key, &Peer),
        dial: &Dial,
    ) -> Result<Lease, Error>
    where
        Io: Link + AsyncRead + AsyncWrite + Unpin + Send + 'static,
        Dial: Fn() -> Dialing,
        Dialing: Future<Output = Result<Dialed<Io>, Error>>,
    {
        let _opening = peer.opening.lock().await;
        if let Some(lease) = peer.lease(&self.options) {
            return Ok(lease);
        }
        self.open(key, peer, dial()).await
    }

    /// Opens a tunnel, and takes the first place on it. The peer is there: tunnels that are silent
    /// all the same take no more streams.
    async fn open<Io>(
        &self,
        key: &Key,
        peer: &Peer,
        dialing: impl Future<Output = Result<Dialed<Io>, Error>>,
    ) -> Result<Lease, Error>
    where
        Io: Link + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Dialed { io, protocol, validity, bytes } = dialing.await?;
        let mut options = self.options;
        if let Some(bytes) = bytes {
            options.hbone = options.hbone.within(bytes);
        }
        let counted = self.telemetry.tunnel_opened(protocol);
        let quota = peer.quota.clone();
        let (telemetry, key) = (self.telemetry.clone(), key.clone());
        let ended = move |silence: Unanswered| {
            drop(counted);
            if let Some(silence) = silence {
                key.mention_silence(silence, &telemetry);
            }
        };
        let told = (ended, Arc::clone(&peer.news));
        let starting = Tunnel::start(io, protocol, &options, quota, &self.scope, told);
        let (tunnel, lease) = starting.await?;
        let mut tunnels = lock(&peer.tunnels);
        let silent = tunnels.iter().filter(|pooled| pooled.tunnel.is_silent());
        silent.for_each(|pooled| pooled.tunnel.retire());
        tunnels.push(Pooled { tunnel, validity });
        Ok(lease)
    }

    /// Whether the next stream should have another tunnel than there are.
    pub fn is_crowded(&self, key: &Key) -> bool {
        let peer = lock(&self.peers).get(key).cloned();
        peer.is_some_and(|peer| {
            peer.opening.try_lock().is_ok() && peer.wants_another(&self.options, Instant::now())
        })
    }

    /// Opens another tunnel for the streams to come, if they should have one and nobody is opening
    /// one. Nobody waits for it: if the peer cannot be reached now, those that there are will do.
    pub async fn widen<Io, Dial, Dialing>(&self, key: &Key, dial: Dial)
    where
        Io: Link + AsyncRead + AsyncWrite + Unpin + Send + 'static,
        Dial: FnOnce() -> Dialing,
        Dialing: Future<Output = Result<Dialed<Io>, Error>>,
    {
        let peer = self.peer(key);
        let Ok(_opening) = peer.opening.try_lock() else { return };
        if !peer.wants_another(&self.options, Instant::now()) {
            return;
        }
        let opened = self.open(key, &peer, dial()).await.map(drop);
        *lock(&peer.failed) = opened
            .inspect_err(|error| tracing::debug!(%error, "there is no other tunnel for bulk"))
            .err()
            .map(|_| Instant::now());
    }

    /// The peer's tunnels. Peers whose tunnels are all closed are forgotten on the way, so that
    /// the table is bounded by what is in use.
    fn peer(&self, key: &Key) -> Arc<Peer> {
        let mut peers = lock(&self.peers);
        if let Some(peer) = peers.get(key) {
            return Arc::clone(peer);
        }
        peers.retain(|_, peer| !peer.is_idle());
        let quota = self.options.native.as_ref().map(|native| {
            // Only now and then is a peer new: threads do not wait for each other here.
            lock(&self.quotas).of(key, &key.source, native.servers)
        });
        let peer = Arc::new(Peer {
            quota,
            tunnels: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            failed: Mutex::default(),
            news: Arc::new(News::new(key.peer, key.destination.clone())),
        });
        peers.insert(key.clone(), Arc::clone(&peer));
        peer
    }

    /// Tunnels that are open.
    pub fn count(&self) -> usize {
        lock(&self.peers).values().map(|peer| lock(&peer.tunnels).len()).sum()
    }
}

impl Peer {
    /// A place on an open tunnel.
    fn lease(&self, options: &Options) -> Option<Lease> {
        let mut tunnels = lock(&self.tunnels);
        keep_valid(&mut tunnels, clock::now());
        let Choice { place, another } = choice(&tunnels, options, Instant::now());
        if tunnels.iter().any(|pooled| pooled.tunnel.is_silent()) {
            // The others are of the same peer: all of them are known to be silent in the time that
            // one takes.
            tunnels.iter().for_each(|pooled| pooled.tunnel.probe());
        }
        let mut lease = tunnels.get(place?)?.tunnel.lease(options)?;
        if another {
            lease.note_crowd();
        }
        Some(lease)
    }

    /// A place on a tunnel that is heard again.
    async fn heard(&self, options: &Options) -> Lease {
        loop {
            let changed = self.news.changed();
            if let Some(lease) = self.lease(options) {
                return lease;
            }
            changed.await;
        }
    }

    /// Whether the next stream should have another tunnel, and it may be opened now.
    fn wants_another(&self, options: &Options, now: Instant) -> bool {
        let failed = *lock(&self.failed);
        let is_time =
            failed.is_none_or(|failed| now.saturating_duration_since(failed) >= options.again);
        let mut tunnels = lock(&self.tunnels);
        keep_valid(&mut tunnels, clock::now());
        is_time && choice(&tunnels, options, now).another
    }

    fn is_idle(&self) -> bool {
        lock(&self.tunnels).iter().all(|pooled| pooled.tunnel.is_closed())
            && self.opening.try_lock().is_ok()
    }
}

/// Forgets tunnels that take no more streams. Those whose certificates are out of date end with the
/// streams that they have.
fn keep_valid(tunnels: &mut Vec<Pooled>, now: SystemTime) {
    tunnels.retain(|Pooled { tunnel, validity }| {
        let is_over = validity.is_over(now);
        if is_over {
            tunnel.retire();
        }
        !is_over && !tunnel.is_closed()
    });
}

fn choice(tunnels: &[Pooled], options: &Options, now: Instant) -> Choice {
    let carried = tunnels.iter().map(|pooled| pooled.tunnel.carried(options, now));
    let most = tunnels.first().map_or(1, |pooled| pooled.tunnel.most(options));
    choose(carried, most)
}

/// A panic elsewhere leaves the tables whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
