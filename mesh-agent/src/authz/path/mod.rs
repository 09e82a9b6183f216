//! The readings of a path: what servers take it for (pure).
//!
//! A policy has to hold whichever server the application is. Envoy rewrites paths before it judges
//! them; here they are forwarded as they were written, and each reading is judged. The steps below
//! are those that real servers make, as `cargo xtask paths` observes and `tests/paths/` records.

/// Readings of one path that are judged. A path with more is refused where policies ask for paths:
/// nobody writes one in good faith.
const MAX_READINGS: usize = 64;

/// Bytes of all readings together: 64 readings of 512 bytes, or two of 16 KiB. Bounds the work for one
/// path: anybody may ask for many of them.
const MAX_BYTES: usize = 32 << 10;

/// Times that a path is decoded: by a proxy in front of the application, and by that.
const MAX_DECODINGS: usize = 2;

/// A step of a server, which changes the path or is none of its.
type Step = fn(&[u8]) -> Option<Vec<u8>>;

/// The steps between two decodings, which servers make in any order.
const STEPS: [Step; 8] = [
    without_parameters,
    with_slashes,
    with_merged_slashes,
    with_one_slash_first,
    without_dots,
    without_encoded_dots,
    without_query,
    without_authority,
];

/// All readings of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readings<'a> {
    written: &'a str,
    others: Vec<String>,
    /// There are no more readings than these.
    pub is_complete: bool,
    /// Servers differ in their reading, for another reason than that an octet has to be encoded.
    pub is_ambiguous: bool,
}

impl<'a> Readings<'a> {
    /// The readings of `path`, which has no query. Most paths have one, and are not copied.
    pub fn of(path: &'a str) -> Self {
        if is_plain(path.as_bytes()) {
            return Self {
                written: path,
                others: Vec::new(),
                is_complete: true,
                is_ambiguous: false,
            };
        }
        let (known, is_complete) = expand(path.as_bytes());
        let is_ambiguous = !is_complete
            || match known.as_slice() {
                [_] => false,
                [written, other] => {
                    decoded(written).as_ref() != Some(other) || !are_encodings_needed(written)
                }
                _ => true,
            };
        let others = known.iter().skip(1).map(|path| lossy(path)).collect();
        Self { written: path, others, is_complete, is_ambiguous }
    }

    /// The path as it is written.
    pub fn written(&self) -> &str {
        self.written
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.written).chain(self.others.iter().map(String::as_str))
    }
}

/// Whether a target's path is one by RFC 9112, section 3.2, and RFC 3986, section 3.3.
pub fn is_valid(path: &str) -> bool {
    if path == "*" {
        return true;
    }
    let mut bytes = path.bytes();
    if bytes.next() != Some(b'/') {
        return false;
    }
    while let Some(byte) = bytes.next() {
        let is_allowed = match byte {
            b'%' => {
                let mut is_digit = || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
                is_digit() && is_digit()
            }
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+'
            | b',' | b';' | b'=' | b':' | b'@' | b'/' => true,
            other => other.is_ascii_alphanumeric(),
        };
        if !is_allowed {
            return false;
        }
    }
    true
}

/// Whether no step changes the path.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    for byte in path {
        match byte {
            b'%' | b';' | b'\\' => return false,
            b'/' | b'.' if previous == b'/' => return false,
            _ => previous = *byte,
        }
    }
    true
}

/// Results of any number of steps on a path, with no more decodings than [`MAX_DECODINGS`]; and
/// whether that is all.
fn expand(path: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut known = Known { all: vec![path.to_vec()], n_bytes: path.len() };
    let mut decoded_from = 0;
    for n_decodings in 0..=MAX_DECODINGS {
        if 0 < n_decodings {
            let (first, end) = (decoded_from, known.all.len());
            decoded_from = end;
            for index in first..end {
                for decode in [decoded, decoded_with_u] {
                    if !known.take(index, decode) {
                        return (known.all, false);
                    }
                }
            }
        }
        let mut index = decoded_from;
        while index < known.all.len() {
            for step in STEPS {
                if !known.take(index, step) {
                    return (known.all, false);
                }
            }
            index += 1;
        }
    }
    (known.all, true)
}

/// Readings that have been found.
struct Known {
    all: Vec<Vec<u8>>,
    n_bytes: usize,
}

impl Known {
    /// Adds what `step` makes of a reading, if that is new. False: there are too many.
    fn take(&mut self, index: usize, step: Step) -> bool {
        let Some(made) = self.all.get(index).and_then(|path| step(path)) else { return true };
        if self.all.contains(&made) {
            return true;
        }
        self.n_bytes += made.len();
        self.all.push(made);
        self.all.len() <= MAX_READINGS && self.n_bytes <= MAX_BYTES
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// The byte that `%XX` at the start of `text` means.
fn octet(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    match text {
        [b'%', high, low, ..] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

/// The character that `%uXXXX` at the start of `text` means.
fn unicode(text: &[u8]) -> Option<char> {
    let [b'%', b'u', digits @ ..] = text else { return None };
    let digits = str::from_utf8(digits.get(..4)?).ok()?;
    let digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(digits)?;
    char::from_u32(u32::from_str_radix(digits, 16).ok()?)
}

/// Decodes all `%XX` once. Nearly all servers do.
fn decoded(path: &[u8]) -> Option<Vec<u8>> {
    decode(path, |_| None)
}

/// Decodes `%uXXXX` as well. Jetty 9 does.
fn decoded_with_u(path: &[u8]) -> Option<Vec<u8>> {
    path.windows(2).any(|two| two == b"%u").then(|| decode(path, unicode)).flatten()
}

fn decode(path: &[u8], unicode: fn(&[u8]) -> Option<char>) -> Option<Vec<u8>> {
    if !path.contains(&b'%') {
        return None;
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        let taken = if let Some(byte) = octet(rest) {
            decoded.push(byte);
            3
        } else if let Some(letter) = unicode(rest) {
            decoded.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            6
        } else {
            decoded.push(*first);
            rest = after;
            continue;
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    (decoded != path).then_some(decoded)
}

/// Whether only octets are encoded that a path can have in no other way (RFC 3986, section 3.3), and
/// no control characters, and the result is UTF-8.
fn are_encodings_needed(path: &[u8]) -> bool {
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            continue;
        }
        let (Some(byte), Some(after)) = (octet(&[b"%", rest].concat()), rest.get(2..)) else {
            return false;
        };
        let is_needed = 0x80 <= byte
            || matches!(byte, b' ' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
            || matches!(byte, b'[' | b']');
        if !is_needed {
            return false;
        }
        rest = after;
    }
    decoded(path).is_some_and(|decoded| str::from_utf8(&decoded).is_ok())
}

/// Cuts what follows a `;` in each segment (RFC 3986, section 3.3). Servers of servlets do, before
/// they decode, so that an encoded slash is within the parameter.
fn without_parameters(path: &[u8]) -> Option<Vec<u8>> {
    if !path.contains(&b';') {
        return None;
    }
    let segments = path.split(|byte| *byte == b'/');
    let names: Vec<_> =
        segments.filter_map(|part| part.split(|byte| *byte == b';').next()).collect();
    Some(names.join(&b'/'))
}

/// Takes `\` for `/`. The URL parser of the WHATWG does, and Tomcat if it is told to.
fn with_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let slash = |byte: &u8| if *byte == b'\\' { b'/' } else { *byte };
    path.contains(&b'\\').then(|| path.iter().map(slash).collect())
}

/// Takes several slashes for one. nginx, Apache httpd, Tomcat and Spring do.
fn with_merged_slashes(path: &[u8]) -> Option<Vec<u8>> {
    if !path.windows(2).any(|two| two == b"//") {
        return None;
    }
    let mut merged = path.to_vec();
    merged.dedup_by(|next, previous| *next == b'/' && *previous == b'/');
    Some(merged)
}

/// Takes several slashes at the beginning for one. Flask does.
fn with_one_slash_first(path: &[u8]) -> Option<Vec<u8>> {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    let rest = path.get(start..).filter(|_| 1 < start)?;
    Some([b"/", rest].concat())
}

/// Takes `.` and `..` out (RFC 3986, section 5.2.4).
fn without_dots(path: &[u8]) -> Option<Vec<u8>> {
    resolve(path, |segment| match segment {
        b"." => Some(Dots::Same),
        b".." => Some(Dots::Up),
        _ => None,
    })
}

/// The same with dots that are encoded. The URL parser of the WHATWG does, and decodes nothing else.
fn without_encoded_dots(path: &[u8]) -> Option<Vec<u8>> {
    if !path.contains(&b'%') {
        return None;
    }
    resolve(path, |segment| {
        let mut rest = segment;
        let mut n_dots = 0_usize;
        while let Some((first, after)) = rest.split_first() {
            if octet(rest).unwrap_or(*first) != b'.' {
                return None;
            }
            rest = if *first == b'%' { rest.get(3..).unwrap_or_default() } else { after };
            n_dots += 1;
        }
        match n_dots {
            1 => Some(Dots::Same),
            2 => Some(Dots::Up),
            _ => None,
        }
    })
}

/// Meaning of a segment of dots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dots {
    Same,
    Up,
}

fn resolve(path: &[u8], dots: impl Fn(&[u8]) -> Option<Dots>) -> Option<Vec<u8>> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut has_dots = false;
    let mut segments =
        path.strip_prefix(b"/").unwrap_or(path).split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let Some(dots) = dots(segment) else {
            kept.push(segment);
            continue;
        };
        has_dots = true;
        if dots == Dots::Up {
            kept.pop();
        }
        if segments.peek().is_none() {
            kept.push(b"");
        }
    }
    has_dots.then(|| [b"/", kept.join(&b'/').as_slice()].concat())
}

/// Cuts what looks like a query or a fragment after a decoding. A server does, whose proxy has passed
/// the decoded path on.
fn without_query(path: &[u8]) -> Option<Vec<u8>> {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#'))?;
    path.get(..end).map(<[u8]>::to_vec)
}

/// Takes the first segment after several slashes for a host. The URL parser of the WHATWG does.
fn without_authority(path: &[u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(b"//")?;
    let start = rest.iter().position(|byte| *byte != b'/')?;
    let rest = rest.get(start..)?;
    let end = rest.iter().position(|byte| *byte == b'/');
    Some(end.and_then(|end| rest.get(end..)).unwrap_or(b"/").to_vec())
}

#[cfg(test)]
mod tests;
