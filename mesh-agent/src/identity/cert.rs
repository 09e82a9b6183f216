//! The facts of one certificate, read once and kept as plain values.

use std::time::{Duration, SystemTime};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{
    ASN1Time, CertificateRevocationList, FromDer as _, GeneralName, X509Certificate, X509Name,
};

use crate::model::spiffe::SpiffeId;

/// The organization of every certificate of the embedded authority.
pub(crate) const ORGANIZATION: &str = "nodemesh";
/// The organizational unit of its roots.
pub(crate) const ROOT_UNIT: &str = "root";
/// The organizational unit of its node intermediates.
pub(crate) const NODE_UNIT: &str = "node";

/// A certificate's contents, as far as the mesh cares.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The subject, printed.
    pub(crate) subject: String,
    /// The issuer's name, printed.
    pub(crate) issuer: String,
    /// The node that the subject names.
    pub(crate) subject_node: NodeName,
    /// The node that the issuer's name names.
    pub(crate) issuer_node: NodeName,
    /// Every URI in the subject alternative name, in order.
    pub(crate) uris: Vec<String>,
    /// When it begins to be valid.
    pub(crate) not_before: SystemTime,
    /// When it ceases to be valid.
    pub(crate) not_after: SystemTime,
    /// The serial number in hexadecimal.
    pub(crate) serial: String,
    /// The same as it stands in the certificate.
    pub(crate) serial_bytes: Vec<u8>,
    /// The subject's public key (`SubjectPublicKeyInfo`, DER).
    pub(crate) public_key: Vec<u8>,
}

/// Whether a distinguished name is that of a node intermediate (`O=nodemesh, OU=node, CN=<node>`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeName {
    /// It looks like one, and does not name exactly one node. Never to be trusted.
    Ambiguous,
    /// It is some other authority's.
    Foreign,
    /// It is this node's.
    Node(String),
}

/// The bytes are not exactly one X.509 certificate with a well-formed subject alternative name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed certificate")]
pub(crate) struct Malformed;

impl Facts {
    /// Reads a certificate.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, Malformed> {
        let Ok((rest, cert)) = X509Certificate::from_der(der) else { return Err(Malformed) };
        if !rest.is_empty() {
            return Err(Malformed);
        }
        Ok(Self {
            subject: cert.subject().to_string(),
            issuer: cert.issuer().to_string(),
            subject_node: NodeName::of(cert.subject()),
            issuer_node: NodeName::of(cert.issuer()),
            uris: uris(&cert)?,
            not_before: to_system(cert.validity().not_before),
            not_after: to_system(cert.validity().not_after),
            serial: format!("{:x}", cert.tbs_certificate.serial),
            serial_bytes: cert.raw_serial().to_vec(),
            public_key: cert.public_key().raw.to_vec(),
        })
    }

    /// The one URI of the certificate as the SPIFFE ID of a workload; `None` without, with
    /// several URIs (X.509-SVID, section 2) or with another form.
    pub(crate) fn spiffe_id(&self) -> Option<SpiffeId> {
        match self.uris.as_slice() {
            [uri] => uri.parse().ok(),
            _ => None,
        }
    }

    /// The trust domain of an authority's certificate (`spiffe://<trust domain>`, X.509-SVID,
    /// section 3.2).
    pub(crate) fn trust_domain(&self) -> Option<&str> {
        let [uri] = self.uris.as_slice() else { return None };
        uri.strip_prefix("spiffe://").filter(|domain| !domain.is_empty() && !domain.contains('/'))
    }
}

impl NodeName {
    fn of(name: &X509Name<'_>) -> Self {
        let is_ours = name.iter_organization().any(|part| part.as_str() == Ok(ORGANIZATION));
        let is_node = name.iter_organizational_unit().any(|part| part.as_str() == Ok(NODE_UNIT));
        if !(is_ours && is_node) {
            return Self::Foreign;
        }
        let mut names = name.iter_common_name();
        match (names.next().map(x509_parser::x509::AttributeTypeAndValue::as_str), names.next()) {
            (Some(Ok(node)), None) => Self::Node(node.to_owned()),
            _ => Self::Ambiguous,
        }
    }
}

/// When a revocation list will have been replaced, if it says so.
pub(crate) fn next_update(
    der: &CertificateRevocationListDer<'_>,
) -> Result<Option<SystemTime>, Malformed> {
    let Ok((_rest, list)) = CertificateRevocationList::from_der(der) else { return Err(Malformed) };
    Ok(list.next_update().map(to_system))
}

/// The entries of the lists of `issuer` in a PEM file, each with the time at which it was revoked.
pub(crate) fn revoked(pem: &[u8], issuer: &str) -> Result<Vec<(Vec<u8>, SystemTime)>, Malformed> {
    let mut all = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(pem) {
        let der = der.map_err(|_damaged| Malformed)?;
        let Ok((_rest, list)) = CertificateRevocationList::from_der(&der) else {
            return Err(Malformed);
        };
        if list.issuer().to_string() == issuer {
            all.extend(list.iter_revoked_certificates().map(|revoked| {
                (revoked.raw_serial().to_vec(), to_system(revoked.revocation_date))
            }));
        }
    }
    Ok(all)
}

fn uris(cert: &X509Certificate<'_>) -> Result<Vec<String>, Malformed> {
    let Ok(extension) = cert.subject_alternative_name() else { return Err(Malformed) };
    let Some(extension) = extension else { return Ok(Vec::new()) };
    let mut uris = Vec::new();
    for name in &extension.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::Invalid(..) => return Err(Malformed),
            _ => {}
        }
    }
    Ok(uris)
}

/// A certificate's time. Times before 1970 become 1970: nothing of ours is that old.
fn to_system(time: ASN1Time) -> SystemTime {
    let secs = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

/// A time for a certificate, to the second below. `None` beyond the year 9999.
pub(crate) fn from_system(time: SystemTime) -> Option<ASN1Time> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ASN1Time::from_timestamp(i64::try_from(since.as_secs()).ok()?).ok()
}

/// Prints a time as `2031-05-04 03:02:01 UTC`.
pub(crate) fn print_time(time: SystemTime) -> String {
    let Some(time) = from_system(time) else { return "after the year 9999".to_owned() };
    let time = time.to_datetime();
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_in_utc() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(print_time(time), "2023-11-14 22:13:20 UTC");
    }

    #[test]
    fn bytes_after_the_certificate_are_refused() {
        let pems = crate::identity::root::init("cluster.local", Duration::from_mins(1)).unwrap();
        let mut der = crate::identity::files::certificates(pems.certificate.as_bytes()).unwrap();
        let good = der.remove(0);
        assert_eq!(Facts::read(&good).unwrap().trust_domain(), Some("cluster.local"));
        let longer = CertificateDer::from([good.as_ref(), &[0]].concat());
        assert!(Facts::read(&longer).is_err());
    }
}
