//! Which of a rule's backends a request goes to.

use http::header::COOKIE;

use crate::model::fnv::fnv_1a;
use crate::model::http::SplitBy;
use crate::model::http::rules::HttpRule;
use crate::model::snapshot::Backend;
use crate::route::http::cookie;
use crate::route::http::fields::Fields;
use crate::route::split;

/// The backend that `random`, uniform over all 64 bits, falls on, with its place in
/// [`HttpRule::backends`]; see [`split::pick`]. `None` if all weights are zero or there is none:
/// 500 (Gateway API, `backendRefs`).
pub fn backend(rule: &HttpRule, random: u64) -> Option<(usize, &Backend)> {
    split::pick(&rule.backends, random)
}

/// A number to be used as [`backend`]'s `random`, so that all requests with one key, such as a
/// user, go to one backend, while the keys as a whole are spread as the weights say.
///
/// FNV-1a of the key, 64 bits, and the finalizer of `MurmurHash3` after it, without which the upper
/// bits of short keys, the ones that decide, are much alike. The same everywhere and in every
/// version: clients stay where they are when an agent starts anew or is another node's.
/// Not secret: a client that chooses its key chooses its backend.
///
/// When weight moves from one backend to the next in order, only keys of the first move, and only
/// to the second.
fn sticky(key: &[u8]) -> u64 {
    let mut hash = fnv_1a(key);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Where a request falls among the shares of a rule's backends: at `random`, or where its user always
/// does. A user is somewhere else in every route, so that one experiment says nothing about another.
pub fn place(rule: &HttpRule, fields: &dyn Fields, random: u64) -> u64 {
    let known = rule.rule.split_by.as_ref().and_then(|by| {
        let value = match by {
            SplitBy::Header(name) => fields.joined(name)?.into_owned(),
            SplitBy::Cookie(name) => cookie::find(&fields.joined(&COOKIE)?, name)?.to_vec(),
        };
        let route = rule.route.to_string();
        // No name of a route has a zero.
        Some(sticky(&[route.as_bytes(), &[0], &value].concat()))
    });
    known.unwrap_or(random)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::sync::Arc;

    use super::*;
    use crate::model::http::Rule;
    use crate::model::id::ResourceName;
    use crate::model::snapshot::Endpoints;
    use crate::route::http::tests::rule;

    fn weighted(weights: &[u32]) -> HttpRule {
        let backend = |(index, weight): (usize, &u32)| Backend {
            service: ResourceName::new("demo", format!("v{index}")),
            port: 80,
            weight: *weight,
            endpoints: Endpoints::Invalid,
        };
        HttpRule { backends: weights.iter().enumerate().map(backend).collect(), ..rule(Vec::new()) }
    }

    fn index(rule: &HttpRule, random: u64) -> Option<usize> {
        backend(rule, random).map(|(index, _)| index)
    }

    #[test]
    fn weights_are_shares() {
        let rule = weighted(&[70, 30, 0]);
        assert_eq!(index(&rule, 0), Some(0));
        assert_eq!(index(&rule, u64::MAX / 10 * 7 - 1), Some(0));
        assert_eq!(index(&rule, u64::MAX / 10 * 7 + 9), Some(1));
        assert_eq!(index(&rule, u64::MAX), Some(1));
        assert_eq!(index(&weighted(&[]), 0), None);
        assert_eq!(index(&weighted(&[0, 0]), 0), None);
    }

    #[test]
    fn a_user_has_a_place_in_each_route() {
        let by = |by: SplitBy| {
            let rule = weighted(&[1, 1]);
            let plain = Rule { split_by: Some(by), ..Rule::clone(&rule.rule) };
            HttpRule { rule: Arc::new(plain), ..rule }
        };
        let fields = |fields: &[(&'static str, &'static str)]| {
            let mut all = http::HeaderMap::new();
            for (name, value) in fields {
                all.append(*name, http::HeaderValue::from_static(value));
            }
            all
        };
        let user = fields(&[("cookie", "a=b"), ("cookie", "user=u1"), ("x-user", "u1")]);
        let (header, cookie) =
            (by(SplitBy::Header("x-user".parse().unwrap())), by(SplitBy::Cookie("user".into())));
        let at = place(&header, &user, 7);
        assert_eq!((at, place(&header, &user, 8)), (sticky(b"demo/route\0u1"), at));
        assert_eq!(place(&cookie, &user, 7), at);
        let elsewhere = Arc::new(ResourceName::new("demo", "other"));
        assert_ne!(
            place(&HttpRule { route: elsewhere, ..by(SplitBy::Cookie("user".into())) }, &user, 7),
            at
        );
        // A user who is not known is anywhere.
        assert_eq!(place(&header, &fields(&[("cookie", "user=u1")]), 7), 7);
        assert_eq!(place(&cookie, &fields(&[("x-user", "u1")]), 7), 7);
        assert_eq!(place(&weighted(&[1]), &user, 7), 7);
    }

    /// Numbers that a version of the agent must not change: users would move.
    #[test]
    fn sticky_numbers_stay() {
        assert_eq!(sticky(b""), 0xefd0_1f60_ba99_2926);
        assert_eq!(sticky(b"a"), 0x82a2_a958_a9be_ce5b);
        assert_eq!(sticky(b"user-1"), 0x41a2_fca5_c684_01c5);
    }

    #[test]
    fn users_are_spread_as_the_weights_say() {
        let rule = weighted(&[70, 30]);
        let users = (0..10_000).map(|i| format!("user-{i}"));
        let n_first = users.filter(|user| index(&rule, sticky(user.as_bytes())) == Some(0)).count();
        // Within three standard deviations: √(10,000 × 0.7 × 0.3) = 46.
        assert!(n_first.abs_diff(7000) < 138, "{n_first}");
    }

    proptest! {
        #[test]
        fn only_those_move_that_must(
            key: Vec<u8>,
            before in (1_u32..=1_000_000, 0_u32..=1_000_000),
            after in (0_u32..=1_000_000, 1_u32..=1_000_000),
        ) {
            // The share of the second grows: a / (a + b) falls.
            let share = |(a, b): (u32, u32)| u64::from(a) * u64::from(b);
            let ((a, b), (c, d)) = (before, after);
            prop_assume!(share((c, b)) <= share((a, d)));
            let random = sticky(&key);
            let from = index(&weighted(&[a, b]), random);
            let to = index(&weighted(&[c, d]), random);
            prop_assert!(from <= to, "{:?} to {:?}", from, to);
        }
    }
}
