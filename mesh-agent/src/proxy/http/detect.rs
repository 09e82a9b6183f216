//! Which protocol a client speaks, by its first bytes (pure).

use crate::model::service::AppProtocol;

/// The version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.1, or 1.0.
    Http1,
    /// HTTP/2 with prior knowledge (RFC 9113, section 3.3).
    Http2,
}

/// The guess from the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// It is this.
    Http(Version),
    /// It is no HTTP.
    Other,
    /// More must come.
    Unsure,
}

/// The first bytes of a client of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is waited for: `UNSUBSCRIBE`, and a few more.
const MAX_METHOD_BYTES: usize = 16;

/// The guess without a look. `None`: the first bytes decide.
pub const fn declared(protocol: AppProtocol) -> Option<Guess> {
    match protocol {
        AppProtocol::H2c | AppProtocol::Grpc => Some(Guess::Http(Version::Http2)),
        AppProtocol::Other => Some(Guess::Other),
        // `http` is 1.1 or 2; `Unset` anything.
        AppProtocol::Http | AppProtocol::WebSocket | AppProtocol::Unset => None,
    }
}

/// The guess from `first`, the first bytes of a connection.
pub fn guess(first: &[u8]) -> Guess {
    let common = first.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
    if common == PREFACE.len() {
        return Guess::Http(Version::Http2);
    }
    if common == first.len() {
        return Guess::Unsure;
    }
    // A method is a token, which a space follows (RFC 9112, section 3).
    let method = first.iter().take_while(|byte| is_token(**byte)).count();
    match first.get(method) {
        // However the bytes come: one that is not waited for is none if it is there already.
        Some(b' ') if (1..=MAX_METHOD_BYTES).contains(&method) => Guess::Http(Version::Http1),
        None if method <= MAX_METHOD_BYTES => Guess::Unsure,
        _ => Guess::Other,
    }
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(first: &[u8], expect: Guess) {
        assert_eq!(guess(first), expect);
    }

    #[test]
    fn the_first_bytes_tell() {
        check(b"", Guess::Unsure);
        check(b"PRI", Guess::Unsure);
        check(PREFACE, Guess::Http(Version::Http2));
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", Guess::Http(Version::Http2));
        check(b"PRI * HTTP/2.1", Guess::Http(Version::Http1));
        check(b"GET", Guess::Unsure);
        check(b"GET / HTTP/1.1\r\n", Guess::Http(Version::Http1));
        check(b"M-SEARCH * HTTP/1.1", Guess::Http(Version::Http1));
        check(b"\x16\x03\x01", Guess::Other);
        check(b"EHLO\r\n", Guess::Other);
        check(b"AAAAAAAAAAAAAAAA / HTTP/1.1", Guess::Http(Version::Http1));
        check(b"AAAAAAAAAAAAAAAAA / HTTP/1.1", Guess::Other);
        check(b"AAAAAAAAAAAAAAAAAAAAAA", Guess::Other);
        check(b"get / HTTP/1.1", Guess::Other);
    }
}
