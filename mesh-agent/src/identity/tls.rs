//! TLS configurations for tunnels between nodes: TLS 1.3, mutual, no resumption.

use std::fmt;
use std::sync::Arc;

use rustls::client::{ClientConfig, ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ConfigBuilder, SignatureScheme, WantsVersions};
use rustls_pki_types::CertificateDer;

use crate::identity::Identity;
use crate::identity::cert::Facts;
use crate::identity::crypto::provider;
use crate::identity::verify::{ClientVerifier, ServerVerifier};
use crate::model::spiffe::SpiffeId;

/// The configuration of a client that is `identity` and calls one of `expected`. It offers the
/// protocols `alpn` (RFC 7301), the best first.
///
/// It follows the identity's rotation and the change of roots; it need not be made again for them.
/// A server name is sent if the caller connects by one, and none if it connects by an address.
/// The caller checks that one was negotiated: rustls accepts a server that chooses none.
pub fn client_config(
    identity: &Arc<Identity>,
    expected: Vec<SpiffeId>,
    alpn: Vec<Vec<u8>>,
) -> Arc<ClientConfig> {
    let trust = Arc::clone(&identity.trust);
    let verifier = ServerVerifier { trust, expected: expected.into() };
    let mut config = tls13(ClientConfig::builder_with_provider(provider()))
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Resolver(Arc::clone(identity))));
    config.alpn_protocols = alpn;
    // A resumed session would skip the verification, and with it the placement and new roots.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// The configuration of a server that is `identity`; clients have to show a certificate. Of what
/// they offer, the first of `alpn` is chosen.
///
/// It follows the identity's rotation and the change of roots, as [`client_config`] does. The
/// caller checks the protocol here too: rustls accepts a client that offers none at all.
pub fn server_config(identity: &Arc<Identity>, alpn: Vec<Vec<u8>>) -> Arc<ServerConfig> {
    let verifier = ClientVerifier { trust: Arc::clone(&identity.trust) };
    let mut config = tls13(ServerConfig::builder_with_provider(provider()))
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Resolver(Arc::clone(identity))));
    config.alpn_protocols = alpn;
    config.ignore_client_order = true;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

/// The identity in a verified peer's certificates (leaf first); `None` without one.
pub fn peer_identity(certs: &[CertificateDer<'_>]) -> Option<SpiffeId> {
    Facts::read(certs.first()?).ok()?.spiffe_id()
}

fn tls13<S: rustls::ConfigSide>(
    builder: ConfigBuilder<S, WantsVersions>,
) -> ConfigBuilder<S, rustls::WantsVerifier> {
    builder.with_protocol_versions(&[&TLS13]).expect("invariant: the provider has TLS 1.3 suites")
}

/// Answers with the certificate that the identity has now.
struct Resolver(Arc<Identity>);

impl ResolvesClientCert for Resolver {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certified_key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certified_key())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").field(self.0.id()).finish()
    }
}
