//! Issuers of this node's workloads' certificates: one trait, and every kind of authority that there is.
//!
//! | Kind | Signs | Roots |
//! |---|---|---|
//! | [`Embedded`] | here, with the node's intermediate | `root.crt` |
//! | [`Leaves`] | elsewhere: certificates are files that somebody renews | `root.crt` |
//! | [`Istio`] | elsewhere, when asked over gRPC | a file, and what comes with each certificate |

mod embedded;
pub mod istio;
mod leaves;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::identity::error::Error;
use crate::identity::trust::Trusted;
use crate::model::spiffe::SpiffeId;

pub use self::embedded::Embedded;
pub use self::istio::Istio;
pub use self::leaves::Leaves;
use self::leaves::check_chain;

/// Which authority, and where it is.
#[derive(Clone, Debug)]
pub enum Options {
    /// [`Embedded`], with the files of a directory; a trust domain where its root names none; and by
    /// how much the clocks of peers may be behind ours.
    Embedded(PathBuf, Option<String>, Duration),
    /// [`Leaves`], with the files of a directory and a trust domain.
    Files(PathBuf, String),
    /// [`Istio`].
    Istio(istio::Options),
}

/// The authority and its settings, for operators.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(dir, ..) => {
                write!(f, "the authority `embedded` with the files in {} (--ca)", dir.display())
            }
            Self::Files(dir, _) => {
                write!(f, "the authority `files` with the files in {} (--ca)", dir.display())
            }
            Self::Istio(istio::Options { address, roots, lists, .. }) => write!(
                f,
                "the authority `istio` at {address} (--ca-address) with the roots {} (--ca-roots) and \
                 the lists {} (--ca)",
                roots.display(),
                lists.display()
            ),
        }
    }
}

/// Opens the authority for the node `node`. Blocks; asks nobody over the network.
///
/// # Errors
///
/// A part of it is missing or wrong; the error says what to do.
pub fn open(options: &Options, node: &str) -> Result<Box<dyn Authority>, Error> {
    Ok(match options {
        Options::Embedded(dir, domain, skew) => {
            Box::new(Embedded::open(dir, node, domain.as_deref(), *skew)?)
        }
        Options::Files(dir, domain) => Box::new(Leaves::open(dir, domain)?),
        Options::Istio(options) => Box::new(Istio::open(options.clone())?),
    })
}

/// An answer of an authority that may have to be waited for.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Vouches for the workloads of this node, and says whom they may trust.
///
/// It is asked by one task, [`Identities::rotate`](super::Identities::rotate), and by the one that
/// starts workloads; never by a connection. Every wait in it has an end.
pub trait Authority: Send + Sync {
    /// The trust domain of all identities that it vouches for. Never changes.
    fn trust_domain(&self) -> &str;

    /// The roots and revocation lists of this moment. The same `Arc` as before: nothing changed.
    fn trusted(&self) -> Arc<Trusted>;

    /// A certificate for `id`, valid for `ttl` where the authority lets the client choose.
    ///
    /// # Errors
    ///
    /// `id` is of another trust domain; the authority has expired, cannot be reached, refuses, or
    /// answers with what peers would refuse.
    fn issue<'a>(
        &'a self,
        id: &'a SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Pending<'a, Certificate>;

    /// Looks again at what it is made of, and uses what has changed and is good. Says whether every
    /// certificate is to be made again because of that; those in use are of the identities `used`.
    ///
    /// # Errors
    ///
    /// The changed files are not good; those that were good before stay in use.
    fn refresh(&self, used: HashSet<SpiffeId>, at: Look) -> Pending<'_, bool>;

    /// The life of the certificate that signs here; `None`: another process signs.
    fn life(&self) -> Option<Life>;

    /// Its name: `embedded`, `files` or `istio`.
    fn kind(&self) -> &'static str;
}

/// When an authority looks at its files.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The time of day.
    pub now: SystemTime,
    /// The time of day was set: what has not changed is judged by it again.
    pub anew: bool,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its `notBefore`.
    pub from: SystemTime,
    /// Its `notAfter`.
    pub to: SystemTime,
}

impl Life {
    /// How much of it is left at `now`, from 0 to 1.
    pub fn left(&self, now: SystemTime) -> f64 {
        let whole = self.to.duration_since(self.from).unwrap_or_default().as_secs_f64();
        let left = self.to.duration_since(now).unwrap_or_default().as_secs_f64();
        if whole > 0.0 { (left / whole).min(1.0) } else { 0.0 }
    }
}

/// A leaf with its chain and its private key. Not `Debug`: it holds a key.
pub struct Certificate {
    /// The leaf, then what is between it and the root; no root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it ceases to be valid.
    pub not_after: SystemTime,
    /// The serial number in hexadecimal.
    pub serial: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_life_is_a_share_of_it() {
        let from = SystemTime::UNIX_EPOCH;
        let at = |secs| from + Duration::from_secs(secs);
        let life = Life { from, to: at(100) };
        for (now, expect) in [(0, 1.0), (50, 0.5), (90, 0.1), (100, 0.0), (200, 0.0)] {
            assert!((life.left(at(now)) - expect).abs() < 1e-9, "{now}");
        }
    }
}
