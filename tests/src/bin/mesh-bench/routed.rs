//! The service whose requests HTTP routes decide about.

use std::net::{IpAddr, Ipv4Addr};

use mesh_tests::http::route;
use mesh_tests::mesh::{Mesh, Service};

use crate::workload::{Contender, HTTP, HTTP2};

/// Its virtual address.
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 30));

/// Its name.
const NAME: &str = "routed";

/// How many rules a service has that has many.
const MANY: usize = 1000;

/// How many a route may have (Gateway API, `HTTPRouteSpec.rules`).
const RULES_OF_A_ROUTE: usize = 16;

/// Adds the service of the pods with the label `app: <app>`, and its rules, to a mesh in `namespace`.
pub(crate) fn add(mesh: Mesh, namespace: &str, app: &str, contender: Contender) -> Mesh {
    let service = Service::new(NAME).at(ADDRESS).select("app", app);
    let service = service.port_of(HTTP, HTTP, "http");
    let mesh = mesh.service(&service.port_of(HTTP2, HTTP2, "kubernetes.io/h2c"));
    let count = if contender == Contender::ManyRules { MANY } else { 1 };
    [HTTP, HTTP2]
        .into_iter()
        .fold(mesh, |mesh, port| routes(namespace, port, count).into_iter().fold(mesh, Mesh::raw))
}

/// Routes of a port with `count` rules in all. The requests are for the last one, which every path
/// matches, and all others do not.
fn routes(namespace: &str, port: u16, count: usize) -> Vec<String> {
    let rule = |number: usize| {
        let path = if number + 1 == count { "/".to_owned() } else { format!("/app{number}") };
        format!(
            "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n    \
             backendRefs: [{{name: {NAME}, port: {port}}}]\n"
        )
    };
    let rules: Vec<_> = (0..count).map(rule).collect();
    let parent = format!("name: {NAME}, port: {port}");
    let routes = rules.chunks(RULES_OF_A_ROUTE).enumerate();
    let document = |(index, rules): (usize, &[String])| {
        route::http(namespace, &format!("routed-{port}-{index}"), &parent, &rules.concat())
    };
    routes.map(document).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_rule_is_for_the_requests() {
        let check = |count, expect: (usize, usize)| {
            let routes = routes("bench", HTTP, count);
            let rules = routes.iter().map(|text| text.matches("PathPrefix").count()).sum();
            assert_eq!((routes.len(), rules), expect);
            assert_eq!(routes.concat().matches("value: /}").count(), 1);
            assert!(routes.last().unwrap().contains("value: /}"));
        };
        check(1, (1, 1));
        check(MANY, (63, 1000));
    }
}
