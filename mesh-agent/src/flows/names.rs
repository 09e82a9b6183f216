//! Names of the kernel's numbers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::datapath::desired::id_of;
use crate::model::id::ResourceName;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

/// How long the name of what was deleted is kept: its last connections end after it, and events
/// may wait for the agent's turn.
const KEEP: Duration = Duration::from_mins(1);

/// The workloads of this node and the policies that apply to them, by their ids.
#[derive(Debug, Default)]
pub struct Names {
    workloads: HashMap<u64, Known<Arc<Workload>>>,
    policies: HashMap<u64, Known<ResourceName>>,
}

#[derive(Debug)]
struct Known<T> {
    value: T,
    /// Since when it is not in the snapshot.
    gone: Option<Instant>,
}

impl Names {
    /// Takes over what a snapshot says of `node`.
    pub fn refresh(&mut self, mesh: &Snapshot, node: &str, now: Instant) {
        forget(&mut self.workloads, now);
        forget(&mut self.policies, now);
        for workload in mesh.on_node(node) {
            let value = Arc::clone(workload);
            self.workloads.insert(id_of(&workload.name), Known { value, gone: None });
            let Some(policy) = mesh.policies.get(&workload.name) else { continue };
            let authorization = policy.authorization.iter().map(|policy| &policy.name);
            for name in authorization.chain(&policy.mtls_from) {
                self.policies.insert(id_of(name), Known { value: name.clone(), gone: None });
            }
        }
    }

    /// A workload of this node, also if it was deleted in the last minute.
    pub fn workload(&self, id: u64) -> Option<&Arc<Workload>> {
        self.workloads.get(&id).map(|known| &known.value)
    }

    /// A policy that applies to one, also if it was deleted in the last minute.
    pub fn policy(&self, id: u64) -> Option<&ResourceName> {
        self.policies.get(&id).map(|known| &known.value)
    }
}

/// Drops what is gone for long; the rest is gone from now on, unless it is put in again.
fn forget<T>(all: &mut HashMap<u64, Known<T>>, now: Instant) {
    all.retain(|_, known| {
        let gone = *known.gone.get_or_insert(now);
        now.saturating_duration_since(gone) < KEEP
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::testing::{NODE, mesh, policy, snapshot, workload};
    use crate::model::policy::Action;

    #[tokio::test(start_paused = true)]
    async fn what_was_deleted_keeps_its_name_for_a_while() {
        let mut names = Names::default();
        let start = Instant::now();
        names.refresh(&mesh(), NODE, start);
        let web = id_of(&"demo/web");
        let named = |names: &Names| names.workload(web).map(|workload| workload.name.to_string());
        let gone = snapshot(vec![], vec![]);
        for seconds in [1, 2, 60] {
            names.refresh(&gone, NODE, start + Duration::from_secs(seconds));
            assert_eq!(named(&names).as_deref(), Some("demo/web"), "after {seconds} s");
        }
        names.refresh(&gone, NODE, start + Duration::from_secs(61));
        assert_eq!(named(&names), None);
        names.refresh(&mesh(), NODE, start + Duration::from_secs(62));
        assert_eq!(named(&names).as_deref(), Some("demo/web"));
    }

    #[tokio::test]
    async fn policies_are_named_by_namespace_and_name() {
        let mut names = Names::default();
        let only = policy("only-web", Action::Allow, "web");
        let echo = workload("echo", Some(NODE), "10.0.0.2");
        names.refresh(&snapshot(vec![echo], vec![("echo", only)]), NODE, Instant::now());
        let found = names.policy(id_of(&"demo/only-web")).map(ToString::to_string);
        assert_eq!(found.as_deref(), Some("demo/only-web"));
        assert_eq!(names.policy(0), None);
    }
}
