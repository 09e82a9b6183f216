//! Renews certificates in time and adopts changes of the authority's directory.
//!
//! Owns the writing of every [`Identity`](super::Identity); ends when its scope drains.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::identity::error::Error;
use crate::identity::files::{self, Files};
use crate::identity::local_ca::Authority;
use crate::identity::{Identities, cert};
use crate::task::backoff::Backoff;
use crate::task::clock;
use crate::task::scope::Scope;

/// No certificate is renewed sooner than this, however short the authority's rest of life is.
const SOONEST: Duration = Duration::from_secs(1);
/// The first wait after a renewal that failed.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between renewals that fail: a sixtieth of the default life of a leaf.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How often an authority that will expire is mentioned.
const REMIND_EVERY: Duration = Duration::from_secs(24 * 3600);

/// When to renew a certificate that has `left` to live: at two thirds, give or take a tenth of
/// that by `random`, so that a node's certificates, and a fleet's, do not renew all at once.
pub(crate) fn renew_after(left: Duration, random: u32) -> Duration {
    let jitter = 0.9 + 0.2 * f64::from(random) / f64::from(u32::MAX);
    (left * 2 / 3).mul_f64(jitter).max(SOONEST)
}

impl Identities {
    /// Renews and reloads until the scope drains. Run it once.
    ///
    /// What cannot be read or used is logged as an error, and what was good before stays in use.
    pub async fn rotate(self, scope: Scope) {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        let mut refusal = None;
        let mut is_new = false;
        let mut remind_at = clock::now();
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = scope.draining() => return,
                () = sleep(wait) => {}
            }
            is_new |= self.reload(&mut refusal).await;
            let now = clock::now();
            if now >= remind_at {
                self.remind(now);
                remind_at = now + REMIND_EVERY;
            }
            wait = self.shared.options.poll_interval.min(self.shared.options.leaf_ttl / 4);
            match self.renew(now, is_new) {
                Ok(()) => {
                    backoff.reset();
                    is_new = false;
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "a certificate could not be renewed");
                    wait = wait.min(backoff.next(rand::random()));
                }
            }
        }
    }

    /// Makes new certificates for those whose time has come at `now`, or for `all`. Tries every
    /// one, and returns the last error.
    fn renew(&self, now: SystemTime, all: bool) -> Result<(), Error> {
        let due: Vec<_> = self
            .held()
            .values()
            .filter(|identity| all || now >= identity.current.load().renew_at)
            .cloned()
            .collect();
        let mut result = Ok(());
        for identity in due {
            match self.shared.issue(identity.id(), now) {
                Ok(current) => {
                    identity.current.store(Arc::new(current));
                    self.shared.renewals.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    self.shared.failures.fetch_add(1, Ordering::Relaxed);
                    result = Err(error);
                }
            }
        }
        result
    }

    /// Looks at the directory, adopts what has changed and is good, and says whether it did.
    ///
    /// `refusal` is the last one, so that each is logged once.
    async fn reload(&self, refusal: &mut Option<String>) -> bool {
        let dir = self.shared.authority.load().files().dir.clone();
        // Unowned for as long as it takes to read four small files.
        let Ok(read) = spawn_blocking(move || Files::read(&dir)).await else { return false };
        let outcome = read.and_then(|files| {
            let is_new = *self.shared.authority.load().files() != files;
            if is_new {
                self.adopt(files, clock::now())?;
            }
            Ok(is_new)
        });
        match outcome {
            Ok(is_new) => {
                *refusal = None;
                is_new
            }
            Err(error) => {
                let error = chain(&error);
                if refusal.as_ref() != Some(&error) {
                    tracing::error!(%error, "the authority's new files are not used; the former stay");
                }
                *refusal = Some(error);
                false
            }
        }
    }

    /// Uses the directory's contents from now on: roots and authority.
    fn adopt(&self, files: Files, now: SystemTime) -> Result<(), Error> {
        let node = self.shared.authority.load().node().to_owned();
        files::warn_of_readable_keys(&files.dir);
        let authority = Authority::from_files(files, &node, now)?;
        let from = self.trust_domain();
        if authority.trust_domain() != from {
            let to = authority.trust_domain().to_owned();
            return Err(Error::TrustDomainChanged { from: from.to_owned(), to });
        }
        self.shared.trust.replace_roots(authority.roots())?;
        let roots = authority.roots().len();
        self.shared.authority.store(Arc::new(authority));
        tracing::info!(roots, "the authority's new files are in use");
        Ok(())
    }

    /// Warns in the last third of the authority's life.
    fn remind(&self, now: SystemTime) {
        let authority = self.shared.authority.load();
        let (from, to) = (authority.not_before(), authority.not_after());
        let life = to.duration_since(from).unwrap_or_default();
        if now >= from + life * 2 / 3 {
            tracing::warn!(
                expires = %cert::print_time(to),
                "the authority will expire: renew it with `mesh-agent ca node`, or replace the root"
            );
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
