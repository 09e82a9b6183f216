//! Tables by the number of a stream.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table by the number of a stream.
pub(super) type ByNumber<T> = HashMap<u32, T, BuildHasherDefault<Number>>;

/// Spreads numbers that follow each other. They are given in order, without a hole, so that a peer
/// cannot choose those that fall together, which is what the standard library's hasher is for, at
/// ten times the cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Number(u64);

impl Hasher for Number {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32((*byte).into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        // 2^64 / the golden ratio (Knuth, TAOCP 3, 6.4); the upper half is the better one, and the
        // table takes its place from the lower bits and a tag from the uppermost.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_apart() {
        let of = |number: u32| {
            let mut hasher = Number::default();
            hasher.write_u32(number);
            hasher.finish()
        };
        for mask in [0x3ff, 0x3ff << 54] {
            let mut places: Vec<u64> = (5_000..6_024).map(|number| of(number) & mask).collect();
            places.sort_unstable();
            places.dedup();
            // As many as random numbers would take: 1 - 1/e of the places.
            assert!(places.len() > 647, "{} of 1,024 places", places.len());
        }
    }
}
