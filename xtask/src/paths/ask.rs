//! Requests over raw sockets, so that no client changes the target.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a server may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read; its head has a few hundred.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// The handler that a request has reached, and the path that it was given: printable ASCII
/// without backslashes as it is, other bytes as `\xNN`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reached {
    pub(super) handler: String,
    pub(super) read: String,
}

/// Asks for `target` with a connection of its own. `None`: no handler was reached.
///
/// # Errors
///
/// The server takes no connection, or does not answer in time.
pub(super) fn ask(port: u16, target: &[u8]) -> io::Result<Option<Reached>> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&addr, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let head = b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(&[b"GET ", target, head].concat())?;
    let mut answer = Vec::new();
    match stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer) {
        Ok(_) => {}
        // It may close before it has read all of a request that it does not like.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error),
    }
    Ok(reached(&answer))
}

fn reached(answer: &[u8]) -> Option<Reached> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let field = |name: &[u8]| {
        let fields = answer[..end].split(|byte| *byte == b'\n').skip(1);
        let mut fields = fields.filter_map(|line| {
            let (own, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
            own.eq_ignore_ascii_case(name).then(|| value[1..].trim_ascii())
        });
        fields.next()
    };
    let handler = String::from_utf8_lossy(field(b"x-reached")?).into_owned();
    Some(Reached { handler, read: printable(field(b"x-read").unwrap_or_default()) })
}

/// The escapes of servers that write the path as it is. A backslash that does not begin
/// `\xNN` is one of the path itself.
fn printable(read: &[u8]) -> String {
    let escape = |(index, byte): (usize, &u8)| {
        let is_escape = read[index..].starts_with(b"\\x");
        let plain = byte.is_ascii_graphic() && (*byte != b'\\' || is_escape);
        if plain { char::from(*byte).to_string() } else { format!("\\x{byte:02x}") }
    };
    read.iter().enumerate().map(escape).collect()
}

/// A target as text, in the form of [`Reached::read`].
pub(super) fn escaped(target: &[u8]) -> String {
    let escape = |byte: &u8| match byte {
        b'\\' => "\\x5c".to_owned(),
        _ if byte.is_ascii_graphic() => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    target.iter().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handler_is_read_from_the_head() {
        let check = |answer: &str, expect: Option<(&str, &str)>| {
            let expect = expect
                .map(|(handler, read)| Reached { handler: handler.into(), read: read.into() });
            assert_eq!(reached(answer.as_bytes()), expect, "{answer}");
        };
        check("HTTP/1.1 200 OK\r\nX-Reached: admin\r\nx-read:/a\r\n\r\n", Some(("admin", "/a")));
        check(
            "HTTP/1.1 200 OK\r\nx-reached: admin\r\nx-read: /\\\r\n\r\n",
            Some(("admin", "/\\x5c")),
        );
        check("HTTP/1.1 404 Not Found\r\n\r\nx-reached: admin\r\n\r\n", None);
        check("", None);
    }

    #[test]
    fn targets_are_written_in_ascii() {
        assert_eq!(escaped(b"/a\\%00\xff"), "/a\\x5c%00\\xff");
    }
}
