//! As much HTTP/1.1 as the load needs: one request, one answer, both always the same.

use std::io;

/// Bytes of the body.
pub(crate) const BODY: usize = 1024;

/// The byte that it is made of.
const FILL: u8 = b'x';

/// Bytes of an answer, and some more.
pub(crate) const ANSWER_LIMIT: usize = 4096;

/// The end of a head (RFC 9112, section 2.1).
const END: &[u8] = b"\r\n\r\n";

/// A request that leaves the connection open.
pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: bench.example\r\n\r\n";

/// A request after which the server closes the connection.
pub(crate) const GET_AND_CLOSE: &[u8] =
    b"GET / HTTP/1.1\r\nhost: bench.example\r\nconnection: close\r\n\r\n";

/// Bytes of the longest request, and some more.
pub(crate) const REQUEST_LIMIT: usize = 1024;

/// The body of every answer.
pub(crate) fn body() -> Vec<u8> {
    vec![FILL; BODY]
}

/// The answer to every request: clients know its body.
pub(crate) fn answer() -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}");
    let mut answer = head.into_bytes();
    answer.extend_from_slice(END);
    answer.extend(body());
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

/// Whether these bytes are a whole answer. Its head is up to those who forward it.
///
/// # Errors
///
/// It is another one, or there is something after it.
pub(crate) fn is_answered(seen: &[u8]) -> io::Result<bool> {
    let Some(end) = seen.windows(END.len()).position(|bytes| bytes == END) else {
        return Ok(false);
    };
    let (head, body) = seen.split_at(end + END.len());
    let is_right = head.starts_with(b"HTTP/1.1 200 ") && body.len() <= BODY;
    if !is_right || body.iter().any(|byte| *byte != FILL) {
        return Err(io::Error::other("another answer"));
    }
    Ok(body.len() == BODY)
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

    #[test]
    fn an_answer_is_whole_with_its_body() {
        let answer = answer();
        for length in [0, 20, answer.len() - BODY, answer.len() - 1] {
            assert!(!is_answered(&answer[..length]).unwrap(), "{length}");
        }
        assert!(is_answered(&answer).unwrap());
        assert!(is_answered(&[&*answer, b"x"].concat()).is_err());
        assert!(is_answered(&[&answer[..answer.len() - 1], b"y"].concat()).is_err());
        let other = [b"HTTP/1.1 502 Bad Gateway", &answer[15..]].concat();
        assert!(is_answered(&other).is_err());
    }
}
