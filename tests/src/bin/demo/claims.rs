//! Claims of the demo, and whether they hold.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use mesh_tests::report::Totals;
use serde_json::{Value, json};

use crate::outcome::Outcome;
use crate::screen::Screen;
use crate::world::{ECHO, Split, TRUST_DOMAIN};

/// How far an observed share may be from the configured one.
///
/// The standard deviation of 2,000 fair choices is 0.0112: this is 4.4 of them, which chance
/// exceeds once in 100,000 runs.
const TOLERANCE: f64 = 0.05;

/// The observations.
#[derive(Debug)]
pub(crate) struct Claims {
    /// With the first split.
    pub before: (Split, Totals),
    /// With the second.
    pub after: (Split, Totals),
    /// While the file was replaced.
    pub reload: Totals,
    /// The client's pod.
    pub client: IpAddr,
    /// The server's address of the client.
    pub source: SocketAddr,
    /// The client's address of the server.
    pub peername: SocketAddr,
    /// The peers that each side's agent says it talked to.
    pub identities: Identities,
    /// The result of the delivery of the shop's second version.
    pub delivery: Outcome,
    /// Whether the secret was seen between the nodes without the mesh: the capture works.
    pub control: bool,
    /// The bytes on the wire with it.
    pub wire: OnWire,
    /// How long everything took.
    pub seconds: f64,
}

/// The peers that each side's agent says it talked to.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    pub client_saw: Option<String>,
    pub server_saw: Option<String>,
}

/// The bytes on the wire between the nodes.
#[derive(Debug)]
pub(crate) struct OnWire {
    /// TLS records to and from the mesh's port.
    pub records: u64,
    /// Frames of all kinds.
    pub frames: u64,
    /// Why it is not all TLS.
    pub plaintext: Option<String>,
}

/// One claim.
#[derive(Debug)]
pub(crate) struct Claim {
    pub holds: bool,
    pub what: &'static str,
    pub seen: String,
}

impl Claims {
    /// Whether all of them hold.
    pub(crate) fn hold(&self) -> bool {
        self.all().iter().all(|claim| claim.holds)
    }

    /// Prints the table.
    pub(crate) fn show(&self, screen: &Screen) {
        screen.line("");
        screen.line(&format!("  {}", screen.bold("Claims, and what was seen")));
        screen.line("");
        for Claim { holds, what, seen } in self.all() {
            let mark = if holds { screen.green("✓") } else { screen.red("✗") };
            screen.line(&format!("  {mark} {what:<44} {seen}"));
        }
        screen.line("");
        let verdict = if self.hold() {
            screen.green("every claim holds")
        } else {
            screen.red("a claim does not hold")
        };
        screen.line(&format!("  {verdict} {}", screen.dim(&format!("({:.1} s)", self.seconds))));
    }

    /// The same for machines.
    pub(crate) fn json(&self) -> Value {
        json!({
            "split": split(&self.before),
            "split_after": split(&self.after),
            "requests": self.requests(),
            "failed": self.failed(),
            "reload_failures": self.reload.failed,
            "plaintext_on_wire": self.wire.plaintext.is_some(),
            "plaintext_without_mesh": self.control,
            "tls_records": self.wire.records,
            "identities": {
                "client_saw": self.identities.client_saw,
                "server_saw": self.identities.server_saw,
            },
            "source_address": self.source.ip().to_canonical(),
            "source_address_preserved": self.source_preserved(),
            "getpeername": self.peername,
            "getpeername_preserved": self.peername == ECHO,
            "delivery": self.delivery.json(),
            "seconds": (self.seconds * 100.0).round() / 100.0,
        })
    }

    fn requests(&self) -> u64 {
        self.before.1.connections + self.reload.connections + self.after.1.connections
    }

    fn failed(&self) -> u64 {
        self.before.1.failed + self.reload.failed + self.after.1.failed
    }

    fn source_preserved(&self) -> bool {
        self.source.ip().to_canonical() == self.client
    }

    fn all(&self) -> Vec<Claim> {
        let (client_saw, server_saw) = (&self.identities.client_saw, &self.identities.server_saw);
        let identity =
            |seen: &Option<String>, account: &str| seen.as_deref() == Some(&spiffe(account));
        let words = |seen: &Option<String>| seen.as_deref().unwrap_or("nobody").to_owned();
        let wire = match &self.wire.plaintext {
            None => format!("{} records in {} frames", self.wire.records, self.wire.frames),
            Some(problem) => problem.clone(),
        };
        let mut claims = vec![
            share_claim("the first split is kept", &self.before),
            share_claim("the second split is kept", &self.after),
            Claim {
                holds: self.failed() == 0 && self.requests() > 0,
                what: "no connection fails",
                seen: format!("{} of {}{}", self.failed(), self.requests(), self.errors()),
            },
            Claim {
                holds: self.reload.failed == 0 && self.reload.connections > 0,
                what: "none while the file is replaced",
                seen: format!("{} of {}", self.reload.failed, self.reload.connections),
            },
            Claim {
                holds: self.control,
                what: "without the mesh the secret can be read",
                seen: if self.control { "seen on the wire" } else { "not seen" }.to_owned(),
            },
            Claim {
                holds: self.wire.plaintext.is_none() && self.wire.records > 0,
                what: "with it everything between nodes is TLS",
                seen: wire,
            },
            Claim {
                holds: identity(client_saw, "echo"),
                what: "the client's side knows the server",
                seen: words(client_saw),
            },
            Claim {
                holds: identity(server_saw, "frontend"),
                what: "the server's side knows the client",
                seen: words(server_saw),
            },
            Claim {
                holds: self.source_preserved(),
                what: "the server sees the client's address",
                seen: instead_of(self.source.ip().to_canonical(), self.client),
            },
            Claim {
                holds: self.peername == ECHO,
                what: "the client sees the service's address",
                seen: instead_of(self.peername, ECHO),
            },
        ];
        claims.extend(self.delivery.claims());
        claims
    }

    fn errors(&self) -> String {
        let all = [&self.before.1, &self.reload, &self.after.1];
        let errors = all.iter().flat_map(|totals| &totals.errors);
        let errors: Vec<_> = errors.map(|(error, count)| format!(", {count} × {error}")).collect();
        errors.concat()
    }
}

/// The identity of a service account of the demo.
pub(crate) fn spiffe(account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/demo/sa/{account}")
}

/// The observation, and the expectation.
fn instead_of<T: PartialEq + Display>(seen: T, expect: T) -> String {
    if seen == expect { seen.to_string() } else { format!("{seen} instead of {expect}") }
}

fn configured((v1, v2): Split) -> [(&'static str, f64); 2] {
    let sum = f64::from(v1 + v2);
    [("v1", f64::from(v1) / sum), ("v2", f64::from(v2) / sum)]
}

fn share_claim(what: &'static str, (split, totals): &(Split, Totals)) -> Claim {
    let shares = configured(*split);
    let near =
        shares.iter().all(|(version, share)| (totals.share(version) - share).abs() <= TOLERANCE);
    let seen = shares.map(|(version, share)| {
        format!("{version} {:.1} % of {:.0} %", totals.share(version) * 100.0, share * 100.0)
    });
    Claim { holds: near && totals.connections > 0, what, seen: seen.join(", ") }
}

fn split((split, totals): &(Split, Totals)) -> Value {
    let shares = configured(*split).map(|(version, share)| {
        let observed = (totals.share(version) * 10_000.0).round() / 10_000.0;
        (version.to_owned(), json!({ "configured": share, "observed": observed }))
    });
    Value::Object(shares.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome;

    fn totals(v1: u64, v2: u64, failed: u64) -> Totals {
        let versions = [("v1".to_owned(), v1), ("v2".to_owned(), v2)].into();
        Totals { connections: v1 + v2 + failed, failed, versions, ..Totals::default() }
    }

    /// Good claims, changed by `damage`: do they hold?
    fn check(damage: impl FnOnce(&mut Claims), expect: bool) {
        let mut claims = Claims {
            before: ((90, 10), totals(902, 98, 0)),
            after: ((50, 50), totals(490, 510, 0)),
            reload: totals(60, 40, 0),
            client: "10.1.0.10".parse().unwrap(),
            source: "[::ffff:10.1.0.10]:4711".parse().unwrap(),
            peername: ECHO,
            identities: Identities {
                client_saw: Some(spiffe("echo")),
                server_saw: Some(spiffe("frontend")),
            },
            delivery: outcome::tests::good(),
            control: true,
            wire: OnWire { records: 5, frames: 9, plaintext: None },
            seconds: 1.0,
        };
        damage(&mut claims);
        assert_eq!(claims.hold(), expect, "{}", claims.json());
    }

    #[test]
    fn all_must_hold() {
        check(|_| {}, true);
        check(|claims| claims.before.1 = totals(500, 500, 0), false);
        check(|claims| claims.after.1 = totals(1000, 0, 0), false);
        check(|claims| claims.after.1 = totals(0, 0, 0), false);
        check(|claims| claims.before.1 = totals(900, 100, 1), false);
        check(|claims| claims.reload = totals(60, 40, 1), false);
        check(|claims| claims.reload = totals(0, 0, 0), false);
        check(|claims| claims.source = "10.2.0.1:1".parse().unwrap(), false);
        check(|claims| claims.peername = "127.0.0.1:15001".parse().unwrap(), false);
        check(|claims| claims.identities.server_saw = None, false);
        check(|claims| claims.identities.client_saw = Some(spiffe("frontend")), false);
        check(|claims| claims.delivery.untested = 1, false);
        check(|claims| claims.control = false, false);
        check(|claims| claims.wire.plaintext = Some("the secret".to_owned()), false);
        check(|claims| claims.wire.records = 0, false);
    }
}
