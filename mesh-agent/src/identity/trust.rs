//! The trust of this agent: the roots by trust domain, and which identity runs on which node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use webpki::CertRevocationList;

use crate::identity::cert::Facts;
use crate::identity::error::Error;
use crate::identity::sessions::Chain;
use crate::identity::standing::{Judge, Standing, Standings};
use crate::model::spiffe::SpiffeId;
use crate::task::clock;

/// Which identities run on which node.
///
/// A node's intermediate may sign for every identity of the mesh; this keeps it to those that
/// are scheduled there. Asked in every handshake: answer from memory.
pub trait Placement: Send + Sync {
    /// Whether a workload with the identity `id` is scheduled on `node`.
    fn runs_on(&self, id: &SpiffeId, node: &str) -> bool;
}

impl<F> Placement for F
where
    F: Fn(&SpiffeId, &str) -> bool + Send + Sync,
{
    fn runs_on(&self, id: &SpiffeId, node: &str) -> bool {
        self(id, node)
    }
}

/// The roots and lists that an authority says are to be trusted at one moment.
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    /// The roots; several while one replaces another.
    pub roots: Vec<CertificateDer<'static>>,
    /// The revoked certificates, by issuer.
    pub lists: Lists,
}

/// Revocation lists. Cheap to clone.
pub(crate) type Lists = Arc<[CertRevocationList<'static>]>;

/// The sources of verifiers. Shared by every TLS configuration; the roots are replaced under them.
pub(crate) struct Trust {
    /// Our own trust domain.
    pub(crate) domain: Arc<str>,
    /// Further trust domains whose identities may call us.
    pub(crate) aliases: BTreeSet<String>,
    /// Which identity runs where.
    pub(crate) placement: Arc<dyn Placement>,
    /// Peers whose tunnels are open.
    pub(crate) standings: Standings,
    bundle: ArcSwap<Bundle>,
}

/// The roots of one moment.
///
/// A root that names a trust domain vouches for that one alone, except that ours, and those that
/// name none, vouch for the aliases too.
pub(crate) struct Bundle {
    ours: Anchors,
    aliases: HashMap<String, Anchors>,
}

/// Roots that may vouch for one trust domain, and what has been revoked.
#[derive(Clone)]
pub(crate) struct Anchors {
    /// For certificates of both sides.
    pub(crate) roots: Arc<RootCertStore>,
    /// Of every issuer that has one.
    pub(crate) lists: Lists,
}

impl Trust {
    /// Trusts `trusted`.
    pub(crate) fn new(
        domain: Arc<str>,
        aliases: BTreeSet<String>,
        placement: Arc<dyn Placement>,
        trusted: &Trusted,
    ) -> Result<Self, Error> {
        let bundle = ArcSwap::from_pointee(Bundle::new(trusted, &domain, &aliases)?);
        Ok(Self { domain, aliases, placement, standings: Standings::default(), bundle })
    }

    /// Trusts `trusted` from the next handshake on, and none of the former unless they are among
    /// them. Tunnels of peers that are revoked now are told.
    pub(crate) fn replace(&self, trusted: &Trusted) -> Result<(), Error> {
        self.bundle.store(Arc::new(Bundle::new(trusted, &self.domain, &self.aliases)?));
        self.standings.check(clock::now());
        Ok(())
    }

    /// Looks after a peer from now on, whose handshake began with `roots`.
    ///
    /// # Errors
    ///
    /// The roots have changed since, and with those of now the peer would not be accepted.
    pub(crate) fn stand(
        &self,
        chain: Chain,
        judge: Judge,
        roots: &Arc<Bundle>,
    ) -> Result<Arc<Standing>, rustls::Error> {
        let standing = self.standings.add(chain, judge);
        // Not before: a change of the trust from now on is told to the standing.
        if !Arc::ptr_eq(roots, &self.bundle()) {
            standing.recheck()?;
        }
        Ok(standing)
    }

    /// The roots that may vouch for an identity of `domain`. For a domain that is not accepted at
    /// all they are ours: the chain is judged first, and the domain then.
    pub(crate) fn anchors(&self, domain: &str) -> Anchors {
        let bundle = self.bundle.load();
        bundle.aliases.get(domain).unwrap_or(&bundle.ours).clone()
    }

    /// The roots of this moment, to be compared with those of another.
    pub(crate) fn bundle(&self) -> Arc<Bundle> {
        self.bundle.load_full()
    }

    /// Whether identities of `domain` may talk to us.
    pub(crate) fn accepts(&self, domain: &str) -> bool {
        *domain == *self.domain || self.aliases.contains(domain)
    }
}

impl Bundle {
    fn new(trusted: &Trusted, domain: &str, aliases: &BTreeSet<String>) -> Result<Self, Error> {
        let named: Vec<_> = trusted
            .roots
            .iter()
            .map(|root| {
                let facts = Facts::read(root).ok();
                (root, facts.as_ref().and_then(Facts::trust_domain).map(str::to_owned))
            })
            .collect();
        let vouching_for = |alias: Option<&str>| {
            let chosen = named.iter().filter(|(_root, name)| {
                name.as_deref().is_none_or(|name| name == domain || Some(name) == alias)
            });
            Anchors::new(chosen.map(|(root, _name)| (*root).clone()), &trusted.lists)
        };
        let aliases = aliases
            .iter()
            .map(|alias| Ok((alias.clone(), vouching_for(Some(alias))?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self { ours: vouching_for(None)?, aliases })
    }
}

impl Anchors {
    /// Trusts these roots.
    pub(crate) fn new(
        roots: impl Iterator<Item = CertificateDer<'static>>,
        lists: &Lists,
    ) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root)?;
        }
        Ok(Self { roots: Arc::new(store), lists: Arc::clone(lists) })
    }
}
