//! HTTP/1.1 as it is on the wire (RFC 9112): libraries hide the case and the order of fields, which
//! tests look at, and refuse to send what is wrong, which tests send.
//!
//! It is for the two ends of a test, which trust each other: what is strange is an error.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use super::{Fields, field};

/// The longest line that is read.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

/// The part before a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The request line or the status line.
    pub start: String,
    /// The fields.
    pub fields: Fields,
}

/// How long a body is (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Fixed(u64),
    /// As its chunks say.
    Chunked,
    /// Until the connection ends.
    ToEnd,
}

impl Head {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    /// Whether the connection ends after this message.
    pub fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The part of the first line at `index`.
    pub fn part(&self, index: usize) -> &str {
        self.start.splitn(3, ' ').nth(index).unwrap_or_default()
    }

    /// How long the body of a request is.
    ///
    /// # Errors
    ///
    /// Its length is no number.
    pub fn request_length(&self) -> io::Result<Length> {
        self.length(Length::Fixed(0))
    }

    /// How long the body of an answer with `status` to a request with `method` is.
    ///
    /// # Errors
    ///
    /// Its length is no number.
    pub fn answer_length(&self, method: &str, status: u16) -> io::Result<Length> {
        if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
            return Ok(Length::Fixed(0));
        }
        self.length(Length::ToEnd)
    }

    fn length(&self, otherwise: Length) -> io::Result<Length> {
        let chunked = |value: &str| value.eq_ignore_ascii_case("chunked");
        match (self.field("transfer-encoding"), self.field("content-length")) {
            (Some(value), None) if chunked(value) => Ok(Length::Chunked),
            (None, Some(value)) => value
                .parse()
                .map(Length::Fixed)
                .map_err(|error| wrong(&format!("{value}: {error}"))),
            (None, None) => Ok(otherwise),
            (encoding, length) => Err(wrong(&format!("{encoding:?} and {length:?}"))),
        }
    }
}

/// Reads a head. `None`: the connection has ended before it.
///
/// # Errors
///
/// The connection failed or ended, or this is no HTTP.
pub async fn read_head(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Head>> {
    let Some(start) = read_line(reader).await? else { return Ok(None) };
    Ok(Some(Head { start, fields: read_fields(reader).await? }))
}

/// Reads a body, and the fields after it.
///
/// # Errors
///
/// The connection failed or ended, or this is no HTTP.
pub async fn read_body(
    reader: &mut (impl AsyncBufRead + Unpin),
    length: Length,
) -> io::Result<(Vec<u8>, Fields)> {
    let mut body = Vec::new();
    match length {
        Length::Fixed(length) => {
            take(reader, length, &mut body).await?;
        }
        Length::ToEnd => {
            reader.read_to_end(&mut body).await?;
        }
        Length::Chunked => loop {
            let line = read_line(reader).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = u64::from_str_radix(&line, 16)
                .map_err(|error| wrong(&format!("{line}: {error}")))?;
            if size == 0 {
                return Ok((body, read_fields(reader).await?));
            }
            take(reader, size, &mut body).await?;
            let end = read_line(reader).await?;
            if end.as_deref() != Some("") {
                return Err(wrong("a chunk is longer than it says"));
            }
        },
    }
    Ok((body, Vec::new()))
}

/// The part that is sent before a body.
pub fn head(start: &str, fields: &[(String, String)]) -> String {
    let fields = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    format!("{start}\r\n{}\r\n", fields.collect::<String>())
}

/// A body in chunks, of which this is all, with fields after it.
pub fn chunked(body: &[u8], trailers: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    // Two chunks, so that it is more than a length with another name.
    let (first, second) = body.split_at(body.len() / 2);
    for chunk in [first, second].into_iter().filter(|chunk| !chunk.is_empty()) {
        out.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend([chunk, b"\r\n"].concat());
    }
    out.extend(head("0", trailers).as_bytes());
    out
}

async fn take(
    reader: &mut (impl AsyncBufRead + Unpin),
    length: u64,
    body: &mut Vec<u8>,
) -> io::Result<()> {
    let took = reader.take(length).read_to_end(body).await?;
    if took as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

async fn read_fields(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Fields> {
    let mut fields = Vec::new();
    loop {
        let line = read_line(reader).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| wrong(&line))?;
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    let Some(line) = line.strip_suffix(b"\r\n") else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    String::from_utf8(line.to_vec()).map(Some).map_err(|error| wrong(&error.to_string()))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn what_is_written_is_read() {
        let fields =
            vec![("Host".to_owned(), "a".to_owned()), ("x-B".to_owned(), "c d".to_owned())];
        let trailers = vec![("Sum".to_owned(), "1".to_owned())];
        let mut bytes = head("GET / HTTP/1.1", &fields).into_bytes();
        bytes.extend(chunked(b"hello", &trailers));
        let mut reader = bytes.as_slice();
        let head = block_on(read_head(&mut reader)).unwrap().unwrap();
        assert_eq!((head.part(1), &head.fields), ("/", &fields));
        let body = block_on(read_body(&mut reader, Length::Chunked)).unwrap();
        assert_eq!(body, (b"hello".to_vec(), trailers));
        assert_eq!(block_on(read_head(&mut reader)).unwrap(), None);
    }

    #[test]
    fn what_ends_early_is_an_error() {
        for bytes in ["GET / HTTP/1.1\r\na: b\r\n", "GET / HT", "GET / HTTP/1.1\n\n"] {
            assert!(block_on(read_head(&mut bytes.as_bytes())).is_err(), "{bytes}");
        }
        assert!(block_on(read_body(&mut &b"abc"[..], Length::Fixed(4))).is_err());
        assert!(block_on(read_body(&mut &b"3\r\nabcd\r\n"[..], Length::Chunked)).is_err());
    }
}
