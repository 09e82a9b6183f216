//! Users that stay with one version while weights move.

use std::collections::BTreeMap;

use mesh_tests::expect::eventually;
use mesh_tests::http::Ask;
use mesh_tests::process::DEADLINE;

use super::suite::{Suite, To, route};

const USERS: u32 = 200;

/// Both versions with these weights, by user.
fn weighted(by: &str, weights: [u32; 2]) -> String {
    let [v1, v2] = weights;
    let rules = format!(
        "  - backendRefs:
    - {{name: echo-v1, port: 8080, weight: {v1}}}
    - {{name: echo-v2, port: 8080, weight: {v2}}}"
    );
    let annotated = format!("metadata: {{annotations: {{nodemesh.dev/split-by: '{by}'}}, ");
    route(&rules).replacen("metadata: {", &annotated, 1)
}

/// Which version each user gets, whoever asks in which version of HTTP on which connection; `None`: one
/// gets both, as may be while the weights move.
#[track_caller]
fn versions(
    suite: &Suite,
    with: impl Fn(u32) -> (&'static str, String),
) -> Option<BTreeMap<u32, String>> {
    let asks = (0..USERS).flat_map(|user| {
        let (name, value) = with(user);
        let ask = Ask::get("/").header(name, &value);
        [ask.clone(), ask.clone().fresh(), ask.http2()]
    });
    // They are arguments of the client, which the kernel bounds.
    let asks: Vec<_> = asks.collect();
    let asked = asks.chunks(150).flat_map(|some| suite.all(To::Echo.at(80), some));
    let answers: Vec<_> = asked.collect();
    let mut of = BTreeMap::new();
    for (place, answer) in (0..).zip(&answers) {
        let server = answer.server().unwrap_or_else(|| panic!("{answer:?}")).to_owned();
        if *of.entry(place / 3).or_insert_with(|| server.clone()) != server {
            return None;
        }
    }
    Some(of)
}

#[track_caller]
fn stays(by: &str, with: impl Fn(u32) -> (&'static str, String) + Copy) {
    let suite = Suite::start(&[weighted(by, [90, 10])]);
    let mut before = versions(&suite, with).expect("nothing moves");
    for (weights, least, most) in [([50, 50], 65, 135), ([20, 80], 132, 188), ([0, 1], 200, 200)] {
        suite.write(&[weighted(by, weights)]);
        let after = eventually("the weights to move", DEADLINE, || {
            // The split that was read while the weights moved is read again.
            let now = versions(&suite, with).filter(|now| *now != before)?;
            (versions(&suite, with).as_ref() == Some(&now)).then_some(now)
        });
        let after = after.unwrap();
        for (user, version) in &before {
            // Those that had the second version still have it.
            assert!(version == "echo-v1" || after[user] == "echo-v2", "user {user}");
        }
        // Five standard deviations.
        let count = after.values().filter(|version| *version == "echo-v2").count();
        assert!((least..=most).contains(&count), "{weights:?}: {count} of {USERS}");
        before = after;
    }
}

#[test]
fn a_user_known_by_a_header_stays_while_weights_move() {
    stays("header:X-User", |user| ("x-user", format!("user-{user}")));
}

#[test]
fn a_user_known_by_a_cookie_stays_while_weights_move() {
    stays("cookie:user", |user| ("cookie", format!("a=b; user=user-{user}; c=d")));
}

#[test]
fn who_is_not_known_is_split_request_by_request() {
    let suite = Suite::start(&[weighted("header:X-User", [50, 50])]);
    let tally = suite.tally(To::Echo.at(80), &Ask::get("/").times(400, 4));
    // Five standard deviations of 400 halves are 50.
    assert!(tally.servers.values().all(|count| (150..=250).contains(count)), "{tally:?}");
}
