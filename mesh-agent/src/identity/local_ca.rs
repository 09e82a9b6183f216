//! The embedded authority: this node's intermediate, which signs its workloads' leaves.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::identity::cert::{self, Facts, NodeName};
use crate::identity::crypto;
use crate::identity::error::Error;
use crate::identity::files::{self, Files};
use crate::identity::root::{self, BACKDATE, Root};
use crate::model::spiffe::SpiffeId;
use crate::task::clock;

/// How long an intermediate lives that is made in memory, where the root's key is. A new one is
/// made at half of it, so that no leaf is ever cut short.
const MINTED_VALIDITY: Duration = Duration::from_hours(24);

/// Signs leaves for this node's workloads.
///
/// Owns the root's or the intermediate's key, which is why it is not `Debug`.
pub struct Authority {
    files: Files,
    node: String,
    trust_domain: Arc<str>,
    roots: Vec<CertificateDer<'static>>,
    signer: Signer,
}

enum Signer {
    /// An intermediate that `mesh-agent ca node` made.
    Given(Box<Intermediate>),
    /// The root is here; the intermediate is made in memory, and again at half its life.
    Minted { root: Box<Root>, current: ArcSwap<Intermediate> },
}

/// What signs a leaf.
struct Intermediate {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// A leaf with its chain and its private key. Not `Debug`: it holds a key.
pub struct Certificate {
    /// The leaf, then the node's intermediate; no root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key, made here.
    pub key: PrivateKeyDer<'static>,
    /// When it begins to be valid; 60 s before it was made, for nodes whose clocks are behind.
    pub not_before: SystemTime,
    /// When it ceases to be valid.
    pub not_after: SystemTime,
    /// The serial number in hexadecimal.
    pub serial: String,
}

impl Authority {
    /// Reads the authority's directory for the node `node`. Blocks.
    ///
    /// `root.crt` is always there. With `root.key` this host is the authority and makes its own
    /// intermediate; else `node.crt` and `node.key` are the intermediate. The chain is verified
    /// the way a peer will verify it.
    ///
    /// # Errors
    ///
    /// A file is missing, damaged, expired, of another node or does not fit the others. The error
    /// names the file and says what to do.
    pub fn open(dir: &Path, node: &str) -> Result<Self, Error> {
        files::warn_of_readable_keys(dir);
        Self::from_files(Files::read(dir)?, node, clock::now())
    }

    /// Makes an authority of a directory's contents at the time `now`.
    pub(crate) fn from_files(files: Files, node: &str, now: SystemTime) -> Result<Self, Error> {
        root::check_node_name(node)?;
        let roots = valid_roots(&files, now)?;
        let signer = if files.root_key.is_some() {
            let root = Box::new(Root::open(&files)?);
            check_validity(root.facts(), files.path(files::ROOT_CERT).as_path(), now)?;
            let current = ArcSwap::from_pointee(Intermediate::mint(&root, node, now)?);
            Signer::Minted { root, current }
        } else {
            Signer::Given(Box::new(Intermediate::read(&files, node, now)?))
        };
        let trust_domain = find_trust_domain(&signer, &roots, &files, now)?;
        Ok(Self { files, node: node.to_owned(), trust_domain, roots, signer })
    }

    /// The files that it was made of.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// The node that it signs for.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The trust domain that it signs for: that of the root which signed its intermediate.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Every trusted root; several while one replaces another.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// When it can sign no more: the end of `node.crt`, or of the root where its key is here.
    pub fn not_after(&self) -> SystemTime {
        match &self.signer {
            Signer::Given(intermediate) => intermediate.not_after,
            Signer::Minted { root, .. } => root.facts().not_after,
        }
    }

    /// When it began: the beginning of the certificate that [`Self::not_after`] is about.
    pub fn not_before(&self) -> SystemTime {
        match &self.signer {
            Signer::Given(intermediate) => intermediate.not_before,
            Signer::Minted { root, .. } => root.facts().not_before,
        }
    }

    /// Makes a key and signs a leaf for `id`, valid for `ttl` and never beyond the authority's end.
    ///
    /// # Errors
    ///
    /// `id` is of another trust domain, or the authority has expired.
    pub fn issue(
        &self,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Certificate, Error> {
        if id.trust_domain() != self.trust_domain() {
            let ours = self.trust_domain().to_owned();
            return Err(Error::OtherTrustDomain { id: id.clone(), ours });
        }
        match &self.signer {
            Signer::Given(intermediate) => intermediate.issue(id, ttl, now),
            Signer::Minted { root, current } => {
                if now >= current.load().half_life() {
                    // Two at once may make two: the last stays, and both are good.
                    current.store(Arc::new(Intermediate::mint(root, &self.node, now)?));
                }
                current.load().issue(id, ttl, now)
            }
        }
    }
}

impl Intermediate {
    fn read(files: &Files, node: &str, now: SystemTime) -> Result<Self, Error> {
        let Some((cert, key)) = &files.node else {
            return Err(Error::NoKey { dir: files.dir.clone() });
        };
        let (cert_path, key_path) = (files.path(files::NODE_CERT), files.path(files::NODE_KEY));
        let bad_cert = || Error::Pem { path: cert_path.clone(), what: "certificate" };
        let der = files::certificates(cert).and_then(|certs| certs.into_iter().next());
        let der = der.ok_or_else(bad_cert)?;
        let facts = Facts::read(&der).map_err(|_malformed| bad_cert())?;
        let key = files::key(key)
            .ok_or_else(|| Error::Pem { path: key_path.clone(), what: "private key" })?;
        if key.subject_public_key_info() != facts.public_key {
            return Err(Error::KeyMismatch { key: key_path, certificate: cert_path });
        }
        if facts.subject_node != NodeName::Node(node.to_owned()) {
            let found = match facts.subject_node {
                NodeName::Node(found) => found,
                NodeName::Ambiguous | NodeName::Foreign => facts.subject,
            };
            return Err(Error::OtherNode { path: cert_path, found, node: node.to_owned() });
        }
        check_validity(&facts, &cert_path, now)?;
        Self::new(der, key)
    }

    fn mint(root: &Root, node: &str, now: SystemTime) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let cert = root.sign_node(node, &key, MINTED_VALIDITY, now)?;
        Self::new(cert.into(), key)
    }

    fn new(der: CertificateDer<'static>, key: KeyPair) -> Result<Self, Error> {
        let facts =
            Facts::read(&der).map_err(|_malformed| rcgen::Error::CouldNotParseCertificate)?;
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { der, issuer, not_before: facts.not_before, not_after: facts.not_after })
    }

    fn half_life(&self) -> SystemTime {
        self.not_before + self.not_after.duration_since(self.not_before).unwrap_or_default() / 2
    }

    fn issue(&self, id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<Certificate, Error> {
        if now >= self.not_after {
            return Err(Error::NotValidNow {
                path: files::NODE_CERT.into(),
                from: cert::print_time(self.not_before),
                to: cert::print_time(self.not_after),
            });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.serial_number = Some(root::serial());
        // Empty, so that the alternative name is critical (RFC 5280, section 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        root::set_validity(&mut params, now, (now + ttl).min(self.not_after))?;
        let leaf: CertificateDer<'static> = params.signed_by(&key, &self.issuer)?.into();
        let facts =
            Facts::read(&leaf).map_err(|_malformed| rcgen::Error::CouldNotParseCertificate)?;
        Ok(Certificate {
            chain: vec![leaf, self.der.clone()],
            key: key.into(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            serial: facts.serial,
        })
    }
}

/// The roots that are valid at `now`; those that are not are left out with a warning, because the
/// verification of a chain does not look at the dates of its root.
fn valid_roots(files: &Files, now: SystemTime) -> Result<Vec<CertificateDer<'static>>, Error> {
    let path = files.path(files::ROOT_CERT);
    let bad = || Error::Pem { path: path.clone(), what: "certificate" };
    let mut roots = files::certificates(&files.root_cert).ok_or_else(bad)?;
    let mut invalid = None;
    let mut is_damaged = false;
    roots.retain(|root| match Facts::read(root) {
        Ok(facts) => match check_validity(&facts, &path, now) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(path = %path.display(), root = %facts.subject, serial = %facts.serial,
                    "a root is not valid now and is left out: remove it from the file");
                invalid = Some(error);
                false
            }
        },
        Err(_malformed) => {
            is_damaged = true;
            false
        }
    });
    match invalid {
        _ if is_damaged => Err(bad()),
        Some(error) if roots.is_empty() => Err(error),
        _ => Ok(roots),
    }
}

fn check_validity(facts: &Facts, path: &Path, now: SystemTime) -> Result<(), Error> {
    if (facts.not_before..facts.not_after).contains(&now) {
        return Ok(());
    }
    Err(Error::NotValidNow {
        path: path.to_owned(),
        from: cert::print_time(facts.not_before),
        to: cert::print_time(facts.not_after),
    })
}

/// Verifies a trial leaf against each root as a peer would, and asks the one that vouches for it
/// which trust domain it is for.
fn find_trust_domain(
    signer: &Signer,
    roots: &[CertificateDer<'static>],
    files: &Files,
    now: SystemTime,
) -> Result<Arc<str>, Error> {
    let trial = SpiffeId::new("trial", "trial", "trial").expect("invariant: plain letters");
    let trial = match signer {
        Signer::Given(intermediate) => intermediate.issue(&trial, BACKDATE, now)?,
        Signer::Minted { current, .. } => current.load().issue(&trial, BACKDATE, now)?,
    };
    let mut refusal = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    let mut is_nameless = false;
    for root in roots {
        match verify_as_peer(&trial.chain, root, now) {
            Ok(()) => match Facts::read(root).ok().as_ref().and_then(Facts::trust_domain) {
                Some(domain) => return Ok(domain.into()),
                None => is_nameless = true,
            },
            Err(error) => refusal = error,
        }
    }
    if is_nameless {
        return Err(Error::NoTrustDomain { path: files.path(files::ROOT_CERT) });
    }
    Err(Error::Chain { path: files.path(files::NODE_CERT), source: refusal })
}

fn verify_as_peer(
    chain: &[CertificateDer<'static>],
    root: &CertificateDer<'static>,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let mut store = RootCertStore::empty();
    store.add(root.clone())?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(rustls::Error::NoCertificatesPresented);
    };
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(leaf)?,
        &store,
        intermediates,
        UnixTime::since_unix_epoch(now),
        crypto::provider().signature_verification_algorithms.all,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fixture::{DAY, HOUR, Mesh, id};

    fn authority_files(mesh: &Mesh) -> Files {
        Files {
            root_key: Some(mesh.pems.key.clone().into_bytes()),
            node: None,
            ..mesh.files("node-a", &[])
        }
    }

    /// Opens the files as node-a, and compares what is wrong with them.
    #[track_caller]
    fn check(files: Files, expect: &str) {
        let error = Authority::from_files(files, "node-a", clock::now()).err().unwrap();
        assert!(error.to_string().contains(expect), "{error}");
    }

    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let (mesh, other) = (Mesh::new("cluster.local"), Mesh::new("cluster.local"));
        let good = mesh.files("node-a", &[]);
        check(Files { node: None, ..good.clone() }, "make them with `mesh-agent ca node`");
        check(mesh.files("node-b", &[]), "ca/node.crt is for node-b, and the node is `node-a`");
        let (cert, _key) = good.node.clone().unwrap();
        let (_cert, key) = mesh.files("node-a", &[]).node.unwrap();
        let mixed = Files { node: Some((cert, key)), ..good.clone() };
        check(mixed, "ca/node.key is not the key of ca/node.crt");
        let foreign = Files { root_cert: other.pems.certificate.clone().into(), ..good.clone() };
        check(foreign, "ca/node.crt was not signed by a root in root.crt");
        let wrong = Files { root_cert: b"?".to_vec(), ..good.clone() };
        check(wrong, "ca/root.crt holds no certificate in PEM");
        let odd = Files { root_cert: good.node.clone().unwrap().0, ..good };
        check(odd, "ca/root.crt has no root with the URI name");
        let stolen =
            Files { root_key: Some(other.pems.key.into_bytes()), ..authority_files(&mesh) };
        check(stolen, "ca/root.key is not the key of ca/root.crt");
    }

    #[test]
    fn an_expired_node_certificate_and_an_expired_root_are_refused() {
        let mesh = Mesh::new("cluster.local");
        for (files, days) in [(mesh.files("node-a", &[]), 91), (authority_files(&mesh), 3651)] {
            let late = clock::now() + DAY * days;
            let error = Authority::from_files(files, "node-a", late).err().unwrap();
            assert!(matches!(error, Error::NotValidNow { .. }), "{error}");
        }
    }

    #[test]
    fn a_leaf_names_the_workload_alone_and_ends_in_time() {
        let mesh = Mesh::new("cluster.local");
        let now = clock::now();
        let authority = Authority::from_files(mesh.files("node-a", &[]), "node-a", now).unwrap();
        assert_eq!(authority.trust_domain(), "cluster.local");
        let leaf = authority.issue(&id("a"), HOUR, now).unwrap();
        let life = leaf.not_after.duration_since(leaf.not_before).unwrap();
        assert_eq!(life, HOUR + BACKDATE);
        let facts = Facts::read(&leaf.chain[0]).unwrap();
        assert_eq!((facts.spiffe_id(), facts.subject.as_str()), (Some(id("a")), ""));
        assert_eq!(facts.issuer_node, NodeName::Node("node-a".to_owned()));
        let last = authority.issue(&id("a"), DAY * 365, now).unwrap();
        assert_eq!(last.not_after, authority.not_after());
    }

    #[test]
    fn the_intermediate_in_memory_is_made_again_at_half_its_life() {
        let mesh = Mesh::new("cluster.local");
        let now = clock::now();
        let authority = Authority::from_files(authority_files(&mesh), "node-a", now).unwrap();
        let issuer = |after: Duration| {
            let leaf = authority.issue(&id("a"), HOUR, now + after).unwrap();
            verify_as_peer(&leaf.chain, &authority.roots()[0], now + after).unwrap();
            leaf.chain[1].clone()
        };
        let first = issuer(Duration::ZERO);
        assert_eq!(issuer(HOUR * 11), first);
        let second = issuer(HOUR * 13);
        assert_ne!(second, first);
        assert_eq!(issuer(HOUR * 23), second);
    }

    #[test]
    fn an_expired_root_beside_a_good_one_is_not_trusted() {
        let mesh = Mesh::new("cluster.local");
        let short = root::init("cluster.local", HOUR).unwrap();
        let mut files = mesh.files("node-a", &[]);
        files.root_cert.extend_from_slice(short.certificate.as_bytes());
        let roots =
            |now| Authority::from_files(files.clone(), "node-a", now).unwrap().roots().len();
        assert_eq!((roots(clock::now()), roots(clock::now() + HOUR * 2)), (2, 1));
    }
}
