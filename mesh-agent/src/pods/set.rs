//! The set of enrolled workloads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use crate::datapath::desired::{Awaited, Enrolled};
use crate::flows::enforce::LocalNetns;
use crate::model::id::ResourceName;
use crate::model::workload::Workload;
use crate::pods::claims::{Claims, Conflicts};
use crate::pods::failing::Failing;
use crate::pods::finder::Finder;
use crate::pods::place::Spot;
use crate::proxy::listening::Listening;
use crate::proxy::realm::{Local, Realm};

/// One enrolled workload.
pub(super) struct Pod {
    pub(super) workload: Arc<Workload>,
    pub(super) found: Spot,
    pub(super) local: Arc<Local>,
    pub(super) realm: Arc<Realm>,
    /// The network device that has its addresses; 0: none has, or it is not known yet.
    pub(super) device: u32,
    /// A unit's own listeners; `None`: those of the namespace are its own, or serve it with others.
    pub(super) listening: Option<Arc<Listening>>,
}

/// The task's own state.
#[derive(Default)]
pub(super) struct Set {
    pub(super) pods: BTreeMap<ResourceName, Pod>,
    /// Those that were found and could not be started: their failure mode is in force.
    pub(super) waiting: BTreeMap<ResourceName, Enrolled>,
    /// The agent's own namespace, once a workload lives in it.
    pub(super) host: Option<Arc<Realm>>,
    pub(super) finder: Finder,
    /// Where cgroups of workloads may be made at any time.
    pub(super) awaited: Vec<Awaited>,
    /// The cookie of the agent's own namespace, where they would be.
    pub(super) awaited_in: Option<u64>,
    /// Where each workload was last found.
    pub(super) spots: BTreeMap<ResourceName, Spot>,
    /// Those that are not there, which has been said.
    pub(super) absent: BTreeSet<ResourceName>,
    /// The owner of each of those.
    pub(super) claims: Claims,
    /// The workloads that are not enrolled, because others have their places.
    pub(super) conflicts: Conflicts,
    /// Those that could not be started.
    pub(super) failing: HashMap<ResourceName, Failing>,
    /// When workloads of a predecessor were first found missing; `None`: not yet.
    pub(super) missing_since: Option<Instant>,
}

impl Pod {
    /// Takes over what changed of the workload without touching its connections.
    pub(super) fn refresh(&mut self, workload: &Arc<Workload>) {
        self.workload = Arc::clone(workload);
        self.device = 0;
        self.local = Arc::new(self.local.changed(Arc::clone(workload)));
        if matches!(self.found, Spot::Netns { .. }) {
            self.realm.set_locals(vec![Arc::clone(&self.local)]);
        }
    }
}

impl Set {
    /// The namespaces, with their listeners, each once.
    pub(super) fn realms(&self) -> Vec<&Arc<Realm>> {
        let mut realms: Vec<_> = self.pods.values().map(|pod| &pod.realm).collect();
        realms.sort_unstable_by_key(|realm| realm.cookie);
        realms.dedup_by_key(|realm| realm.cookie);
        realms
    }

    /// The namespaces of the workloads, each once.
    pub(super) fn namespaces(&self) -> Arc<[LocalNetns]> {
        let of = |pod: &Pod| {
            let (cookie, netns) = (pod.realm.cookie, pod.realm.netns().cloned());
            (cookie, LocalNetns { cookie, netns })
        };
        self.pods.values().map(of).collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// Takes out what is not wanted any more, or is elsewhere or someone else now.
    pub(super) fn take_gone(
        &mut self,
        wanted: &BTreeMap<&ResourceName, &Arc<Workload>>,
    ) -> Vec<Pod> {
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
    pub(super) fn keep_places(
        &mut self,
        gone: &[Pod],
        wanted: &BTreeMap<&ResourceName, &Arc<Workload>>,
    ) {
        for pod in gone {
            let next = wanted.keys().find(|name| self.spots.get(**name) == Some(&pod.found));
            let Some(name) = next.map(|name| (*name).clone()) else { continue };
            let (source, netns) = (pod.local.source, pod.realm.cookie);
            self.waiting
                .insert(name.clone(), Enrolled { name, source, netns, ready: false, device: 0 });
        }
    }

    /// Whether a workload may be started now: it has not just failed.
    pub(super) fn is_due(&self, name: &ResourceName, now: Instant) -> bool {
        self.failing.get(name).is_none_or(|failing| now >= failing.next)
    }

    /// Whether a workload is in the namespace with this cookie.
    pub(super) fn is_used(&self, cookie: u64) -> bool {
        self.pods.values().any(|pod| pod.realm.cookie == cookie)
            || self.waiting.values().any(|waiting| waiting.netns == cookie)
            || self.awaited_in == Some(cookie)
    }

    /// Tells the agent's own namespace which workloads live in it.
    pub(super) fn refresh_host(&self) {
        if let Some(host) = &self.host {
            let inside = self.pods.values().filter(|pod| Arc::ptr_eq(&pod.realm, host));
            host.set_locals(inside.map(|pod| Arc::clone(&pod.local)).collect());
        }
    }
}
