//! Clients that stay with the endpoint that they had first (GEP-1619).

use mesh_tests::expect::eventually;
use mesh_tests::http::{Answer, Ask};
use mesh_tests::process::DEADLINE;

use super::suite::{Suite, To, route};

/// New clients whose shares are looked at.
const NEW: u64 = 400;

/// How a client carries its session.
#[derive(Clone, Copy, Debug)]
enum By {
    Cookie,
    Header,
}

impl By {
    /// The name of the cookie or the header.
    const NAME: &str = "x-session";

    /// A rule that divides new clients between the two versions by weight.
    fn rule(self, v1: u32, v2: u32) -> String {
        self.rule_to(&format!(
            "{{name: echo-v1, port: 8080, weight: {v1}}}, {{name: echo-v2, port: 8080, weight: {v2}}}"
        ))
    }

    fn rule_to(self, backends: &str) -> String {
        route(&format!(
            "
  - backendRefs: [{backends}]
    sessionPersistence: {{type: {self:?}, sessionName: {}}}",
            Self::NAME
        ))
    }

    /// The fields that an answer tells the client to send from now on.
    fn told(self, answer: &Answer) -> Option<String> {
        match self {
            Self::Header => answer.header(Self::NAME).map(str::to_owned),
            Self::Cookie => {
                let pair = answer.header("set-cookie")?.split(';').next()?;
                Some(pair.strip_prefix(Self::NAME)?.strip_prefix('=')?.to_owned())
            }
        }
    }

    /// A request of a client that was told `session`.
    fn with(self, session: &str) -> Ask {
        match self {
            Self::Header => Ask::get("/").header(Self::NAME, session),
            Self::Cookie => {
                Ask::get("/").header("Cookie", &format!("a=b; {}={session}; c=d", Self::NAME))
            }
        }
    }
}

/// A client's first request, which `server` answers.
#[track_caller]
fn begin(suite: &Suite, by: By, server: &str) -> String {
    let answer = suite.ask(To::Echo.at(80), &Ask::get("/"));
    assert_eq!((answer.status, answer.server()), (200, Some(server)), "{answer:?}");
    by.told(&answer).unwrap_or_else(|| panic!("{by:?}: no session in {answer:?}"))
}

/// Checks that all requests of a client are answered by `server`, whatever speaks HTTP how on how many
/// connections, and that the client is told nothing else meanwhile.
#[track_caller]
fn stays(suite: &Suite, by: By, session: &str, server: &str) {
    let ask = by.with(session).times(10, 2);
    for answer in suite.all(To::Echo.at(80), &[ask.clone().fresh(), ask.clone(), ask.http2()]) {
        assert_eq!((answer.status, answer.server()), (200, Some(server)), "{by:?}: {answer:?}");
        assert_eq!(by.told(&answer), None, "{by:?}: {answer:?}");
    }
}

/// Replaces the rule, and waits until new clients come to `server`.
fn move_to(suite: &Suite, rule: &str, server: &str) {
    suite.write(&[rule.to_owned()]);
    eventually(&format!("new clients to come to {server}"), DEADLINE, || {
        let tally = suite.tally(To::Echo.at(80), &Ask::get("/").times(10, 1));
        assert_eq!((tally.errors.len(), tally.statuses.get(&200)), (0, Some(&10)), "{tally:?}");
        (tally.servers.get(server) == Some(&10)).then_some(())
    })
    .unwrap();
}

#[test]
fn a_client_stays_while_weights_move() {
    for by in [By::Cookie, By::Header] {
        let suite = Suite::start(&[by.rule(1, 0)]);
        let session = begin(&suite, by, "echo-v1");
        stays(&suite, by, &session, "echo-v1");
        // Ten of a million go to the first version: no new client of this test.
        move_to(&suite, &by.rule(10, 999_990), "echo-v2");
        stays(&suite, by, &session, "echo-v1");
        let other = begin(&suite, by, "echo-v2");
        stays(&suite, by, &other, "echo-v2");
        move_to(&suite, &by.rule(999_990, 10), "echo-v1");
        stays(&suite, by, &other, "echo-v2");
        stays(&suite, by, &session, "echo-v1");
    }
}

#[test]
fn a_client_stays_when_nobody_new_comes() {
    for by in [By::Cookie, By::Header] {
        let suite = Suite::start(&[by.rule(1, 0)]);
        let session = begin(&suite, by, "echo-v1");
        move_to(&suite, &by.rule(0, 1), "echo-v2");
        stays(&suite, by, &session, "echo-v1");
    }
}

#[test]
fn new_clients_are_spread_by_weight() {
    for by in [By::Cookie, By::Header] {
        let suite = Suite::start(&[by.rule(30, 70)]);
        let answers = suite.all(To::Echo.at(80), &[Ask::get("/").times(NEW, 8).fresh()]);
        let mut first = 0;
        for answer in &answers {
            assert_eq!((answer.status, &answer.error), (200, &None));
            assert!(by.told(answer).is_some(), "{by:?}: {answer:?}");
            first += u32::from(answer.server() == Some("echo-v1"));
        }
        // Five standard deviations from 120 of 400, of 9.2 each.
        assert!((74..=166).contains(&first), "{by:?}: {first} of {NEW}");
        // And each of them comes back to where it was.
        for answer in answers.iter().step_by(40) {
            let back = suite.ask(To::Echo.at(80), &by.with(&by.told(answer).unwrap()));
            assert_eq!(back.server(), answer.server(), "{by:?}: {back:?}");
        }
    }
}

#[test]
fn a_session_that_was_tampered_with_is_a_new_one() {
    for by in [By::Cookie, By::Header] {
        let suite = Suite::start(&[by.rule(50, 50)]);
        let answer = suite.ask(To::Echo.at(80), &Ask::get("/"));
        let good = by.told(&answer).unwrap();
        let (times, endpoint) = good.rsplit_once('_').unwrap();
        let tampered = [
            String::new(),
            "anything".to_owned(),
            "___".to_owned(),
            "../../etc/passwd".to_owned(),
            "\u{e9}\u{20ac}".to_owned(),
            "x".repeat(4096),
            // Nobody's endpoint, a port that is not the service's, and the agent's own.
            format!("{times}_10.99.99.99:8080"),
            format!("{times}_{}", endpoint.replace(":8080", ":22")),
            format!("{times}_127.0.0.1:15000"),
            format!("{times}_{endpoint}0"),
            format!("{times}{times}_{endpoint}"),
            endpoint.to_owned(),
            good.chars().rev().collect(),
        ];
        for session in &tampered {
            for ask in [by.with(session), by.with(session).http2()] {
                let answer = suite.ask(To::Echo.at(80), &ask);
                assert_eq!((answer.status, &answer.error), (200, &None), "{by:?} {session:?}");
                let fresh = by.told(&answer);
                let fresh = fresh.unwrap_or_else(|| panic!("{by:?} {session:?}: {answer:?}"));
                let back = suite.ask(To::Echo.at(80), &by.with(&fresh));
                assert_eq!(back.server(), answer.server(), "{by:?} {session:?}");
            }
        }
    }
}

#[test]
fn a_client_whose_backend_was_removed_gets_another() {
    for by in [By::Cookie, By::Header] {
        let suite = Suite::start(&[by.rule(1, 0)]);
        let session = begin(&suite, by, "echo-v1");
        move_to(&suite, &by.rule_to("{name: echo-v2, port: 8080}"), "echo-v2");
        let answer = suite.ask(To::Echo.at(80), &by.with(&session));
        assert_eq!((answer.status, answer.server()), (200, Some("echo-v2")), "{by:?}");
        stays(&suite, by, &by.told(&answer).unwrap(), "echo-v2");
    }
}
