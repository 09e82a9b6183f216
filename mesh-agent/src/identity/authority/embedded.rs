//! The mesh's own authority: signs here with what is in its directory, and follows the directory.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::task::spawn_blocking;

use crate::identity::authority::{Authority, Certificate, Life, Look, Pending};
use crate::identity::error::Error;
use crate::identity::files::{self, Files};
use crate::identity::local_ca::LocalCa;
use crate::identity::trust::Trusted;
use crate::model::spiffe::SpiffeId;
use crate::task::clock;

/// Signs with `root.key`, or with `node.crt` and `node.key`, of a directory that may change.
pub struct Embedded {
    dir: PathBuf,
    /// The trust domain that the operator names where the root does not.
    named: Option<String>,
    trust_domain: String,
    /// Allowance for the clocks of peers: what is signed begins as long before.
    skew: Duration,
    current: ArcSwap<LocalCa>,
}

impl Embedded {
    /// Opens the directory for the node `node`. Blocks. `trust_domain` is for a root that names
    /// none, as one of a PKI that was there before. The clocks of peers may be `skew` behind ours.
    ///
    /// # Errors
    ///
    /// A file is missing, damaged, expired, of another node or does not fit the others. The error
    /// names the file and says what to do.
    pub fn open(
        dir: &Path,
        node: &str,
        trust_domain: Option<&str>,
        skew: Duration,
    ) -> Result<Self, Error> {
        files::warn_of_readable_keys(dir);
        Self::from_files(Files::read(dir)?, node, trust_domain, (skew, clock::now()))
    }

    /// Makes it of a directory's contents at the time `now`.
    pub(crate) fn from_files(
        files: Files,
        node: &str,
        trust_domain: Option<&str>,
        (skew, now): (Duration, SystemTime),
    ) -> Result<Self, Error> {
        let dir = files.dir.clone();
        let current = LocalCa::from_files(files, node, trust_domain, (skew, now))?;
        let named = trust_domain.map(str::to_owned);
        let trust_domain = current.trust_domain().to_owned();
        Ok(Self { dir, named, trust_domain, skew, current: ArcSwap::from_pointee(current) })
    }

    /// Uses the directory's contents from now on. Says whether something else signs now.
    fn adopt(&self, files: Files, at: Look) -> Result<bool, Error> {
        let former = self.current.load();
        if *former.files() == files && !at.anew {
            return Ok(false);
        }
        let signs_anew = !former.files().sign_as(&files);
        files::warn_of_readable_keys(&files.dir);
        let dated = (self.skew, at.now);
        let next = LocalCa::from_files(files, former.node(), self.named.as_deref(), dated)?;
        if next.trust_domain() != self.trust_domain {
            let to = next.trust_domain().to_owned();
            return Err(Error::TrustDomainChanged { from: self.trust_domain.clone(), to });
        }
        let (roots, lists) = (next.trusted().roots.len(), next.trusted().lists.len());
        self.current.store(Arc::new(next));
        tracing::info!(roots, lists, "the authority's new files are in use");
        Ok(signs_anew)
    }
}

impl Authority for Embedded {
    fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    fn trusted(&self) -> Arc<Trusted> {
        Arc::clone(self.current.load().trusted())
    }

    fn issue<'a>(
        &'a self,
        id: &'a SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Pending<'a, Certificate> {
        Box::pin(async move { self.current.load().issue(id, ttl, now) })
    }

    fn refresh(&self, _used: HashSet<SpiffeId>, at: Look) -> Pending<'_, bool> {
        Box::pin(async move {
            let dir = self.dir.clone();
            // Unowned for as long as it takes to read five small files.
            let read = spawn_blocking(move || Files::read(&dir)).await;
            read.map_or(Ok(false), |files| self.adopt(files?, at))
        })
    }

    fn life(&self) -> Option<Life> {
        Some(self.current.load().life())
    }

    fn kind(&self) -> &'static str {
        "embedded"
    }
}
