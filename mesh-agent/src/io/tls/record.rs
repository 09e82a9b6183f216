//! Records: one is sealed or opened at a time, in order. Pure: from and to bytes.

use std::fmt;

use bytes::{Buf as _, BytesMut};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, PeerMisbehaved, ProtocolVersion,
    SupportedCipherSuite, Tls13CipherSuite,
};

/// Type (1), version (2), length (2).
pub const HEADER_BYTES: usize = 5;

/// The most that one record carries (RFC 8446, section 5.1).
pub const MAX_PLAINTEXT_BYTES: usize = 1 << 14;

/// The longest that a record's length may say (RFC 8446, section 5.2).
const MAX_CIPHERTEXT_BYTES: usize = MAX_PLAINTEXT_BYTES + 256;

/// A direction's secrets: the number of its next record, and the keys.
pub type Secrets = (u64, ConnectionTrafficSecrets);

/// Seals what is sent.
pub struct Sealer {
    key: Box<dyn MessageEncrypter>,
    next: u64,
    /// How many records one key may seal (RFC 8446, section 5.5).
    limit: u64,
}

/// Opens what is received.
pub struct Opener {
    key: Box<dyn MessageDecrypter>,
    next: u64,
}

/// The suite, which must be one of TLS 1.3.
///
/// # Errors
///
/// It is an older one, which our configurations do not offer.
pub fn suite(suite: SupportedCipherSuite) -> Result<&'static Tls13CipherSuite, Error> {
    suite.tls13().ok_or_else(|| Error::General("the cipher suite is not one of TLS 1.3".into()))
}

fn keys(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("the cipher suite is not known".into())),
    }
}

impl Sealer {
    /// Goes on with `secrets`.
    ///
    /// # Errors
    ///
    /// They are not for `suite`.
    pub fn new(suite: &Tls13CipherSuite, (next, secrets): Secrets) -> Result<Self, Error> {
        let (key, iv) = keys(secrets)?;
        let key = suite.aead_alg.encrypter(key, iv);
        let mut sealer = Self { key, next: 0, limit: suite.common.confidentiality_limit };
        if next > 0 {
            // AWS-LC refuses numbers that do not rise, and learns what they are counted from by the
            // first one, which it takes for 0. A record that is sealed here is never sent: the nonce is not
            // used twice on the wire.
            drop(sealer.seal(ContentType::ApplicationData, &[])?);
            sealer.next = next;
        }
        Ok(sealer)
    }

    /// Whether the next record must be the last with this key: a key update.
    pub const fn is_worn(&self) -> bool {
        self.next >= self.limit.saturating_sub(1)
    }

    /// Lets the key seal fewer records than it may.
    #[cfg(test)]
    pub(super) const fn wear_after(&mut self, records: u64) {
        self.limit = self.next + records;
    }

    /// The record with `payload`, which is at most [`MAX_PLAINTEXT_BYTES`] in all, in as many pieces
    /// as there are.
    ///
    /// # Errors
    ///
    /// The key has sealed as much as it may.
    pub fn seal(&mut self, kind: ContentType, payload: &[&[u8]]) -> Result<Vec<u8>, Error> {
        if self.next >= self.limit {
            return Err(Error::EncryptError);
        }
        let payload = OutboundChunks::new(payload);
        let message =
            OutboundPlainMessage { typ: kind, version: ProtocolVersion::TLSv1_2, payload };
        let sealed = self.key.encrypt(message, self.next)?;
        self.next += 1;
        Ok(sealed.encode())
    }
}

impl Opener {
    /// Goes on with `secrets`.
    ///
    /// # Errors
    ///
    /// They are not for `suite`.
    pub fn new(suite: &Tls13CipherSuite, (next, secrets): Secrets) -> Result<Self, Error> {
        let (key, iv) = keys(secrets)?;
        Ok(Self { key: suite.aead_alg.decrypter(key, iv), next })
    }

    /// Takes a record off `input`, and opens it where it is. `None`: more must come.
    ///
    /// # Errors
    ///
    /// It is no record, or not what the peer has sealed. Nothing can be read any more.
    pub fn open(&mut self, input: &mut BytesMut) -> Result<Option<(ContentType, BytesMut)>, Error> {
        let Some(length) = length(input)? else { return Ok(None) };
        if input.len() < length {
            return Ok(None);
        }
        if input.first().copied() != Some(u8::from(ContentType::ApplicationData)) {
            return Err(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into());
        }
        let mut record = input.split_to(length);
        record.advance(HEADER_BYTES);
        let sealed = InboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            &mut record,
        );
        let opened = self.key.decrypt(sealed, self.next)?;
        let (kind, length) = (opened.typ, opened.payload.len());
        self.next = self.next.checked_add(1).ok_or(Error::DecryptError)?;
        record.truncate(length);
        Ok(Some((kind, record)))
    }
}

/// How long the record that `input` begins with is, with its header. `None`: more must come.
///
/// # Errors
///
/// It is longer than a record may be.
pub fn length(input: &[u8]) -> Result<Option<usize>, Error> {
    let Some([_, _, _, l0, l1]) = input.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    match usize::from(u16::from_be_bytes([*l0, *l1])) {
        ..=MAX_CIPHERTEXT_BYTES => {}
        _ => return Err(Error::PeerSentOversizedRecord),
    }
    Ok(Some(HEADER_BYTES + usize::from(u16::from_be_bytes([*l0, *l1]))))
}

// Keys are not printed.
impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("next", &self.next).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("next", &self.next).finish_non_exhaustive()
    }
}
