//! Bytes that wait to be written on a tunnel.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::native::frame::{self, Frame, MAX_DATA_BYTES};

/// From this size on, bytes are not copied together with others.
const LARGE_BYTES: usize = 8 * 1024;

/// Frames in the order in which they go. Small ones lie together, so that many streams' frames fill
/// one TLS record and are written at once; large payloads stay where they were read.
#[derive(Debug, Default)]
pub struct Output {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    length: usize,
}

impl Output {
    /// Adds a frame.
    pub fn frame(&mut self, frame: &Frame) {
        let before = self.tail.len();
        frame::put(&mut self.tail, frame);
        self.length += self.tail.len() - before;
    }

    /// Adds bytes of a stream: in as many frames as they need.
    pub fn data(&mut self, stream: u32, mut data: Bytes) {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(MAX_DATA_BYTES));
            self.length += frame::HEADER_BYTES + part.len();
            frame::put_data(&mut self.tail, stream, part.len());
            if part.len() < LARGE_BYTES {
                self.tail.extend_from_slice(&part);
            } else {
                self.seal();
                self.chunks.push_back(part);
            }
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&self.tail, |first| first)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let all = self.chunks.iter().map(Bytes::as_ref).chain([self.tail.as_ref()]);
        let filled = all.filter(|chunk| !chunk.is_empty()).zip(slices);
        filled.map(|(chunk, slice)| *slice = IoSlice::new(chunk)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.length -= count;
        while count > 0 {
            let Some(first) = self.chunks.front_mut() else {
                self.tail.advance(count);
                break;
            };
            let part = count.min(first.len());
            first.advance(part);
            count -= part;
            if first.is_empty() {
                self.chunks.pop_front();
            }
        }
        if self.length == 0 {
            // Room that was needed for a burst is not kept by a tunnel that waits.
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_goes_in_comes_out(
            sizes in prop::collection::vec(1_usize..100_000, 1..12),
            takes in prop::collection::vec(1_usize..50_000, 1..8),
        ) {
            let (mut output, mut expect, mut got) = (Output::default(), BytesMut::new(), Vec::new());
            let mut takes = takes.iter().cycle();
            for (stream, size) in (1_u32..).zip(&sizes) {
                let data = Bytes::from(vec![stream.to_le_bytes()[0]; *size]);
                output.data(stream, data.clone());
                output.frame(&Frame::End(stream));
                for part in data.chunks(MAX_DATA_BYTES) {
                    frame::put_data(&mut expect, stream, part.len());
                    expect.put_slice(part);
                }
                frame::put(&mut expect, &Frame::End(stream));
                let take = (*takes.next().unwrap()).min(output.remaining());
                let mut slices = [IoSlice::new(&[]); 64];
                let count = output.chunks_vectored(&mut slices);
                let all: Vec<u8> =
                    slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                prop_assert_eq!(all.len(), output.remaining());
                got.extend_from_slice(&all[..take]);
                output.advance(take);
            }
            got.extend_from_slice(&output.copy_to_bytes(output.remaining()));
            prop_assert!(got == expect, "{} bytes", got.len());
        }
    }
}
