//! Slices that are written together.

use std::io::IoSlice;

use bytes::Buf;

/// Slices as one buffer.
pub(super) struct Pieces<'a, 'b> {
    data: &'a [IoSlice<'b>],
    skip: usize,
}

impl<'a, 'b> Pieces<'a, 'b> {
    /// All of `data`.
    pub(super) const fn new(data: &'a [IoSlice<'b>]) -> Self {
        Self { data, skip: 0 }
    }

    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.skip;
        let rest = self.data.iter().filter_map(move |slice| {
            let from = skip.min(slice.len());
            skip -= from;
            slice.get(from..)
        });
        rest.filter(|slice| !slice.is_empty())
    }
}

impl Buf for Pieces<'_, '_> {
    fn remaining(&self) -> usize {
        self.slices().map(<[u8]>::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.slices().next().unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = self.slices().zip(slices);
        filled.map(|(piece, slice)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, count: usize) {
        self.skip += count;
    }
}
