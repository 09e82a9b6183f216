//! Parts that the tests of this module share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::model::id::ResourceName;
use crate::model::service::Service;
use crate::model::spiffe::SpiffeId;
use crate::model::workload::{Place, Workload};
use crate::telemetry::{ConnectionEnd, Parties, Path, Peer, Reporter, Security};

/// A workload of its own service account in the namespace `demo`.
pub(super) fn workload(name: &str, version: &str) -> Arc<Workload> {
    let labels = [("app", "app"), ("version", version)];
    Arc::new(Workload {
        name: ResourceName::new("demo", name),
        identity: SpiffeId::new("cluster.local", "demo", name).unwrap(),
        node: Some("node".into()),
        addresses: vec!["10.0.2.10".parse().unwrap()],
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ports: vec![],
        probes: Vec::new(),
        ready: true,
        place: Place::Unplaced,
    })
}

fn peer(workload: Arc<Workload>) -> Peer {
    Peer { principal: Some(workload.identity.clone()), workload: Some(workload) }
}

/// `client` to `echo`, with new `Arc`s each time.
pub(super) fn parties() -> Parties {
    Parties {
        reporter: Reporter::Source,
        source: peer(workload("client", "v1")),
        destination: peer(workload("echo", "v2")),
        service: Some(Arc::new(Service {
            name: ResourceName::new("demo", "echo"),
            hostname: "echo.demo.svc.cluster.local".into(),
            addresses: vec![],
            ports: vec![],
            selector: BTreeMap::new(),
        })),
        security: Security::MutualTls,
    }
}

/// A connection that ended well.
pub(super) fn end() -> ConnectionEnd {
    ConnectionEnd {
        parties: parties(),
        start: UNIX_EPOCH + Duration::from_millis(1_772_323_199_250),
        lasted: Duration::from_millis(1500),
        received_bytes: 10,
        sent_bytes: 2000,
        downstream_remote: "10.0.1.5:40000".parse().unwrap(),
        downstream_local: "10.96.0.10:80".parse().unwrap(),
        upstream_host: Some("10.0.2.10:8080".parse().unwrap()),
        upstream_local: Some("[fd00::1]:50000".parse().unwrap()),
        route: Some(ResourceName::new("demo", "echo-split")),
        failure: None,
        path: Path::Agent,
        judged: None,
        srtt: None,
        trace: None,
    }
}

/// The rows of a page's tables whose first cell is a name in backticks: name and the other cells.
pub(super) fn documented(page: &str) -> BTreeMap<&str, Vec<&str>> {
    page.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("` |")?;
            Some((name, rest.trim_end_matches('|').split('|').map(str::trim).collect()))
        })
        .collect()
}
