//! Weights: which backend of a split a connection goes to (pure).

use crate::model::share::scale;
use crate::model::snapshot::Backend;

/// The backend that `random`, uniform over all 64 bits, falls on, with its place in `backends`.
///
/// The shares lie in the order of `backends`, the first at 0.
/// Each backend's share is its weight / the sum of weights, to within sum / 2^64: less than 2^-32
/// for up to 4,294 backends of the largest weight (1,000,000). `None` if all weights are zero.
/// A backend that does not exist is picked like any other: the caller refuses its share.
pub fn pick(backends: &[Backend], random: u64) -> Option<(usize, &Backend)> {
    let sum = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut point = scale(random, sum);
    backends.iter().enumerate().find(|(_, backend)| {
        let weight = u64::from(backend.weight);
        let hit = point < weight;
        point = point.saturating_sub(weight);
        hit
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::id::ResourceName;
    use crate::model::snapshot::Endpoints;

    fn backends(weights: &[u32]) -> Vec<Backend> {
        let backend = |(index, weight): (usize, &u32)| Backend {
            service: ResourceName::new("demo", format!("v{index}")),
            port: 80,
            weight: *weight,
            endpoints: Endpoints::Invalid,
        };
        weights.iter().enumerate().map(backend).collect()
    }

    fn index(backends: &[Backend], random: u64) -> Option<usize> {
        let (index, picked) = pick(backends, random)?;
        assert!(std::ptr::eq(picked, &raw const backends[index]));
        Some(index)
    }

    #[test]
    fn nothing_is_picked_without_weight() {
        for weights in [&[][..], &[0], &[0, 0]] {
            assert_eq!(pick(&backends(weights), u64::MAX), None);
        }
    }

    #[test]
    fn shares_begin_and_end_where_the_weights_say() {
        let backends = backends(&[0, 90, 0, 10, 0]);
        // The first random number of the second share: 2^64 × 90 / 100, rounded up.
        let edge = u64::try_from((u128::from(u64::MAX) + 1) * 90 / 100 + 1).unwrap();
        let check = |random, expect| assert_eq!(index(&backends, random), Some(expect), "{random}");
        check(0, 1);
        check(edge - 1, 1);
        check(edge, 3);
        check(u64::MAX, 3);
    }

    proptest! {
        #[test]
        fn weights_are_met_exactly(weights in prop::collection::vec(0u32..=50, 1..8)) {
            let backends = backends(&weights);
            let sum: u32 = weights.iter().sum();
            prop_assume!(sum > 0);
            // One random number from the middle of each of `sum` equal slices of the range.
            let slice = u64::MAX / u64::from(sum);
            let mut counts = vec![0u32; weights.len()];
            for i in 0..u64::from(sum) {
                counts[index(&backends, i * slice + slice / 2).unwrap()] += 1;
            }
            prop_assert_eq!(counts, weights);
        }

        #[test]
        fn a_backend_of_weight_zero_is_never_picked(
            weights in prop::collection::vec(prop_oneof![Just(0u32), 0u32..=1_000_000], 0..20),
            random: u64,
        ) {
            let backends = backends(&weights);
            match pick(&backends, random) {
                Some((_, backend)) => prop_assert!(backend.weight > 0),
                None => prop_assert!(weights.iter().all(|weight| *weight == 0)),
            }
        }
    }
}
