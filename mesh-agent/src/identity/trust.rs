//! Whom this agent trusts: the roots by trust domain, and which identity runs on which node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;

use crate::identity::cert::Facts;
use crate::identity::crypto;
use crate::identity::error::Error;
use crate::model::spiffe::SpiffeId;

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

/// What verifiers ask. Shared by every TLS configuration; the roots are replaced under them.
pub(crate) struct Trust {
    /// Our own trust domain.
    pub(crate) domain: Arc<str>,
    /// Further trust domains whose identities may call us.
    pub(crate) aliases: BTreeSet<String>,
    /// Which identity runs where.
    pub(crate) placement: Arc<dyn Placement>,
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

/// Roots that may vouch for one trust domain.
#[derive(Clone)]
pub(crate) struct Anchors {
    /// For certificates of servers.
    pub(crate) roots: Arc<RootCertStore>,
    /// For certificates of clients.
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    /// Trusts `roots`.
    pub(crate) fn new(
        domain: Arc<str>,
        aliases: BTreeSet<String>,
        placement: Arc<dyn Placement>,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, Error> {
        let bundle = ArcSwap::from_pointee(Bundle::new(roots, &domain, &aliases)?);
        Ok(Self { domain, aliases, placement, bundle })
    }

    /// Trusts `roots` from the next handshake on, and none of the former unless they are among
    /// them.
    pub(crate) fn replace_roots(&self, roots: &[CertificateDer<'static>]) -> Result<(), Error> {
        self.bundle.store(Arc::new(Bundle::new(roots, &self.domain, &self.aliases)?));
        Ok(())
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
    fn new(
        roots: &[CertificateDer<'static>],
        domain: &str,
        aliases: &BTreeSet<String>,
    ) -> Result<Self, Error> {
        let named: Vec<_> = roots
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
            Anchors::new(chosen.map(|(root, _name)| (*root).clone()))
        };
        let aliases = aliases
            .iter()
            .map(|alias| Ok((alias.clone(), vouching_for(Some(alias))?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self { ours: vouching_for(None)?, aliases })
    }
}

impl Anchors {
    fn new(roots: impl Iterator<Item = CertificateDer<'static>>) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root)?;
        }
        let roots = Arc::new(store);
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), crypto::provider())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { roots, clients })
    }
}
