//! The one task that writes the kernel's maps.
//!
//! It owns the maps' handles and what they hold; it ends when the scope drains or the store is
//! gone. What is pinned stays as it is then: a successor adopts it.

use std::sync::Arc;
use std::time::Duration;

use mesh_common::destination::{ConsumerKey, Destination, DestinationKey};
use mesh_common::external::ExternalKey;
use mesh_common::source::{Source, SourceKey};
use mesh_common::verdict::{Verdict, VerdictKey};
use mesh_common::workload::{ACCELERATE, Inbound, PortKey, Workload};
use tokio::sync::watch;

use crate::datapath::accel::Acceleration;
use crate::datapath::desired::{Entries, Places, SetIds, entries};
use crate::datapath::load::{Loaded, Predecessors};
use crate::datapath::tables::{SetTable, Table, Trie};
use crate::store::Reader;
use crate::task::scope::Scope;

/// After how long what the kernel refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The workloads of this node; `None` until they have been looked for.
pub type Found = Option<Arc<Places>>;

/// What is in force in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The snapshot's revision.
    pub revision: u64,
    /// The workloads whose connections are captured.
    pub enrolled: Arc<Places>,
    /// Why this kernel cannot accelerate connections, if a workload asks for it.
    pub no_acceleration: Option<Arc<str>>,
}

/// Keeps the maps equal to the snapshot and to `enrolled`, and says in `applied` what is in force.
/// `node` is the cookie of the agent's own namespace.
pub async fn run(
    loaded: Loaded,
    node: u64,
    mut mesh: Reader,
    mut enrolled: watch::Receiver<Found>,
    applied: watch::Sender<Applied>,
    scope: Scope,
) {
    let (mut tables, mut ebpf, mut acceleration, predecessors) = Tables::adopt(loaded);
    let mut predecessors = Some(predecessors);
    let mut sets = SetIds::after(tables.last_set());
    loop {
        let snapshot = mesh.load();
        let found = enrolled.borrow_and_update().clone();
        // Until the first snapshot, and until its workloads were looked for, nothing is known, and
        // what a predecessor left stays in force.
        let mut complete = true;
        if snapshot.revision > 0
            && let Some(found) = found
        {
            let want = entries(&snapshot, &found, node, &mut sets);
            let no_acceleration = acceleration.turn(&mut ebpf, wants_acceleration(&want));
            complete = tables.bring_to(&want);
            if complete {
                if let Some(predecessors) = predecessors.take() {
                    predecessors.remove();
                }
                let revision = snapshot.revision;
                applied.send_replace(Applied { revision, enrolled: found, no_acceleration });
            }
        }
        tokio::select! {
            biased;
            () = scope.draining() => return,
            more = mesh.changed() => if !more { return },
            more = enrolled.changed() => if more.is_err() { return },
            () = tokio::time::sleep(RETRY), if !complete => {}
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

    /// The largest number of a set that an entry names.
    fn last_set(&self) -> u32 {
        let named = self.destinations.have().values().map(|destination| destination.set);
        let named = named.chain(self.consumers.have().values().copied()).max();
        self.sets.last().max(named.unwrap_or_default())
    }

    /// Makes the maps hold what is wanted. False: the kernel refused a part of it.
    ///
    /// What is referred to is written before what refers to it, and removed after it: at every
    /// moment a connection is decided by the former configuration or by the new one, and where it
    /// is neither, the agent has to say.
    fn bring_to(&mut self, want: &Entries) -> bool {
        let added = self.verdicts.add(&want.verdicts)
            & self.sets.add(&want.sets)
            & self.consumers.add(&want.consumers)
            & self.ports.add(&want.ports)
            & self.probes.bring_to(&want.probes)
            & self.externals.bring_to(&want.externals)
            & self.workloads.bring_to(&want.workloads)
            & self.destinations.bring_to(&want.destinations);
        // A source that is captured must find all destinations; one that is not captured any more
        // may find some that are gone.
        let captured = self.sources.bring_to(&want.sources) & self.inbound.bring_to(&want.inbound);
        // What is not all there yet may still need what it replaces.
        if !(added && captured) {
            return false;
        }
        self.consumers.bring_to(&want.consumers)
            & self.sets.retain(&want.sets)
            & self.ports.bring_to(&want.ports)
            & self.verdicts.bring_to(&want.verdicts)
    }
}
