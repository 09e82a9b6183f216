//! Heads of requests and answers that can go on as they are, but for what is about a connection.
//!
//! httparse reads them; what is here says which may be taken, and where a message ends. Anything
//! unusual is not for here: hyper has it. No input or output.

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::ops::Range;

use http::{HeaderName, Method, StatusCode};
use httparse::{Header, Status};

use crate::proxy::http::answer::is_type_of_grpc;
use crate::proxy::http::fields::{MAX_NAMED, is_end_to_end};
use crate::proxy::http::host;
use crate::proxy::http::setup::MAX_FIELDS;
use crate::route::http::fields::{Fields, join};

/// Lines that are taken out of one head, at most.
const MAX_CUTS: usize = 8;

/// The beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Look<T> {
    /// The beginning of a head.
    Partial,
    /// A request that is not plain, or none at all.
    Other,
    /// A plain request.
    Plain(T),
}

/// A request whose head goes on as it was written.
#[derive(Debug)]
pub struct Request<'b> {
    /// How long the head is, in bytes.
    pub length: usize,
    /// Its method.
    pub method: Method,
    /// Its path, percent-encoded.
    pub path: &'b str,
    /// The query after the `?`.
    pub query: Option<&'b str>,
    /// Its fields.
    pub fields: Raw<'b>,
    /// How many bytes of a body follow.
    pub body: u64,
    /// The client wants no other answer on this connection.
    pub closes: bool,
    /// Lines that are about the client's connection.
    pub cuts: Cuts,
}

/// Fields as they were written.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'b>(&'b [Header<'b>]);

/// Lines of a head that do not go on, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    lines: [Range<u32>; MAX_CUTS],
    count: u8,
}

/// Where the body of an answer ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How long it is, in bytes.
    pub length: usize,
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub framing: Framing,
    /// The connection can carry another request afterwards.
    pub keeps: bool,
    /// It is one of HTTP/1.0.
    pub is_old: bool,
    /// Some of its lines end in a line feed alone.
    pub is_sloppy: bool,
    /// Lines that are about the connection.
    pub cuts: Cuts,
}

/// The error of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It is no HTTP.
    #[error("the answer is no HTTP/1: {0}")]
    Syntax(httparse::Error),
    /// It switches to a protocol that nobody has asked for.
    #[error("the answer switches protocols, which the request has not asked for")]
    Upgrade,
    /// It is said in two ways how long it is.
    #[error("the answer contradicts itself about its length")]
    Length,
    /// Its transfer coding is no word, or HTTP/1.0 has none.
    #[error("the transfer-encoding of the answer is malformed, or that of HTTP/1.0")]
    Coding,
    /// It names more lines that are about the connection than anybody does.
    #[error("the answer has too many fields about its connection")]
    Connection,
}

/// Looks at the beginning of `input`. `plain` is told of a plain request.
pub fn look<T>(input: &[u8], plain: impl FnOnce(&Request<'_>) -> T) -> Look<T> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(input, &mut fields) {
        Ok(Status::Complete(length)) => length,
        // Empty lines before a request are left to hyper.
        Ok(Status::Partial) if !matches!(input.first(), Some(b'\r' | b'\n')) => {
            return Look::Partial;
        }
        Ok(Status::Partial) | Err(_) => return Look::Other,
    };
    match checked(input, length, &request) {
        Some(request) => Look::Plain(plain(&request)),
        None => Look::Other,
    }
}

/// The request, if it is plain.
fn checked<'b>(
    input: &'b [u8],
    length: usize,
    request: &'b httparse::Request<'_, 'b>,
) -> Option<Request<'b>> {
    let head = input.get(..length)?;
    let method = Method::from_bytes(request.method?.as_bytes()).ok()?;
    let target = request.path?;
    let is_plain = request.version == Some(1)
        && head.first().is_some_and(u8::is_ascii_alphabetic)
        && method != Method::CONNECT
        && target.starts_with('/')
        && target.bytes().all(is_of_path_or_query)
        && !has_bare_line_feed(head);
    if !is_plain {
        return None;
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let fields = Raw(request.headers);
    let (mut hosts, mut body, mut closes, mut cuts) = (0, None, false, Cuts::default());
    for field in fields.0 {
        match known(field.name) {
            Known::Host if host::is_host(field.value) => hosts += 1,
            Known::Length if body.is_none() => body = Some(digits(field.value)?),
            Known::Connection => {
                if field.value.eq_ignore_ascii_case(b"close") {
                    closes = true;
                } else if !field.value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
                cuts.push(line_of(input, field)?)?;
            }
            Known::Type if is_type_of_grpc(field.value) => return None,
            Known::Other | Known::Type => {}
            Known::Host
            | Known::Length
            | Known::OfConnection
            | Known::Coding
            | Known::OfRequest => return None,
        }
    }
    (hosts == 1).then_some(())?;
    let body = body.unwrap_or_default();
    Some(Request { length, method, path, query, fields, body, closes, cuts })
}

/// Reads the head of an answer to a request, which was one for a head alone or not. `None`: there is
/// more to come.
///
/// # Errors
///
/// It is nothing that may be passed on.
pub fn answer(input: &[u8], is_for_head: bool) -> Result<Option<Answer>, Broken> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut answer,
        input,
        &mut fields,
    );
    let length = match parsed.map_err(Broken::Syntax)? {
        Status::Complete(length) => length,
        Status::Partial => return Ok(None),
    };
    let syntax = Broken::Syntax(httparse::Error::Status);
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(syntax)?;
    let head = input.get(..length).unwrap_or_default();
    // Empty lines before it would go on.
    let is_old = answer.version == Some(0);
    if !head.starts_with(b"HTTP/1.") {
        return Err(syntax);
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Broken::Upgrade);
    }
    let (mut keeps, mut cuts) = (!is_old, Cuts::default());
    let (mut said, mut coding) = (None, None);
    for field in &*answer.headers {
        match known(field.name) {
            Known::Length => {
                let digits = digits(field.value).ok_or(Broken::Length)?;
                if said.is_some_and(|said| said != digits) {
                    return Err(Broken::Length);
                }
                said = Some(digits);
            }
            // A value that is no text might be cut into words in more than one way.
            Known::Coding if !field.value.is_ascii() => return Err(Broken::Coding),
            Known::Coding => coding = Some(is_chunked(field.value)),
            Known::Connection => {
                keeps &= !tokens(field.value).any(|token| token.eq_ignore_ascii_case(b"close"));
            }
            Known::Host | Known::Type | Known::OfConnection | Known::OfRequest | Known::Other => {}
        }
    }
    if is_old && coding.is_some() {
        return Err(Broken::Coding);
    }
    for field in &*answer.headers {
        let goes = match known(field.name) {
            Known::Connection | Known::OfConnection => true,
            // The coding counts, and whoever comes next is not to wonder.
            Known::Length => coding.is_some(),
            Known::Coding => false,
            _ => is_named(answer.headers, field.name) && !is_end_to_end(field.name),
        };
        if goes {
            let line = line_of(input, field).ok_or(Broken::Connection)?;
            cuts.push(line).ok_or(Broken::Connection)?;
        }
    }
    let is_empty = is_for_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framing = match (coding, said) {
        _ if is_empty => Framing::Length(0),
        (Some(true), _) => Framing::Chunked,
        (Some(false), _) | (None, None) => Framing::Close,
        (None, Some(length)) => Framing::Length(length),
    };
    let is_sloppy = has_bare_line_feed(head);
    keeps &= framing != Framing::Close;
    Ok(Some(Answer { length, status, framing, keeps, is_old, is_sloppy, cuts }))
}

impl Fields for Raw<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn each_name(&self, see: &mut dyn FnMut(&HeaderName)) {
        let names = self.0.iter().filter_map(|field| field.name.parse().ok());
        names.for_each(|name| see(&name));
    }

    fn joined(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        let name_is = |field: &&Header<'_>| field.name.eq_ignore_ascii_case(name.as_str());
        join(name, self.0.iter().filter(name_is).map(|field| field.value))
    }
}

impl Cuts {
    /// Takes one more line out. `None`: there are too many.
    fn push(&mut self, line: Range<usize>) -> Option<()> {
        let place = self.lines.get_mut(usize::from(self.count))?;
        *place = u32::try_from(line.start).ok()?..u32::try_from(line.end).ok()?;
        self.count += 1;
        Some(())
    }

    /// The lines, as places.
    fn lines(&self) -> impl Iterator<Item = Range<usize>> {
        let place = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
        let lines = self.lines.iter().take(usize::from(self.count));
        lines.map(move |line| place(line.start)..place(line.end))
    }

    /// Takes the lines out of `head`, which is moved towards its end: says where it begins then.
    pub fn take_out(&self, head: &mut [u8]) -> usize {
        let mut start = 0;
        for line in self.lines() {
            head.copy_within(start..line.start, start + line.len());
            start += line.len();
        }
        start
    }

    /// The rest of `head`, in one place that ends before the empty line.
    pub fn left_of(&self, head: &[u8]) -> Vec<u8> {
        let mut left = head.to_vec();
        let start = self.take_out(&mut left);
        left.drain(..start);
        // The empty line.
        left.truncate(left.len().saturating_sub(2));
        left
    }
}

/// A head whose lines end as they should.
pub fn tidied(head: &[u8]) -> Vec<u8> {
    let mut tidy = Vec::with_capacity(head.len() + MAX_FIELDS);
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        tidy.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
        tidy.extend_from_slice(b"\r\n");
    }
    tidy
}

/// The subject of a field.
#[derive(Clone, Copy)]
enum Known {
    Host,
    Length,
    Coding,
    Connection,
    /// Of one connection only (RFC 9110, section 7.6.1).
    OfConnection,
    /// A request that has it is more than plain.
    OfRequest,
    Type,
    Other,
}

fn known(name: &str) -> Known {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is("te") => Known::OfRequest,
        4 if is("host") => Known::Host,
        6 if is("expect") => Known::OfRequest,
        7 if is("upgrade") => Known::OfConnection,
        7 if is("trailer") => Known::OfRequest,
        10 if is("connection") => Known::Connection,
        10 if is("keep-alive") => Known::OfConnection,
        12 if is("content-type") => Known::Type,
        14 if is("content-length") => Known::Length,
        14 if is("http2-settings") => Known::OfConnection,
        16 if is("proxy-connection") => Known::OfConnection,
        17 if is("transfer-encoding") => Known::Coding,
        _ => Known::Other,
    }
}

/// A length: digits alone, which hyper and we understand alike.
fn digits(value: &[u8]) -> Option<u64> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether the last coding is `chunked`.
fn is_chunked(value: &[u8]) -> bool {
    tokens(value).last().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"))
}

/// Whether a field about the connection names this one, among the names that count.
fn is_named(fields: &[Header<'_>], name: &str) -> bool {
    fields
        .iter()
        .filter(|field| matches!(known(field.name), Known::Connection))
        .flat_map(|field| tokens(field.value))
        .take(MAX_NAMED)
        .any(|token| token.eq_ignore_ascii_case(name.as_bytes()))
}

/// The line of a field of `input`, with its end.
fn line_of(input: &[u8], field: &Header<'_>) -> Option<Range<usize>> {
    let offset = |of: *const u8| of.addr().checked_sub(input.as_ptr().addr());
    let start = offset(field.name.as_ptr())?;
    let rest = input.get(start..)?;
    let length = rest.iter().position(|byte| *byte == b'\n')? + 1;
    Some(start..start + length)
}

fn has_bare_line_feed(head: &[u8]) -> bool {
    head.first() == Some(&b'\n')
        || head.windows(2).any(|two| matches!(two, [first, b'\n'] if *first != b'\r'))
}

/// Whether a byte may stand in a path and a query (RFC 3986, sections 3.3 and 3.4). Anything else
/// that browsers send is left to those who know what it means.
const fn is_of_path_or_query(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.' | b'_' | b'~' // unreserved
            | b'%'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' // sub-delims
            | b':' | b'@' | b'/' | b'?'
        )
}

#[cfg(test)]
mod tests;
