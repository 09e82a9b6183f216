//! The task that owns the set of enrolled workloads. It ends when its scope drains.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::source::SourceKey;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};

use crate::datapath::desired::{Enrolled, Places};
use crate::datapath::pins;
use crate::datapath::sync::{Applied, Found};
use crate::failure::chain;
use crate::flows::enforce::LocalNetns;
use crate::identity::{self, Identities, Identity};
use crate::model::condition::Finding;
use crate::model::id::ResourceName;
use crate::model::snapshot::Snapshot;
use crate::model::spiffe::SpiffeId;
use crate::model::workload::{Place, Workload};
use crate::pods::changes::Changes;
use crate::pods::claims;
use crate::pods::failing::{Cause, Failing, LEAVES};
use crate::pods::guard::Guarded;
use crate::pods::place::SpotId;
use crate::pods::set::{Pod, Set};
use crate::pods::{Options, listeners, unprotected};
use crate::proxy::Context;
use crate::proxy::listening::Listening;
use crate::proxy::realm::{Local, Realm, Resident, UNIT_DESCRIPTORS};
use crate::sys::heap;
use crate::sys::netns::Netns;
use crate::task::clock;
use crate::task::duty::Duty;
use crate::task::ready::Gate;
use crate::task::scope::Scope;

/// How long the kernel may take to let a workload go before its listeners close.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// So many times as long as it has worked on looking at all places, the task rests before it does so because of a
/// change.
const RESTS: u32 = 4;

/// Sources of the task.
pub struct Pods {
    /// Its settings.
    pub options: Options,
    /// The state that every connection shares.
    pub context: Arc<Context>,
    /// The maker of certificates.
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

impl Pods {
    /// Runs until the scope drains. Passes `ready` when every workload of the first snapshot is
    /// enrolled, or has been tried.
    pub async fn run(mut self, ready: Gate) {
        let mut set = Set::default();
        let mut mesh = self.context.mesh.clone();
        let mut changes = Changes::new();
        let mut lost = self.context.kernel.lost();
        loop {
            let began = clock::of_thread();
            let Some(work) = self.duty.work(&self.scope).await else { return };
            let returns = work.returns;
            let snapshot = mesh.load();
            if pins::are_lost(&mut lost) {
                self.guard_again(&set);
            }
            if snapshot.revision > 0 {
                self.reconcile(&mut set, &snapshot).await;
                ready.pass();
                let here = snapshot.on_node(&self.options.node);
                let places: Vec<_> = here.map(|workload| &workload.place).collect();
                changes.watch(&set.finder.folders(&places, &self.options.cgroup_root));
            }
            self.prepare(&snapshot);
            drop(work);
            // Namespaces are made anew under old names, and units restart. A process that makes cgroups and
            // mounts without end takes a fifth of this thread.
            let used = clock::of_thread().saturating_sub(began);
            let rested = Instant::now() + used * RESTS;
            let changed = async {
                sleep_until(rested).await;
                changes.wait().await;
            };
            let look = Instant::now() + self.options.retry.1;
            let leaves = set.missing_since.map(|since| since + LEAVES);
            let leaves = leaves.filter(|_| self.expected.is_some());
            let failing = set.failing.values().map(|failing| failing.next);
            let next = failing.chain(leaves).fold(look, Instant::min);
            tokio::select! {
                biased;
                () = self.scope.draining() => return,
                more = mesh.changed() => if !more { return },
                () = self.duty.returned(returns) => {}
                Ok(()) = lost.changed() => lost.mark_changed(),
                () = changed => {}
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
        set.keep_places(&gone, &wanted);
        self.await_cgroups(set, &wanted);
        let mut guarded = self.guard(set, &wanted).await;
        if !(gone.is_empty() && guarded.is_empty()) {
            self.tell_connections(set);
            self.publish(set, mesh.revision, false);
        }
        if !gone.is_empty() {
            self.release(set, gone).await;
        }
        let refused = self.obtain(&guarded, &wanted).await;
        for (name, workload) in wanted {
            let guarded = guarded.remove(name);
            self.start_or_refresh(set, name, (workload, guarded, &refused)).await;
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
        let n_conditions = mesh.conditions.len() + self.findings.borrow().len() + n_short;
        self.context.telemetry.set_snapshot(mesh.revision, n_conditions);
    }

    /// Looks where the workloads are. One that is elsewhere than before is tried anew.
    async fn find(&self, set: &mut Set, wanted: &BTreeMap<&ResourceName, &Arc<Workload>>) {
        set.finder.begin();
        let mut spots = BTreeMap::new();
        for (name, workload) in wanted {
            let former = set.spots.remove(*name);
            let root = &self.options.cgroup_root;
            let spot = set.finder.spot(name, &workload.place, root, former.clone()).await;
            if spot != former {
                set.failing.remove(*name);
            }
            spots.extend(spot.map(|spot| ((*name).clone(), spot)));
            // Thousands that are not there are looked for as well.
            tokio::task::yield_now().await;
        }
        set.spots = spots;
        set.absent.retain(|name| wanted.contains_key(name) && !set.spots.contains_key(name));
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
        let failing = |(name, failing): (_, &Failing)| failing.finding(wanted.get(name)?);
        let mut failing: Vec<_> = set.failing.iter().filter_map(failing).collect();
        failing.sort_by(|a, b| a.subject.cmp(&b.subject));
        let conflicting = conflicts.iter().filter_map(finding);
        let found: Arc<[_]> = conflicting.chain(unprotected).chain(failing).collect();
        self.findings.send_if_modified(|current| {
            let before = std::mem::replace(current, found);
            before != *current
        });
        wanted.retain(|name, _| !conflicts.contains_key(*name));
        set.conflicts = conflicts;
    }

    /// Tries a workload again some time later.
    pub(super) fn put_off(
        &self,
        set: &mut Set,
        name: &ResourceName,
        cause: Cause,
        error: &io::Error,
    ) {
        let now = Instant::now();
        let failing = set.failing.entry(name.clone()).or_insert_with(|| {
            // Said once: what follows is the same again.
            tracing::warn!(workload = %name, %error, "cannot be enrolled yet");
            Failing::new(now, self.options.retry)
        });
        failing.again(now, cause, error);
    }

    /// Has certificates made for those that are to be started now, all at one time: an authority
    /// that is elsewhere, or down, delays each of them as long as one. Returns why some have none.
    async fn obtain(
        &self,
        guarded: &HashMap<ResourceName, Guarded>,
        wanted: &BTreeMap<&ResourceName, &Arc<Workload>>,
    ) -> HashMap<SpiffeId, identity::Error> {
        let new = wanted.iter().filter(|(name, _)| guarded.contains_key(**name));
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
                self.context.kernel.let_arrivals_go(pod.realm.cookie);
                pod.realm.listening.stop();
            }
            if let Some(own) = &pod.listening {
                own.stop();
            }
            let cut = pod.local.scope.drain(Duration::ZERO).await;
            if pod.realm.netns().is_some()
                && let Err(error) = pod.realm.tidy()
            {
                tracing::debug!(workload = %pod.workload.name, %error, "a route stays behind");
            }
            tracing::info!(workload = %pod.workload.name, connections_cut = cut, "released");
        }
    }

    async fn start_or_refresh(
        &self,
        set: &mut Set,
        name: &ResourceName,
        (workload, guarded, refused): (
            &Arc<Workload>,
            Option<Guarded>,
            &HashMap<SpiffeId, identity::Error>,
        ),
    ) {
        if let Some(pod) = set.pods.get_mut(name) {
            if !Arc::ptr_eq(&pod.workload, workload) && *pod.workload != **workload {
                pod.refresh(workload);
            }
            pod.find_device();
            return;
        }
        let Some(guarded) = guarded else { return };
        let identity = match self.certificate(workload, refused).await {
            Ok(identity) => identity,
            Err(error) => return self.put_off(set, name, Cause::Certificate, &error),
        };
        match self.start(set, workload, guarded, identity) {
            Ok(pod) => {
                tracing::info!(workload = %name, identity = %workload.identity, "enrolled");
                set.failing.remove(name);
                set.waiting.remove(name);
                set.pods.insert(name.clone(), pod);
            }
            Err(error) => self.put_off(set, name, Cause::of(&error), &error),
        }
    }

    /// A workload's certificate. `refused`: those that were asked for and not made.
    async fn certificate(
        &self,
        workload: &Workload,
        refused: &HashMap<SpiffeId, identity::Error>,
    ) -> io::Result<Arc<Identity>> {
        if let Some(error) = refused.get(&workload.identity) {
            return Err(io::Error::other(chain(error)));
        }
        self.identities.ensure(&workload.identity).await.map_err(io::Error::other)
    }

    fn start(
        &self,
        set: &mut Set,
        workload: &Arc<Workload>,
        (found, located): Guarded,
        identity: Arc<Identity>,
    ) -> io::Result<Pod> {
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
            self.listen(&realm, &workload.name)?;
        }
        let listening = if is_pod { None } else { self.listen_for(&realm, &workload.name) };
        let mut pod =
            Pod { workload: Arc::clone(workload), found, local, realm, device: 0, listening };
        pod.find_device();
        Ok(pod)
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
        self.listen(&host, &"the node's own")?;
        set.host = Some(Arc::clone(&host));
        Ok(host)
    }

    /// Starts the listeners of a realm, or gives it up.
    fn listen(&self, realm: &Arc<Realm>, owner: &dyn fmt::Display) -> io::Result<()> {
        let started = listeners::start(&self.context, realm, self.options.generation, owner);
        started.and_then(|()| self.give(&realm.listening)).inspect_err(|_error| {
            realm.scope.stop();
            realm.listening.stop();
        })
    }

    /// Starts a unit's own listeners. `None`: those that units share serve it, which others can fill.
    fn listen_for(&self, realm: &Arc<Realm>, name: &ResourceName) -> Option<Arc<Listening>> {
        let counted = self.context.sockets.keep(UNIT_DESCRIPTORS);
        let own = Listening::new(self.listening.child("unit"), counted);
        let generation = self.options.generation;
        let started = listeners::start_unit(&self.context, realm, (name, &own), generation);
        match started.and_then(|()| self.give(&own)) {
            Ok(()) => Some(Arc::new(own)),
            Err(error) => {
                tracing::warn!(
                    workload = %name, %error,
                    "no listeners of its own: it shares the node's, which other units can fill"
                );
                own.stop();
                None
            }
        }
    }

    /// Has programs ready for namespaces that are made anew, if workloads here have any. The verifier
    /// takes its time, on another thread.
    fn prepare(&self, mesh: &Snapshot) {
        let mut here = mesh.on_node(&self.options.node);
        let kernel = Arc::clone(&self.context.kernel);
        if kernel.has_spare_arrivals()
            || !here.any(|workload| matches!(workload.place, Place::Netns(_)))
        {
            return;
        }
        self.scope.spawn(async move {
            let prepare = move || {
                let prepared = kernel.prepare_arrivals();
                // The kernel's types are 40 MiB while they are read.
                heap::give_back();
                prepared
            };
            let prepared = spawn_blocking(prepare).await;
            if let Ok(Err(error)) = prepared {
                tracing::warn!(%error, "pods that restart are guarded late");
            }
        });
    }

    /// Says to connections who is here.
    fn tell_connections(&self, set: &Set) {
        let resident =
            |pod: &Pod| Resident { realm: Arc::clone(&pod.realm), local: Arc::clone(&pod.local) };
        let residents = set.pods.iter().map(|(name, pod)| (name.clone(), resident(pod)));
        let own = set.pods.values().filter_map(|pod| pod.listening.clone());
        self.context.locals.set(residents.collect(), own.collect());
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
            device: pod.device,
        });
        let found = ready.chain(set.waiting.values().cloned()).collect::<Places>();
        let own_ports = Arc::clone(&self.options.own_ports);
        let enrolled = found.awaiting(set.awaited.clone()).without_ports(own_ports);
        let enrolled = enrolled.of(revision, is_last);
        self.enrolled.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&enrolled);
            *current = Some(Arc::new(enrolled));
            changed
        });
    }
}
