//! The embedded authority: this node's intermediate, which signs its workloads' leaves.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
};
use rustls_pki_types::CertificateDer;

use crate::identity::authority::{Certificate, Life};
use crate::identity::cert::{self, Facts, NodeName};
use crate::identity::chain::{self, Purpose};
use crate::identity::error::Error;
use crate::identity::files::{self, Files};
use crate::identity::root::{self, BACKDATE, Root};
use crate::identity::trust::{Anchors, Lists, Trusted};
use crate::model::spiffe::SpiffeId;
use crate::task::clock;

/// How long an intermediate lives that is made in memory, where the root's key is. A new one is
/// made at half of it, so that no leaf is ever cut short.
const MINTED_VALIDITY: Duration = Duration::from_hours(24);

/// Signs leaves for this node's workloads.
///
/// Owns the root's or the intermediate's key, which is why it is not `Debug`.
pub(crate) struct LocalCa {
    files: Files,
    node: String,
    trust_domain: Arc<str>,
    trusted: Arc<Trusted>,
    signer: Signer,
    /// By how much the clocks of peers may be behind ours: what is signed begins as long ago.
    skew: Duration,
}

enum Signer {
    /// An intermediate that `mesh-agent ca node` made.
    Given(Box<Intermediate>),
    /// The root is here; the intermediate is made in memory, and again at half its life.
    Minted { root: Box<Root>, current: ArcSwap<Intermediate> },
}

/// The signer of leaves.
struct Intermediate {
    /// Its certificate, then what is between it and the root.
    chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl LocalCa {
    /// Makes an authority of a directory's contents for the node `node` at the time `now`.
    ///
    /// `root.crt` is always there. With `root.key` this host is the authority and makes its own
    /// intermediate; else `node.crt` and `node.key` are the intermediate, and what follows in
    /// `node.crt` is between it and the root. The chain is verified the way a peer will verify it.
    /// `trust_domain` is for a root that names none; what is signed begins `skew` before it is.
    ///
    /// # Errors
    ///
    /// A file is missing, damaged, expired, of another node or does not fit the others. The error
    /// names the file and says what to do.
    pub(crate) fn from_files(
        files: Files,
        node: &str,
        trust_domain: Option<&str>,
        (skew, now): (Duration, SystemTime),
    ) -> Result<Self, Error> {
        root::check_node_name(node)?;
        let root_path = files.path(files::ROOT_CERT);
        let roots = files::valid_roots(&files.root_cert, &root_path, now)?;
        let lists = files::lists(files.lists.as_deref(), &files.path(files::CRL), now)?;
        let trusted = Trusted { roots, lists };
        let signer = if files.root_key.is_some() {
            let root = Box::new(Root::open(&files)?);
            files::check_validity(root.facts(), files.path(files::ROOT_CERT).as_path(), now)?;
            let current = ArcSwap::from_pointee(Intermediate::mint(&root, node, skew, now)?);
            Signer::Minted { root, current }
        } else {
            Signer::Given(Box::new(Intermediate::read(&files, node, now)?))
        };
        let trust_domain = find_trust_domain(&signer, &trusted, &files, (trust_domain, now))?;
        let trusted = Arc::new(trusted);
        Ok(Self { files, node: node.to_owned(), trust_domain, trusted, signer, skew })
    }

    /// The files that it was made of.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// The node that it signs for.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// The trust domain that it signs for: that of the root which signed its intermediate.
    pub(crate) fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Every trusted root, and what is revoked.
    pub(crate) fn trusted(&self) -> &Arc<Trusted> {
        &self.trusted
    }

    /// The life of `node.crt`, or of the root where its key is here: with it ends what is signed.
    pub(crate) fn life(&self) -> Life {
        match &self.signer {
            Signer::Given(signer) => Life { from: signer.not_before, to: signer.not_after },
            Signer::Minted { root, .. } => {
                Life { from: root.facts().not_before, to: root.facts().not_after }
            }
        }
    }

    /// Makes a key and signs a leaf for `id`, valid for `ttl` and never beyond the authority's end.
    ///
    /// # Errors
    ///
    /// `id` is of another trust domain, or the authority has expired.
    pub(crate) fn issue(
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
            Signer::Given(intermediate) => intermediate.issue(id, ttl, self.skew, now),
            Signer::Minted { root, current } => {
                if !current.load().is_young(now) {
                    // Two at once may make two: the last stays, and both are good.
                    let next = Intermediate::mint(root, &self.node, self.skew, now)?;
                    current.store(Arc::new(next));
                }
                current.load().issue(id, ttl, self.skew, now)
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
        let chain = files::certificates(cert).ok_or_else(bad_cert)?;
        let der = chain.first().ok_or_else(bad_cert)?;
        let facts = Facts::read(der).map_err(|_malformed| bad_cert())?;
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
        files::check_validity(&facts, &cert_path, now)?;
        Self::new(chain, key)
    }

    fn mint(root: &Root, node: &str, skew: Duration, now: SystemTime) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let cert = root.sign_dated(node, &key, MINTED_VALIDITY, (skew, now))?;
        Self::new(vec![cert.into()], key)
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: KeyPair) -> Result<Self, Error> {
        let der = chain.first().ok_or(rcgen::Error::CouldNotParseCertificate)?;
        let facts =
            Facts::read(der).map_err(|_malformed| rcgen::Error::CouldNotParseCertificate)?;
        let issuer = Issuer::from_ca_cert_der(der, key)?;
        Ok(Self { chain, issuer, not_before: facts.not_before, not_after: facts.not_after })
    }

    /// Whether it is in the first half of its life. It is not before that either, where the clock
    /// was ahead when it was made.
    fn is_young(&self, now: SystemTime) -> bool {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        (self.not_before..self.not_before + life / 2).contains(&now)
    }

    /// Signs a leaf that begins `skew` ago.
    fn issue(
        &self,
        id: &SpiffeId,
        ttl: Duration,
        skew: Duration,
        now: SystemTime,
    ) -> Result<Certificate, Error> {
        if now >= self.not_after {
            return Err(Error::NotValidNow {
                path: files::NODE_CERT.into(),
                from: cert::print_time(self.not_before),
                to: cert::print_time(self.not_after),
                now: cert::print_time(now),
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
        root::set_validity(&mut params, now - skew, (now + ttl).min(self.not_after))?;
        let leaf: CertificateDer<'static> = params.signed_by(&key, &self.issuer)?.into();
        let facts =
            Facts::read(&leaf).map_err(|_malformed| rcgen::Error::CouldNotParseCertificate)?;
        Ok(Certificate {
            chain: std::iter::once(leaf).chain(self.chain.iter().cloned()).collect(),
            key: key.into(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            serial: facts.serial,
        })
    }
}

/// Verifies a trial leaf against each root as a peer would, and asks the one that vouches for it
/// which trust domain it is for.
fn find_trust_domain(
    signer: &Signer,
    trusted: &Trusted,
    files: &Files,
    (given, now): (Option<&str>, SystemTime),
) -> Result<Arc<str>, Error> {
    let trial = SpiffeId::new("trial", "trial", "trial").expect("invariant: plain letters");
    let trial = match signer {
        Signer::Given(intermediate) => intermediate.issue(&trial, BACKDATE, BACKDATE, now)?,
        Signer::Minted { current, .. } => current.load().issue(&trial, BACKDATE, BACKDATE, now)?,
    };
    let mut refusal = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    let mut is_nameless = false;
    for root in &trusted.roots {
        match verify_as_peer(&trial.chain, root, &trusted.lists, now) {
            Ok(()) => match Facts::read(root).ok().as_ref().and_then(Facts::trust_domain) {
                Some(domain) if given.is_some_and(|given| given != domain) => {
                    let (path, found) = (files.path(files::ROOT_CERT), domain.to_owned());
                    let named = given.unwrap_or_default().to_owned();
                    return Err(Error::OtherRoot { path, found, named });
                }
                Some(domain) => return Ok(domain.into()),
                None => is_nameless = true,
            },
            Err(error) => refusal = error,
        }
    }
    match given {
        Some(domain) if is_nameless => Ok(domain.into()),
        None if is_nameless => Err(Error::NoTrustDomain { path: files.path(files::ROOT_CERT) }),
        _ => Err(Error::Chain { path: files.path(files::NODE_CERT), source: refusal }),
    }
}

fn verify_as_peer(
    chain: &[CertificateDer<'static>],
    root: &CertificateDer<'static>,
    lists: &Lists,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let none = rustls::Error::NoCertificatesPresented;
    let (leaf, rest) = chain.split_first().ok_or(none)?;
    let unusable = rustls::CertificateError::UnknownIssuer;
    let anchors =
        Anchors::new(std::iter::once(root.clone()), lists).map_err(|_unusable| unusable)?;
    chain::verify((leaf, rest), &anchors, Purpose::Server, clock::for_tls(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fixture::{DAY, HOUR, Mesh, id};

    fn authority_files(mesh: &Mesh) -> Files {
        Files {
            root_key: Some(mesh.pems.key.clone().into_bytes().into()),
            node: None,
            ..mesh.files("node-a", &[])
        }
    }

    /// Opens the files as node-a, and compares what is wrong with them.
    #[track_caller]
    fn check(files: Files, expect: &str) {
        let error =
            LocalCa::from_files(files, "node-a", None, (BACKDATE, clock::now())).err().unwrap();
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
            Files { root_key: Some(other.pems.key.into_bytes().into()), ..authority_files(&mesh) };
        check(stolen, "ca/root.key is not the key of ca/root.crt");
    }

    #[test]
    fn a_trust_domain_that_the_root_does_not_name_is_refused() {
        let files = Mesh::new("cluster.local").files("node-a", &[]);
        let open =
            |named| LocalCa::from_files(files.clone(), "node-a", named, (BACKDATE, clock::now()));
        assert!(open(Some("cluster.local")).is_ok());
        let error = open(Some("prod.example")).err().unwrap().to_string();
        let expect = "ca/root.crt is for the trust domain `cluster.local`, and --trust-domain is \
                      `prod.example`: correct --trust-domain";
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn an_expired_node_certificate_and_an_expired_root_are_refused() {
        let mesh = Mesh::new("cluster.local");
        for (files, days) in [(mesh.files("node-a", &[]), 91), (authority_files(&mesh), 3651)] {
            let late = clock::now() + DAY * days;
            let error = LocalCa::from_files(files, "node-a", None, (BACKDATE, late)).err().unwrap();
            assert!(matches!(error, Error::NotValidNow { .. }), "{error}");
        }
    }

    #[test]
    fn a_leaf_names_the_workload_alone_and_ends_in_time() {
        let mesh = Mesh::new("cluster.local");
        let now = clock::now();
        let authority =
            LocalCa::from_files(mesh.files("node-a", &[]), "node-a", None, (BACKDATE, now))
                .unwrap();
        assert_eq!(authority.trust_domain(), "cluster.local");
        let leaf = authority.issue(&id("a"), HOUR, now).unwrap();
        let life = leaf.not_after.duration_since(leaf.not_before).unwrap();
        assert_eq!(life, HOUR + BACKDATE);
        let facts = Facts::read(&leaf.chain[0]).unwrap();
        assert_eq!((facts.spiffe_id(), facts.subject.as_str()), (Some(id("a")), ""));
        assert_eq!(facts.issuer_node, NodeName::Node("node-a".to_owned()));
        let last = authority.issue(&id("a"), DAY * 365, now).unwrap();
        assert_eq!(last.not_after, authority.life().to);
    }

    #[test]
    fn the_intermediate_in_memory_is_made_again_at_half_its_life() {
        let mesh = Mesh::new("cluster.local");
        let now = clock::now();
        let authority =
            LocalCa::from_files(authority_files(&mesh), "node-a", None, (BACKDATE, now)).unwrap();
        let issuer = |after: Duration| {
            let leaf = authority.issue(&id("a"), HOUR, now + after).unwrap();
            verify_as_peer(
                &leaf.chain,
                &authority.trusted().roots[0],
                &Lists::default(),
                now + after,
            )
            .unwrap();
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
        let roots = |now| {
            LocalCa::from_files(files.clone(), "node-a", None, (BACKDATE, now))
                .unwrap()
                .trusted()
                .roots
                .len()
        };
        assert_eq!((roots(clock::now()), roots(clock::now() + HOUR * 2)), (2, 1));
    }
}
