//! Certificates that a PKI of one's own has made, and renews, as files.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::PublicKeyData as _;
use rustls_pki_types::CertificateDer;
use tokio::task::spawn_blocking;

use crate::identity::authority::{Authority, Certificate, Life, Look, Pending};
use crate::identity::cert::Facts;
use crate::identity::chain::{self, Purpose};
use crate::identity::error::Error;
use crate::identity::files::{self, CRL, ROOT_CERT, Secret};
use crate::identity::root;
use crate::identity::trust::{Anchors, Trusted};
use crate::model::spiffe::SpiffeId;
use crate::model::trust_domain;
use crate::task::clock;

/// A certificate and its key, as they stand in their files.
#[derive(Clone, PartialEq, Eq)]
struct Pair {
    cert: Vec<u8>,
    key: Secret,
}

/// The trusted roots and revocation lists, as they stand in their files.
#[derive(Clone, PartialEq, Eq)]
struct Anchoring {
    root_cert: Vec<u8>,
    lists: Option<Vec<u8>>,
}

/// Reads `<namespace>/<service account>.crt` and `.key` below a directory that has `root.crt`.
///
/// It signs nothing and renews nothing: whoever wrote the files writes the next ones.
pub struct Leaves {
    dir: PathBuf,
    trust_domain: String,
    trusted: ArcSwap<Trusted>,
    seen: Mutex<Seen>,
}

/// The files' contents when they were last used. Bounded by the identities of the node's workloads,
/// for which alone it is asked.
struct Seen {
    anchoring: Anchoring,
    pairs: HashMap<SpiffeId, Pair>,
}

impl Leaves {
    /// Opens the directory. Blocks.
    ///
    /// # Errors
    ///
    /// `root.crt` is missing, damaged or expired, or `crl.pem` is damaged.
    pub fn open(dir: &Path, trust_domain: &str) -> Result<Self, Error> {
        trust_domain::check_name(trust_domain)?;
        let anchoring = Anchoring::read(dir)?;
        let trusted = anchoring.trusted(dir, clock::now())?;
        root::check_trust_domain(&trusted.roots, &dir.join(ROOT_CERT), trust_domain)?;
        let trusted = ArcSwap::from_pointee(trusted);
        let seen = Mutex::new(Seen { anchoring, pairs: HashMap::new() });
        Ok(Self { dir: dir.to_owned(), trust_domain: trust_domain.to_owned(), trusted, seen })
    }

    /// The files of an identity: its namespace and account are names that fit into a path.
    fn paths(dir: &Path, id: &SpiffeId) -> (PathBuf, PathBuf) {
        let folder = dir.join(id.namespace());
        let path = |extension| folder.join(format!("{}.{extension}", id.service_account()));
        (path("crt"), path("key"))
    }

    fn read_pair(dir: &Path, id: &SpiffeId) -> Result<Pair, Error> {
        let (cert, key) = Self::paths(dir, id);
        Ok(Pair { cert: files::read(&cert)?, key: Secret::new(files::read(&key)?) })
    }

    /// The pair as a certificate, verified the way a peer will verify it.
    fn open_pair(&self, id: &SpiffeId, pair: &Pair, now: SystemTime) -> Result<Certificate, Error> {
        let (cert_path, key_path) = Self::paths(&self.dir, id);
        let bad = || Error::Pem { path: cert_path.clone(), what: "certificate" };
        let certs = files::certificates(&pair.cert).ok_or_else(bad)?;
        let (leaf, rest) = certs.split_first().ok_or_else(bad)?;
        let facts = Facts::read(leaf).map_err(|_malformed| bad())?;
        let key = files::key(&pair.key)
            .ok_or_else(|| Error::Pem { path: key_path.clone(), what: "private key" })?;
        if key.subject_public_key_info() != facts.public_key {
            return Err(Error::KeyMismatch { key: key_path, certificate: cert_path });
        }
        if facts.spiffe_id().as_ref() != Some(id) {
            let found = facts.uris.join(", ");
            return Err(Error::OtherIdentity { path: cert_path, found, id: id.clone() });
        }
        check_chain((leaf, rest), &self.trusted.load(), now)
            .map_err(|source| Error::Chain { path: cert_path, source })?;
        Ok(Certificate {
            chain: certs,
            key: key.into(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            serial: facts.serial,
        })
    }

    /// Adopts roots and lists that have changed and are good.
    fn adopt(&self, anchoring: Anchoring, at: Look) -> Result<(), Error> {
        if at.anew || anchoring != self.seen().anchoring {
            let trusted = anchoring.trusted(&self.dir, at.now)?;
            tracing::info!(
                roots = trusted.roots.len(),
                lists = trusted.lists.len(),
                "the authority's new files are in use"
            );
            self.trusted.store(Arc::new(trusted));
            self.seen().anchoring = anchoring;
        }
        Ok(())
    }

    /// No code panics while it holds the lock, and what it guards is whole after every step.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Anchoring {
    fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(ROOT_CERT);
        let root_cert = files::read_if_there(&path)?.ok_or(Error::NoRoot { path })?;
        Ok(Self { root_cert, lists: files::read_if_there(&dir.join(CRL))? })
    }

    fn trusted(&self, dir: &Path, now: SystemTime) -> Result<Trusted, Error> {
        let roots = files::valid_roots(&self.root_cert, &dir.join(ROOT_CERT), now)?;
        let lists = files::lists(self.lists.as_deref(), &dir.join(CRL), now)?;
        Ok(Trusted { roots, lists })
    }
}

/// Whether peers of both kinds would take the chain.
pub(super) fn check_chain(
    chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
    trusted: &Trusted,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let none = rustls::Error::General("a root cannot be used".to_owned());
    let anchors =
        Anchors::new(trusted.roots.iter().cloned(), &trusted.lists).map_err(|_error| none)?;
    for purpose in [Purpose::Client, Purpose::Server] {
        chain::verify(chain, &anchors, purpose, clock::for_tls(now))?;
    }
    Ok(())
}

impl Authority for Leaves {
    fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    fn trusted(&self) -> Arc<Trusted> {
        self.trusted.load_full()
    }

    fn issue<'a>(
        &'a self,
        id: &'a SpiffeId,
        _ttl: Duration,
        now: SystemTime,
    ) -> Pending<'a, Certificate> {
        Box::pin(async move {
            if id.trust_domain() != self.trust_domain {
                let ours = self.trust_domain.clone();
                return Err(Error::OtherTrustDomain { id: id.clone(), ours });
            }
            let pair = Self::read_pair(&self.dir, id)?;
            let issued = self.open_pair(id, &pair, now)?;
            self.seen().pairs.insert(id.clone(), pair);
            Ok(issued)
        })
    }

    fn refresh(&self, used: HashSet<SpiffeId>, at: Look) -> Pending<'_, bool> {
        Box::pin(async move {
            let former = {
                let mut seen = self.seen();
                seen.pairs.retain(|id, _pair| used.contains(id));
                seen.pairs.clone()
            };
            let dir = self.dir.clone();
            // Unowned for as long as it takes to read small files.
            let read = spawn_blocking(move || {
                let anchoring = Anchoring::read(&dir)?;
                let mut is_new = false;
                for (id, pair) in former {
                    is_new |= Self::read_pair(&dir, &id)? != pair;
                }
                Ok::<_, Error>((anchoring, is_new))
            });
            let Ok(read) = read.await else { return Ok(false) };
            let (anchoring, is_new) = read?;
            self.adopt(anchoring, at)?;
            Ok(is_new)
        })
    }

    fn life(&self) -> Option<Life> {
        None
    }

    fn kind(&self) -> &'static str {
        "files"
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::identity::fixture::{HOUR, Mesh, id};
    use crate::identity::local_ca::LocalCa;
    use crate::identity::root::BACKDATE;

    fn look() -> Look {
        Look { now: clock::now(), anew: false }
    }

    /// Writes what a PKI would: a leaf of `mesh` for `account`.
    fn write(dir: &Path, mesh: &Mesh, account: &str) {
        let now = clock::now();
        let ca = LocalCa::from_files(mesh.files("pki", &[]), "pki", None, (BACKDATE, now)).unwrap();
        let leaf = ca.issue(&id(account), HOUR, now).unwrap();
        let (cert, key) = Leaves::paths(dir, &id(account));
        fs::create_dir_all(cert.parent().unwrap()).unwrap();
        let block = |tag: &str, der: &[u8]| pem::encode(&pem::Pem::new(tag, der));
        let chain: String = leaf.chain.iter().map(|der| block("CERTIFICATE", der)).collect();
        fs::write(cert, chain).unwrap();
        fs::write(key, block("PRIVATE KEY", leaf.key.secret_der())).unwrap();
    }

    fn issue(leaves: &Leaves, account: &str) -> Result<Certificate, Error> {
        crate::identity::fixture::now(leaves.issue(&id(account), HOUR, clock::now()))
    }

    #[tokio::test]
    async fn files_are_used_as_they_are_and_again_when_they_change() {
        let scratch = tempfile::tempdir().unwrap();
        let (dir, mesh) = (scratch.path(), Mesh::new("cluster.local"));
        let error = Leaves::open(dir, "cluster.local").err().unwrap();
        assert!(error.to_string().contains("there is no"), "{error}");
        fs::write(dir.join(ROOT_CERT), &mesh.pems.certificate).unwrap();
        let leaves = Leaves::open(dir, "cluster.local").unwrap();
        assert!(issue(&leaves, "web").err().unwrap().to_string().contains("demo/web.crt"));
        write(dir, &mesh, "web");
        let first = issue(&leaves, "web").unwrap();
        let used = HashSet::from([id("web")]);
        assert!(!leaves.refresh(used.clone(), look()).await.unwrap());
        write(dir, &mesh, "web");
        assert!(leaves.refresh(used.clone(), look()).await.unwrap());
        assert_ne!(issue(&leaves, "web").unwrap().serial, first.serial);
        // A pair that is not used any more is not looked at.
        fs::remove_dir_all(dir.join("demo")).unwrap();
        assert!(leaves.refresh(used, look()).await.is_err());
        assert!(!leaves.refresh(HashSet::new(), look()).await.unwrap());
    }

    #[test]
    fn what_peers_would_refuse_is_refused_here() {
        let scratch = tempfile::tempdir().unwrap();
        let (dir, mesh) = (scratch.path(), Mesh::new("cluster.local"));
        fs::write(dir.join(ROOT_CERT), &mesh.pems.certificate).unwrap();
        let leaves = Leaves::open(dir, "cluster.local").unwrap();
        let check = |account: &str, expect: &str| {
            let error = issue(&leaves, account).err().unwrap().to_string();
            assert!(error.contains(expect), "{error}");
        };
        write(dir, &Mesh::new("cluster.local"), "foreign");
        check("foreign", "was not signed by a root in root.crt");
        write(dir, &mesh, "web");
        let folder = dir.join("demo");
        fs::copy(folder.join("web.crt"), folder.join("other.crt")).unwrap();
        fs::copy(folder.join("web.key"), folder.join("other.key")).unwrap();
        check("other", "is for `spiffe://cluster.local/ns/demo/sa/web`, and should be for");
        write(dir, &mesh, "mixed");
        fs::copy(folder.join("web.key"), folder.join("mixed.key")).unwrap();
        check("mixed", "is not the key of");
    }
}
