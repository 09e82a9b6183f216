//! Sessions that may be resumed, in bounded tables, each with the certificates it was made with.
//!
//! A table belongs to one identity's one certificate, and to one peer on the client's side. It is
//! in memory only, and a session is used once (RFC 8446, appendix C.4).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::server::StoresServerSessions;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::identity::trust::Trust;
use crate::task::clock;

/// Room for a session of a server. With a common chain of two certificates, twice, it is 2.5 KiB; one
/// with a longer chain takes the places of several.
const SESSION_BYTES: usize = 4 * 1024;

/// A peer's certificates, leaf first.
pub(crate) type Chain = Arc<[CertificateDer<'static>]>;

/// Copies the certificates that rustls keeps with a session.
pub(crate) fn chain(certs: Option<&[CertificateDer<'_>]>) -> Option<Chain> {
    let certs = certs.filter(|certs| !certs.is_empty())?;
    Some(certs.iter().map(|cert| cert.clone().into_owned()).collect())
}

/// The last entries, by key: at most so many, and so much in all. A key that was taken, or put
/// again, keeps its place until as many more have come.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    max: usize,
    max_bytes: usize,
    bytes: usize,
    order: VecDeque<K>,
    kept: HashMap<K, (V, usize)>,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    /// Keeps `max`.
    pub(crate) fn new(max: usize) -> Self {
        Self::within(max, usize::MAX)
    }

    /// Keeps `max`, and `max_bytes` of them.
    pub(crate) fn within(max: usize, max_bytes: usize) -> Self {
        Self { max, max_bytes, bytes: 0, order: VecDeque::new(), kept: HashMap::new() }
    }

    /// Keeps `value`, and forgets what has come first if there is no place.
    pub(crate) fn put(&mut self, key: K, value: V) {
        self.put_sized(key, value, 0);
    }

    /// Keeps `value` of so many bytes, and forgets what has come first until there is a place.
    pub(crate) fn put_sized(&mut self, key: K, value: V, bytes: usize) {
        if self.max == 0 || bytes > self.max_bytes {
            return;
        }
        while self.order.len() >= self.max || self.bytes > self.max_bytes - bytes {
            let Some(first) = self.order.pop_front() else { break };
            self.take(&first);
        }
        self.take(&key);
        self.bytes += bytes;
        self.order.push_back(key.clone());
        self.kept.insert(key, (value, bytes));
    }

    /// The entry that was kept.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.kept.get(key).map(|(value, _bytes)| value)
    }

    /// The entry that was kept, and is not any more.
    pub(crate) fn take(&mut self, key: &K) -> Option<V> {
        let (value, bytes) = self.kept.remove(key)?;
        self.bytes -= bytes;
        Some(value)
    }
}

/// A client's sessions with one peer, of which one identity is expected under one name.
pub(crate) struct Tickets {
    trust: Arc<Trust>,
    name: ServerName<'static>,
    max: usize,
    kept: Mutex<VecDeque<(Chain, Tls13ClientSessionValue)>>,
}

impl Tickets {
    /// At most `max` sessions with the server that is called `name`.
    pub(crate) fn new(trust: Arc<Trust>, name: ServerName<'static>, max: usize) -> Self {
        Self { trust, name, max, kept: Mutex::default() }
    }

    fn keep(&self, chain: &Chain, more: impl IntoIterator<Item = Tls13ClientSessionValue>) {
        let mut kept = lock(&self.kept);
        kept.extend(more.into_iter().map(|session| (Arc::clone(chain), session)));
        let surplus = kept.len().saturating_sub(self.max);
        kept.drain(..surplus);
    }
}

/// One handshake's way to a client's [`Tickets`].
pub(crate) struct Dialing {
    tickets: Arc<Tickets>,
    peer: Mutex<Shown>,
}

/// The parts of one handshake that a server has shown.
enum Shown {
    /// It is not known yet. Tickets here may be kept once it is; as many as are kept at all.
    Unverified(VecDeque<Tls13ClientSessionValue>),
    /// It was verified.
    Verified(Chain),
    /// It was refused.
    Refused,
}

impl Dialing {
    /// For one handshake.
    pub(crate) const fn new(tickets: Arc<Tickets>) -> Self {
        Self { tickets, peer: Mutex::new(Shown::Unverified(VecDeque::new())) }
    }

    /// The handshake is over, and what the peer has shown was verified: its tickets may be kept.
    pub(crate) fn verified(&self, chain: &Chain) {
        let verified = Shown::Verified(Arc::clone(chain));
        let before = std::mem::replace(&mut *lock(&self.peer), verified);
        if let Shown::Unverified(early) = before {
            self.tickets.keep(chain, early);
        }
    }

    /// The certificates that the peer has shown were refused.
    pub(crate) fn refused(&self) {
        *lock(&self.peer) = Shown::Refused;
        lock(&self.tickets.kept).clear();
    }
}

impl ClientSessionStore for Dialing {
    /// Not kept. The hint is taken from an answer that nobody has signed for yet: whoever can
    /// change packets could so keep us from offering the post-quantum key exchange first.
    fn set_kx_hint(&self, _server_name: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, session: Tls13ClientSessionValue) {
        if name != self.tickets.name {
            return;
        }
        match &mut *lock(&self.peer) {
            Shown::Unverified(early) => {
                early.push_back(session);
                early.truncate(self.tickets.max);
            }
            Shown::Verified(chain) => self.tickets.keep(chain, [session]),
            Shown::Refused => {}
        }
    }

    /// The latest session. One whose peer would not be accepted any more is dropped instead: the
    /// handshake is a full one then, and says in the usual way what is wrong.
    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        if *name != self.tickets.name {
            return None;
        }
        let (chain, session) = lock(&self.tickets.kept).pop_back()?;
        self.tickets.trust.still_stands(&chain, clock::now()).then_some(session)
    }
}

/// A server's sessions, by the number that the client was given.
pub(crate) struct Sessions {
    trust: Arc<Trust>,
    kept: Mutex<Recent<Vec<u8>, Session>>,
}

/// A session as rustls writes it, which is a secret, with the client's certificates.
struct Session {
    chain: Chain,
    secret: Vec<u8>,
}

impl Sessions {
    /// At most `max`, with room for common ones.
    pub(crate) fn new(trust: Arc<Trust>, max: usize) -> Self {
        Self { trust, kept: Mutex::new(Recent::within(max, max.saturating_mul(SESSION_BYTES))) }
    }
}

/// One handshake's way to a server's [`Sessions`].
pub(crate) struct Accepting {
    sessions: Arc<Sessions>,
    /// Sessions that may be resumed once the client was verified. As many as tickets are sent.
    pending: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Accepting {
    /// For one handshake.
    pub(crate) const fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions, pending: Mutex::new(Vec::new()) }
    }

    /// The handshake is over, and what the peer has shown was verified: it may be resumed.
    pub(crate) fn verified(&self, chain: &Chain) {
        let pending = std::mem::take(&mut *lock(&self.pending));
        let mut kept = lock(&self.sessions.kept);
        let shown: usize = chain.iter().map(|cert| cert.len()).sum();
        for (number, secret) in pending {
            let bytes = shown + secret.len();
            kept.put_sized(number, Session { chain: Arc::clone(chain), secret }, bytes);
        }
    }
}

impl StoresServerSessions for Accepting {
    fn put(&self, number: Vec<u8>, session: Vec<u8>) -> bool {
        lock(&self.pending).push((number, session));
        true
    }

    /// Of TLS 1.2 only.
    fn get(&self, _number: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// A session whose client would not be accepted any more is dropped: the handshake is a full
    /// one then, and the client is told what is wrong.
    fn take(&self, number: &[u8]) -> Option<Vec<u8>> {
        let session = lock(&self.sessions.kept).take(&number.to_vec())?;
        let stands = self.sessions.trust.still_stands(&session.chain, clock::now());
        stands.then_some(session.secret)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// A panic elsewhere leaves the tables whole: each change is one call.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// The output has no secrets in it.
impl fmt::Debug for Dialing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialing").field("name", &self.tickets.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Accepting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepting").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_goes_when_there_is_no_place() {
        let mut recent = Recent::new(2);
        for key in 1..=3 {
            recent.put(key, key * 10);
        }
        assert_eq!((recent.get(&1), recent.get(&2), recent.get(&3)), (None, Some(&20), Some(&30)));
        assert_eq!((recent.take(&3), recent.take(&3)), (Some(30), None));
    }

    #[test]
    fn without_a_place_nothing_is_kept() {
        let mut recent = Recent::new(0);
        recent.put(1, 1);
        assert_eq!(recent.get(&1), None);
    }

    proptest! {
        #[test]
        fn no_more_is_kept_than_there_are_places(
            max in 0_usize..5,
            steps in proptest::collection::vec((any::<bool>(), 0_u8..8, 0_usize..30), 0..64),
        ) {
            let mut recent = Recent::within(max, 20);
            for (put, key, bytes) in steps {
                if put {
                    recent.put_sized(key, key, bytes);
                    prop_assert!(max == 0 || bytes > 20 || recent.get(&key).is_some());
                } else {
                    recent.take(&key);
                }
                prop_assert!(recent.kept.len() <= max && recent.order.len() <= max);
                let sum: usize = recent.kept.values().map(|(_key, bytes)| *bytes).sum();
                prop_assert!(sum == recent.bytes && sum <= 20);
            }
        }
    }
}
