//! Verifiers for both ends of a handshake: whose certificate it is, and whether that may be.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, OtherError,
    PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::identity::cert::{self, Facts, NodeName};
use crate::identity::chain::{self, Purpose};
use crate::identity::crypto;
use crate::identity::trust::{Anchors, Trust};
use crate::model::spiffe::SpiffeId;

/// Why a peer may not be talked to.
///
/// Each of them is `failure::Kind::Identity`. Any other error is `failure::Kind::Tls`.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    /// A certificate's time is over.
    #[error("the peer's certificate has expired{0}")]
    Expired(Clocks),
    /// The chain breaks a rule of X.509 other than those named here.
    #[error("the peer's certificate chain is not valid")]
    InvalidChain(#[source] rustls::Error),
    /// The chain is larger than any that is needed, and was not looked at.
    #[error(
        "the certificate chain has {intermediates} intermediates and {bytes} bytes, of {} and {} \
        that are taken at most",
        chain::MAX_INTERMEDIATES,
        chain::MAX_BYTES
    )]
    LongChain {
        /// Certificates after the leaf.
        intermediates: usize,
        /// The size of all certificates.
        bytes: usize,
    },
    /// The certificate cannot be read.
    #[error("the peer's certificate is malformed")]
    Malformed,
    /// The client has sent no certificate.
    #[error("the peer has sent no certificate")]
    NoCertificate,
    /// There is not exactly one URI in the certificate, or it is not the SPIFFE ID of a workload.
    #[error("the peer's certificate does not hold the SPIFFE ID of one workload")]
    NoSpiffeId,
    /// The node that signed the certificate does not run the workload.
    #[error("{id} is not scheduled on node `{node}`, which vouched for it")]
    NotOnNode {
        /// The identity in the certificate.
        id: SpiffeId,
        /// The node whose intermediate signed it.
        node: String,
    },
    /// A certificate's time has not begun: one of the clocks is wrong.
    #[error("the peer's certificate is not valid yet{0}")]
    NotYetValid(Clocks),
    /// A revocation list of its issuer names a certificate.
    #[error("the peer's certificate, or the authority's that signed it, has been revoked")]
    Revoked,
    /// The peer refused our certificate.
    #[error("the peer refused this side's certificate ({0:?})")]
    Refused(AlertDescription),
    /// The identity is of a mesh that may not call us.
    #[error("{id} is not of the trust domain `{ours}`")]
    TrustDomain {
        /// The identity in the certificate.
        id: SpiffeId,
        /// Our trust domain.
        ours: Arc<str>,
    },
    /// No trusted root has signed for it.
    #[error("the peer's certificate was not signed by a trusted root")]
    UntrustedIssuer,
    /// The server is someone else.
    #[error("the peer is {got}, expected {}", join(expected))]
    WrongIdentity {
        /// The identities that it might have had.
        expected: Arc<[SpiffeId]>,
        /// Its identity.
        got: SpiffeId,
    },
}

/// Bound of a certificate's life and the time of the clock here, where they do not fit: one of two
/// clocks is wrong, ours or the issuer's. Displayed as the rest of a sentence.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks(Option<(&'static str, UnixTime, UnixTime)>);

impl Clocks {
    /// The certificate ends at `not_after`, and it is `now`.
    pub const fn end(not_after: UnixTime, now: UnixTime) -> Self {
        Self(Some(("ended", not_after, now)))
    }

    /// The certificate begins at `not_before`, and it is `now`.
    pub const fn begin(not_before: UnixTime, now: UnixTime) -> Self {
        Self(Some(("begins", not_before, now)))
    }
}

impl fmt::Display for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((verb, bound, now)) = self.0 else { return Ok(()) };
        let time = |at: UnixTime| {
            cert::print_time(SystemTime::UNIX_EPOCH + Duration::from_secs(at.as_secs()))
        };
        write!(f, ": it {verb} at {}, and the clock here says {}", time(bound), time(now))
    }
}

fn join(ids: &[SpiffeId]) -> String {
    if ids.is_empty() {
        return "nobody".to_owned();
    }
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

impl From<PeerError> for rustls::Error {
    /// Carries the error through a handshake; the peer is told `certificate_unknown`.
    fn from(error: PeerError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// The meaning of a TLS error for the identities; `None` if it is not about them.
pub fn classify(error: &rustls::Error) -> Option<PeerError> {
    match error {
        rustls::Error::AlertReceived(alert) if refuses_certificate(*alert) => {
            Some(PeerError::Refused(*alert))
        }
        rustls::Error::InvalidCertificate(reason) => Some(match reason {
            CertificateError::BadEncoding => PeerError::Malformed,
            CertificateError::Expired => PeerError::Expired(Clocks::default()),
            CertificateError::ExpiredContext { time, not_after } => {
                PeerError::Expired(Clocks::end(*not_after, *time))
            }
            CertificateError::NotValidYet => PeerError::NotYetValid(Clocks::default()),
            CertificateError::NotValidYetContext { time, not_before } => {
                PeerError::NotYetValid(Clocks::begin(*not_before, *time))
            }
            CertificateError::Other(OtherError(other)) => match other.downcast_ref() {
                Some(peer) => PeerError::clone(peer),
                None => PeerError::InvalidChain(error.clone()),
            },
            CertificateError::Revoked => PeerError::Revoked,
            CertificateError::UnknownIssuer => PeerError::UntrustedIssuer,
            _ => PeerError::InvalidChain(error.clone()),
        }),
        rustls::Error::NoCertificatesPresented => Some(PeerError::NoCertificate),
        _ => None,
    }
}

/// The meaning of a connection's error for the identities; `None` if it is not about them.
///
/// A server's refusal reaches a TLS 1.3 client only after its handshake, with the first read.
pub fn peer_error(error: &io::Error) -> Option<PeerError> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return classify(error);
        }
        // The `source` of an `io::Error` skips the error that it carries.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// The alerts that are about certificates (RFC 8446, section 6.2).
fn refuses_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
}

impl Trust {
    /// The identity of the certificate, once `chain` has found a root that vouches for it.
    fn identify(
        &self,
        leaf: &CertificateDer<'_>,
        chain: impl FnOnce(&Anchors) -> Result<(), rustls::Error>,
    ) -> Result<Peer, rustls::Error> {
        let facts = Facts::read(leaf).map_err(|_malformed| PeerError::Malformed)?;
        let id = facts.spiffe_id();
        let domain = id.as_ref().map_or(&*self.domain, SpiffeId::trust_domain);
        chain(&self.anchors(domain)).map_err(|error| match error {
            // A root or node of another mesh with the same name: the names fit, the keys do not.
            rustls::Error::InvalidCertificate(CertificateError::BadSignature) => {
                CertificateError::UnknownIssuer.into()
            }
            error => error,
        })?;
        let id = id.ok_or(PeerError::NoSpiffeId)?;
        Ok(Peer { id, signed_by: facts.issuer_node })
    }

    /// Whether a peer that was verified with these certificates would still be, as far as time and
    /// placement go. It is not verified by that: it says whether trying is worth while.
    pub(crate) fn still_stands(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> bool {
        let Some(Ok(facts)) = chain.first().map(Facts::read) else { return false };
        let Some(id) = facts.spiffe_id() else { return false };
        let valid = facts.not_before <= now && now <= facts.not_after;
        valid && Peer { id, signed_by: facts.issuer_node }.check_node(self).is_ok()
    }
}

/// A peer with a valid chain.
#[derive(Debug)]
pub(crate) struct Peer {
    id: SpiffeId,
    /// The issuer's name. It is true because the chain is valid: the issuer's certificate bears
    /// it, the root gave it, and path length 0 keeps a node from making further authorities.
    signed_by: NodeName,
}

impl Peer {
    /// The peer of a leaf whose chain is valid; `None`: it has no identity.
    pub(crate) fn of(facts: Facts) -> Option<Self> {
        Some(Self { id: facts.spiffe_id()?, signed_by: facts.issuer_node })
    }

    /// Keeps a node to the identities that it runs.
    pub(crate) fn check_node(&self, trust: &Trust) -> Result<(), PeerError> {
        match &self.signed_by {
            NodeName::Foreign => Ok(()),
            NodeName::Ambiguous => Err(PeerError::UntrustedIssuer),
            NodeName::Node(node) if trust.placement.runs_on(&self.id, node) => Ok(()),
            NodeName::Node(node) => {
                Err(PeerError::NotOnNode { id: self.id.clone(), node: node.clone() })
            }
        }
    }
}

/// Verifies servers, for a client that knows whom it calls.
pub(crate) struct ServerVerifier {
    /// Roots and placement.
    pub(crate) trust: Arc<Trust>,
    /// The identities that the server may have.
    pub(crate) expected: Arc<[SpiffeId]>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let peer = self.trust.identify(end_entity, |anchors| {
            chain::verify((end_entity, intermediates), anchors, Purpose::Server, now)
        })?;
        if !self.expected.contains(&peer.id) {
            let expected = Arc::clone(&self.expected);
            return Err(PeerError::WrongIdentity { expected, got: peer.id }.into());
        }
        peer.check_node(&self.trust)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &crypto::provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies clients: anyone of an accepted trust domain, on the node where they run.
pub(crate) struct ClientVerifier {
    /// Roots, trust domains and placement.
    pub(crate) trust: Arc<Trust>,
}

impl ClientCertVerifier for ClientVerifier {
    /// None: they would tell strangers about us, and clients have one certificate anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let peer = self.trust.identify(end_entity, |anchors| {
            chain::verify((end_entity, intermediates), anchors, Purpose::Client, now)
        })?;
        if !self.trust.accepts(peer.id.trust_domain()) {
            let ours = Arc::clone(&self.trust.domain);
            return Err(PeerError::TrustDomain { id: peer.id, ours }.into());
        }
        peer.check_node(&self.trust)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &crypto::provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::provider().signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("domain", &self.trust.domain).finish_non_exhaustive()
    }
}
