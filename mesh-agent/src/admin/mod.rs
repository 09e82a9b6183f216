//! The admin server: metrics, health and the agent's view of the mesh, for people and scrapers.
//!
//! Reads only, and only what it is handed in [`State`]: closures and handles, no module's insides.
//! It listens on a Unix socket that its owner alone may open; whoever may connect to it may read
//! everything it serves. Answers that scrapers and probes need are served apart, at an address of its own.

mod certs;
mod dump;
mod listener;
mod server;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use crate::model::condition::Finding;
use crate::model::snapshot::Snapshot;
use crate::model::spiffe::SpiffeId;
use crate::task::ready::Ready;
use crate::telemetry::Telemetry;

pub use self::listener::{Listener, UnixFile, Unpublished};
pub use self::server::{Surface, serve};

/// Sources of the server's answers. Cheap to clone.
#[derive(Clone)]
pub struct State {
    /// The certificates in use.
    pub certificates: Arc<dyn Fn() -> Certificates + Send + Sync>,
    /// How connections of this node's workloads went.
    pub coverage: Arc<dyn Fn() -> Vec<Covered> + Send + Sync>,
    /// Whether the agent is ready.
    pub ready: Ready,
    /// The snapshot in force.
    pub snapshot: Arc<dyn Fn() -> Arc<Snapshot> + Send + Sync>,
    /// The metrics.
    pub telemetry: Telemetry,
    /// The conditions that only this node finds.
    pub findings: Arc<dyn Fn() -> Vec<Finding> + Send + Sync>,
    /// Why this kernel cannot accelerate connections, if that was asked for.
    pub no_acceleration: Arc<dyn Fn() -> Option<Arc<str>> + Send + Sync>,
    /// The agent's version.
    pub version: &'static str,
}

/// How connections of one workload went.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Covered {
    /// `<namespace>/<name>`.
    pub workload: String,
    /// Those that it opened.
    pub outbound: Way,
    /// Those that it took.
    pub inbound: Way,
    /// Sockets that it made and that no hook redirects, by kind.
    pub sockets: BTreeMap<&'static str, u64>,
}

/// How connections of one direction went.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// Through the agent, as the observer has seen them.
    pub agent: u64,
    /// Of those that the agent says it carried, with mutual TLS.
    pub mutual_tls: u64,
    /// Of those, in plaintext.
    pub plaintext: u64,
    /// Straight between workloads of this node, authorized in the kernel.
    pub direct: u64,
    /// Past the mesh: straight to or from others, where an agent should have been between.
    pub bypassed: u64,
    /// From another network namespace than the workload's, where no hook looks for it.
    pub other_namespace: u64,
    /// To what the mesh does not know.
    pub outside: u64,
}

/// Certificates, without keys, and who makes them.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Those of this node's workloads, by identity.
    pub held: Vec<CertificateSummary>,
    /// The roots that are trusted.
    pub roots: Vec<CertificateInfo>,
    /// The issuer of the workloads' certificates.
    pub authority: AuthoritySummary,
}

/// The issuer of the workloads' certificates.
#[derive(Clone, Debug)]
pub struct AuthoritySummary {
    /// Its kind: `embedded`, `files` or `istio`.
    pub kind: &'static str,
    /// The trust domain of all identities.
    pub trust_domain: String,
    /// From when to when the certificate is valid that signs here; `None`: another process signs.
    pub valid: Option<(SystemTime, SystemTime)>,
    /// Certificates that were renewed since the start.
    pub renewals: u64,
    /// Renewals that failed since the start.
    pub failures: u64,
}

/// One certificate in use, without its key.
#[derive(Clone, Debug)]
pub struct CertificateSummary {
    /// The identity that it is for.
    pub identity: SpiffeId,
    /// The workload's certificate, and those between it and the root.
    pub chain: Vec<CertificateInfo>,
    /// When the next one will be made.
    pub renews: SystemTime,
}

/// The parts of one X.509 certificate that are shown.
#[derive(Clone, Debug)]
pub struct CertificateInfo {
    /// The certificate in PEM.
    pub pem: String,
    /// Its subject, or its URI names if it has none.
    pub name: String,
    /// Its serial number in hexadecimal.
    pub serial_number: String,
    /// Its `notBefore`.
    pub valid_from: SystemTime,
    /// Its `notAfter`.
    pub expires: SystemTime,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("ready", &self.ready).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
