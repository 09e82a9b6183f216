//! Finds the end of a body that comes in chunks (RFC 9112, section 7.1), which goes on as it is.
//! No input or output.

/// The most bytes of chunk extensions, and of trailers, in all: hyper's bound for either.
const MAX_EXTRA_BYTES: usize = 16 * 1024;

/// Something else than chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body's chunks are malformed")]
pub struct Malformed;

/// Where in the chunks one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the first digit of a size.
    Size,
    /// After a digit.
    Digits,
    /// After a size, in blanks.
    Blank,
    /// In an extension.
    Extension,
    /// Before the line feed after a size.
    SizeEnd,
    /// In data.
    Data,
    /// Before the carriage return after data.
    DataEnd,
    /// Before the line feed after data.
    DataLineFeed,
    /// At the beginning of a line after the last chunk.
    Line,
    /// In a trailer's name.
    Name,
    /// In its value.
    Value,
    /// Before the line feed after a trailer.
    TrailerEnd,
    /// Before the last line feed.
    End,
    /// After it.
    Done,
}

/// The chunks of one body.
#[derive(Clone, Debug)]
pub struct Chunks {
    place: Place,
    /// Of the chunk: what its digits say, then what is left of it.
    size: u64,
    extra: usize,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { place: Place::Size, size: 0, extra: 0 }
    }
}

impl Chunks {
    /// Whether the end was seen.
    pub fn is_done(&self) -> bool {
        self.place == Place::Done
    }

    /// How many bytes of `input` belong to the body: all of them, or those before its end.
    ///
    /// # Errors
    ///
    /// They are no chunks.
    pub fn take(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        let mut rest = input;
        while !self.is_done() {
            if self.place == Place::Data {
                let part = rest.len().min(usize::try_from(self.size).unwrap_or(usize::MAX));
                self.size -= part as u64;
                rest = rest.get(part..).unwrap_or_default();
                if self.size > 0 {
                    break;
                }
                self.place = Place::DataEnd;
            }
            let Some((byte, after)) = rest.split_first() else { break };
            self.place = self.step(*byte)?;
            rest = after;
        }
        Ok(input.len() - rest.len())
    }

    fn step(&mut self, byte: u8) -> Result<Place, Malformed> {
        Ok(match (self.place, byte) {
            (Place::Size | Place::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                let more = self.size.checked_mul(16).ok_or(Malformed)?;
                self.size = more + u64::from(digit);
                Place::Digits
            }
            (Place::Digits | Place::Blank, b' ' | b'\t') => self.extra(Place::Blank)?,
            (Place::Digits | Place::Blank, b';') => self.extra(Place::Extension)?,
            (Place::Digits | Place::Blank | Place::Extension, b'\r') => Place::SizeEnd,
            // A line feed alone ends an extension for some, and not for others.
            (Place::Extension, byte) if byte != b'\n' => self.extra(Place::Extension)?,
            (Place::SizeEnd, b'\n') if self.size == 0 => Place::Line,
            (Place::SizeEnd, b'\n') => Place::Data,
            (Place::DataEnd, b'\r') => Place::DataLineFeed,
            (Place::DataLineFeed, b'\n') => Place::Size,
            (Place::Line, b'\r') => Place::End,
            (Place::Line | Place::Name, byte) if is_of_name(byte) => self.extra(Place::Name)?,
            (Place::Value, b'\r') => Place::TrailerEnd,
            (Place::Name, b':') | (Place::Value, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extra(Place::Value)?
            }
            (Place::TrailerEnd, b'\n') => Place::Line,
            (Place::End, b'\n') => Place::Done,
            _ => return Err(Malformed),
        })
    }

    fn extra(&mut self, place: Place) -> Result<Place, Malformed> {
        self.extra += 1;
        (self.extra <= MAX_EXTRA_BYTES).then_some(place).ok_or(Malformed)
    }
}

/// Whether a byte may stand in the name of a field (`tchar`, RFC 9110, section 5.6.2).
const fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes that were taken of it, and whether that was all.
    fn taken(input: &[u8]) -> Result<(usize, bool), Malformed> {
        let mut chunks = Chunks::default();
        chunks.take(input).map(|taken| (taken, chunks.is_done()))
    }

    #[test]
    fn the_end_is_found() {
        let check = |input: &str, expect| assert_eq!(taken(input.as_bytes()), expect, "{input:?}");
        check("", Ok((0, false)));
        check("0\r\n\r\n", Ok((5, true)));
        check("0\r\n\r\nHTTP/1.1 200", Ok((5, true)));
        check("3\r\nabc\r\n0\r\n\r\n", Ok((13, true)));
        check("03;a=\"b\"\r\nabc\r\n000\r\nx: y\r\nz:\r\n\r\n!", Ok((32, true)));
        check("A \t\r\n0123456789\r\n", Ok((17, false)));
        check("3\r\nab", Ok((5, false)));
    }

    #[test]
    fn what_others_might_read_otherwise_is_refused() {
        let check = |input: &str| assert_eq!(taken(input.as_bytes()), Err(Malformed), "{input:?}");
        check("\r\n");
        check("g\r\n");
        check("0x3\r\nabc\r\n");
        check("-1\r\n");
        check("1 1\r\na");
        check("3\nabc\r\n");
        check("3\r\nabcd\r\n");
        check("3\r\nabc\n0\r\n\r\n");
        check("3;a\nabc\r\n");
        check("3;a\r\rabc");
        check("0\r\n\n");
        check("0\r\nx: y\n\r\n");
        check("0\r\nx\r\n\r\n");
        check("0\r\n: y\r\n\r\n");
        check("0\r\nx : y\r\n\r\n");
        check("0\r\nx: y\r\n z\r\n\r\n");
        check("0\r\nx: \0\r\n\r\n");
        check("00000000000000000fffffffffffffffff\r\n");
        check(&format!("1;{}\r\n", "x".repeat(MAX_EXTRA_BYTES)));
        check(&format!("0\r\nx: {}\r\n", "x".repeat(MAX_EXTRA_BYTES)));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            data in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..5),
            after in prop::collection::vec(any::<u8>(), 0..20),
            cuts in prop::collection::vec(1_usize..50, 1..20),
        ) {
            let mut body = Vec::new();
            for data in &data {
                body.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                body.extend_from_slice(data);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            let whole = [body.as_slice(), &after].concat();
            let (mut chunks, mut rest, mut count) = (Chunks::default(), whole.as_slice(), 0);
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                let taken = chunks.take(now).unwrap();
                count += taken;
                if chunks.is_done() {
                    break;
                }
                prop_assert_eq!(taken, now.len());
                rest = later;
            }
            prop_assert_eq!(count, body.len());
        }

        #[test]
        fn nothing_makes_it_take_more_than_there_is(input: Vec<u8>) {
            if let Ok((count, is_done)) = taken(&input) {
                prop_assert!(count <= input.len() && (is_done || count == input.len()));
            }
        }
    }
}
