//! The one task that writes the kernel's maps.
//!
//! It owns the maps' handles and what they hold; it ends when the scope drains or the store is
//! gone. What is pinned stays as it is then: a successor adopts it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};
use tokio::sync::watch;

use crate::datapath::desired::{Enrolled, entries};
use crate::datapath::load::Loaded;
use crate::datapath::plan::{Op, plan};
use crate::store::Reader;
use crate::task::scope::Scope;

/// After how long what the kernel refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is in force in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The snapshot's revision.
    pub revision: u64,
    /// The workloads whose connections are captured.
    pub enrolled: Arc<[Enrolled]>,
}

/// Keeps the maps equal to the snapshot and to `enrolled`, and says in `applied` what is in force.
pub async fn run(
    mut loaded: Loaded,
    mut mesh: Reader,
    mut enrolled: watch::Receiver<Arc<[Enrolled]>>,
    applied: watch::Sender<Applied>,
    scope: Scope,
) {
    let mut sources = Table::adopt(&mut loaded.sources, "SOURCES");
    let mut destinations = Table::adopt(&mut loaded.destinations, "DESTINATIONS");
    loop {
        let snapshot = mesh.load();
        let locals = Arc::clone(&enrolled.borrow_and_update());
        // Until the first snapshot nothing is known, and what a predecessor left stays in force.
        let mut complete = true;
        if snapshot.revision > 0 {
            let wanted = entries(&snapshot, &locals);
            // Destinations first: a source that is captured must find all of them.
            complete &= destinations.bring_to(&wanted.destinations);
            complete &= sources.bring_to(&wanted.sources);
            if complete {
                applied.send_replace(Applied { revision: snapshot.revision, enrolled: locals });
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

/// A map, and what it holds.
struct Table<'a, K: Pod, V: Pod> {
    map: &'a mut HashMap<MapData, K, V>,
    have: BTreeMap<K, V>,
    name: &'static str,
}

impl<'a, K: Pod + Ord, V: Pod + PartialEq> Table<'a, K, V> {
    /// Takes over what the map holds.
    fn adopt(map: &'a mut HashMap<MapData, K, V>, name: &'static str) -> Self {
        let have = map.iter().filter_map(Result::ok).collect();
        Self { map, have, name }
    }

    /// Makes the map hold `want`. False: the kernel refused a part of it.
    fn bring_to(&mut self, want: &BTreeMap<K, V>) -> bool {
        let refused: Vec<_> =
            plan(&self.have, want).into_iter().filter_map(|op| self.apply(op).err()).collect();
        // One line for all: a map that is full refuses thousands.
        if let Some(error) = refused.first() {
            let entries = refused.len();
            tracing::error!(map = self.name, entries, %error, "the kernel refused entries");
        }
        refused.is_empty()
    }

    fn apply(&mut self, op: Op<K, V>) -> Result<(), MapError> {
        match op {
            Op::Put(key, value) => {
                self.map.insert(key, value, 0)?;
                self.have.insert(key, value);
            }
            Op::Del(key) => {
                match self.map.remove(&key) {
                    Ok(()) | Err(MapError::KeyNotFound) => {}
                    Err(error) => return Err(error),
                }
                self.have.remove(&key);
            }
        }
        Ok(())
    }
}
