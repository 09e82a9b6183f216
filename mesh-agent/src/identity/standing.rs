//! Whether peers whose tunnels are open have been revoked since. A tunnel may live for days: that its
//! handshake was good is not enough.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use rustls::client::danger::ServerCertVerifier as _;
use rustls::server::danger::ClientCertVerifier as _;
use rustls_pki_types::ServerName;
use tokio::sync::Notify;

use crate::identity::sessions::Chain;
use crate::identity::verify::{ClientVerifier, PeerError, ServerVerifier, classify};
use crate::task::clock;

/// Fewer are never looked through for those that are gone.
const LEAST: usize = 64;

/// A peer whose tunnel is open.
pub struct Standing {
    chain: Chain,
    judge: Judge,
    has_fallen: AtomicBool,
    why: OnceLock<PeerError>,
    told: Notify,
}

/// Who verifies the peer.
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
        loop {
            let told = self.told.notified();
            if let Some(why) = self.fallen() {
                return why;
            }
            told.await;
        }
    }

    fn check(&self, now: SystemTime) {
        let Some((leaf, rest)) = self.chain.split_first() else { return };
        let now = clock::for_tls(now);
        let verified = match &self.judge {
            Judge::Client(verifier) => verifier.verify_client_cert(leaf, rest, now).map(drop),
            Judge::Server(verifier, name) => {
                verifier.verify_server_cert(leaf, rest, name, &[], now).map(drop)
            }
        };
        // What was good when the tunnel was made, and is only out of date, has been renewed since: a
        // certificate expires within the hour, and a root is replaced without a connection that ends.
        // The next handshake asks for the new one. Only what is taken back ends what goes on.
        let Some(why @ PeerError::Revoked) = verified.err().as_ref().and_then(classify) else {
            return;
        };
        let _second: Result<(), PeerError> = self.why.set(why);
        self.has_fallen.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
    }
}

impl Standings {
    /// From now on the peer's standing is looked at when the roots change.
    pub(crate) fn add(&self, chain: Chain, judge: Judge) -> Arc<Standing> {
        let standing = Arc::new(Standing {
            chain,
            judge,
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

    /// Looks at all of them: 0.1 to 0.3 ms of a processor each.
    pub(crate) fn check(&self, now: SystemTime) {
        let all: Vec<_> = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|standing| standing.strong_count() > 0);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        for standing in all {
            standing.check(now);
        }
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").field("fallen", &self.fallen()).finish_non_exhaustive()
    }
}
