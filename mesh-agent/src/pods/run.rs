//! The task that owns the set of enrolled workloads. It ends when its scope drains.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use mesh_common::source::SourceKey;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::datapath::desired::{Enrolled, Places};
use crate::datapath::inbound::Arrivals;
use crate::datapath::sync::{Applied, Found};
use crate::failure::chain;
use crate::flows::enforce::LocalNetns;
use crate::identity::{self, Identities};
use crate::model::condition::Finding;
use crate::model::id::ResourceName;
use crate::model::snapshot::Snapshot;
use crate::model::spiffe::SpiffeId;
use crate::model::workload::{Place, Workload};
use crate::pods::claims;
use crate::pods::place::{Spot, SpotId};
use crate::pods::set::{Pod, Set};
use crate::pods::{Options, listeners};
use crate::proxy::Context;
use crate::proxy::realm::{Local, Realm, Resident};
use crate::sys::netns::Netns;
use crate::sys::{cgroup, socket};
use crate::task::backoff::Backoff;
use crate::task::duty::Duty;
use crate::task::ready::Gate;
use crate::task::scope::Scope;

/// How long the kernel may take to let a workload go before its listeners close.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the task works with.
pub struct Pods {
    /// What it was told.
    pub options: Options,
    /// What every connection shares.
    pub context: Arc<Context>,
    /// Who makes certificates.
    pub identities: Identities,
    /// Says to the datapath whose connections may be captured.
    pub enrolled: watch::Sender<Found>,
    /// Says where connections may have to be ended.
    pub namespaces: watch::Sender<Arc<[LocalNetns]>>,
    /// Says whose are.
    pub applied: watch::Receiver<Applied>,
    /// The ids of the workloads that an earlier agent had, by where their sockets are.
    pub earlier: BTreeMap<SourceKey, u64>,
    /// The conditions of this node's workloads.
    pub findings: watch::Sender<Arc<[Finding]>>,
    /// The scope of all connections, and that of listeners.
    pub scope: Scope,
    /// The same of listeners.
    pub listening: Scope,
    /// Whether this process changes what the kernel does.
    pub duty: Duty,
    /// The workloads that a predecessor still serves: all of them are taken over at one time.
    pub expected: Option<BTreeSet<ResourceName>>,
}

/// Where a workload's sockets are.
struct Located {
    source: SourceKey,
    /// Of the namespace.
    cookie: u64,
    /// `None`: the agent's own.
    netns: Option<Arc<Netns>>,
}

impl Pods {
    /// Runs until the scope drains. Passes `ready` when every workload of the first snapshot is
    /// enrolled, or has been tried.
    pub async fn run(mut self, ready: Gate) {
        let mut set = Set::default();
        let mut mesh = self.context.mesh.clone();
        let mut returns = 0;
        loop {
            let Some(work) = self.duty.work(&self.scope).await else { return };
            if std::mem::replace(&mut returns, work.returns) != work.returns {
                self.take_back(&set);
            }
            let snapshot = mesh.load();
            if snapshot.revision > 0 {
                self.reconcile(&mut set, &snapshot).await;
                ready.pass();
            }
            drop(work);
            // Namespaces are made anew under old names, and units restart: looked at now and then.
            let look = Instant::now() + self.options.retry.1;
            let next = set.failing.values().map(|(_, at)| *at).fold(look, Instant::min);
            tokio::select! {
                biased;
                () = self.scope.draining() => return,
                more = mesh.changed() => if !more { return },
                () = self.duty.returned(returns) => {}
                () = sleep_until(next) => {}
            }
        }
    }

    async fn reconcile(&mut self, set: &mut Set, mesh: &Snapshot) {
        let node = self.options.node.clone();
        let mut wanted: BTreeMap<_, _> = mesh
            .on_node(&node)
            .filter(|workload| workload.place != Place::Unplaced)
            .map(|workload| (&workload.name, workload))
            .collect();
        self.find(set, &wanted).await;
        self.settle(set, mesh.revision, &mut wanted);
        set.failing.retain(|name, _| wanted.contains_key(name));
        set.waiting.retain(|name, _| wanted.contains_key(name));
        let gone = set.take_gone(&wanted);
        if !gone.is_empty() {
            set.keep_places(&gone, &wanted);
            self.tell_connections(set);
            self.publish(set, mesh.revision, false);
            self.release(set, gone).await;
        }
        let refused = self.obtain(set, &wanted).await;
        for (name, workload) in wanted {
            self.start_or_refresh(set, name, (workload, &refused)).await;
            // Hundreds of them take seconds, and each alone milliseconds.
            tokio::task::yield_now().await;
        }
        set.refresh_host();
        self.tell_connections(set);
        if !self.take_over(set, mesh) {
            return;
        }
        self.publish(set, mesh.revision, true);
        // As long as connections are captured, nobody else may have them.
        let applied = Arc::clone(&self.applied.borrow().enrolled);
        let is_captured = |cookie| applied.iter().any(|enrolled| enrolled.netns == cookie);
        let kernel = &self.context.kernel;
        kernel.retain_arrivals(|cookie| set.is_used(cookie) || is_captured(cookie));
        let used: BTreeSet<_> =
            set.pods.values().map(|pod| pod.workload.identity.clone()).collect();
        self.identities.retain(|id| used.contains(id));
        self.context.telemetry.retain(|name| mesh.workloads.contains_key(name));
        let n_short = self.applied.borrow().findings.len();
        let n_conditions = mesh.conditions.len() + set.conflicts.len() + n_short;
        self.context.telemetry.set_snapshot(mesh.revision, n_conditions);
    }

    /// Looks where the workloads are, those excepted that have just failed to start.
    async fn find(&self, set: &mut Set, wanted: &BTreeMap<&ResourceName, &Arc<Workload>>) {
        let now = Instant::now();
        set.finder.begin();
        let mut spots = BTreeMap::new();
        for (name, workload) in wanted {
            let former = set.spots.remove(*name);
            let spot = if set.is_due(name, now) {
                set.finder.spot(name, &workload.place, &self.options.cgroup_root, former).await
            } else {
                former
            };
            spots.extend(spot.map(|spot| ((*name).clone(), spot)));
            // Thousands that are not there are looked for as well.
            tokio::task::yield_now().await;
        }
        set.spots = spots;
    }

    /// Takes those out of `wanted` whose places other workloads have, and reports them.
    fn settle(
        &self,
        set: &mut Set,
        revision: u64,
        wanted: &mut BTreeMap<&ResourceName, &Arc<Workload>>,
    ) {
        let ids = set.spots.iter().map(|(name, spot)| (name.clone(), spot.id())).collect();
        let earlier = |id: SpotId| {
            let spot = set.spots.values().find(|spot| spot.id() == id)?;
            self.earlier.get(&spot.source()).copied()
        };
        let conflicts = set.claims.settle(revision, wanted, &ids, earlier);
        for (name, holder) in &conflicts {
            if set.conflicts.get(name) != Some(holder) {
                tracing::warn!(workload = %name, %holder, "not enrolled: another workload has its place");
            }
        }
        let finding = |(name, holder): (&ResourceName, _)| {
            wanted.get(name).map(|workload| claims::finding(workload, holder))
        };
        let findings: Arc<[_]> = conflicts.iter().filter_map(finding).collect();
        self.findings.send_if_modified(|current| {
            let changed = *current != findings;
            *current = findings;
            changed
        });
        wanted.retain(|name, _| !conflicts.contains_key(*name));
        set.conflicts = conflicts;
    }

    /// Has certificates made for those that are to be started now, all at one time: an authority
    /// that is elsewhere, or down, delays each of them as long as one. Returns why some have none.
    async fn obtain(
        &self,
        set: &Set,
        wanted: &BTreeMap<&ResourceName, &Arc<Workload>>,
    ) -> HashMap<SpiffeId, identity::Error> {
        let now = Instant::now();
        let new = wanted.iter().filter(|(name, _)| {
            !set.pods.contains_key(**name)
                && set.is_due(name, now)
                && set.spots.contains_key(**name)
        });
        let ids = new.map(|(_name, workload)| workload.identity.clone()).collect();
        self.identities.ensure_all(ids).await
    }

    /// Lets workloads go: first the kernel, then the listeners with all their connections.
    async fn release(&mut self, set: &mut Set, gone: Vec<Pod>) {
        let sources: BTreeSet<_> = gone.iter().map(|pod| pod.local.source).collect();
        let released = self.applied.wait_for(|applied| {
            let captured = applied.enrolled.iter().filter(|enrolled| enrolled.ready);
            captured.into_iter().all(|enrolled| !sources.contains(&enrolled.source))
        });
        if timeout(RELEASE_TIMEOUT, released).await.is_err() {
            tracing::warn!("the kernel still captures workloads that are gone");
        }
        set.refresh_host();
        for pod in gone {
            if pod.realm.netns().is_some() {
                pod.realm.listening.stop();
            }
            let cut = pod.local.scope.drain(Duration::ZERO).await;
            tracing::info!(workload = %pod.workload.name, connections_cut = cut, "released");
        }
    }

    async fn start_or_refresh(
        &self,
        set: &mut Set,
        name: &ResourceName,
        (workload, refused): (&Arc<Workload>, &HashMap<SpiffeId, identity::Error>),
    ) {
        if let Some(pod) = set.pods.get_mut(name) {
            if !Arc::ptr_eq(&pod.workload, workload) && *pod.workload != **workload {
                pod.refresh(workload);
            }
            return;
        }
        let now = Instant::now();
        if !set.is_due(name, now) {
            return;
        }
        match self.start(set, workload, refused).await {
            Ok(pod) => {
                tracing::info!(workload = %name, identity = %workload.identity, "enrolled");
                set.failing.remove(name);
                set.waiting.remove(name);
                set.pods.insert(name.clone(), pod);
            }
            Err(error) => {
                let (first, most) = self.options.retry;
                let entry = set.failing.entry(name.clone());
                let (backoff, at) = entry.or_insert_with(|| {
                    // Said once: what follows is the same again.
                    tracing::warn!(workload = %name, %error, "cannot be enrolled yet");
                    (Backoff::new(first, most), now)
                });
                *at = now + backoff.next(rand::random());
            }
        }
    }

    async fn start(
        &self,
        set: &mut Set,
        workload: &Arc<Workload>,
        refused: &HashMap<SpiffeId, identity::Error>,
    ) -> io::Result<Pod> {
        let is_new = !set.waiting.contains_key(&workload.name);
        let root = &self.options.cgroup_root;
        let (found, netns) = set.finder.find(&workload.name, &workload.place, root).await?;
        if !set.claims.is_holder(found.id(), &workload.name) {
            return Err(io::Error::other("its place has just changed"));
        }
        let located = self.locate(&found, netns)?;
        let enrolled = located.enrolled(&workload.name);
        if is_new && let Err(error) = self.count_earlier(&workload.name, &located) {
            tracing::warn!(
                workload = %workload.name, error = %chain(&error),
                "the connections that were open before it was enrolled are not counted"
            );
        }
        // From here on it is known whose sockets these are.
        set.waiting.insert(workload.name.clone(), enrolled);
        if let Some(error) = refused.get(&workload.identity) {
            return Err(io::Error::other(chain(error)));
        }
        let identity =
            self.identities.ensure(&workload.identity).await.map_err(io::Error::other)?;
        let is_pod = located.netns.is_some();
        let realm = match located.netns {
            None => self.host(set)?,
            Some(netns) => self.realm(Some(netns), "pod")?,
        };
        // The units of a host come and go each for itself.
        let scope = if is_pod { realm.scope.clone() } else { realm.scope.child("unit") };
        let context = &self.context;
        let local = Local::new(Arc::clone(workload), identity, located.source, scope, context);
        let local = Arc::new(local);
        if is_pod {
            realm.set_locals(vec![Arc::clone(&local)]);
            self.listen(&realm)?;
        }
        Ok(Pod { workload: Arc::clone(workload), found, local, realm })
    }

    /// Where a workload's sockets are. What arrives there is looked at from now on.
    fn locate(&self, found: &Spot, netns: Option<Netns>) -> io::Result<Located> {
        let node = socket::current_netns_cookie()?;
        let source = found.source();
        match found {
            Spot::Cgroup(id) => {
                self.refuse_own_cgroup(*id)?;
                let own = File::open("/proc/thread-self/ns/net")?;
                self.watch_arrivals(own.as_fd(), node, true)?;
                Ok(Located { source, cookie: node, netns: None })
            }
            Spot::Netns { cookie, .. } => {
                let netns = netns.ok_or_else(|| io::Error::other("its namespace is not open"))?;
                let (netns, cookie) = (Arc::new(netns), *cookie);
                if cookie == node {
                    return Err(io::Error::other(
                        "its `netns` is the host's; name its `cgroup` or `systemdUnit` instead",
                    ));
                }
                self.watch_arrivals(netns.as_fd(), cookie, false)?;
                Ok(Located { source, cookie, netns: Some(netns) })
            }
        }
    }

    fn watch_arrivals(&self, netns: BorrowedFd<'_>, cookie: u64, shared: bool) -> io::Result<()> {
        let threads = self.context.runtimes.all().len();
        let threads = u32::try_from(threads).map_err(io::Error::other)?;
        self.context.kernel.watch_arrivals(netns, Arrivals { cookie, shared, threads })
    }

    /// Counts the connections that a workload has already: the mesh has no part in them.
    fn count_earlier(&self, workload: &ResourceName, located: &Located) -> io::Result<()> {
        let count = || self.context.kernel.count_earlier(workload, located.source);
        match &located.netns {
            None => count(),
            Some(netns) => netns.enter(count)?,
        }
    }

    fn realm(&self, netns: Option<Arc<Netns>>, name: &'static str) -> io::Result<Arc<Realm>> {
        let scopes = (self.scope.child(name), self.listening.child(name));
        Ok(Arc::new(Realm::new(netns, &self.context, scopes)?))
    }

    /// The agent's own namespace, with its listeners.
    fn host(&self, set: &mut Set) -> io::Result<Arc<Realm>> {
        if let Some(host) = &set.host {
            return Ok(Arc::clone(host));
        }
        let host = self.realm(None, "host")?;
        self.listen(&host)?;
        set.host = Some(Arc::clone(&host));
        Ok(host)
    }

    /// Starts the listeners of a realm, or gives it up.
    fn listen(&self, realm: &Arc<Realm>) -> io::Result<()> {
        let started = listeners::start(&self.context, realm, self.options.generation);
        // Those of a predecessor have their places until all of them are taken over.
        let given = started.and_then(|()| match self.expected {
            Some(_) => Ok(()),
            None => realm.listening.give(&self.context.kernel),
        });
        given.inspect_err(|_error| {
            realm.scope.stop();
            realm.listening.stop();
        })
    }

    /// The agent's own connections must never be captured.
    fn refuse_own_cgroup(&self, id: u64) -> io::Result<()> {
        let root = &self.options.cgroup_root;
        let own = cgroup::own(root)?;
        let mut above = own.ancestors().take_while(|path| path.starts_with(root));
        if above.any(|path| cgroup::id(path).is_ok_and(|other| other == id)) {
            return Err(io::Error::other(
                "the agent itself runs in this cgroup; start it in a unit of its own",
            ));
        }
        Ok(())
    }

    /// Takes over what a predecessor serves, when all of it is enrolled here too. False: it is not yet.
    fn take_over(&mut self, set: &Set, mesh: &Snapshot) -> bool {
        let Some(expected) = &self.expected else { return true };
        let node = &self.options.node;
        let is_missing = |workload: &&Arc<Workload>| {
            expected.contains(&workload.name) && !set.pods.contains_key(&workload.name)
        };
        let missing = mesh.on_node(node).filter(is_missing).count();
        if missing > 0 {
            tracing::info!(
                missing,
                "a predecessor goes on serving until its workloads are enrolled"
            );
            return false;
        }
        self.give_all(set);
        self.expected = None;
        true
    }

    /// Goes on after another process had the duty, and gave it back.
    fn take_back(&self, set: &Set) {
        self.give_all(set);
    }

    fn give_all(&self, set: &Set) {
        for realm in set.realms() {
            if let Err(error) = realm.listening.give(&self.context.kernel) {
                tracing::error!(%error, "the kernel does not give connections to a listener");
            }
        }
    }

    /// Says to connections who is here.
    fn tell_connections(&self, set: &Set) {
        let resident =
            |pod: &Pod| Resident { realm: Arc::clone(&pod.realm), local: Arc::clone(&pod.local) };
        let residents = set.pods.iter().map(|(name, pod)| (name.clone(), resident(pod)));
        self.context.locals.set(residents.collect());
    }

    /// Says to the datapath who is here.
    fn publish(&self, set: &Set, revision: u64, is_last: bool) {
        if self.expected.is_some() {
            return;
        }
        self.namespaces.send_if_modified(|current| {
            let namespaces = set.namespaces();
            let same = |a: &LocalNetns, b: &LocalNetns| a.cookie == b.cookie;
            let changed = current.len() != namespaces.len()
                || !current.iter().zip(&*namespaces).all(|(a, b)| same(a, b));
            *current = namespaces;
            changed
        });
        let ready = set.pods.iter().map(|(name, pod)| Enrolled {
            name: name.clone(),
            source: pod.local.source,
            netns: pod.realm.cookie,
            ready: true,
        });
        let enrolled =
            ready.chain(set.waiting.values().cloned()).collect::<Places>().of(revision, is_last);
        self.enrolled.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&enrolled);
            *current = Some(Arc::new(enrolled));
            changed
        });
    }
}

impl Located {
    fn enrolled(&self, name: &ResourceName) -> Enrolled {
        let (source, netns) = (self.source, self.cookie);
        Enrolled { name: name.clone(), source, netns, ready: false }
    }
}
