//! Whether a connection that exists may go on (pure).

use std::net::IpAddr;

use mesh_common::record::{DIRECT, Record};

use crate::authz::{self, Denial, Request, Verdict};
use crate::flows::names::Names;
use crate::model::snapshot::Snapshot;

/// The kernel's facts of the opening end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// The record of the socket.
    pub record: &'a Record,
    /// The socket's own address.
    pub address: IpAddr,
    /// The port that it is connected to.
    pub port: u16,
}

/// Why a direct connection may not go on; `None`: it may, or it is not one.
///
/// It is judged as a new one would be: by the identity that the source's workload has now. A
/// source that is not known any more has none.
pub fn forbidden(mesh: &Snapshot, names: &Names, connection: &Connection<'_>) -> Option<Denial> {
    let record = connection.record;
    // A workload's own identity needs no permission, as in the kernel.
    if record.role != DIRECT || record.source == record.destination {
        return None;
    }
    let destination = names.workload(record.destination)?;
    let policy = mesh.policies.get(&destination.name)?;
    let source = names.workload(record.source);
    let source = source.and_then(|source| mesh.workloads.get(&source.name));
    let request = Request {
        principal: source.map(|source| &source.identity),
        address: connection.address,
        port: connection.port,
        http: None,
    };
    match authz::decide(&policy.authorization, &request) {
        Verdict::Allow => None,
        Verdict::Deny(denial) => Some(denial),
        Verdict::ByRequest(policy) => Some(Denial::Unseen(policy)),
    }
}

/// Whether all that is asked about connections between workloads of `node` is the same in both.
pub fn same_rules(one: &Snapshot, other: &Snapshot, node: &str) -> bool {
    let covered = |one: &Snapshot, other: &Snapshot| {
        one.on_node(node).all(|workload| {
            let same = |other: &crate::model::workload::Workload| {
                other.identity == workload.identity && other.node == workload.node
            };
            other.workloads.get(&workload.name).is_some_and(|workload| same(workload))
                && one.policy(&workload.name).authorization
                    == other.policy(&workload.name).authorization
        })
    };
    covered(one, other) && covered(other, one)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::datapath::desired::id_of;
    use crate::flows::testing::{NODE, mesh, policy, snapshot, workload};
    use crate::model::policy::{Action, AuthorizationPolicy, Operation};

    fn record(source: &str, destination: &str) -> Record {
        Record { source: id_of(&source), destination: id_of(&destination), ..Record::new(DIRECT) }
    }

    /// The policy that forbids the connection, with `policies` applying to `demo/echo`.
    fn judged(policies: &[AuthorizationPolicy], record: &Record) -> Option<String> {
        let workloads = ["web", "echo", "other"];
        let workloads = workloads.map(|name| workload(name, Some(NODE), "10.0.0.1"));
        let policies = policies.iter().map(|policy| ("echo", policy.clone()));
        let mesh = snapshot(workloads.to_vec(), policies.collect());
        let mut names = Names::default();
        names.refresh(&mesh, NODE, Instant::now());
        let connection = Connection { record, address: "10.0.0.1".parse().unwrap(), port: 8080 };
        forbidden(&mesh, &names, &connection).map(|denial| denial.policy().to_string())
    }

    #[test]
    fn a_connection_is_judged_as_a_new_one() {
        let allow = policy("only-web", Action::Allow, "web");
        let deny = policy("not-web", Action::Deny, "web");
        let (web, other) = (record("demo/web", "demo/echo"), record("demo/other", "demo/echo"));
        let only = |name: &str| Some(format!("demo/{name}"));
        for (policies, record, expect) in [
            (vec![], web, None),
            (vec![allow.clone()], web, None),
            (vec![allow.clone()], other, only("only-web")),
            (vec![deny.clone()], web, only("not-web")),
            (vec![deny.clone()], other, None),
            (vec![allow.clone(), deny.clone()], web, only("not-web")),
            // A source that is not known proves nothing.
            (vec![allow.clone()], record("demo/gone", "demo/echo"), only("only-web")),
            // The policies are those of another destination.
            (vec![deny.clone()], record("demo/web", "demo/other"), None),
            (vec![deny.clone()], record("demo/web", "demo/gone"), None),
            (vec![allow.clone()], record("demo/echo", "demo/echo"), None),
            (vec![allow], Record { role: 1, ..other }, None),
        ] {
            assert_eq!(judged(&policies, &record), expect, "{policies:?} {record:?}");
        }
    }

    #[test]
    fn ports_and_addresses_are_those_of_the_socket() {
        let mut deny = policy("ports", Action::Deny, "web");
        deny.rules[0].to = vec![Operation { ports: vec![8080], ..Operation::default() }];
        let web = record("demo/web", "demo/echo");
        assert_eq!(judged(&[deny.clone()], &web).as_deref(), Some("demo/ports"));
        deny.rules[0].to[0].ports = vec![8081];
        assert_eq!(judged(&[deny.clone()], &web), None);
        deny.rules[0].to.clear();
        deny.rules[0].from[0].not_ip_blocks =
            vec![crate::model::policy::Block { network: "10.0.0.0".parse().unwrap(), prefix: 24 }];
        assert_eq!(judged(&[deny], &web), None);
    }

    #[test]
    fn rules_are_the_same_until_a_policy_or_an_identity_changes() {
        let same = |one: &Snapshot, other: &Snapshot| {
            assert_eq!(same_rules(one, other, NODE), same_rules(other, one, NODE));
            same_rules(one, other, NODE)
        };
        let web = || workload("web", Some(NODE), "10.0.0.1");
        let bare = snapshot(vec![web()], vec![]);
        let with = |from| snapshot(vec![web()], vec![("web", policy("p", Action::Deny, from))]);
        assert!(same(&bare, &snapshot(vec![web()], vec![])));
        assert!(same(&with("a"), &with("a")));
        assert!(!same(&with("a"), &with("b")));
        assert!(!same(&bare, &with("a")));
        assert!(!same(&bare, &mesh()));
        let elsewhere = workload("far", Some("there"), "10.0.0.9");
        assert!(same(&bare, &snapshot(vec![web(), elsewhere], vec![])));
    }
}
