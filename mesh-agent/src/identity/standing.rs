//! Whether peers whose tunnels are open would still be accepted. A tunnel may live for days: that its
//! handshake was good is not enough.
//!
//! A peer that is revoked is *fallen*: its tunnels end at once. One whose certificate has expired, or
//! whose identity is not placed any more on the node that signed it, is *stale*: its tunnels take no
//! new streams, and those that are open have a time to end ([`Options::stale_timeout`]), after which
//! the peer is fallen too. An honest peer opens its next tunnel with its next certificate.
//!
//! [`Options::stale_timeout`]: crate::identity::Options::stale_timeout

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use rustls::client::danger::ServerCertVerifier as _;
use rustls::server::danger::ClientCertVerifier as _;
use rustls_pki_types::ServerName;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::identity::cert::Facts;
use crate::identity::sessions::Chain;
use crate::identity::trust::Trust;
use crate::identity::verify::{ClientVerifier, Clocks, Peer, PeerError, ServerVerifier, classify};
use crate::task::clock;

/// How long a change of the trust may hold up the thread that brings it.
const TURN: Duration = Duration::from_millis(50);

/// Fewer are never looked through for those that are gone.
const LEAST: usize = 64;

/// A peer whose tunnel is open.
pub struct Standing {
    chain: Chain,
    judge: Judge,
    /// The identity of its certificate, and the node that signed it; `None` if that cannot be read.
    peer: Option<Peer>,
    not_after: SystemTime,
    /// Since when the peer is stale, and why.
    stale: OnceLock<(SystemTime, PeerError)>,
    has_fallen: AtomicBool,
    why: OnceLock<PeerError>,
    told: Notify,
}

/// Whether a peer that is stale since `since` has been for too long; pure. The clock may have been set
/// back since: that makes nobody younger.
fn is_over(since: SystemTime, now: SystemTime, timeout: Duration) -> bool {
    now.duration_since(since).is_ok_and(|lasted| lasted >= timeout)
}

/// The verifier of the peer.
pub(crate) enum Judge {
    /// It is a client.
    Client(Arc<ClientVerifier>),
    /// It is a server that was called so.
    Server(Arc<ServerVerifier>, ServerName<'static>),
}

/// All peers whose tunnels are open. Bounded by the tunnels, and by as many that have ended.
#[derive(Default)]
pub(crate) struct Standings {
    all: Mutex<Vec<Weak<Standing>>>,
}

impl Standing {
    /// Why the peer may not go on; `None`: it may. Costs a load: it may be asked for
    /// each read and write.
    pub fn fallen(&self) -> Option<&PeerError> {
        if self.has_fallen.load(Ordering::Relaxed) { self.why.get() } else { None }
    }

    /// Waits until the peer may not go on.
    pub async fn fell(&self) -> &PeerError {
        self.wait(Self::fallen).await
    }

    /// Why the peer may open no more streams; `None`: it may. Costs little: it is asked for each
    /// stream.
    pub fn stale(&self, now: SystemTime) -> Option<&PeerError> {
        if now > self.not_after {
            let clocks = Clocks::end(clock::for_tls(self.not_after), clock::for_tls(now));
            let expired = PeerError::Expired(clocks);
            let _second: Result<(), _> = self.stale.set((self.not_after, expired));
        }
        self.stale.get().map(|(_, why)| why)
    }

    /// Waits until the peer may open no more streams. Noticed by [`Standings::review`], or when it
    /// is asked for.
    pub async fn staled(&self) -> &PeerError {
        self.wait(|standing| standing.stale.get().map(|(_, why)| why)).await
    }

    async fn wait(&self, why: impl for<'a> Fn(&'a Self) -> Option<&'a PeerError>) -> &PeerError {
        loop {
            let told = self.told.notified();
            if let Some(why) = why(self) {
                return why;
            }
            told.await;
        }
    }

    /// Whether time or placement have made the peer stale, and whether it has been for too long.
    fn review(&self, trust: &Trust, now: SystemTime, timeout: Duration) {
        let expired = self.stale(now).is_some();
        let moved = self.peer.as_ref().and_then(|peer| peer.check_node(trust).err());
        if let Some(moved) = moved.filter(|_| !expired) {
            let _second: Result<(), _> = self.stale.set((now, moved));
        }
        let Some((since, why)) = self.stale.get() else { return };
        if is_over(*since, now, timeout) {
            self.fall(why.clone());
        }
        self.told.notify_waiters();
    }

    fn fall(&self, why: PeerError) {
        let _second: Result<(), PeerError> = self.why.set(why);
        self.has_fallen.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
    }

    /// Verifies the peer again: the trust has changed since its handshake began.
    ///
    /// # Errors
    ///
    /// The peer would not be accepted now.
    pub(crate) fn recheck(&self) -> Result<(), rustls::Error> {
        self.verify(clock::now())
    }

    fn verify(&self, now: SystemTime) -> Result<(), rustls::Error> {
        let Some((leaf, rest)) = self.chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        let now = clock::for_tls(now);
        match &self.judge {
            Judge::Client(verifier) => verifier.verify_client_cert(leaf, rest, now).map(drop),
            Judge::Server(verifier, name) => {
                verifier.verify_server_cert(leaf, rest, name, &[], now).map(drop)
            }
        }
    }

    fn is_revoked(&self, now: SystemTime) -> bool {
        let why = self.verify(now).err().as_ref().and_then(classify);
        matches!(why, Some(PeerError::Revoked))
    }

    /// The facts that the answer to whether it is revoked depends on.
    fn asked(&self) -> (Chain, Option<ServerName<'static>>) {
        let name = match &self.judge {
            Judge::Client(_) => None,
            Judge::Server(_, name) => Some(name.clone()),
        };
        (Arc::clone(&self.chain), name)
    }
}

impl Standings {
    /// From now on the peer's standing is looked at when the roots change.
    pub(crate) fn add(&self, chain: Chain, judge: Judge) -> Arc<Standing> {
        let facts = chain.first().and_then(|leaf| Facts::read(leaf).ok());
        // It was verified a moment ago: it can be read.
        let not_after = facts.as_ref().map_or(SystemTime::UNIX_EPOCH, |facts| facts.not_after);
        let standing = Arc::new(Standing {
            chain,
            judge,
            peer: facts.and_then(Peer::of),
            not_after,
            stale: OnceLock::new(),
            has_fallen: AtomicBool::new(false),
            why: OnceLock::new(),
            told: Notify::new(),
        });
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= LEAST && all.len() == all.capacity() {
            all.retain(|standing| standing.strong_count() > 0);
        }
        all.push(Arc::downgrade(&standing));
        standing
    }

    /// Verifies all of them again: 0.1 to 0.3 ms of a processor for each certificate, however many
    /// tunnels a peer has with it. A check that takes longer than a turn goes on elsewhere.
    ///
    /// A root is replaced without a connection that ends: the next handshake asks for what the new one
    /// has signed. Only what is taken back ends what goes on.
    pub(crate) fn check(&self, now: SystemTime) {
        let mut alike: HashMap<_, Vec<_>> = HashMap::new();
        for standing in self.all() {
            alike.entry(standing.asked()).or_default().push(standing);
        }
        let began = Instant::now();
        let mut rest = alike.into_values();
        for alike in rest.by_ref() {
            check_alike(&alike, now);
            if began.elapsed() >= TURN {
                break;
            }
        }
        let rest: Arc<[_]> = rest.collect();
        if rest.is_empty() {
            return;
        }
        let later = Arc::clone(&rest);
        let checking = thread::Builder::new().name("revocation".to_owned());
        let checking = checking.spawn(move || later.iter().for_each(|it| check_alike(it, now)));
        if let Err(error) = checking {
            tracing::warn!(%error, "revoked peers are looked for without a thread of their own");
            rest.iter().for_each(|alike| check_alike(alike, now));
        }
    }

    /// Asks all of them for time and placement: below 1 µs each.
    pub(crate) fn review(&self, trust: &Trust, now: SystemTime, timeout: Duration) {
        for standing in self.all() {
            standing.review(trust, now, timeout);
        }
    }

    fn all(&self) -> Vec<Arc<Standing>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|standing| standing.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Ends the peers of one certificate, if that is revoked.
fn check_alike(alike: &[Arc<Standing>], now: SystemTime) {
    if alike.first().is_some_and(|standing| standing.is_revoked(now)) {
        for standing in alike {
            standing.fall(PeerError::Revoked);
        }
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").field("fallen", &self.fallen()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_peer_has_a_time_to_end() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (now, expect) in [(1_000, false), (1_059, false), (1_060, true), (10, false)] {
            assert_eq!(is_over(at(1_000), at(now), Duration::from_mins(1)), expect, "{now}");
        }
    }
}
