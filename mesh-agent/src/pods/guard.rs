//! Finds workloads, and has the kernel know whose sockets are whose: their failure modes are in force from
//! then on, before anybody serves them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use mesh_common::source::SourceKey;
use tokio::time::Instant;

use crate::datapath::desired::{Awaited, Enrolled};
use crate::datapath::inbound::Arrivals;
use crate::failure::chain;
use crate::model::id::ResourceName;
use crate::model::workload::Workload;
use crate::pods::failing::Cause;
use crate::pods::place::Spot;
use crate::pods::run::Pods;
use crate::pods::set::Set;
use crate::sys::netns::Netns;
use crate::sys::{cgroup, socket};

/// A workload whose place is known and guarded.
pub(super) type Guarded = (Spot, Located);

/// Where a workload's sockets are.
pub(super) struct Located {
    pub(super) source: SourceKey,
    /// Of the namespace.
    pub(super) cookie: u64,
    /// `None`: the agent's own.
    pub(super) netns: Option<Arc<Netns>>,
}

impl Pods {
    /// Notes where the cgroups of `wanted` are made, so that the kernel knows them at once.
    pub(super) fn await_cgroups(
        &self,
        set: &mut Set,
        wanted: &BTreeMap<&ResourceName, &Arc<Workload>>,
    ) {
        let root = &self.options.cgroup_root;
        let mut awaited = Vec::new();
        for (name, workload) in wanted {
            let paths = set.finder.paths(&workload.place, root);
            awaited.extend(paths.into_iter().map(|path| Awaited { name: (*name).clone(), path }));
        }
        // Connections to their ports are looked at whether they run or not.
        set.awaited_in = if awaited.is_empty() {
            None
        } else {
            let watched = self.watch_host().inspect_err(|error| {
                tracing::warn!(%error, "what arrives at units that do not run is not looked at");
            });
            watched.ok()
        };
        set.awaited = awaited;
    }

    /// Has the kernel see what arrives in the agent's own namespace.
    fn watch_host(&self) -> io::Result<u64> {
        let own = File::open("/proc/thread-self/ns/net")?;
        let cookie = socket::current_netns_cookie()?;
        self.watch_arrivals(own.as_fd(), cookie, true)?;
        Ok(cookie)
    }

    /// Has the kernel see what arrives at those that are served, after somebody has detached its programs.
    pub(super) fn guard_again(&self, set: &Set) {
        let done = set.realms().into_iter().try_for_each(|realm| match realm.netns() {
            Some(netns) => self.watch_arrivals(netns.as_fd(), realm.cookie, false),
            None => self.watch_host().map(drop),
        });
        if let Err(error) = done {
            tracing::warn!(%error, "what arrives at workloads is not looked at; it is tried again");
        }
    }

    /// Finds the places of those that are to be started now. From then on the kernel knows whose sockets
    /// these are, and their failure modes are in force until they are served.
    pub(super) async fn guard(
        &self,
        set: &mut Set,
        wanted: &BTreeMap<&ResourceName, &Arc<Workload>>,
    ) -> HashMap<ResourceName, Guarded> {
        let (now, mut all) = (Instant::now(), HashMap::new());
        for (name, workload) in wanted {
            let is_there = set.spots.contains_key(*name);
            let is_said = !is_there && !set.absent.insert((*name).clone());
            if set.pods.contains_key(*name) || is_said || !set.is_due(name, now) {
                continue;
            }
            match self.locate_workload(set, workload).await {
                Ok(guarded) => drop(all.insert((*name).clone(), guarded)),
                // It is looked for each time that something changes, and now and then.
                Err(error) if !is_there => {
                    tracing::warn!(workload = %name, %error, "not enrolled: it is not there");
                }
                Err(error) => self.put_off(set, name, Cause::of(&error), &error),
            }
            tokio::task::yield_now().await;
        }
        all
    }

    async fn locate_workload(
        &self,
        set: &mut Set,
        workload: &Arc<Workload>,
    ) -> io::Result<Guarded> {
        let is_new = !set.waiting.contains_key(&workload.name);
        let root = &self.options.cgroup_root;
        let (found, netns) = set.finder.find(&workload.name, &workload.place, root).await?;
        if !set.claims.is_holder(found.id(), &workload.name) {
            return Err(io::Error::other("its place has just changed"));
        }
        let located = self.locate(&found, netns)?;
        if is_new && let Err(error) = self.count_earlier(&workload.name, &located) {
            tracing::warn!(
                workload = %workload.name, error = %chain(&error),
                "the connections that were open before it was enrolled are not counted"
            );
        }
        set.waiting.insert(workload.name.clone(), located.enrolled(&workload.name));
        Ok((found, located))
    }

    /// Where a workload's sockets are. Connections that arrive there are looked at from now on.
    fn locate(&self, found: &Spot, netns: Option<Netns>) -> io::Result<Located> {
        let node = socket::current_netns_cookie()?;
        let source = found.source();
        match found {
            Spot::Cgroup(id) => {
                self.refuse_own_cgroup(*id)?;
                self.watch_host()?;
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
        self.context.kernel.watch_arrivals(
            netns,
            Arrivals { cookie, shared, threads, generation: self.options.generation },
        )
    }

    /// Counts the connections that a workload has already: the mesh has no part in them.
    fn count_earlier(&self, workload: &ResourceName, located: &Located) -> io::Result<()> {
        let count = || self.context.kernel.count_earlier(workload, located.source);
        match &located.netns {
            None => count(),
            Some(netns) => netns.enter(count)?,
        }
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
}

impl Located {
    fn enrolled(&self, name: &ResourceName) -> Enrolled {
        let (source, netns) = (self.source, self.cookie);
        Enrolled { name: name.clone(), source, netns, ready: false, device: 0 }
    }
}
