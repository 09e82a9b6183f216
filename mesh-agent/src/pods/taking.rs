//! Takes over what a predecessor serves.

use std::io;
use std::sync::Arc;

use tokio::time::Instant;

use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;
use crate::pods::failing::{LEAVES, may_leave};
use crate::pods::run::Pods;
use crate::pods::set::Set;
use crate::proxy::listening::Listening;

impl Pods {
    /// Has the kernel give connections to listeners. Those of a predecessor have their places until all
    /// of them are taken over.
    pub(super) fn give(&self, listening: &Listening) -> io::Result<()> {
        if self.expected.is_some() { Ok(()) } else { listening.give(&self.context.kernel) }
    }

    /// Takes over what a predecessor serves, when all of it is enrolled here too, or what is not cannot
    /// be. False: it is not yet.
    pub(super) fn take_over(&mut self, set: &mut Set, mesh: &Snapshot) -> bool {
        let Some(expected) = &self.expected else { return true };
        let node = &self.options.node;
        let is_missing = |workload: &&Arc<Workload>| {
            expected.contains(&workload.name) && !set.pods.contains_key(&workload.name)
        };
        let missing: Vec<_> = mesh.on_node(node).filter(is_missing).collect();
        if !missing.is_empty() {
            let is_late =
                Instant::now() >= *set.missing_since.get_or_insert_with(Instant::now) + LEAVES;
            let has_some = expected.iter().any(|name| set.pods.contains_key(name));
            let cause = |one: &&Arc<Workload>| Some(set.failing.get(&one.name)?.cause);
            if !is_late || !may_leave(has_some, missing.iter().map(cause)) {
                tracing::info!(
                    missing = missing.len(),
                    "a predecessor goes on serving until its workloads are enrolled"
                );
                return false;
            }
            for workload in missing {
                tracing::warn!(
                    workload = %workload.name,
                    "taking over without it: it cannot be enrolled, and its failure mode is in force"
                );
            }
        }
        self.give_all(set);
        self.expected = None;
        true
    }

    fn give_all(&self, set: &Set) {
        let units = set.pods.values().filter_map(|pod| pod.listening.as_deref());
        for listening in set.realms().into_iter().map(|realm| &realm.listening).chain(units) {
            if let Err(error) = listening.give(&self.context.kernel) {
                tracing::error!(%error, "the kernel does not give connections to a listener");
            }
        }
    }
}
