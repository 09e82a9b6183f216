//! Whether a chain of certificates leads to a trusted root, by X.509's rules and revocation lists.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::identity::crypto;
use crate::identity::trust::Anchors;

/// What a certificate has to be good for (RFC 5280, section 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To answer as a server.
    Server,
    /// To call as a client.
    Client,
}

/// Verifies a chain at the moment `now`.
///
/// A certificate that a list of its issuer names is refused, at every place in the chain. An issuer
/// that has no list revokes nothing: most have none. A list that is out of date still revokes what
/// it names; that it is out of date is the operator's to see, and no reason to stop a mesh.
///
/// # Errors
///
/// What is wrong with the first rule that is broken, as rustls says it, so that the peer is told
/// the alert that belongs to it.
pub(crate) fn verify(
    chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
    anchors: &Anchors,
    purpose: Purpose,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let (leaf, intermediates) = chain;
    let usage = match purpose {
        Purpose::Server => KeyUsage::server_auth(),
        Purpose::Client => KeyUsage::client_auth(),
    };
    let lists: Vec<_> = anchors.lists.iter().collect();
    let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
        options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .build()
    });
    let algorithms = crypto::provider().signature_verification_algorithms.all;
    let leaf = EndEntityCert::try_from(leaf).map_err(explain)?;
    let path = leaf.verify_for_usage(
        algorithms,
        &anchors.roots.roots,
        intermediates,
        now,
        usage,
        revocation,
        None,
    );
    path.map(|_path| ()).map_err(explain)
}

/// webpki's error in rustls' words, as rustls itself translates it.
fn explain(error: webpki::Error) -> rustls::Error {
    match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateError::BadEncoding
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::InvalidCertValidity => CertificateError::Expired,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
    .into()
}
