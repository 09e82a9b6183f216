//! Ends direct connections that a changed policy forbids.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::record::Record;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use crate::authz::Denial;
use crate::datapath::Kernel;
use crate::datapath::sync::Applied;
use crate::flows::judge::{Connection, forbidden, same_rules};
use crate::flows::names::Names;
use crate::model::snapshot::Snapshot;
use crate::store::Reader;
use crate::sys::diag::{self, Diag, Ended, Socket};
use crate::sys::netns::Netns;
use crate::task::scope::Scope;
use crate::telemetry::Telemetry;

/// After how long a second look is taken. A `connect()` that the kernel decided by the old rules
/// has its socket among those that can be seen long before: it is microseconds.
const SETTLE: Duration = Duration::from_secs(1);

/// After how long another look is taken that is due because one failed, or because the kernel does
/// not hold the new rules, which means that it refuses them.
const RETRY: Duration = Duration::from_secs(10);

/// A network namespace with workloads of this node.
#[derive(Clone, Debug)]
pub struct LocalNetns {
    /// Its cookie.
    pub cookie: u64,
    /// `None`: the agent's own.
    pub netns: Option<Arc<Netns>>,
}

/// Sources of the task.
#[derive(Debug)]
pub struct Enforcer {
    /// The mesh.
    pub mesh: Reader,
    /// This node's name.
    pub node: Arc<str>,
    /// The kernel's records of sockets.
    pub kernel: Arc<Kernel>,
    /// The namespaces in which there are workloads.
    pub namespaces: watch::Receiver<Arc<[LocalNetns]>>,
    /// The configuration in force in the kernel.
    pub applied: watch::Receiver<Applied>,
    /// Where it is counted.
    pub telemetry: Telemetry,
}

/// Looks that are due: by namespace, whether one has begun since the kernel holds the new rules.
#[derive(Debug, Default, PartialEq, Eq)]
struct Due(BTreeMap<u64, bool>);

/// A namespace in which connections were looked at.
struct Looked {
    cookie: u64,
    closed: usize,
    result: Result<(), Box<dyn std::error::Error + Send + Sync>>,
}

impl Enforcer {
    /// Runs until `scope` drains.
    ///
    /// After a change of the rules, and for each namespace that is new, it looks at the sockets
    /// when the kernel holds the new rules, and once more [`SETTLE`] later: what was decided by the
    /// old ones meanwhile is found then.
    pub async fn run(mut self, scope: Scope) {
        let mut due = Due::default();
        let mut names = Names::default();
        let mut judged: Option<(Arc<Snapshot>, Arc<[LocalNetns]>)> = None;
        let mut was_in_force = false;
        let mut next = Instant::now();
        loop {
            let snapshot = self.mesh.load();
            let places = Arc::clone(&self.namespaces.borrow_and_update());
            let in_force = self.applied.borrow_and_update().revision >= snapshot.revision;
            let now = Instant::now();
            if snapshot.revision > 0 {
                let fresh = due.owe(judged.as_ref(), &snapshot, &places, &self.node);
                names.refresh(&snapshot, &self.node, now);
                if fresh {
                    next = if in_force { now } else { now + SETTLE };
                } else if in_force && !was_in_force {
                    next = next.min(now);
                }
                was_in_force = in_force;
                judged = Some((Arc::clone(&snapshot), Arc::clone(&places)));
                if !due.0.is_empty() && next <= now {
                    let done;
                    (names, done) = self.look(&mut due, snapshot, names, in_force).await;
                    next = Instant::now() + if in_force && done { SETTLE } else { RETRY };
                }
            }
            tokio::select! {
                biased;
                () = scope.draining() => return,
                more = self.mesh.changed() => if !more { return },
                more = self.namespaces.changed() => if more.is_err() { return },
                more = self.applied.changed() => if more.is_err() { return },
                () = sleep_until(next), if !due.0.is_empty() => {}
            }
        }
    }

    /// Looks at every namespace that is due. Gives the names back, and whether all went well.
    async fn look(
        &self,
        due: &mut Due,
        mesh: Arc<Snapshot>,
        names: Names,
        in_force: bool,
    ) -> (Names, bool) {
        let places = Arc::clone(&self.namespaces.borrow());
        let places: Vec<_> =
            places.iter().filter(|place| due.0.contains_key(&place.cookie)).cloned().collect();
        let kernel = Arc::clone(&self.kernel);
        // A dump of thousands of sockets takes milliseconds.
        let looking = spawn_blocking(move || {
            let look = |place: &LocalNetns| look_at(place, &kernel, &mesh, &names);
            (places.iter().map(look).collect::<Vec<_>>(), names)
        });
        let (looked, names) = match looking.await {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "looking for forbidden connections ended early");
                return (Names::default(), false);
            }
        };
        let mut done = true;
        for place in looked {
            self.telemetry.policy_closed(place.closed);
            match place.result {
                Ok(()) => due.looked(place.cookie, in_force),
                Err(error) => {
                    done = false;
                    let error = &*error;
                    tracing::error!(
                        netns = place.cookie,
                        error,
                        "cannot end the connections that a policy forbids; trying again"
                    );
                }
            }
        }
        (names, done)
    }
}

impl Due {
    /// Notes where to look: everywhere if the rules have changed since `judged`, and in what was
    /// not there then. A socket that is not there any more needs none. Returns whether there is more to do.
    fn owe(
        &mut self,
        judged: Option<&(Arc<Snapshot>, Arc<[LocalNetns]>)>,
        mesh: &Snapshot,
        places: &[LocalNetns],
        node: &str,
    ) -> bool {
        self.0.retain(|cookie, _| places.iter().any(|place| place.cookie == *cookie));
        let same = judged.is_some_and(|(before, _)| same_rules(before, mesh, node));
        let before = judged.map_or(&[][..], |(_, before)| before);
        let known = |cookie| before.iter().any(|place: &LocalNetns| place.cookie == cookie);
        let new = places.iter().filter(|place| !same || !known(place.cookie));
        new.map(|place| self.0.insert(place.cookie, false)).count() > 0
    }

    /// One look was taken. It was the last one if the rules were in force at the one before.
    fn looked(&mut self, cookie: u64, in_force: bool) {
        match self.0.get_mut(&cookie) {
            Some(true) if in_force => drop(self.0.remove(&cookie)),
            Some(before) => *before = in_force,
            None => {}
        }
    }
}

fn look_at(place: &LocalNetns, kernel: &Kernel, mesh: &Snapshot, names: &Names) -> Looked {
    let mut closed = 0;
    let mut inside = || close_forbidden(kernel, mesh, names, &mut closed);
    let result = match &place.netns {
        None => inside().map_err(Into::into),
        Some(netns) => match netns.enter(inside) {
            Ok(result) => result.map_err(Into::into),
            Err(error) => Err(error.into()),
        },
    };
    Looked { cookie: place.cookie, closed, result }
}

/// Ends what is forbidden in the calling thread's namespace, and counts it.
fn close_forbidden(
    kernel: &Kernel,
    mesh: &Snapshot,
    names: &Names,
    closed: &mut usize,
) -> Result<(), diag::Error> {
    let mut found: Vec<(Socket, Denial)> = vec![];
    let mut diag = Diag::open()?;
    diag.with_storage(kernel.sockets().as_fd(), |socket, record: Record| {
        let address = socket.local().ip();
        let connection = Connection { record: &record, address, port: socket.remote().port() };
        found.extend(forbidden(mesh, names, &connection).map(|denial| (socket, denial)));
    })?;
    for (socket, denial) in found {
        if diag.destroy(&socket)? == Ended::Now {
            *closed += 1;
            let (client, server): (SocketAddr, SocketAddr) = (socket.local(), socket.remote());
            tracing::info!(
                %client, %server, policy = %denial.policy(),
                "closed a connection that a policy forbids"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::testing::{NODE, policy, snapshot, workload};
    use crate::model::policy::Action;

    fn places(cookies: &[u64]) -> Arc<[LocalNetns]> {
        cookies.iter().map(|cookie| LocalNetns { cookie: *cookie, netns: None }).collect()
    }

    fn due(all: &[(u64, bool)]) -> Due {
        Due(all.iter().copied().collect())
    }

    #[test]
    fn a_look_is_due_where_rules_or_namespaces_are_new() {
        let web = || vec![workload("web", Some(NODE), "10.0.0.1")];
        let open = Arc::new(snapshot(web(), vec![]));
        let closed = snapshot(web(), vec![("web", policy("p", Action::Deny, "echo"))]);
        let (one, two) = (places(&[1]), places(&[1, 2]));
        let mut owed = Due::default();
        assert!(owed.owe(None, &open, &one, NODE), "what a predecessor left is not known");
        assert_eq!(owed, due(&[(1, false)]));
        owed.looked(1, true);
        let judged = (Arc::clone(&open), Arc::clone(&one));
        assert!(!owed.owe(Some(&judged), &open, &one, NODE));
        assert_eq!(owed, due(&[(1, true)]), "the second one stays due");
        assert!(owed.owe(Some(&judged), &open, &two, NODE));
        assert_eq!(owed, due(&[(1, true), (2, false)]));
        assert!(owed.owe(Some(&(open, two)), &closed, &places(&[1, 2]), NODE));
        assert_eq!(owed, due(&[(1, false), (2, false)]));
        owed.owe(None, &closed, &places(&[2]), NODE);
        assert_eq!(owed, due(&[(2, false)]), "a namespace that is gone needs none");
    }

    #[test]
    fn the_last_look_is_the_second_with_the_rules_in_force() {
        for (looks, expect) in [
            (vec![true, true], due(&[])),
            (vec![true], due(&[(1, true)])),
            (vec![false, false, false], due(&[(1, false)])),
            (vec![false, true], due(&[(1, true)])),
            (vec![false, true, true], due(&[])),
            // A newer snapshot came in between.
            (vec![true, false], due(&[(1, false)])),
        ] {
            let mut owed = due(&[(1, false)]);
            for in_force in &looks {
                owed.looked(1, *in_force);
            }
            assert_eq!(owed, expect, "{looks:?}");
        }
    }
}
