//! As much HTTP/1.1 as the load needs: one request, one answer, both always the same.

use std::io;

/// Bytes of the body.
const BODY: usize = 1024;

/// What ends a head (RFC 9112, section 2.1).
const END: &[u8] = b"\r\n\r\n";

/// A request that leaves the connection open.
pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: bench.example\r\n\r\n";

/// A request after which the server closes the connection.
pub(crate) const GET_AND_CLOSE: &[u8] =
    b"GET / HTTP/1.1\r\nhost: bench.example\r\nconnection: close\r\n\r\n";

/// Bytes of the longest request, and some more.
pub(crate) const REQUEST_LIMIT: usize = 1024;

/// What every request is answered with: the clients know its length and need not parse it.
pub(crate) fn answer() -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}");
    let mut answer = head.into_bytes();
    answer.extend_from_slice(END);
    answer.resize(answer.len() + BODY, b'x');
    answer
}

/// Whether these bytes are a whole request.
pub(crate) fn is_whole(request: &[u8]) -> bool {
    request.ends_with(END)
}

/// Whether the connection shall be closed after the answer to this request.
pub(crate) fn closes(request: &[u8]) -> bool {
    request == GET_AND_CLOSE
}

/// Checks an answer that is long enough.
///
/// # Errors
///
/// It is another one.
pub(crate) fn check(seen: &[u8], expect: &[u8]) -> io::Result<()> {
    if seen == expect { Ok(()) } else { Err(io::Error::other("another answer")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_how_long_it_is() {
        let answer = String::from_utf8(answer()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(head.ends_with("content-length: 1024"));
        assert_eq!(body.len(), 1024);
    }

    #[test]
    fn a_request_is_whole_with_its_empty_line() {
        assert!(is_whole(GET) && is_whole(GET_AND_CLOSE));
        assert!(!is_whole(&GET[..GET.len() - 1]));
        assert!(!closes(GET));
    }
}
