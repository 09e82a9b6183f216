//! Which split of a service's port applies to a client: routes, decided (pure).

pub mod http;
pub mod split;

use crate::model::snapshot::{Split, Target};

/// The split for clients of `source_namespace`.
///
/// A consumer route of the client's own namespace beats the service's (GEP-1294).
pub fn select<'a>(target: &'a Target, source_namespace: &str) -> &'a Split {
    target.by_namespace.get(source_namespace).unwrap_or(&target.default)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::sync::Arc;

    use super::*;
    use crate::model::id::ResourceName;
    use crate::model::service::Service;

    fn split(route: &str) -> Split {
        Split { route: Some(ResourceName::new("demo", route)), backends: Vec::new(), http: None }
    }

    #[test]
    fn a_route_of_the_clients_namespace_wins() {
        let service = Service {
            name: ResourceName::new("demo", "echo"),
            hostname: "echo.demo.svc.cluster.local".into(),
            addresses: Vec::new(),
            ports: Vec::new(),
            selector: BTreeMap::new(),
        };
        let target = Target {
            service: Arc::new(service),
            port: 80,
            default: split("producer"),
            by_namespace: HashMap::from([("shop".into(), split("consumer"))]),
        };
        let check = |namespace: &str, expect: &str| {
            assert_eq!(*select(&target, namespace), split(expect), "{namespace}");
        };
        check("shop", "consumer");
        check("demo", "producer");
        check("", "producer");
    }
}
