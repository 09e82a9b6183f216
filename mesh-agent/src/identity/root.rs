//! Root and node certificates of the embedded authority.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;

use crate::identity::cert::{self, Facts, NODE_UNIT, ORGANIZATION, ROOT_UNIT};
use crate::identity::error::Error;
use crate::identity::files::{self, Files};
use crate::model::trust_domain;
use crate::task::clock;

/// How far certificates are dated back, for nodes whose clocks are behind.
pub(crate) const BACKDATE: Duration = Duration::from_mins(1);

/// The longest name of a node: that of a DNS name (RFC 1035, section 2.3.4), as in Kubernetes.
const MAX_NODE_NAME: usize = 253;

/// A certificate with its private key, both PEM. Not `Debug`: it holds a key.
pub struct Pems {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

/// A root and its private key, ready to sign for nodes.
pub(crate) struct Root {
    issuer: Issuer<'static, KeyPair>,
    facts: Facts,
}

/// Makes the root of a new mesh: ECDSA P-256, at most one intermediate below it.
///
/// # Errors
///
/// The trust domain's name is not one, or the end lies beyond the year 9999.
pub fn init(trust_domain: &str, validity: Duration) -> Result<Pems, Error> {
    init_at(trust_domain, validity, clock::now())
}

/// Makes a root as [`init`] does, at the time `now`.
pub(crate) fn init_at(
    trust_domain: &str,
    validity: Duration,
    now: SystemTime,
) -> Result<Pems, Error> {
    trust_domain::check_name(trust_domain)?;
    let mut params = authority_params(ROOT_UNIT, trust_domain, 1);
    let uri = format!("spiffe://{trust_domain}").try_into()?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    set_validity(&mut params, now - BACKDATE, now + validity)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(Pems { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// Makes a key's signing request for a node, PEM.
///
/// # Errors
///
/// The node's name cannot be put into a certificate.
pub(crate) fn request(node: &str, key: &KeyPair) -> Result<String, Error> {
    check_node_name(node)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name(NODE_UNIT, node);
    Ok(params.serialize_request(key)?.pem()?)
}

impl Root {
    /// The root whose key is in the directory.
    pub(crate) fn open(files: &Files) -> Result<Self, Error> {
        let path = files.path(files::ROOT_CERT);
        let roots = files::certificates(&files.root_cert)
            .ok_or_else(|| Error::Pem { path: path.clone(), what: "certificate" })?;
        let Some(key) = &files.root_key else {
            return Err(Error::Read {
                path: files.path(files::ROOT_KEY),
                source: std::io::ErrorKind::NotFound.into(),
            });
        };
        let key = files::key(key)
            .ok_or_else(|| Error::Pem { path: files.path(files::ROOT_KEY), what: "private key" })?;
        let public_key = key.subject_public_key_info();
        let matching = roots.iter().find_map(|der| {
            Facts::read(der).ok().filter(|facts| facts.public_key == public_key).map(|f| (der, f))
        });
        let Some((der, facts)) = matching else {
            let key = files.path(files::ROOT_KEY);
            return Err(Error::KeyMismatch { key, certificate: path });
        };
        Ok(Self { issuer: Issuer::from_ca_cert_der(der, key)?, facts })
    }

    /// The facts of its certificate.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Signs a node's certificate: may sign leaves, and no authority. Begins [`BACKDATE`] ago, and
    /// ends no later than the root.
    pub(crate) fn sign_node(
        &self,
        node: &str,
        key: &impl PublicKeyData,
        validity: Duration,
        now: SystemTime,
    ) -> Result<rcgen::Certificate, Error> {
        self.sign_dated(node, key, validity, (BACKDATE, now))
    }

    /// Signs a node's certificate as [`Self::sign_node`] does, which begins `backdate` ago.
    pub(crate) fn sign_dated(
        &self,
        node: &str,
        key: &impl PublicKeyData,
        validity: Duration,
        (backdate, now): (Duration, SystemTime),
    ) -> Result<rcgen::Certificate, Error> {
        check_node_name(node)?;
        let mut params = authority_params(NODE_UNIT, node, 0);
        params.use_authority_key_identifier_extension = true;
        let end = (now + validity).min(self.facts.not_after);
        set_validity(&mut params, now - backdate, end)?;
        Ok(params.signed_by(key, &self.issuer)?)
    }

    /// A revocation list, PEM, that names `facts` and all that the former list names, and how many
    /// it names. `path` is the former's, for messages.
    ///
    /// # Errors
    ///
    /// This root has not signed the certificate, or the former list is damaged.
    pub(crate) fn revoke(
        &self,
        facts: &Facts,
        former: Option<&[u8]>,
        path: &Path,
        (validity, now): (Duration, SystemTime),
    ) -> Result<(String, usize), Error> {
        if facts.issuer != self.facts.subject {
            let (found, root) = (facts.subject.clone(), self.facts.subject.clone());
            return Err(Error::NotOurs { found, root });
        }
        let bad = || Error::Pem { path: path.to_owned(), what: "revocation list" };
        let mut revoked = match former {
            Some(pem) => cert::revoked(pem, &self.facts.subject).map_err(|_malformed| bad())?,
            None => Vec::new(),
        };
        if !revoked.iter().any(|(serial, _at)| *serial == facts.serial_bytes) {
            revoked.push((facts.serial_bytes.clone(), now));
        }
        let time = |at| cert::from_system(at).ok_or(Error::Sign(rcgen::Error::Time));
        let mut entries = Vec::new();
        for (serial, at) in &revoked {
            entries.push(RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial),
                revocation_time: time(*at)?.to_datetime(),
                reason_code: None,
                invalidity_date: None,
            });
        }
        let number = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let list = CertificateRevocationListParams {
            this_update: time(now - BACKDATE)?.to_datetime(),
            next_update: time(now + validity)?.to_datetime(),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: entries,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok((list.signed_by(&self.issuer)?.pem()?, revoked.len()))
    }

    /// Signs the certificate that a node asked for. Only the request's key is taken from it.
    ///
    /// # Errors
    ///
    /// The request is damaged, its key did not sign it, or it is for another node.
    pub(crate) fn sign_request(
        &self,
        node: &str,
        request: &str,
        validity: Duration,
        now: SystemTime,
    ) -> Result<rcgen::Certificate, Error> {
        let request = CertificateSigningRequestParams::from_pem(request).map_err(Error::Request)?;
        if request.params.distinguished_name != name(NODE_UNIT, node) {
            let found = match request.params.distinguished_name.get(&DnType::CommonName) {
                Some(rcgen::DnValue::Utf8String(found)) => found.clone(),
                _ => "another subject".to_owned(),
            };
            let path = files::NODE_REQUEST.into();
            return Err(Error::OtherNode { path, found, node: node.to_owned() });
        }
        self.sign_node(node, &request.public_key, validity, now)
    }
}

/// Makes sure that one of the roots may vouch for `trust_domain`: it names that one, or none.
///
/// # Errors
///
/// All of them name others.
pub(crate) fn check_trust_domain(
    roots: &[CertificateDer<'_>],
    path: &Path,
    trust_domain: &str,
) -> Result<(), Error> {
    let mut others = Vec::new();
    for root in roots {
        match Facts::read(root).ok().as_ref().and_then(Facts::trust_domain) {
            Some(other) if other != trust_domain => others.push(other.to_owned()),
            _ => return Ok(()),
        }
    }
    others.dedup();
    let (path, named) = (path.to_owned(), trust_domain.to_owned());
    Err(Error::OtherRoot { path, found: others.join("`, `"), named })
}

/// Whether the name may stand in a certificate and in a path.
pub(crate) fn check_node_name(node: &str) -> Result<(), Error> {
    let is_plain =
        node.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if is_plain && !node.is_empty() && node.len() <= MAX_NODE_NAME {
        Ok(())
    } else {
        Err(Error::NodeName(node.to_owned()))
    }
}

/// Dates a certificate from `from` to `end`.
pub(crate) fn set_validity(
    params: &mut CertificateParams,
    from: SystemTime,
    end: SystemTime,
) -> Result<(), Error> {
    let time = |at| cert::from_system(at).ok_or(Error::Sign(rcgen::Error::Time));
    params.not_before = time(from)?.to_datetime();
    params.not_after = time(end)?.to_datetime();
    Ok(())
}

/// A random serial number of 127 bits (RFC 5280, section 4.1.2.2: positive, at most 20 bytes).
pub(crate) fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn name(unit: &str, common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, ORGANIZATION);
    name.push(DnType::OrganizationalUnitName, unit);
    name.push(DnType::CommonName, common_name);
    name
}

fn authority_params(unit: &str, common_name: &str, below: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial());
    params.distinguished_name = name(unit, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn root(validity: Duration) -> Root {
        let pems = init("cluster.local", validity).unwrap();
        let files = Files {
            dir: "ca".into(),
            root_cert: pems.certificate.into_bytes(),
            root_key: Some(pems.key.into_bytes().into()),
            node: None,
            lists: None,
        };
        Root::open(&files).unwrap()
    }

    #[test]
    fn a_node_is_never_signed_beyond_the_roots_end() {
        let root = root(DAY);
        let key = KeyPair::generate().unwrap();
        let cert = root.sign_node("node-a", &key, DAY * 9, clock::now()).unwrap();
        let facts = Facts::read(cert.der()).unwrap();
        assert_eq!(facts.not_after, root.facts().not_after);
        assert_eq!(facts.subject_node, cert::NodeName::Node("node-a".to_owned()));
        assert_eq!(facts.issuer_node, cert::NodeName::Foreign);
    }

    #[test]
    fn a_request_is_signed_for_its_own_node_only() {
        let root = root(DAY);
        let key = KeyPair::generate().unwrap();
        let csr = request("node-a", &key).unwrap();
        let cert = root.sign_request("node-a", &csr, DAY, clock::now()).unwrap();
        assert_eq!(Facts::read(cert.der()).unwrap().public_key, key.subject_public_key_info());
        let error = root.sign_request("node-b", &csr, DAY, clock::now()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "node.csr is for node-a, and the node is `node-b`: make one for this node, or correct --node"
        );
        assert!(root.sign_request("node-a", "nothing", DAY, clock::now()).is_err());
    }

    #[test]
    fn a_renewal_with_the_same_key_has_a_serial_of_its_own() {
        let root = root(DAY);
        let key = KeyPair::generate().unwrap();
        let serial = || {
            let cert = root.sign_node("node-a", &key, DAY, clock::now()).unwrap();
            Facts::read(cert.der()).unwrap().serial
        };
        assert_ne!(serial(), serial());
    }

    #[test]
    fn odd_names_are_refused() {
        for bad in ["", "a/b", "a b", "nöde", &"a".repeat(254)] {
            assert!(matches!(check_node_name(bad), Err(Error::NodeName(_))), "{bad}");
        }
        assert!(matches!(init("a/b", DAY), Err(Error::TrustDomainName(_))));
    }
}
