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
use crate::pods::claims::{self, Claims, Conflicts};
use crate::pods::finder::Finder;
use crate::pods::place::{Spot, SpotId};
use crate::pods::{Options, listeners, unprotected};
use crate::proxy::Context;
use crate::proxy::realm::{Local, Realm, Resident};
use crate::sys::netns::Netns;
use crate::sys::{cgroup, socket};
use crate::task::backoff::Backoff;
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
    /// The scope of all connections.
    pub scope: Scope,
}

/// One enrolled workload.
struct Pod {
    workload: Arc<Workload>,
    found: Spot,
    local: Arc<Local>,
    realm: Arc<Realm>,
}

/// Where a workload's sockets are.
struct Located {
    source: SourceKey,
    /// Of the namespace.
    cookie: u64,
    /// `None`: the agent's own.
    netns: Option<Arc<Netns>>,
}

/// The task's own state.
#[derive(Default)]
struct Set {
    pods: BTreeMap<ResourceName, Pod>,
    /// Those that were found and could not be started: their failure mode is in force.
    waiting: BTreeMap<ResourceName, Enrolled>,
    /// The agent's own namespace, once a workload lives in it.
    host: Option<Arc<Realm>>,
    finder: Finder,
    /// Where each workload was last found.
    spots: BTreeMap<ResourceName, Spot>,
    /// Whose each of those is.
    claims: Claims,
    /// The workloads that are not enrolled, because others have their places.
    conflicts: Conflicts,
    /// When to try again what could not be started.
    failing: HashMap<ResourceName, (Backoff, Instant)>,
}

impl Pods {
    /// Runs until the scope drains. Passes `ready` when every workload of the first snapshot is
    /// enrolled, or has been tried.
    pub async fn run(mut self, ready: Gate) {
        let mut set = Set::default();
        let mut mesh = self.context.mesh.clone();
        loop {
            let snapshot = mesh.load();
            if snapshot.revision > 0 {
                self.reconcile(&mut set, &snapshot).await;
                ready.pass();
            }
            // Namespaces are made anew under old names, and units restart: looked at now and then.
            let look = Instant::now() + self.options.retry.1;
            let next = set.failing.values().map(|(_, at)| *at).fold(look, Instant::min);
            tokio::select! {
                biased;
                () = self.scope.draining() => return,
                more = mesh.changed() => if !more { return },
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
        let n_conditions = mesh.conditions.len() + self.findings.borrow().len() + n_short;
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
        set.finder.retain(|name| wanted.contains_key(name));
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
        let unprotected = unprotected::all(&set.finder, &set.spots, wanted, &self.options);
        unprotected::log_new(&unprotected, &self.findings.borrow());
        let found: Arc<[_]> = conflicts.iter().filter_map(finding).chain(unprotected).collect();
        self.findings.send_if_modified(|current| {
            let before = std::mem::replace(current, found);
            before != *current
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
        Ok(Arc::new(Realm::new(netns, &self.context, self.scope.child(name))?))
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
        listeners::start(&self.context, realm).inspect_err(|_error| realm.scope.stop())
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

    /// Says to connections and to the datapath who is here.
    fn publish(&self, set: &Set, revision: u64, is_last: bool) {
        let resident =
            |pod: &Pod| Resident { realm: Arc::clone(&pod.realm), local: Arc::clone(&pod.local) };
        let residents = set.pods.iter().map(|(name, pod)| (name.clone(), resident(pod)));
        self.context.locals.set(residents.collect());
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
        Enrolled { name: name.clone(), source: self.source, netns: self.cookie, ready: false }
    }
}

impl Pod {
    /// Takes over what changed of the workload without touching its connections.
    fn refresh(&mut self, workload: &Arc<Workload>) {
        self.workload = Arc::clone(workload);
        self.local = Arc::new(self.local.changed(Arc::clone(workload)));
        if matches!(self.found, Spot::Netns { .. }) {
            self.realm.set_locals(vec![Arc::clone(&self.local)]);
        }
    }
}

impl Set {
    /// The namespaces of the workloads, each once.
    fn namespaces(&self) -> Arc<[LocalNetns]> {
        let of = |pod: &Pod| {
            let (cookie, netns) = (pod.realm.cookie, pod.realm.netns().cloned());
            (cookie, LocalNetns { cookie, netns })
        };
        self.pods.values().map(of).collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// Takes out what is not wanted any more, or is elsewhere or someone else now.
    fn take_gone(&mut self, wanted: &BTreeMap<&ResourceName, &Arc<Workload>>) -> Vec<Pod> {
        let stays = |name: &ResourceName, pod: &Pod| {
            wanted.get(name).is_some_and(|workload| {
                workload.identity == pod.workload.identity
                    && self.spots.get(name) == Some(&pod.found)
            })
        };
        let gone = self.pods.iter().filter(|(name, pod)| !stays(name, pod));
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        gone.iter().filter_map(|name| self.pods.remove(name)).collect()
    }

    /// Keeps the places of those that are gone for who is to be started there now: the same workload
    /// with another identity, or one of another name. Until it is, its failure mode is in force; without
    /// an entry the kernel would let everything pass.
    fn keep_places(&mut self, gone: &[Pod], wanted: &BTreeMap<&ResourceName, &Arc<Workload>>) {
        for pod in gone {
            let next = wanted.keys().find(|name| self.spots.get(**name) == Some(&pod.found));
            let Some(name) = next.map(|name| (*name).clone()) else { continue };
            let (source, netns) = (pod.local.source, pod.realm.cookie);
            self.waiting.insert(name.clone(), Enrolled { name, source, netns, ready: false });
        }
    }

    /// Whether a workload may be started now: it has not just failed.
    fn is_due(&self, name: &ResourceName, now: Instant) -> bool {
        self.failing.get(name).is_none_or(|(_, at)| now >= *at)
    }

    /// Whether a workload is in the namespace with this cookie.
    fn is_used(&self, cookie: u64) -> bool {
        self.pods.values().any(|pod| pod.realm.cookie == cookie)
            || self.waiting.values().any(|waiting| waiting.netns == cookie)
    }

    /// Tells the agent's own namespace which workloads live in it.
    fn refresh_host(&self) {
        if let Some(host) = &self.host {
            let inside = self.pods.values().filter(|pod| Arc::ptr_eq(&pod.realm, host));
            host.set_locals(inside.map(|pod| Arc::clone(&pod.local)).collect());
        }
    }
}
