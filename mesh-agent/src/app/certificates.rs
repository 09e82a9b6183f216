//! Reports of the certificates in use, for the admin server and the metrics.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::admin::{AuthoritySummary, CertificateInfo, CertificateSummary, Certificates};
use crate::identity::{Identities, LOW, describe};
use crate::telemetry::CertificateCounters;

/// For the metrics.
pub(super) fn counters(identities: &Identities, now: SystemTime) -> CertificateCounters {
    let held = identities.summary();
    let authority = identities.authority_life();
    let mut below = Vec::new();
    for (percent, label) in LOW.into_iter().zip(["50", "25", "10"]) {
        let is_low = |left: f64| left * 100.0 < f64::from(percent);
        let leaves = held.iter().filter(|held| is_low(held.life().left(now))).count();
        below.push(("workload", label, u64::try_from(leaves).unwrap_or(u64::MAX)));
        if let Some(life) = authority {
            below.push(("authority", label, is_low(life.left(now)).into()));
        }
    }
    CertificateCounters {
        expiries: held.into_iter().map(|held| (held.id, held.not_after)).collect(),
        authority: authority.map(|life| life.to),
        below,
        renewed: identities.renewals(),
        failed: identities.failures(),
    }
}

/// For the admin server.
pub(super) fn shown(identities: &Identities) -> Certificates {
    let info = |der: &CertificateDer<'_>| {
        let described = describe(der)?;
        Some(CertificateInfo {
            pem: described.pem,
            name: described.name,
            serial_number: described.serial,
            valid_from: described.life.from,
            expires: described.life.to,
        })
    };
    let summaries = identities.summary().into_iter().map(|held| CertificateSummary {
        chain: held.chain.iter().filter_map(info).collect(),
        identity: held.id,
        renews: held.renew_at,
    });
    let life = identities.authority_life();
    Certificates {
        held: summaries.collect(),
        roots: identities.roots().iter().filter_map(info).collect(),
        authority: AuthoritySummary {
            kind: identities.authority_kind(),
            trust_domain: identities.trust_domain().to_owned(),
            valid: life.map(|life| (life.from, life.to)),
            renewals: identities.renewals(),
            failures: identities.failures(),
        },
    }
}
