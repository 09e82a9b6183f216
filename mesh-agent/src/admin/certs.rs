//! `/certs`: the certificates in use, for `mesh-agent certs` and for scripts.

use std::time::SystemTime;

use serde::Serialize;

use crate::admin::{CertificateInfo, CertificateSummary, Certificates};
use crate::telemetry::rfc3339;

/// `/certs`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report<'a> {
    authority: Authority<'a>,
    certificates: Vec<Held<'a>>,
    roots: Vec<Item<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Authority<'a> {
    kind: &'a str,
    trust_domain: &'a str,
    /// When what signs on this node expires; `null`: another process signs.
    expires: Option<String>,
    seconds_left: Option<u64>,
    renewals: u64,
    failures: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Held<'a> {
    identity: String,
    #[serde(flatten)]
    leaf: Option<Item<'a>>,
    /// In how many seconds the next one is made; 0: it is being tried.
    renews_in_seconds: u64,
    /// Certificates between it and the root.
    issuers: Vec<Item<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    name: &'a str,
    serial_number: &'a str,
    valid_from: String,
    expires: String,
    seconds_left: u64,
}

/// The certificates at `now`.
pub(super) fn report(certificates: &Certificates, now: SystemTime) -> Report<'_> {
    let authority = &certificates.authority;
    Report {
        authority: Authority {
            kind: authority.kind,
            trust_domain: &authority.trust_domain,
            expires: authority.valid.map(|(_from, to)| rfc3339(to)),
            seconds_left: authority.valid.map(|(_from, to)| seconds(now, to)),
            renewals: authority.renewals,
            failures: authority.failures,
        },
        certificates: certificates.held.iter().map(|held| held_item(held, now)).collect(),
        roots: certificates.roots.iter().map(|root| item(root, now)).collect(),
    }
}

fn held_item(held: &CertificateSummary, now: SystemTime) -> Held<'_> {
    let mut chain = held.chain.iter().map(|info| item(info, now));
    Held {
        identity: held.identity.to_string(),
        leaf: chain.next(),
        renews_in_seconds: seconds(now, held.renews),
        issuers: chain.collect(),
    }
}

fn item(info: &CertificateInfo, now: SystemTime) -> Item<'_> {
    Item {
        name: &info.name,
        serial_number: &info.serial_number,
        valid_from: rfc3339(info.valid_from),
        expires: rfc3339(info.expires),
        seconds_left: seconds(now, info.expires),
    }
}

/// From `now` to `to`, in whole seconds; 0 if that is over.
fn seconds(now: SystemTime, to: SystemTime) -> u64 {
    to.duration_since(now).map_or(0, |left| left.as_secs())
}
