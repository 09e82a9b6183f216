//! The admin server: metrics, health and the agent's view of the mesh, for people and scrapers.
//!
//! Reads only, and only what it is handed in [`State`]: closures and handles, no module's insides.
//! It is for the loopback address; whoever may connect to it may read everything it serves.

mod dump;
mod server;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::snapshot::Snapshot;
use crate::model::spiffe::SpiffeId;
use crate::task::ready::Ready;
use crate::telemetry::Telemetry;

pub use self::server::serve;

/// What the server shows. Cheap to clone.
#[derive(Clone)]
pub struct State {
    /// The certificates in use.
    pub certificates: Arc<dyn Fn() -> Vec<CertificateSummary> + Send + Sync>,
    /// Whether the agent is ready.
    pub ready: Ready,
    /// The snapshot in force.
    pub snapshot: Arc<dyn Fn() -> Arc<Snapshot> + Send + Sync>,
    /// The metrics.
    pub telemetry: Telemetry,
    /// Why this kernel cannot accelerate connections, if that was asked for.
    pub no_acceleration: Arc<dyn Fn() -> Option<Arc<str>> + Send + Sync>,
    /// The agent's version.
    pub version: &'static str,
}

/// One certificate in use, without its key.
#[derive(Clone, Debug)]
pub struct CertificateSummary {
    /// Who it is for.
    pub identity: SpiffeId,
    /// The workload's certificate, and those between it and the root.
    pub chain: Vec<CertificateInfo>,
    /// The roots that it trusts.
    pub roots: Vec<CertificateInfo>,
}

/// What is shown of one X.509 certificate.
#[derive(Clone, Debug)]
pub struct CertificateInfo {
    /// The certificate in PEM.
    pub pem: String,
    /// Its serial number, in decimal as `istioctl` prints it, or in hexadecimal.
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
