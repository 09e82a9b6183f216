//! A random number's place in a range: how shares of connections are given out.

/// Maps `random`, uniform over all 64 bits, to `0..n` (0 if `n` is 0) by the upper half of a
/// product (Lemire 2019): each value is as likely as any other, to within `n` / 2^64.
pub fn scale(random: u64, n: u64) -> u64 {
    let product = u128::from(random) * u128::from(n);
    u64::try_from(product >> 64).expect("invariant: the upper half of 128 bits is 64 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stays_within_the_range(random: u64, n in 1_u64..) {
            prop_assert!(scale(random, n) < n);
        }
    }

    #[test]
    fn an_empty_range_is_zero() {
        assert_eq!(scale(u64::MAX, 0), 0);
    }
}
