//! Which requests are mirrored.

use crate::model::http::Mirror;
use crate::model::share::scale;

/// Whether the request that `random`, uniform over all 64 bits, was drawn for is copied.
///
/// The share is `numerator` / `denominator`, to within `denominator` / 2^64 (Gateway API,
/// `HTTPRequestMirrorFilter`: `percent`, `fraction`).
pub fn picks(mirror: &Mirror, random: u64) -> bool {
    scale(random, u64::from(mirror.denominator)) < u64::from(mirror.numerator)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::id::ResourceName;

    fn mirror(numerator: u32, denominator: u32) -> Mirror {
        Mirror { service: ResourceName::new("demo", "copy"), port: 80, numerator, denominator }
    }

    #[test]
    fn none_and_all_are_exact() {
        for random in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(!picks(&mirror(0, 100), random));
            assert!(picks(&mirror(100, 100), random));
            assert!(picks(&mirror(1, 1), random));
        }
    }

    proptest! {
        #[test]
        fn shares_are_exact(denominator in 1_u32..=1000, numerator in 0_u32..=1000) {
            let numerator = numerator.min(denominator);
            // One random number from the middle of each of `denominator` equal slices.
            let slice = u64::MAX / u64::from(denominator);
            let randoms = (0..u64::from(denominator)).map(|i| i * slice + slice / 2);
            let n_picked = randoms.filter(|random| picks(&mirror(numerator, denominator), *random));
            prop_assert_eq!(n_picked.count(), usize::try_from(numerator).unwrap());
        }
    }
}
