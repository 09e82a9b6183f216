//! Bytes that a stream was sent and its application has not taken.

use std::collections::VecDeque;

use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// From this size on, bytes stay where they were read. Smaller ones are copied together: a few of
/// them must not keep a whole read's memory. Half of a TLS record, of which most parts are made.
const LARGE_BYTES: usize = 8 * 1024;

/// Bytes in the order in which they came. The caller that fills it sees to it that they are bounded.
#[derive(Debug, Default)]
pub struct Inbox {
    whole: VecDeque<Bytes>,
    tail: BytesMut,
    /// How many bytes there are.
    length: usize,
    /// How many of the last of `whole` lie where they were read, and keep all that was read at once.
    n_slices: usize,
}

impl Inbox {
    /// Adds bytes. True: they stay where they were read.
    pub fn push(&mut self, data: Bytes) -> bool {
        self.length += data.len();
        if data.len() < LARGE_BYTES {
            self.tail.extend_from_slice(&data);
            return false;
        }
        if !self.tail.is_empty() {
            // Copied bytes lie behind those that are not: all of it is looked at again.
            self.whole.push_back(self.tail.split().freeze());
            self.n_slices += usize::from(self.n_slices > 0);
        }
        self.whole.push_back(data);
        self.n_slices += 1;
        true
    }

    /// How many bytes wait.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// How many bytes lie where they were read, or between such.
    pub fn slices(&self) -> usize {
        self.whole.iter().rev().take(self.n_slices).map(Bytes::len).sum()
    }

    /// Copies what lies where it was read, once.
    pub fn copy_slices(&mut self) {
        if self.n_slices == 0 {
            return;
        }
        let mut copy = BytesMut::with_capacity(self.slices());
        let first = self.whole.len() - std::mem::take(&mut self.n_slices);
        for slice in self.whole.drain(first..) {
            copy.extend_from_slice(&slice);
        }
        self.whole.push_back(copy.freeze());
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.tail.is_empty()
    }

    /// Takes everything, to be written at once. A stream that waits keeps no memory.
    pub fn take(&mut self) -> Parts {
        (self.length, self.n_slices) = (0, 0);
        let mut rest = std::mem::take(&mut self.whole);
        let tail = std::mem::take(&mut self.tail).freeze();
        let Some(first) = rest.pop_front() else { return Parts { first: tail, rest } };
        if !tail.is_empty() {
            rest.push_back(tail);
        }
        Parts { first, rest }
    }
}

/// Bytes that lie in several places.
#[derive(Debug, Default)]
pub struct Parts {
    /// Empty only if there is nothing.
    first: Bytes,
    /// None of them is empty.
    rest: VecDeque<Bytes>,
}

impl Buf for Parts {
    fn remaining(&self) -> usize {
        self.first.len() + self.rest.iter().map(Bytes::len).sum::<usize>()
    }

    fn has_remaining(&self) -> bool {
        !self.first.is_empty()
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let all = std::iter::once(&self.first).chain(&self.rest);
        let filled = all.filter(|part| !part.is_empty()).zip(slices);
        filled.map(|(part, slice)| *slice = IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut count: usize) {
        while count >= self.first.len() {
            count -= self.first.len();
            let Some(next) = self.rest.pop_front() else {
                debug_assert_eq!(count, 0, "more than there was");
                self.first = Bytes::new();
                return;
            };
            self.first = next;
        }
        self.first.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            steps in prop::collection::vec(prop_oneof![
                (1_usize..40_000).prop_map(Some),
                Just(Some(0)),
                Just(None),
            ], 1..40),
        ) {
            let (mut inbox, mut next, mut out) = (Inbox::default(), 0_u32, Vec::new());
            let mut expect = Vec::new();
            for step in steps {
                if step == Some(0) {
                    inbox.copy_slices();
                    prop_assert_eq!(inbox.slices(), 0);
                    continue;
                }
                if let Some(size) = step {
                    let data: Vec<u8> = (next..).map(|n| n.to_le_bytes()[0]).take(size).collect();
                    next = next.wrapping_add(u32::try_from(size).unwrap());
                    expect.extend_from_slice(&data);
                    inbox.push(data.into());
                    continue;
                }
                let length = inbox.len();
                let mut parts = inbox.take();
                prop_assert_eq!((parts.remaining(), inbox.len(), inbox.slices()), (length, 0, 0));
                let part = parts.remaining() / 2;
                out.extend_from_slice(&parts.copy_to_bytes(part));
                let mut slices = [IoSlice::new(&[]); 64];
                let count = parts.chunks_vectored(&mut slices);
                out.extend(slices[..count].iter().flat_map(|slice| slice.iter()));
            }
            let mut parts = inbox.take();
            out.extend_from_slice(&parts.copy_to_bytes(parts.remaining()));
            prop_assert!(!parts.has_remaining() && !inbox.take().has_remaining());
            prop_assert!(out == expect);
        }
    }
}
