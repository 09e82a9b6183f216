//! Any certificate of a peer, which is read before anybody has vouched for it; and any text as the
//! identity in it.
//!
//! The input is the certificate, in DER, and the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_agent::identity::tls;
use mesh_agent::model::spiffe::SpiffeId;
use rustls_pki_types::CertificateDer;

fuzz_target!(|input: &[u8]| {
    if let Some(id) = tls::peer_identity(&CertificateDer::from(input)) {
        assert_eq!(id.to_string().parse::<SpiffeId>(), Ok(id));
    }
    if let Ok(text) = str::from_utf8(input)
        && let Ok(id) = text.parse::<SpiffeId>()
    {
        assert_eq!(id.to_string(), text);
    }
});
