//! Renews certificates in time and adopts changes of the authority's directory.
//!
//! Owns the writing of every [`Identity`](super::Identity); ends when its scope drains.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::failure::chain;
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
const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// How often an authority that will expire is mentioned.
const REMIND_EVERY: Duration = Duration::from_hours(24);

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

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::identity::fixture::{
        HOUR, Mesh, client_config, clients, handshake, id, open, server, server_config, target,
        write,
    };
    use crate::identity::verify::PeerError;
    use crate::model::spiffe::SpiffeId;

    fn anywhere(_id: &SpiffeId, _node: &str) -> bool {
        true
    }

    /// Whether `a` and `b` accept each other, each as the client once.
    #[track_caller]
    fn check_friends(a: &Identities, b: &Identities) {
        for (client, server) in [(a, b), (b, a)] {
            let client = client.ensure(&id("client")).unwrap();
            let server = server.ensure(&id("server")).unwrap();
            let config = client_config(&client, vec![id("server")]);
            let done = handshake(config, server_config(&server));
            assert!(done.client_error.is_none(), "{:?}", done.client_error);
            assert!(done.server_error.is_none(), "{:?}", done.server_error);
        }
    }

    proptest! {
        #[test]
        fn renewal_is_at_two_thirds_give_or_take_a_tenth(
            secs in 60_u32..1_000_000, random in any::<u32>(),
        ) {
            let share = renew_after(Duration::from_secs(secs.into()), random).as_secs_f64() / f64::from(secs);
            prop_assert!((0.599..0.734).contains(&share), "{}", share);
        }
    }

    #[test]
    fn the_next_handshake_uses_the_renewed_certificate() {
        let node = Mesh::new("cluster.local").node("node-a");
        let (a, b) = (node.ensure(&id("a")).unwrap(), node.ensure(&id("b")).unwrap());
        // Made once, before the renewal.
        let (client, server) = (clients(&a), server(&b));
        let serials = || {
            let dial = client.dial(&target(vec![id("b")]));
            let done = handshake(dial.config(), server.accept().config());
            let serial = |certs: Option<&[rustls_pki_types::CertificateDer<'_>]>| {
                cert::Facts::read(&certs.unwrap()[0]).unwrap().serial
            };
            [serial(done.server.peer_certificates()), serial(done.client.peer_certificates())]
        };
        let age = |by: Duration| {
            for identity in [&a, &b] {
                let issued = node.shared.issue(identity.id(), clock::now() - by).unwrap();
                identity.current.store(Arc::new(issued));
            }
            serials()
        };
        let young = age(HOUR / 2);
        node.renew(clock::now(), false).unwrap();
        assert_eq!(serials(), young, "half of the life is too early");
        let before = age(HOUR * 3 / 4);
        node.renew(clock::now(), false).unwrap();
        let after = serials();
        assert_ne!(after[0], before[0]);
        assert_ne!(after[1], before[1]);
        assert_eq!(after, [a.summary().serial, b.summary().serial]);
        assert_eq!((node.renewals(), node.failures()), (2, 0));
    }

    #[test]
    fn an_expired_authority_is_a_counted_failure_and_the_certificate_stays() {
        let node = Mesh::new("cluster.local").node("node-a");
        let a = node.ensure(&id("a")).unwrap();
        let before = a.summary();
        let late = node.authority_expiry() + HOUR;
        assert!(matches!(node.renew(late, false), Err(Error::NotValidNow { .. })));
        assert_eq!((node.failures(), a.summary()), (1, before));
    }

    #[tokio::test]
    async fn roots_are_replaced_with_an_overlap_and_no_refusal() {
        let (old, new) = (Mesh::new("cluster.local"), Mesh::new("cluster.local"));
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let names = ["node-a", "node-b"];
        let nodes = [0, 1].map(|n| {
            write(dirs[n].path(), &old.files(names[n], &[]));
            open(Files::read(dirs[n].path()).unwrap(), names[n], anywhere)
        });
        check_friends(&nodes[0], &nodes[1]);
        // First both trust the new root, then it signs, then the old one goes: node by node.
        for (signer, more) in [(&old, &[&new][..]), (&new, &[&old]), (&new, &[])] {
            for n in [0, 1] {
                write(dirs[n].path(), &signer.files(names[n], more));
                assert!(nodes[n].reload(&mut None).await);
                nodes[n].renew(clock::now(), true).unwrap();
                check_friends(&nodes[0], &nodes[1]);
            }
        }
        // What the old root signs is refused now.
        let stale = old.node("node-a").ensure(&id("client")).unwrap();
        let server = nodes[1].ensure(&id("server")).unwrap();
        let done = handshake(client_config(&server, vec![id("client")]), server_config(&stale));
        assert!(matches!(done.client_error, Some(PeerError::UntrustedIssuer)));
    }

    #[tokio::test]
    async fn a_bad_file_keeps_what_was_good() {
        let mesh = Mesh::new("cluster.local");
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &mesh.files("node-a", &[]));
        let node = open(Files::read(dir.path()).unwrap(), "node-a", anywhere);
        let mut refusal = None;
        assert!(!node.reload(&mut refusal).await, "nothing changed");
        let good = fs::read(dir.path().join(files::NODE_CERT)).unwrap();
        let other = Mesh::new("other.local").files("node-a", &[]);
        for (bad, reason) in [
            (b"nothing".to_vec(), "node.crt holds no certificate in PEM"),
            (mesh.files("node-a", &[]).node.unwrap().0, "node.key is not the key of"),
        ] {
            fs::write(dir.path().join(files::NODE_CERT), bad).unwrap();
            assert!(!node.reload(&mut refusal).await);
            assert!(refusal.as_ref().unwrap().contains(reason), "{refusal:?}");
            node.ensure(&id("a")).unwrap();
            check_friends(&node, &mesh.node("node-b"));
        }
        write(dir.path(), &other);
        assert!(!node.reload(&mut refusal).await);
        assert!(refusal.as_ref().unwrap().contains("restart the agent"), "{refusal:?}");
        write(dir.path(), &mesh.files("node-a", &[]));
        assert_ne!(fs::read(dir.path().join(files::NODE_CERT)).unwrap(), good);
        assert!(node.reload(&mut refusal).await);
        assert_eq!(refusal, None);
    }

    #[tokio::test]
    async fn the_task_adopts_a_new_node_certificate_and_drains_to_zero() {
        let mesh = Mesh::new("cluster.local");
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &mesh.files("node-a", &[]));
        let node = open(Files::read(dir.path()).unwrap(), "node-a", anywhere);
        let a = node.ensure(&id("a")).unwrap();
        let before = a.summary().serial;
        write(dir.path(), &mesh.files("node-a", &[]));
        let scope = Scope::new("identity");
        scope.spawn(node.clone().rotate(scope.clone()));
        let adopted = async {
            while a.summary().serial == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), adopted).await.unwrap();
        assert_eq!(node.renewals(), 1);
        assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
    }
}
