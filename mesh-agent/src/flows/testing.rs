//! A small mesh for the tests of this module.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::id::ResourceName;
use crate::model::policy::{Action, AuthorizationPolicy, Rule, Source, Text, WorkloadPolicy};
use crate::model::service::Service;
use crate::model::snapshot::{Backend, Endpoint, Endpoints, Snapshot, Split, Target};
use crate::model::spiffe::SpiffeId;
use crate::model::workload::{Place, Workload};

/// The node of all tests.
pub(super) const NODE: &str = "here";

/// A workload of the namespace `demo` with an account of its own.
pub(super) fn workload(name: &str, node: Option<&str>, address: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: ResourceName::new("demo", name),
        identity: SpiffeId::new("cluster.local", "demo", name).unwrap(),
        node: node.map(Into::into),
        addresses: vec![address.parse().unwrap()],
        labels: BTreeMap::new(),
        ports: vec![],
        probes: vec![],
        ready: true,
        place: Place::Unplaced,
    })
}

/// A policy of the namespace `demo` for connections from the account `from`.
pub(super) fn policy(name: &str, action: Action, from: &str) -> AuthorizationPolicy {
    let principal = Text::Exact(format!("cluster.local/ns/demo/sa/{from}"));
    let source = Source { principals: vec![principal], ..Source::default() };
    AuthorizationPolicy {
        dry_run: false,
        name: ResourceName::new("demo", name),
        selector: BTreeMap::new(),
        action,
        rules: vec![Rule { from: vec![source], ..Rule::default() }],
    }
}

/// Workloads, and policies that apply to one of them each.
pub(super) fn snapshot(
    workloads: Vec<Arc<Workload>>,
    policies: Vec<(&str, AuthorizationPolicy)>,
) -> Snapshot {
    let mut mesh = Snapshot { revision: 1, ..Snapshot::default() };
    for workload in workloads {
        mesh.workloads.insert(workload.name.clone(), Arc::clone(&workload));
        for address in &workload.addresses {
            mesh.by_address.entry(*address).or_default().push(Arc::clone(&workload));
        }
    }
    let mut by_name: HashMap<_, WorkloadPolicy> = HashMap::new();
    for (name, policy) in policies {
        let of = by_name.entry(ResourceName::new("demo", name)).or_default();
        of.authorization.push(Arc::new(policy));
    }
    mesh.policies = by_name.into_iter().map(|(name, of)| (name, Arc::new(of))).collect();
    mesh
}

/// `web`, `echo` and `other` on this node, and the service `echo` with a route.
pub(super) fn mesh() -> Snapshot {
    let echo = workload("echo", Some(NODE), "10.0.0.2");
    let mut mesh = snapshot(
        vec![
            workload("web", Some(NODE), "10.0.0.1"),
            Arc::clone(&echo),
            workload("other", Some(NODE), "10.0.0.3"),
        ],
        vec![],
    );
    let endpoint = Endpoint { address: "10.0.0.2:8080".parse().unwrap(), workload: echo };
    let target = target(vec![endpoint]);
    mesh.services.insert("10.96.0.10:80".parse().unwrap(), Arc::new(target));
    mesh
}

/// The service `echo` with one backend.
pub(super) fn target(endpoints: Vec<Endpoint>) -> Target {
    let service = Arc::new(Service {
        name: ResourceName::new("demo", "echo"),
        hostname: "echo.demo.svc.cluster.local".into(),
        addresses: vec![],
        ports: vec![],
        selector: BTreeMap::new(),
    });
    let backend = Backend {
        service: service.name.clone(),
        port: 80,
        weight: 1,
        endpoints: Endpoints::Resolved {
            service: Arc::clone(&service),
            endpoints: endpoints.into(),
        },
    };
    Target {
        service,
        port: 80,
        default: Split {
            route: Some(ResourceName::new("demo", "split")),
            backends: vec![backend],
            http: None,
        },
        by_namespace: HashMap::new(),
    }
}
