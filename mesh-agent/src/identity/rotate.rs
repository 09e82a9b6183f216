//! Renews certificates in time and adopts changes of the authority's directory.
//!
//! Owns the writing of every [`Identity`]; ends when its scope drains.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use crate::failure::chain;
use crate::identity::authority::Look;
use crate::identity::error::Error;
use crate::identity::{AT_ONCE, Current, Identities, Identity, cert};
use crate::model::spiffe::SpiffeId;
use crate::task::backoff::Backoff;
use crate::task::scope::Scope;
use crate::task::{batch, clock};

/// No certificate is renewed sooner than this, however short the authority's rest of life is.
const SOONEST: Duration = Duration::from_secs(1);
/// The first wait after a renewal that failed.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between renewals that fail: a sixtieth of the default life of a leaf.
const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// How often it is looked whether the time of day was set: a certificate that is wrong by the new time
/// is replaced as soon.
const LOOK: Duration = Duration::from_secs(2);
/// Shares of a certificate's life, in percent, below which it is mentioned and counted.
pub const LOW: [u8; 3] = [50, 25, 10];

/// When to renew a certificate that has `left` to live: at two thirds, give or take a tenth of
/// that by `random`, so that a node's certificates, and a fleet's, do not renew all at once.
pub(crate) fn renew_after(left: Duration, random: u32) -> Duration {
    let jitter = 0.9 + 0.2 * f64::from(random) / f64::from(u32::MAX);
    (left * 2 / 3).mul_f64(jitter).max(SOONEST)
}

/// When something is to be done. By the clock that nobody sets.
#[derive(Clone, Copy, Debug)]
struct Next {
    /// The authority's files are looked at.
    reload: Instant,
    /// Renewals that failed are tried again; `None`: none did.
    renew: Option<Instant>,
}

impl Next {
    /// How long to wait, where the earliest certificate is to be renewed after `earliest`.
    fn wait(self, now: Instant, earliest: Option<Duration>) -> Duration {
        let renew = match self.renew {
            Some(renew) => Some(renew - now),
            None => earliest,
        };
        LOOK.min(self.reload - now).min(renew.unwrap_or(LOOK))
    }
}

impl Current {
    /// After how long it is to be renewed, at `now`: at once also before it begins, where the clock
    /// was ahead when it was made.
    fn due_in(&self, now: SystemTime) -> Duration {
        if now < self.not_before {
            return Duration::ZERO;
        }
        self.renew_at.duration_since(now).unwrap_or_default()
    }
}

impl Identities {
    /// Renews and reloads until the scope drains. Run it once.
    ///
    /// A file that cannot be read or used is logged as an error, and what was good before stays in use.
    pub async fn rotate(self, scope: Scope) {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        let mut refusal = None;
        let mut alarms = Alarms::default();
        let mut is_new = false;
        let mut steps = clock::Steps::default();
        let mut next = Next { reload: Instant::now(), renew: None };
        loop {
            let (now, instant) = (clock::now(), Instant::now());
            let step = steps.look(now, clock::since_boot());
            if let Some(step) = step {
                tracing::warn!(
                    by = %step, now = %cert::print_time(now),
                    "the clock was set: certificates that are not valid by it are made anew"
                );
                // A renewal that failed may have failed because of the clock.
                backoff.reset();
                next = Next { reload: instant, renew: None };
            }
            if instant >= next.reload {
                is_new |= self.reload(&mut refusal, step.is_some()).await;
                next.reload = instant + self.poll_interval();
            }
            if next.renew.is_none_or(|renew| instant >= renew) {
                let renewed = tokio::select! {
                    biased;
                    () = scope.draining() => return,
                    renewed = self.renew(now, is_new) => renewed,
                };
                match renewed {
                    Ok(()) => {
                        backoff.reset();
                        (is_new, next.renew) = (false, None);
                    }
                    Err((failed, error)) => {
                        tracing::error!(
                            failed, error = %chain(&error),
                            "certificates could not be renewed; those in use stay until they expire"
                        );
                        next.renew = Some(Instant::now() + backoff.next(rand::random()));
                    }
                }
                alarms.raise(&self, now);
            }
            let earliest = self.held().values().map(|held| held.current.load().due_in(now)).min();
            tokio::select! {
                biased;
                () = scope.draining() => return,
                () = sleep(next.wait(Instant::now(), earliest)) => {}
            }
        }
    }

    /// How often the authority's files are looked at.
    fn poll_interval(&self) -> Duration {
        self.shared.options.poll_interval.min(self.shared.options.leaf_ttl / 4)
    }

    /// Makes new certificates for those whose time has come at `now`, or for `all`. Tries every
    /// one, and returns how many failed, and one of the errors.
    async fn renew(&self, now: SystemTime, all: bool) -> Result<(), (usize, Error)> {
        let due: Vec<_> = self
            .held()
            .values()
            .filter(|identity| all || identity.current.load().due_in(now).is_zero())
            .cloned()
            .collect();
        let outcomes = batch::run(due, AT_ONCE, |identity: Arc<Identity>| async move {
            let issued = self.shared.issue(identity.id(), now).await;
            let Ok(mut current) = issued else {
                self.shared.failures.fetch_add(1, Ordering::Relaxed);
                return issued.err();
            };
            // Files that nobody has replaced hold what is in use.
            let is_new = identity.current.load().serial != current.serial;
            if !is_new {
                current.renew_at = current.renew_at.max(now + self.poll_interval());
            }
            identity.current.store(Arc::new(current));
            self.shared.renewals.fetch_add(u64::from(is_new), Ordering::Relaxed);
            None
        });
        let failed: Vec<_> = outcomes.await.into_iter().flatten().collect();
        let count = failed.len();
        failed.into_iter().next().map_or(Ok(()), |error| Err((count, error)))
    }

    /// Has the authority look at its files, and says whether all certificates are to be made anew.
    ///
    /// `refusal` is the last one, so that each is logged once. `anew`: the clock was set.
    async fn reload(&self, refusal: &mut Option<String>, anew: bool) -> bool {
        let used = self.held().keys().cloned().collect();
        let looked = self.shared.authority.refresh(used, Look { now: clock::now(), anew }).await;
        match looked.and_then(|is_new| self.shared.follow().map(|()| is_new)) {
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
}

/// Messages about certificates that are not renewed: each once for each share of life.
#[derive(Default)]
struct Alarms {
    authority: Low,
    leaves: HashMap<SpiffeId, Low>,
}

/// The least share of life, in percent, that has been mentioned; `None`: none.
type Low = Option<u8>;

impl Alarms {
    /// Warns of what has little of its life left at `now`. An authority is renewed by hand, and is
    /// mentioned early; a workload's certificate that is in time has a third left.
    fn raise(&mut self, identities: &Identities, now: SystemTime) {
        if let Some(life) = identities.authority_life()
            && let Some(share) = step(&mut self.authority, life.left(now), &LOW)
        {
            let expires = cert::print_time(life.to);
            tracing::warn!(
                below_percent = share, %expires,
                "the authority will expire: renew it with `mesh-agent ca node`, or replace the root"
            );
        }
        let held = identities.summary();
        // Only those that there are now are remembered.
        let mut former = std::mem::take(&mut self.leaves);
        for summary in held {
            let low = former.remove(&summary.id).unwrap_or_default();
            let low = self.leaves.entry(summary.id.clone()).or_insert(low);
            if let Some(share) = step(low, summary.life().left(now), &LOW[1..]) {
                let expires = cert::print_time(summary.not_after);
                tracing::warn!(
                    identity = %summary.id, below_percent = share, %expires,
                    "a certificate is late: it has not been renewed"
                );
            }
        }
    }
}

/// The share that is reached with `left` and has not been said yet.
fn step(said: &mut Low, left: f64, shares: &[u8]) -> Option<u8> {
    let reached = shares.iter().copied().filter(|share| left * 100.0 < f64::from(*share)).min();
    let is_news = reached.is_some_and(|share| said.is_none_or(|said| share < said));
    *said = reached;
    reached.filter(|_| is_news)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::identity::files::{self, Files};
    use crate::identity::fixture::{
        HOUR, Mesh, client_config, clients, handshake, id, now, open, server, server_config,
        target, write,
    };
    use crate::identity::verify::PeerError;

    fn anywhere(_id: &SpiffeId, _node: &str) -> bool {
        true
    }

    /// Whether `a` and `b` accept each other, each as the client once.
    #[track_caller]
    fn check_friends(a: &Identities, b: &Identities) {
        for (client, server) in [(a, b), (b, a)] {
            let client = client.ensure_now(&id("client")).unwrap();
            let server = server.ensure_now(&id("server")).unwrap();
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

    #[tokio::test]
    async fn the_next_handshake_uses_the_renewed_certificate() {
        let node = Mesh::new("cluster.local").node("node-a");
        let (a, b) = (node.ensure_now(&id("a")).unwrap(), node.ensure_now(&id("b")).unwrap());
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
                let issued = now(node.shared.issue(identity.id(), clock::now() - by)).unwrap();
                identity.current.store(Arc::new(issued));
            }
            serials()
        };
        let young = age(HOUR / 2);
        node.renew(clock::now(), false).await.unwrap();
        assert_eq!(serials(), young, "half of the life is too early");
        let before = age(HOUR * 3 / 4);
        node.renew(clock::now(), false).await.unwrap();
        let after = serials();
        assert_ne!(after[0], before[0]);
        assert_ne!(after[1], before[1]);
        assert_eq!(after, [a.summary().serial, b.summary().serial]);
        assert_eq!((node.renewals(), node.failures()), (2, 0));
    }

    #[test]
    fn the_wait_is_for_what_comes_first() {
        let now = Instant::now();
        let secs = Duration::from_secs_f64;
        let check = |reload, renew: Option<f64>, earliest: Option<f64>, expect| {
            let renew = renew.map(|after| now + secs(after));
            let next = Next { reload: now + secs(reload), renew };
            assert_eq!(next.wait(now, earliest.map(secs)), secs(expect));
        };
        check(30.0, None, None, 2.0);
        check(0.5, None, Some(1.0), 0.5);
        check(30.0, None, Some(0.4), 0.4);
        check(30.0, None, Some(0.0), 0.0);
        // A renewal that has failed is not tried again at once, though it is due.
        check(30.0, Some(1.5), Some(0.0), 1.5);
        check(30.0, Some(40.0), Some(0.0), 2.0);
    }

    /// An identity whose certificate was made by a clock that was `ahead`, or behind.
    fn made_at(node: &Identities, account: &str, then: SystemTime) -> Arc<Identity> {
        let identity = node.ensure_now(&id(account)).unwrap();
        let issued = now(node.shared.issue(identity.id(), then)).unwrap();
        identity.current.store(Arc::new(issued));
        identity
    }

    /// Waits for another certificate, as the task makes one.
    async fn renewed(node: &Identities, identity: &Identity) -> SystemTime {
        let before = identity.summary().serial;
        let scope = Scope::new("identity");
        scope.spawn(node.clone().rotate(scope.clone()));
        let renewing = async {
            while identity.summary().serial == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), renewing).await.unwrap();
        assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
        identity.summary().not_before
    }

    #[tokio::test]
    async fn certificates_of_a_clock_that_was_wrong_are_made_anew_at_once() {
        let node = Mesh::new("cluster.local").node("node-a");
        for then in [clock::now() + HOUR, clock::now() - HOUR] {
            let identity = made_at(&node, "a", then);
            assert_eq!(identity.current.load().due_in(clock::now()), Duration::ZERO);
            assert!(renewed(&node, &identity).await <= clock::now());
        }
    }

    #[tokio::test]
    async fn a_root_that_the_clock_left_out_is_back_when_it_is_set() {
        let (ours, late) = (Mesh::new("cluster.local"), Mesh::dated("cluster.local", HOUR));
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &ours.files("node-a", &[&late]));
        let node = open(Files::read(dir.path()).unwrap(), "node-a", anywhere);
        assert_eq!(node.roots().len(), 1);
        let look = |anew| Look { now: clock::now() + 2 * HOUR, anew };
        // The files are as they were.
        let refresh =
            |anew| node.shared.authority.refresh(std::collections::HashSet::new(), look(anew));
        assert!(!refresh(false).await.unwrap());
        assert_eq!(node.roots().len(), 1);
        assert!(!refresh(true).await.unwrap());
        assert_eq!(node.roots().len(), 2);
    }

    #[test]
    fn each_alarm_is_raised_once_and_again_after_a_renewal() {
        let mut said = None;
        let lives = [1.0, 0.49, 0.4, 0.24, 0.05, 0.04, 1.0, 0.2, 0.0];
        let steps: Vec<_> = lives.iter().map(|left| step(&mut said, *left, &LOW)).collect();
        let expect = [None, Some(50), None, Some(25), Some(10), None, None, Some(25), Some(10)];
        assert_eq!(steps, expect);
    }

    #[tokio::test]
    async fn an_expired_authority_is_a_counted_failure_and_the_certificate_stays() {
        let node = Mesh::new("cluster.local").node("node-a");
        let a = node.ensure_now(&id("a")).unwrap();
        let before = a.summary();
        let late = node.authority_life().unwrap().to + HOUR;
        assert!(matches!(node.renew(late, false).await, Err((1, Error::NotValidNow { .. }))));
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
                assert!(nodes[n].reload(&mut None, false).await);
                nodes[n].renew(clock::now(), true).await.unwrap();
                check_friends(&nodes[0], &nodes[1]);
            }
        }
        // Certificates of the old root are refused now.
        let stale = old.node("node-a").ensure_now(&id("client")).unwrap();
        let server = nodes[1].ensure_now(&id("server")).unwrap();
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
        assert!(!node.reload(&mut refusal, false).await, "nothing changed");
        let good = fs::read(dir.path().join(files::NODE_CERT)).unwrap();
        let other = Mesh::new("other.local").files("node-a", &[]);
        for (bad, reason) in [
            (b"nothing".to_vec(), "node.crt holds no certificate in PEM"),
            (mesh.files("node-a", &[]).node.unwrap().0, "node.key is not the key of"),
        ] {
            fs::write(dir.path().join(files::NODE_CERT), bad).unwrap();
            assert!(!node.reload(&mut refusal, false).await);
            assert!(refusal.as_ref().unwrap().contains(reason), "{refusal:?}");
            node.ensure_now(&id("a")).unwrap();
            check_friends(&node, &mesh.node("node-b"));
        }
        write(dir.path(), &other);
        assert!(!node.reload(&mut refusal, false).await);
        assert!(refusal.as_ref().unwrap().contains("restart the agent"), "{refusal:?}");
        write(dir.path(), &mesh.files("node-a", &[]));
        assert_ne!(fs::read(dir.path().join(files::NODE_CERT)).unwrap(), good);
        assert!(node.reload(&mut refusal, false).await);
        assert_eq!(refusal, None);
    }

    #[tokio::test]
    async fn the_task_adopts_a_new_node_certificate_and_drains_to_zero() {
        let mesh = Mesh::new("cluster.local");
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &mesh.files("node-a", &[]));
        let node = open(Files::read(dir.path()).unwrap(), "node-a", anywhere);
        let a = node.ensure_now(&id("a")).unwrap();
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
