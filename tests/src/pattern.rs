//! Bytes that say where they belong, and a checksum that depends on their order.

use std::fmt;

/// A stream of bytes in which each depends on its position and on the stream's seed: a byte that is
/// lost, doubled, moved or taken from another stream is found.
#[derive(Clone, Debug)]
pub struct Pattern {
    seed: u64,
    at: u64,
}

impl Pattern {
    /// The stream from clients to servers.
    pub const UP: u64 = 1;

    /// The stream from servers to clients.
    pub const DOWN: u64 = 2;

    /// The stream of `seed`, from its beginning.
    pub const fn new(seed: u64) -> Self {
        Self { seed, at: 0 }
    }

    /// Writes the next bytes of the stream.
    pub fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            *byte = self.next_byte();
        }
    }

    /// Compares with the next bytes of the stream.
    ///
    /// # Errors
    ///
    /// The position in the stream of the first byte that differs.
    pub fn check(&mut self, bytes: &[u8]) -> Result<(), u64> {
        for &byte in bytes {
            let at = self.at;
            if byte != self.next_byte() {
                return Err(at);
            }
        }
        Ok(())
    }

    fn next_byte(&mut self) -> u8 {
        let [first, ..] =
            mix(self.at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.seed).to_le_bytes();
        self.at += 1;
        first
    }
}

/// One round of splitmix64's finalizer: neighboring inputs give unrelated outputs.
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 27)
}

/// FNV-1a with 64 bits (draft-eastlake-fnv-21, section 5): no protection against malice, enough
/// against mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// The digest of no bytes.
    pub const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The digest of the first `length` bytes of the stream of `seed`.
    pub fn of(seed: u64, length: u64) -> Self {
        let mut pattern = Pattern::new(seed);
        let mut digest = Self::EMPTY;
        for _ in 0..length {
            digest.update(&[pattern.next_byte()]);
        }
        digest
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the first 100 bytes of a stream, changed by `damage`, are found to differ.
    fn check(damage: impl FnOnce(&mut Vec<u8>), expect: Result<(), u64>) {
        let mut bytes = vec![0; 100];
        Pattern::new(Pattern::UP).fill(&mut bytes);
        damage(&mut bytes);
        assert_eq!(Pattern::new(Pattern::UP).check(&bytes), expect);
    }

    #[test]
    fn an_intact_stream_passes() {
        check(|_| {}, Ok(()));
    }

    #[test]
    fn loss_and_doubling_and_exchange_are_found() {
        check(|bytes| bytes.copy_within(41.., 40), Err(40));
        check(|bytes| bytes.insert(40, bytes[39]), Err(40));
        check(|bytes| bytes.swap(10, 11), Err(10));
    }

    #[test]
    fn the_streams_of_two_seeds_differ() {
        check(|bytes| Pattern::new(Pattern::DOWN).fill(bytes), Err(0));
        assert_ne!(Digest::of(Pattern::UP, 100), Digest::of(Pattern::DOWN, 100));
    }

    #[test]
    fn the_digest_is_fnv_1a() {
        let mut digest = Digest::EMPTY;
        digest.update(b"a");
        assert_eq!(digest.to_string(), "af63dc4c8601ec8c");
    }
}
