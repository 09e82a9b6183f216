//! Identities of this node's workloads: a certificate for each SPIFFE ID, and TLS made of it.
//!
//! [`Identities`] is the handle: [`Identities::ensure`] gives an [`Identity`], and
//! [`Clients`](tls::Clients) and [`Server`](tls::Server) are TLS with it, at each handshake with the
//! certificate of that moment. The task [`Identities::rotate`] renews the certificates and adopts
//! changes of the authority's directory. Nothing else writes them.
//!
//! Private keys are made here and never leave; nothing in this module prints one.

pub mod authority;
pub mod crypto;
pub(crate) mod cert;
pub(crate) mod chain;
mod error;
pub(crate) mod files;
pub(crate) mod root;
pub(crate) mod local_ca;
mod trust;
pub mod verify;
mod sessions;
pub mod standing;
pub mod tls;
mod rotate;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod resumption_tests;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroize as _;

use crate::identity::authority::{Authority, Certificate, Life};
use crate::identity::trust::Trust;
use crate::model::spiffe::SpiffeId;
use crate::task::{batch, clock};

pub use crate::identity::error::Error;
pub use crate::identity::root::{Pems, init as init_root};
pub use crate::identity::rotate::LOW;
pub use crate::identity::trust::{Placement, Trusted};

/// Certificates that are asked for at one time. An authority that is elsewhere answers as many in
/// the time of one; one that is here has one thread for it anyway.
const AT_ONCE: usize = 16;

/// Numbers and names that the settings choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a leaf lives. It is renewed at two thirds of it, give or take a tenth.
    pub leaf_ttl: Duration,
    /// How often the authority's directory is looked at for changes.
    pub poll_interval: Duration,
    /// Trust domains besides our own whose identities may call us.
    pub trust_domain_aliases: BTreeSet<String>,
    /// How long connections of a peer may go on after its certificate has expired, or its identity
    /// has left the node that signed it.
    pub stale_timeout: Duration,
}

/// The certificates of this node's workloads. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Identities {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    authority: Box<dyn Authority>,
    trust: Arc<Trust>,
    /// The source of `trust`.
    trusted: Mutex<Arc<Trusted>>,
    /// Bounded by the identities on the node: `retain` removes those that are gone.
    held: Mutex<HashMap<SpiffeId, Arc<Identity>>>,
    renewals: AtomicU64,
    failures: AtomicU64,
}

/// One workload's identity: its SPIFFE ID and the certificate that it has now.
pub struct Identity {
    id: SpiffeId,
    trust: Arc<Trust>,
    current: ArcSwap<Current>,
}

/// A certificate in use.
struct Current {
    key: Arc<CertifiedKey>,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    /// When to make the next one.
    renew_at: SystemTime,
    /// The certificates themselves, for operators: the leaf first.
    chain: Vec<CertificateDer<'static>>,
}

/// The facts of one certificate for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The identity.
    pub id: SpiffeId,
    /// When it began to be valid.
    pub not_before: SystemTime,
    /// When it ceases to be valid.
    pub not_after: SystemTime,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// The leaf, and what is between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the next one will be made.
    pub renew_at: SystemTime,
}

/// The facts of any certificate for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its subject, or its URI names if that is empty.
    pub name: String,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// From when to when it is valid.
    pub life: Life,
    /// The certificate itself, in PEM.
    pub pem: String,
}

/// Describes a certificate; `None`: it is none.
pub fn describe(der: &CertificateDer<'_>) -> Option<Description> {
    let facts = cert::Facts::read(der).ok()?;
    let name = if facts.subject.is_empty() { facts.uris.join(", ") } else { facts.subject };
    Some(Description {
        name,
        serial: facts.serial,
        life: Life { from: facts.not_before, to: facts.not_after },
        pem: pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref())),
    })
}

impl Summary {
    /// From when to when it is valid.
    pub const fn life(&self) -> Life {
        Life { from: self.not_before, to: self.not_after }
    }
}

impl Identities {
    /// Asks `authority` for certificates; `placement` says which identities peers' nodes may vouch
    /// for.
    ///
    /// # Errors
    ///
    /// TLS cannot use one of the roots.
    pub fn new(
        authority: Box<dyn Authority>,
        placement: Arc<dyn Placement>,
        options: Options,
    ) -> Result<Self, Error> {
        let domain = authority.trust_domain().into();
        let aliases = options.trust_domain_aliases.clone();
        let trusted = authority.trusted();
        let trust = Arc::new(Trust::new(domain, aliases, placement, &trusted)?);
        Ok(Self {
            shared: Arc::new(Shared {
                options,
                authority,
                trust,
                trusted: Mutex::new(trusted),
                held: Mutex::default(),
                renewals: AtomicU64::new(0),
                failures: AtomicU64::new(0),
            }),
        })
    }

    /// Our trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.shared.trust.domain
    }

    /// The identity `id`, with a certificate that is made now if there is none.
    ///
    /// With an authority that signs here: below a millisecond, and no waiting. With another, it
    /// waits for the answer, which is given up after some seconds.
    ///
    /// # Errors
    ///
    /// `id` is of another trust domain, or the authority gives no certificate.
    pub async fn ensure(&self, id: &SpiffeId) -> Result<Arc<Identity>, Error> {
        if let Some(identity) = self.held().get(id) {
            return Ok(Arc::clone(identity));
        }
        let current = ArcSwap::from_pointee(self.shared.issue(id, clock::now()).await?);
        let trust = Arc::clone(&self.shared.trust);
        let made = Arc::new(Identity { id: id.clone(), trust, current });
        // Another may have been quicker: one identity has one certificate.
        Ok(Arc::clone(self.held().entry(id.clone()).or_insert(made)))
    }

    /// The same for many: asks for up to [`AT_ONCE`] of them at a time, and returns those for which
    /// there is none, with the reason.
    pub async fn ensure_all(&self, ids: BTreeSet<SpiffeId>) -> HashMap<SpiffeId, Error> {
        let missing = ids.into_iter().filter(|id| !self.held().contains_key(id)).collect();
        let asked = batch::run(missing, AT_ONCE, |id: SpiffeId| {
            let identities = self.clone();
            async move { (identities.ensure(&id).await.err(), id) }
        });
        let asked = asked.await.into_iter();
        asked.filter_map(|(error, id)| Some((id, error?))).collect()
    }

    /// Stops renewing the identities for which `keep` says no, and returns how many.
    ///
    /// A user of one keeps its last certificate.
    pub fn retain(&self, keep: impl Fn(&SpiffeId) -> bool) -> usize {
        let mut held = self.held();
        let before = held.len();
        held.retain(|id, _identity| keep(id));
        before - held.len()
    }

    /// Every certificate in use, by SPIFFE ID.
    pub fn summary(&self) -> Vec<Summary> {
        let mut all: Vec<_> = self.held().values().map(|identity| identity.summary()).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// The life of the certificate that signs here; `None`: another process signs.
    pub fn authority_life(&self) -> Option<Life> {
        self.shared.authority.life()
    }

    /// The issuer of the identities: `embedded`, `files` or `istio`.
    pub fn authority_kind(&self) -> &'static str {
        self.shared.authority.kind()
    }

    /// The roots that are trusted now.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.shared.authority.trusted().roots.clone()
    }

    /// How many certificates were renewed since the start.
    pub fn renewals(&self) -> u64 {
        self.shared.renewals.load(Ordering::Relaxed)
    }

    /// Asks of all peers with open tunnels whether time and placement still allow them. To be called
    /// when the placement changes, and every few seconds.
    pub fn review_peers(&self, now: SystemTime) {
        let trust = &self.shared.trust;
        trust.standings.review(trust, now, self.shared.options.stale_timeout);
    }

    /// How many renewals failed since the start.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    /// No code panics while it holds the lock, and the map is whole after every step.
    fn held(&self) -> MutexGuard<'_, HashMap<SpiffeId, Arc<Identity>>> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    async fn issue(&self, id: &SpiffeId, now: SystemTime) -> Result<Current, Error> {
        let issued = self.authority.issue(id, self.options.leaf_ttl, now).await?;
        // Some authorities say with a certificate whom to trust.
        self.follow()?;
        Current::new(issued, now, rand::random())
    }

    /// Trusts what the authority says now.
    fn follow(&self) -> Result<(), Error> {
        let trusted = self.authority.trusted();
        let mut former = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&former, &trusted) {
            self.trust.replace(&trusted)?;
            *former = trusted;
        }
        Ok(())
    }
}

impl Identity {
    /// The SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Its facts for operators.
    pub fn summary(&self) -> Summary {
        let current = self.current.load();
        Summary {
            id: self.id.clone(),
            not_before: current.not_before,
            not_after: current.not_after,
            serial: current.serial.clone(),
            chain: current.chain.clone(),
            renew_at: current.renew_at,
        }
    }
}

impl Current {
    fn new(issued: Certificate, now: SystemTime, random: u32) -> Result<Self, Error> {
        let mut der = issued.key;
        let key = any_supported_type(&der);
        // TLS has a copy of its own, which is erased with it.
        der.zeroize();
        let key = key?;
        let left = issued.not_after.duration_since(now).unwrap_or_default();
        Ok(Self {
            chain: issued.chain.clone(),
            key: Arc::new(CertifiedKey::new(issued.chain, key)),
            not_before: issued.not_before,
            not_after: issued.not_after,
            serial: issued.serial,
            renew_at: now + rotate::renew_after(left, random),
        })
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("domain", &self.trust_domain()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.id).finish()
    }
}
