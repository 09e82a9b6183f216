//! Whether a stream is TLS.

use anyhow::{Result, ensure};

/// The largest record on the wire (RFC 8446, section 5.2): 2^14 bytes, 1 of type, 255 of expansion.
const MAX_RECORD: usize = (1 << 14) + 256;

/// Counts the TLS records that `stream` is made of. The last may be unfinished.
///
/// # Errors
///
/// At some position there is something else.
pub fn records(stream: &[u8]) -> Result<u64> {
    let mut at = 0;
    let mut count = 0;
    while let Some(header) = stream.get(at..at + 5) {
        // change_cipher_spec, alert, handshake, application_data (RFC 8446, section 5.1).
        let kind = matches!(header[0], 0x14..=0x17);
        let version = header[1] == 0x03 && matches!(header[2], 0x01 | 0x03);
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        ensure!(kind && version && length <= MAX_RECORD, "byte {at} does not begin a TLS record");
        at += 5 + length;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stream: &[u8], expect: Option<u64>) {
        assert_eq!(records(stream).ok(), expect);
    }

    #[test]
    fn records_follow_each_other() {
        check(&[], Some(0));
        check(&[0x16, 3, 1, 0, 2, 9, 9, 0x17, 3, 3, 0, 1, 9], Some(2));
        check(&[0x17, 3, 3, 0, 200, 1], Some(1));
    }

    #[test]
    fn anything_else_is_noticed_wherever_it_is() {
        check(b"GET / HTTP/1.1\r\n", None);
        check(&[0x17, 3, 3, 0, 1, 9, b'h', b'e', b'l', b'l', b'o'], None);
        check(&[0x17, 3, 3, 0xff, 0xff], None);
    }
}
