//! Which trace a connection belongs to: W3C Trace Context, level 1, section 3.2.

use std::fmt;

/// A `traceparent` of version 00. Neither of its identifiers is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    bytes: [u8; Self::BYTES],
}

impl Trace {
    /// `trace-id` (16), `parent-id` (8), `trace-flags` (1).
    pub const BYTES: usize = 25;

    /// The trace with these bytes; `None`: an identifier is zero, which is not allowed.
    pub fn new(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let trace = Self { bytes };
        let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == 0);
        (!is_zero(trace.id()) && !is_zero(trace.parent())).then_some(trace)
    }

    /// A trace that begins here, from random numbers; `None`: one of them is zero. It is not marked
    /// as sampled: nobody records spans of it yet.
    pub fn begin(id: [u8; 16], parent: [u8; 8]) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        let (first, rest) = bytes.split_at_mut(16);
        first.copy_from_slice(&id);
        rest.split_at_mut(8).0.copy_from_slice(&parent);
        Self::new(bytes)
    }

    /// Reads a `traceparent`. Later versions are read as version 00, whose fields they begin with.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let [version, id, parent, flags] = std::array::from_fn(|_| parts.next());
        let version = hex::<1>(version?)?;
        let is_whole = version != [0] || parts.next().is_none();
        if version == [0xff] || !is_whole {
            return None;
        }
        let mut bytes = [0; Self::BYTES];
        let (head, [last]) = bytes.split_at_mut(24) else { return None };
        let (first, second) = head.split_at_mut(16);
        first.copy_from_slice(&hex::<16>(id?)?);
        second.copy_from_slice(&hex::<8>(parent?)?);
        [*last] = hex::<1>(flags?)?;
        Self::new(bytes)
    }

    /// The bytes.
    pub const fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.bytes
    }

    fn id(&self) -> &[u8] {
        self.bytes.split_at(16).0
    }

    fn parent(&self) -> &[u8] {
        self.bytes.split_at(16).1.split_at(8).0
    }

    /// The trace's identifier in hexadecimal digits, as tracing systems show it.
    pub fn hex_id(&self) -> HexId {
        HexId(*self)
    }
}

/// A trace's identifier, to be printed.
#[derive(Clone, Copy, Debug)]
pub struct HexId(Trace);

impl fmt::Display for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0.id())
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        print(f, self.id())?;
        f.write_str("-")?;
        print(f, self.parent())?;
        f.write_str("-")?;
        print(f, self.bytes.split_at(24).1)
    }
}

fn print(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Exactly `N` bytes, in lower-case digits: the standard allows no others.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut bytes = [0; N];
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the standard.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[track_caller]
    fn check(text: &str, expect: bool) {
        assert_eq!(Trace::parse(text).is_some(), expect, "{text}");
    }

    #[test]
    fn reads_what_the_standard_allows_and_nothing_else() {
        let trace = Trace::parse(EXAMPLE).unwrap();
        assert_eq!(trace.to_string(), EXAMPLE);
        assert_eq!(trace.hex_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        check(&EXAMPLE.replacen("00", "cc", 1), true);
        check(&format!("{}-more", EXAMPLE.replacen("00", "cc", 1)), true);
        check(&format!("{EXAMPLE}-more"), false);
        check(&EXAMPLE.replacen("00", "ff", 1), false);
        check(&EXAMPLE.to_uppercase(), false);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", false);
        check("", false);
    }

    proptest! {
        #[test]
        fn survives_print_and_parse(bytes: [u8; 16], rest: [u8; 9]) {
            let all: Vec<u8> = bytes.iter().chain(&rest).copied().collect();
            let trace = Trace::new(all.try_into().unwrap());
            prop_assert_eq!(trace.and_then(|trace| Trace::parse(&trace.to_string())), trace);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,80}") {
            let _any: Option<Trace> = Trace::parse(&text);
        }
    }
}
