//! The one task that writes the kernel's maps.
//!
//! It owns the maps' handles and what they hold; it ends when the scope drains or the store is
//! gone. Pins stay as they are then: a successor adopts them.

use std::sync::Arc;
use std::time::Duration;

use mesh_common::destination::{ConsumerKey, Destination, DestinationKey};
use mesh_common::external::ExternalKey;
use mesh_common::source::{PathKey, Source, SourceKey};
use mesh_common::verdict::{Verdict, VerdictKey};
use mesh_common::workload::{ACCELERATE, Inbound, PortKey, Workload};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::datapath::accel::Acceleration;
use crate::datapath::desired::{Entries, Places, SetIds, entries};
use crate::datapath::load::{Loaded, Predecessors};
use crate::datapath::pins;
use crate::datapath::tables::{Refused, SetTable, Table, Trie};
use crate::model::condition::Finding;
use crate::model::snapshot::Snapshot;
use crate::store::Reader;
use crate::task::backoff::Backoff;
use crate::task::duty::Duty;
use crate::task::scope::Scope;

/// The delays after which what the kernel refused is tried again: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// How long a snapshot waits for the places of its workloads. Until they are known, one that has another
/// name now would have no entry, and whatever arrives would pass.
const PATIENCE: Duration = Duration::from_secs(1);

/// The workloads of this node; `None` until they have been looked for.
pub type Found = Option<Arc<Places>>;

/// The configuration in force in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The snapshot's revision.
    pub revision: u64,
    /// The workloads whose connections are captured.
    pub enrolled: Arc<Places>,
    /// Why this kernel cannot accelerate connections, if a workload asks for it.
    pub no_acceleration: Option<Arc<str>>,
    /// Parts of the latest snapshot that the kernel refused, which is not in force then.
    pub refused: Refused,
    /// Demands of the latest snapshot's documents that the maps do not hold.
    pub findings: Arc<[Finding]>,
}

impl Applied {
    /// Notes what came of the latest snapshot, and logs what has changed of that.
    fn note(&mut self, findings: &[Finding], refused: Refused, no_acceleration: Option<Arc<str>>) {
        if let Some(first) = findings.first()
            && *self.findings != *findings
        {
            // One line: who has many namespaces has many of them.
            tracing::warn!(
                conditions = findings.len(), subject = %first.subject, first = %first.message,
                "documents ask for more than the kernel's maps hold; /conditions lists all"
            );
        }
        if self.refused != refused {
            for (map, (entries, error)) in &refused.0 {
                tracing::error!(map, entries, %error, "the kernel refused entries");
            }
        }
        if *self.findings != *findings {
            self.findings = findings.into();
        }
        (self.refused, self.no_acceleration) = (refused, no_acceleration);
    }

    /// Notes what has become of `want`, of places that were `found` and a revision: what was not refused is in
    /// force.
    fn follow(
        &mut self,
        want: &Entries,
        (found, revision): (&Arc<Places>, u64),
        refused: Refused,
        no_acceleration: Option<Arc<str>>,
    ) {
        let is_all = refused.is_empty();
        self.note(&want.findings, refused, no_acceleration);
        if is_all {
            self.enrolled = Arc::clone(found);
            if found.are_settled() {
                self.revision = revision;
            }
        }
    }
}

/// Keeps the maps equal to the snapshot and to `enrolled`, and says in `applied` what is in force.
/// `node` is the cookie of the agent's own namespace.
pub async fn run(
    loaded: Loaded,
    node: u64,
    mut mesh: Reader,
    mut enrolled: watch::Receiver<Found>,
    applied: watch::Sender<Applied>,
    (duty, scope): (Duty, Scope),
) {
    let mut lost = loaded.pins.lost();
    let (mut tables, mut ebpf, mut acceleration, predecessors) = Tables::adopt(loaded);
    let mut predecessors = Some(predecessors);
    let mut sets = SetIds::after(tables.last_set());
    let mut returns = 0;
    // The configuration of before goes when its successor is in force: of a large mesh that takes a while.
    let mut former = None;
    loop {
        let Some((snapshot, found)) = together(&mesh, &mut enrolled, &scope).await else { return };
        let Some(mut work) = duty.work(&scope).await else { return };
        if std::mem::replace(&mut returns, work.returns) != work.returns {
            // Another process had them meanwhile.
            tables.read_again();
            sets = SetIds::after(tables.last_set());
            acceleration.attach_again(&mut ebpf);
        }
        // Until the first snapshot, and until its workloads were looked for, nothing is known, and
        // what a predecessor left stays in force.
        let known = found.filter(|_| snapshot.revision > 0);
        let began = Instant::now();
        let want = known.map(|found| (entries(&snapshot, &found, node, &mut sets), found));
        let compiled = began.elapsed();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        // Entries that the kernel refuses are tried again; the wanted ones stay the same meanwhile.
        loop {
            let mut retry = None;
            if pins::are_lost(&mut lost) {
                acceleration.attach_again(&mut ebpf);
            }
            if let Some((want, found)) = &want {
                let no_acceleration = acceleration.turn(&mut ebpf, wants_acceleration(want));
                let began = Instant::now();
                let refused = tables.bring_to(want);
                drop(former.take());
                tracing::debug!(
                    revision = snapshot.revision,
                    compiled_ms = compiled.as_millis(),
                    written_ms = began.elapsed().as_millis(),
                    "the kernel's maps follow the configuration"
                );
                if refused.is_empty() {
                    if let Some(predecessors) = predecessors.take() {
                        predecessors.remove();
                    }
                } else {
                    retry = Some(backoff.next(rand::random()));
                }
                let of = (found, snapshot.revision);
                applied.send_modify(|now| now.follow(want, of, refused, no_acceleration));
            }
            drop(work);
            tokio::select! {
                biased;
                () = scope.draining() => return,
                more = mesh.changed() => if more { break } else { return },
                more = enrolled.changed() => if more.is_ok() { break } else { return },
                () = duty.returned(returns) => break,
                Ok(()) = lost.changed() => lost.mark_changed(),
                () = sleep(retry.unwrap_or_default()), if retry.is_some() => {}
            }
            work = match duty.work(&scope).await {
                Some(work) if work.returns == returns => work,
                Some(_) => break,
                None => return,
            };
        }
        former = Some((snapshot, want));
    }
}

/// The latest snapshot, and the places of its workloads, or what is known of them after [`PATIENCE`].
/// `None`: nothing more is wanted.
async fn together(
    mesh: &Reader,
    enrolled: &mut watch::Receiver<Found>,
    scope: &Scope,
) -> Option<(Arc<Snapshot>, Found)> {
    let late = Instant::now() + PATIENCE;
    loop {
        let (snapshot, found) = (mesh.load(), enrolled.borrow_and_update().clone());
        let is_behind = found.as_ref().is_some_and(|it| it.revision() < snapshot.revision);
        if !is_behind || Instant::now() >= late {
            return Some((snapshot, found));
        }
        tokio::select! {
            biased;
            () = scope.draining() => return None,
            more = enrolled.changed() => if more.is_err() { return None },
            () = sleep_until(late) => {}
        }
    }
}

/// Whether a workload of this node asks for acceleration.
fn wants_acceleration(want: &Entries) -> bool {
    want.sources.values().any(|source| source.flags & ACCELERATE != 0)
        || want.workloads.values().any(|workload| workload.flags & ACCELERATE != 0)
}

/// All maps that follow the configuration.
struct Tables {
    sources: Table<SourceKey, Source>,
    places: Table<PathKey, Source>,
    workloads: Table<u64, Workload>,
    destinations: Table<DestinationKey, Destination>,
    consumers: Table<ConsumerKey, u32>,
    sets: SetTable,
    verdicts: Table<VerdictKey, Verdict>,
    ports: Table<PortKey, u32>,
    inbound: Table<PortKey, Inbound>,
    probes: Table<DestinationKey, u64>,
    externals: Trie<ExternalKey>,
}

impl Tables {
    /// Takes the maps over, with what they hold. The second also keeps the programs' log open.
    fn adopt(loaded: Loaded) -> (Self, aya::Ebpf, Acceleration, Predecessors) {
        let tables = Self {
            sources: Table::adopt(loaded.sources, "SOURCES"),
            places: Table::adopt(loaded.places, "PLACES"),
            workloads: Table::adopt(loaded.workloads, "WORKLOADS"),
            destinations: Table::adopt(loaded.destinations, "DESTINATIONS"),
            consumers: Table::adopt(loaded.consumers, "CONSUMERS"),
            sets: SetTable::adopt(loaded.sets),
            verdicts: Table::adopt(loaded.verdicts, "VERDICTS"),
            ports: Table::adopt(loaded.ports, "PORTS"),
            inbound: Table::adopt(loaded.inbound, "INBOUND"),
            probes: Table::adopt(loaded.probes, "PROBES"),
            externals: Trie::adopt(loaded.externals, "EXTERNALS"),
        };
        (tables, loaded.ebpf, loaded.acceleration, loaded.predecessors)
    }

    /// Looks again at what the maps hold.
    fn read_again(&mut self) {
        self.sources.read_again();
        self.places.read_again();
        self.workloads.read_again();
        self.destinations.read_again();
        self.consumers.read_again();
        self.sets.read_again();
        self.verdicts.read_again();
        self.ports.read_again();
        self.inbound.read_again();
        self.probes.read_again();
        self.externals.read_again();
    }

    /// The largest number of a set that an entry names.
    fn last_set(&self) -> u32 {
        let named = self.destinations.have().values().map(|destination| destination.set);
        let named = named.chain(self.consumers.have().values().copied()).max();
        self.sets.last().max(named.unwrap_or_default())
    }

    /// Makes the maps hold what is wanted, and returns what the kernel refused.
    fn bring_to(&mut self, want: &Entries) -> Refused {
        let full = self.write(want);
        if full.is_empty() {
            return full;
        }
        // A map may be full of what is not wanted any more, and is kept only for the moment between
        // the former configuration and the new one.
        self.verdicts.make_room(&want.verdicts, &full);
        self.sets.make_room(&want.sets, &full);
        self.consumers.make_room(&want.consumers, &full);
        self.ports.make_room(&want.ports, &full);
        self.write(want)
    }

    /// Entries that others refer to are written before those, and removed after them: at every
    /// moment a connection is decided by the former configuration or by the new one, and where it
    /// is neither, the agent has to say.
    fn write(&mut self, want: &Entries) -> Refused {
        let mut refused = Refused::default();
        self.verdicts.add(&want.verdicts, &mut refused);
        self.sets.add(&want.sets, &mut refused);
        self.consumers.add(&want.consumers, &mut refused);
        self.ports.add(&want.ports, &mut refused);
        self.probes.bring_to(&want.probes, &mut refused);
        self.externals.bring_to(&want.externals, &mut refused);
        self.workloads.bring_to(&want.workloads, &mut refused);
        self.destinations.bring_to(&want.destinations, &mut refused);
        // A namespace that is a workload's has an entry for what arrives: without one all of that
        // would wait for the agent.
        self.inbound.bring_to(&want.inbound, &mut refused);
        // A source that is captured must find the workloads; one that is not captured any more may
        // find some that are gone.
        self.sources.bring_to(&want.sources, &mut refused);
        self.places.bring_to(&want.places, &mut refused);
        // An entry that is not all there yet may still need what it replaces.
        if refused.is_empty() {
            self.consumers.bring_to(&want.consumers, &mut refused);
            self.sets.retain(&want.sets, &mut refused);
            self.ports.bring_to(&want.ports, &mut refused);
            self.verdicts.bring_to(&want.verdicts, &mut refused);
        }
        refused
    }
}
