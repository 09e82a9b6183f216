//! The cryptography of the mesh: one provider, for every handshake and signature.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};

/// The one cryptographic provider; the process default is never asked.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        // AES-128 first: two rounds in seven cheaper than AES-256, and as far from broken.
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        // Hybrid first, so that what is recorded today stays secret from a quantum computer.
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
});

/// The cryptography of the mesh: AES-128-GCM and X25519MLKEM768 preferred.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}
