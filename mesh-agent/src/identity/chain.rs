//! Whether a chain of certificates leads to a trusted root, by X.509's rules and revocation lists.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::identity::crypto;
use crate::identity::trust::Anchors;
use crate::identity::verify::PeerError;

/// The purposes of a certificate (RFC 5280, section 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To answer as a server.
    Server,
    /// To call as a client.
    Client,
}

/// Intermediate certificates of a chain. webpki tries every way through them, and reads each at each
/// step: of 4, which may lie in any order, 64 ways; of the 490 that a message of TLS has room for,
/// 200,000. Ours is one; other authorities' are up to three, with or without the root.
pub(crate) const MAX_INTERMEDIATES: usize = 4;

/// The certificates of a chain together, of which sessions keep copies: 5 of 3 KiB. One with a key and
/// a signature of RSA with 4,096 bits is 2 KiB.
pub(crate) const MAX_BYTES: usize = 16 * 1024;

/// Verifies a chain at the moment `now`. The work for it is bounded, whoever has sent it: nobody has
/// signed for it yet.
///
/// A certificate that a list of its issuer names is refused, at every place in the chain. An issuer
/// that has no list revokes nothing: most have none. A list that is out of date still revokes what
/// it names; that it is out of date is the operator's to see, and no reason to stop a mesh.
///
/// # Errors
///
/// The error of the first rule that is broken, as rustls says it, so that the peer is told
/// the alert that belongs to it.
pub(crate) fn verify(
    chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
    anchors: &Anchors,
    purpose: Purpose,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let (leaf, intermediates) = chain;
    check_size(leaf, intermediates)?;
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

fn check_size(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), PeerError> {
    let bytes = intermediates.iter().map(|cert| cert.len()).sum::<usize>() + leaf.len();
    match intermediates.len() {
        ..=MAX_INTERMEDIATES if bytes <= MAX_BYTES => Ok(()),
        intermediates => Err(PeerError::LongChain { intermediates, bytes }),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether certificates of these sizes, the leaf's first, are looked at. If not: how many
    /// intermediates and bytes there are.
    #[track_caller]
    fn check(sizes: &[usize], expect: Result<(), (usize, usize)>) {
        let certs: Vec<CertificateDer<'_>> =
            sizes.iter().map(|size| vec![0; *size].into()).collect();
        let (leaf, rest) = certs.split_first().unwrap();
        let checked = check_size(leaf, rest).map_err(|error| match error {
            PeerError::LongChain { intermediates, bytes } => (intermediates, bytes),
            other => panic!("{other}"),
        });
        assert_eq!(checked, expect);
    }

    #[test]
    fn chains_are_bounded_before_they_are_read() {
        check(&[1_000], Ok(()));
        check(&[3_000; 5], Ok(()));
        check(&[100; 6], Err((5, 600)));
        check(&[16_384], Ok(()));
        check(&[16_384, 1], Err((1, 16_385)));
    }
}
