//! From segments to what one side of a connection said.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::net::SocketAddr;

use super::frame::Segment;

/// One direction of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The sender.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// The bytes in order, up to the first that was not captured.
    pub bytes: Vec<u8>,
    /// Bytes that were captured behind a gap: not 0 means that frames were lost.
    pub lost: usize,
}

/// The streams that are being put together.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: HashMap<(SocketAddr, SocketAddr), Parts>,
    ended: Vec<Stream>,
}

#[derive(Debug)]
struct Parts {
    /// The sequence number of the first byte.
    start: u32,
    /// Segments by their distance from the start.
    segments: BTreeMap<u32, Vec<u8>>,
}

impl Streams {
    /// Adds a segment, in whatever order they come.
    pub(super) fn add(&mut self, segment: &Segment<'_>) {
        let key = (segment.from, segment.to);
        // A SYN takes one number of the sequence (RFC 9293, section 3.4).
        let first = segment.sequence.wrapping_add(u32::from(segment.opens));
        let parts = match self.open.entry(key) {
            Entry::Occupied(mut entry) => {
                if segment.opens && entry.get().start != first {
                    let old = entry.insert(Parts { start: first, segments: BTreeMap::new() });
                    self.ended.push(old.join(key));
                }
                entry.into_mut()
            }
            Entry::Vacant(entry) => entry.insert(Parts { start: first, segments: BTreeMap::new() }),
        };
        if !segment.bytes.is_empty() {
            let at = first.wrapping_sub(parts.start);
            let kept = parts.segments.entry(at).or_default();
            if kept.len() < segment.bytes.len() {
                *kept = segment.bytes.to_vec();
            }
        }
    }

    /// All streams.
    pub(super) fn finish(mut self) -> Vec<Stream> {
        self.ended.extend(self.open.into_iter().map(|(key, parts)| parts.join(key)));
        self.ended
    }
}

impl Parts {
    fn join(self, (from, to): (SocketAddr, SocketAddr)) -> Stream {
        let mut stream = Stream { from, to, bytes: Vec::new(), lost: 0 };
        for (at, segment) in self.segments {
            // A connection of more than 4 GiB is not for this.
            let have = stream.bytes.len();
            let overlap = have.checked_sub(usize::try_from(at).unwrap_or(usize::MAX));
            match overlap {
                Some(overlap) => stream.bytes.extend(segment.get(overlap..).unwrap_or_default()),
                None => stream.lost += segment.len(),
            }
        }
        stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments as (sequence, opens, bytes) become streams as (bytes, lost).
    fn check(segments: &[(u32, bool, &str)], expect: &[(&str, usize)]) {
        let mut streams = Streams::default();
        let (from, to) = ("10.1.0.1:1".parse().unwrap(), "10.2.0.1:2".parse().unwrap());
        for &(sequence, opens, bytes) in segments {
            streams.add(&Segment { from, to, sequence, opens, bytes: bytes.as_bytes() });
        }
        let found = streams.finish();
        let found: Vec<_> = found
            .iter()
            .map(|stream| (std::str::from_utf8(&stream.bytes).unwrap(), stream.lost))
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        check(&[(9, true, ""), (13, false, "def"), (10, false, "abc")], &[("abcdef", 0)]);
        check(
            &[(9, true, ""), (10, false, "ab"), (10, false, "abc"), (11, false, "bcd")],
            &[("abcd", 0)],
        );
    }

    #[test]
    fn sequence_numbers_wrap() {
        check(&[(u32::MAX - 1, true, ""), (u32::MAX, false, "ab"), (1, false, "c")], &[("abc", 0)]);
    }

    #[test]
    fn a_gap_is_told() {
        check(&[(9, true, ""), (10, false, "a"), (12, false, "cd")], &[("a", 2)]);
    }

    #[test]
    fn a_port_that_is_used_again_is_another_stream() {
        let segments = [(9, true, ""), (10, false, "a"), (99, true, ""), (100, false, "b")];
        check(&segments, &[("a", 0), ("b", 0)]);
    }
}
