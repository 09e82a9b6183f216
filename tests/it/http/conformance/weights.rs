//! Shares of the backends of a rule.

use mesh_tests::http::{Ask, Tally};

use crate::http::suite::{GRPC, Suite, To, grpc_route, route};

/// Requests whose shares are looked at.
const COUNT: u64 = 500;

/// How far a share may be off.
const BOUND: f64 = 0.05;

/// How often it is tried: that all ten are off by chance happens once in 10^18 times.
const TRIES: u32 = 10;

/// Checks that 70 % of the requests are answered by `echo-v1`, and the rest by `echo-v2`.
#[track_caller]
fn check(suite: &Suite, port: u16, ask: Ask) {
    let ask = ask.times(COUNT, 10);
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let tally = suite.tally(To::Echo.at(port), &ask);
        assert_eq!(tally.errors.len(), 0, "{tally:?}");
        assert_eq!(tally.statuses.get(&200), Some(&COUNT), "{tally:?}");
        if is_fair(&tally) {
            return;
        }
        seen.push(tally.servers);
    }
    panic!("{seen:?}");
}

fn is_fair(tally: &Tally) -> bool {
    let share = |server: &str| {
        let count = tally.servers.get(server).copied().unwrap_or_default();
        f64::from(u32::try_from(count).unwrap()) / f64::from(u32::try_from(COUNT).unwrap())
    };
    (share("echo-v1") - 0.7).abs() <= BOUND && (share("echo-v2") - 0.3).abs() <= BOUND
}

pub(super) fn mesh_http_route_weight() {
    let suite = Suite::start(&[route(
        "
  - backendRefs:
    - {name: echo-v1, port: 8080, weight: 70}
    - {name: echo-v2, port: 8080, weight: 30}",
    )]);
    check(&suite, 80, Ask::get("/"));
}

pub(super) fn mesh_grpc_route_weight() {
    let suite = Suite::start(&[grpc_route(
        "
  - backendRefs:
    - {name: echo-v1, port: 7070, weight: 70}
    - {name: echo-v2, port: 7070, weight: 30}
    - {name: echo-v3, port: 7070, weight: 0}",
    )]);
    let ask = Ask::grpc("/proto.EchoTestService/Echo", "hello");
    let answer = suite.ask(To::Echo.at(GRPC), &ask);
    assert_eq!((answer.grpc_status(), answer.error.as_deref()), (Some("0"), None));
    check(&suite, GRPC, ask);
}
