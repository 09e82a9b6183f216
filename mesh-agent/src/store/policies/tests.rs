//! Which policy wins, and what is told about the others.

use proptest::prelude::*;

use super::*;
use crate::model::condition::{Location, Reason};
use crate::model::policy::upgrade::Upgrades;
use crate::model::policy::{
    Acceleration, Action, AmbiguousPaths, FailureMode, MtlsMode, PolicyKind, Rule, SameNode,
    Source as From, Text,
};
use crate::model::snapshot::Snapshot;
use crate::model::spiffe::SpiffeId;
use crate::model::workload::Place;
use crate::store::build::build;
use crate::store::update::{Object, Resource, Update};

/// `namespace/name`, and `namespace/name app` for what has or selects the label `app`.
fn named(text: &str) -> (ResourceName, BTreeMap<String, String>) {
    let (at, app) = text.split_once(' ').map_or((text, None), |(at, app)| (at, Some(app)));
    let (namespace, name) = at.split_once('/').unwrap();
    let labels = app.map(|app| ("app".to_owned(), app.to_owned()));
    (ResourceName::new(namespace, name), labels.into_iter().collect())
}

fn workload(text: &str) -> Object {
    let (name, labels) = named(text);
    Object::Workload(Arc::new(Workload {
        identity: SpiffeId::new("cluster.local", &name.namespace, "default").unwrap(),
        name,
        node: None,
        addresses: vec!["10.0.0.1".parse().unwrap()],
        labels,
        ports: Vec::new(),
        probes: Vec::new(),
        ready: true,
        place: Place::Unplaced,
    }))
}

/// A policy that says nothing, yet.
fn policy(text: &str) -> MeshPolicy {
    let (name, selector) = named(text);
    MeshPolicy {
        kind: PolicyKind::Mesh,
        name,
        created: String::new(),
        selector,
        mtls: None,
        port_mtls: BTreeMap::new(),
        same_node: None,
        port_same_node: BTreeMap::new(),
        ambiguous_paths: None,
        failure: None,
        acceleration: None,
        egress: None,
        upgrades: None,
        is_closed: false,
    }
}

fn mtls(text: &str, mode: MtlsMode) -> MeshPolicy {
    MeshPolicy { mtls: Some(mode), ..policy(text) }
}

fn authorization(text: &str) -> AuthorizationPolicy {
    let (name, selector) = named(text);
    AuthorizationPolicy { name, selector, action: Action::Allow, dry_run: false, rules: Vec::new() }
}

fn snapshot(objects: Vec<Object>) -> Snapshot {
    let resources = objects
        .into_iter()
        .map(|object| Resource {
            location: Location {
                file: std::path::Path::new("a.yaml").into(),
                document: 1,
                line: 1,
            },
            object,
        })
        .collect();
    build(
        &Snapshot::default(),
        &[("file", Update { source: "file", resources, conditions: Vec::new() })].into(),
    )
}

fn with(workloads: &[&str], policies: impl IntoIterator<Item = MeshPolicy>) -> Snapshot {
    let workloads = workloads.iter().map(|text| workload(text));
    let policies = policies.into_iter().map(|policy| Object::MeshPolicy(policy.into()));
    snapshot(workloads.chain(policies).collect())
}

/// The policies that lost, with the field: `namespace/name field`.
fn losers(snapshot: &Snapshot) -> Vec<String> {
    let one = |condition: &Condition| {
        assert_eq!(condition.reason, Reason::Conflicted);
        let name = condition.subject.strip_prefix("MeshPolicy ").unwrap();
        format!("{name} {}", condition.field)
    };
    snapshot.conditions.iter().map(one).collect()
}

/// Checks the mode of `shop/web app`, and who says so.
#[track_caller]
fn check(policies: &[MeshPolicy], mode: MtlsMode, from: Option<&str>, lost: &[&str]) {
    let snapshot = with(&["shop/web web"], policies.iter().cloned());
    let policy = snapshot.policy(&named("shop/web").0);
    assert_eq!((policy.mtls(80), policy.mtls_from(80)), (mode, from.map(|f| named(f).0).as_ref()));
    assert_eq!(losers(&snapshot), lost);
}

#[test]
fn the_closest_policy_wins() {
    let levels = [
        mtls("shop/a web", MtlsMode::Strict),
        mtls("mesh-system/b web", MtlsMode::Disable),
        mtls("shop/c", MtlsMode::Strict),
        mtls("mesh-system/d", MtlsMode::Disable),
    ];
    check(&levels, MtlsMode::Strict, Some("shop/a"), &[]);
    check(&levels[1..], MtlsMode::Disable, Some("mesh-system/b"), &[]);
    check(&levels[2..], MtlsMode::Strict, Some("shop/c"), &[]);
    check(&levels[3..], MtlsMode::Disable, Some("mesh-system/d"), &[]);
    check(&[], MtlsMode::Permissive, None, &[]);
}

#[test]
fn policies_of_others_do_not_matter() {
    let others = [
        mtls("bank/a", MtlsMode::Strict),
        mtls("bank/b web", MtlsMode::Strict),
        mtls("shop/c db", MtlsMode::Strict),
        mtls("mesh-system/d db", MtlsMode::Strict),
    ];
    check(&others, MtlsMode::Permissive, None, &[]);
}

#[test]
fn of_several_equally_close_ones_the_oldest_wins() {
    let created = |at: &str, policy: MeshPolicy| MeshPolicy { created: at.to_owned(), ..policy };
    let old = created("2025-01-01T00:00:00Z", mtls("shop/z", MtlsMode::Strict));
    let new = created("2026-01-01T00:00:00Z", mtls("shop/a", MtlsMode::Disable));
    let lost = ["shop/a spec.mtls.mode"];
    check(&[new.clone(), old.clone()], MtlsMode::Strict, Some("shop/z"), &lost);
    let other = created("2026-01-01T00:00:00Z", mtls("shop/b", MtlsMode::Strict));
    let lost = ["shop/b spec.mtls.mode"];
    check(&[other, new.clone()], MtlsMode::Disable, Some("shop/a"), &lost);
    // A policy that does not say when comes first; one that says nothing does not come into it.
    let lost = ["shop/a spec.mtls.mode", "shop/z spec.mtls.mode"];
    let silent = policy("shop/0");
    let timeless = mtls("shop/y", MtlsMode::Permissive);
    let all = [silent, old.clone(), new.clone(), timeless];
    check(&all, MtlsMode::Permissive, Some("shop/y"), &lost);
    // A policy that is overruled for every workload is no conflict.
    let closer = mtls("shop/m web", MtlsMode::Strict);
    check(&[old, new, closer], MtlsMode::Strict, Some("shop/m"), &[]);
}

#[test]
fn overlapping_selectors_conflict_only_where_they_overlap() {
    let mut both = mtls("shop/both web", MtlsMode::Strict);
    both.selector.insert("tier".into(), "1".into());
    let app = mtls("shop/app web", MtlsMode::Disable);
    let snapshot = with(&["shop/w web"], [both, app]);
    assert_eq!(losers(&snapshot), [""; 0]);
}

#[test]
fn every_setting_is_inherited_for_itself() {
    let near = MeshPolicy { same_node: Some(SameNode::Mtls), ..policy("shop/near web") };
    let own = MeshPolicy { failure: Some(FailureMode::Closed), ..policy("shop/own") };
    let far = MeshPolicy {
        kind: PolicyKind::Mesh,
        mtls: Some(MtlsMode::Strict),
        same_node: Some(SameNode::Agent),
        ambiguous_paths: Some(AmbiguousPaths::Refuse),
        failure: Some(FailureMode::Open),
        acceleration: Some(Acceleration::Sockmap),
        upgrades: Some(Upgrades::only(&["websocket", "foo"])),
        ..policy("mesh-system/far")
    };
    let snapshot = with(&["shop/web web", "bank/db db"], [near, own, far]);
    let from = Some(named("mesh-system/far").0);
    let expect = WorkloadPolicy {
        mtls: MtlsMode::Strict,
        mtls_from: from,
        same_node: SameNode::Mtls,
        refuses_ambiguous_paths: Some(ResourceName::new("mesh-system", "far")),
        failure: Some(FailureMode::Closed),
        acceleration: Acceleration::Sockmap,
        upgrades: Upgrades::only(&["websocket", "foo"]),
        ..WorkloadPolicy::default()
    };
    assert_eq!(*snapshot.policy(&named("shop/web").0), expect);
    let expect =
        WorkloadPolicy { same_node: SameNode::Agent, failure: Some(FailureMode::Open), ..expect };
    assert_eq!(*snapshot.policy(&named("bank/db").0), expect);
    assert_eq!(losers(&snapshot), [""; 0]);
}

#[test]
fn a_ports_setting_wins_at_its_level_only() {
    let port = |text: &str, port: u16, mode| MeshPolicy {
        kind: PolicyKind::Mesh,
        port_mtls: [(port, mode)].into(),
        ..policy(text)
    };
    let at = |policies: Vec<MeshPolicy>, number: u16| {
        let snapshot = with(&["shop/web web"], policies);
        let policy = snapshot.policy(&named("shop/web").0);
        let from = policy.mtls_from(number).map(ToString::to_string).unwrap_or_default();
        (policy.mtls(number), from, losers(&snapshot))
    };
    let strict = || mtls("shop/a web", MtlsMode::Strict);
    let open = || port("shop/b web", 80, MtlsMode::Disable);
    let fine = |mode, from: &str| (mode, from.to_owned(), Vec::new());
    // Though `a` comes first, it says nothing of the port.
    assert_eq!(at(vec![strict(), open()], 80), fine(MtlsMode::Disable, "shop/b"));
    assert_eq!(at(vec![strict(), open()], 81), fine(MtlsMode::Strict, "shop/a"));
    let root = || port("mesh-system/r web", 80, MtlsMode::Disable);
    assert_eq!(at(vec![strict(), root()], 80), fine(MtlsMode::Strict, "shop/a"));
    assert_eq!(at(vec![root()], 80), fine(MtlsMode::Disable, "mesh-system/r"));
    assert_eq!(at(vec![root()], 81), fine(MtlsMode::Permissive, ""));
    let lost = vec!["shop/c spec.portLevelMtls.80.mode".to_owned()];
    let other = port("shop/c web", 80, MtlsMode::Strict);
    assert_eq!(at(vec![other, open()], 80), (MtlsMode::Disable, "shop/b".into(), lost));
}

#[test]
fn nothing_wins_over_one_that_stands_for_what_cannot_be_read() {
    let closed = |text: &str| MeshPolicy { is_closed: true, ..mtls(text, MtlsMode::Strict) };
    let open = |text: &str| MeshPolicy {
        port_mtls: [(80, MtlsMode::Disable)].into(),
        ..mtls(text, MtlsMode::Permissive)
    };
    for (one, other) in [
        (closed("shop/m"), open("shop/a")),
        (closed("shop/m"), open("shop/a web")),
        (closed("mesh-system/m"), open("shop/a web")),
    ] {
        let snapshot = with(&["shop/web web"], [one, other]);
        let policy = snapshot.policy(&named("shop/web").0);
        assert_eq!([80, 81].map(|port| policy.mtls(port)), [MtlsMode::Strict; 2]);
    }
}

#[test]
fn a_ports_way_inside_the_node_is_inherited_too() {
    let near = MeshPolicy {
        kind: PolicyKind::Mesh,
        port_same_node: [(80, SameNode::Direct)].into(),
        port_mtls: [(81, MtlsMode::Strict)].into(),
        ..policy("shop/near web")
    };
    let own = MeshPolicy { same_node: Some(SameNode::Agent), ..policy("shop/own") };
    let snapshot = with(&["shop/web web"], [near, own]);
    let policy = snapshot.policy(&named("shop/web").0);
    let ways = [80, 81, 82].map(|port| policy.same_node(port));
    assert_eq!(ways, [SameNode::Direct, SameNode::Agent, SameNode::Agent]);
    let modes = [80, 81, 82].map(|port| policy.mtls(port));
    assert_eq!(modes, [MtlsMode::Permissive, MtlsMode::Strict, MtlsMode::Permissive]);
}

#[test]
fn authorization_policies_apply_by_namespace_and_label() {
    let policies =
        ["shop/z", "shop/a web", "shop/b db", "bank/c", "mesh-system/d", "mesh-system/e db"];
    let policies =
        policies.map(|text| Object::AuthorizationPolicy(authorization(text).into())).into_iter();
    let workloads = ["shop/web web", "shop/db db", "mesh-system/agent", "other/db db"];
    let workloads = workloads.iter().map(|text| workload(text));
    let snapshot = snapshot(policies.chain(workloads).collect());
    let check = |at: &str, expect: &str| {
        let policy = snapshot.policy(&named(at).0);
        let names: Vec<_> =
            policy.authorization.iter().map(|policy| policy.name.to_string()).collect();
        assert_eq!(names.join(" "), expect, "{at}");
    };
    check("shop/web", "mesh-system/d shop/a shop/z");
    check("shop/db", "mesh-system/d mesh-system/e shop/b shop/z");
    check("mesh-system/agent", "mesh-system/d");
    check("other/db", "mesh-system/d mesh-system/e");
}

#[test]
fn workloads_of_the_same_policies_share_one() {
    let snapshot =
        with(&["shop/a web", "shop/b web", "shop/c db"], [mtls("shop/p web", MtlsMode::Strict)]);
    let [a, b, c] = ["shop/a", "shop/b", "shop/c"].map(|at| snapshot.policy(&named(at).0));
    assert!(Arc::ptr_eq(&a, &b));
    assert_ne!(a, c);
}

fn modes() -> impl Strategy<Value = MtlsMode> {
    prop::sample::select(vec![MtlsMode::Disable, MtlsMode::Permissive, MtlsMode::Strict])
}

/// A few policies that get in each other's way.
fn policies() -> impl Strategy<Value = Vec<MeshPolicy>> {
    let scope = prop::sample::select(vec!["shop", "bank", "mesh-system"]);
    let app = prop::sample::select(vec!["", " web", " db"]);
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let created = prop::sample::select(vec!["", "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"]);
    let one = (scope, name, app, created, prop::option::of(modes()), prop::option::of(modes()));
    let one = one.prop_map(|(scope, name, app, created, mode, port)| MeshPolicy {
        kind: PolicyKind::Mesh,
        created: created.to_owned(),
        mtls: mode,
        port_mtls: port.map(|mode| (80, mode)).into_iter().collect(),
        ..policy(&format!("{scope}/{name}{app}"))
    });
    // One of each name, as a source says it.
    prop::collection::vec(one, 0..9).prop_map(|policies| {
        let by_name: BTreeMap<_, _> = policies.into_iter().map(|p| (p.name.clone(), p)).collect();
        by_name.into_values().collect()
    })
}

/// The policy that decides about port 80 or another of a workload, as the documentation says it.
fn decides<'a>(
    all: &'a [MeshPolicy],
    (namespace, app): (&str, &str),
    eighty: bool,
) -> Option<&'a MeshPolicy> {
    let mut best: Option<(_, &MeshPolicy)> = None;
    for policy in all {
        let root = &*policy.name.namespace == "mesh-system";
        let selected = policy.selector.get("app");
        if !root && *policy.name.namespace != *namespace || selected.is_some_and(|own| own != app) {
            continue;
        }
        let level = match (selected, root) {
            (Some(_), false) => 0,
            (Some(_), true) => 1,
            (None, false) => 2,
            (None, true) => 3,
        };
        let by_port = eighty && policy.port_mtls.contains_key(&80);
        if !by_port && policy.mtls.is_none() {
            continue;
        }
        let rank = (level, !by_port, policy.created.clone(), policy.name.clone());
        if best.as_ref().is_none_or(|(best, _)| rank < *best) {
            best = Some((rank, policy));
        }
    }
    best.map(|(_, policy)| policy)
}

proptest! {
    #[test]
    fn who_decides_is_who_the_documentation_says(policies in policies()) {
        let workloads = ["shop/web web", "shop/db db", "bank/web web", "mesh-system/db db"];
        let snapshot = with(&workloads, policies.clone());
        for text in workloads {
            let (name, labels) = named(text);
            let policy = snapshot.policy(&name);
            for (port, eighty) in [(80, true), (81, false)] {
                let decider = decides(&policies, (&name.namespace, &labels["app"]), eighty);
                prop_assert_eq!(policy.mtls_from(port), decider.map(|policy| &policy.name));
                let mode = decider.map(|policy| {
                    let by_port = policy.port_mtls.get(&80).filter(|_| eighty).copied();
                    by_port.or(policy.mtls).unwrap()
                });
                prop_assert_eq!(policy.mtls(port), mode.unwrap_or_default());
            }
        }
    }
}

#[test]
fn who_fails_open_past_a_policy_is_told() {
    let check = |failure: Option<FailureMode>, mtls, authorized: bool, expect: &[&str]| {
        let mesh = MeshPolicy { failure, mtls: Some(mtls), ..policy("shop/all") };
        let mut objects = vec![workload("shop/web app"), Object::MeshPolicy(mesh.into())];
        if authorized {
            let mut guests = authorization("shop/guests app");
            let who = From { principals: vec![Text::Present], ..From::default() };
            guests.rules = vec![Rule { from: vec![who], ..Rule::default() }];
            objects.push(Object::AuthorizationPolicy(guests.into()));
        }
        let snapshot = snapshot(objects);
        let told = snapshot.conditions.iter().map(|condition| {
            assert_eq!(condition.reason, Reason::FailsOpen);
            assert!(condition.message.contains("Workload shop/web "), "{condition}");
            assert!(condition.message.contains("AuthorizationPolicy shop/guests "), "{condition}");
            format!("{} {}", condition.subject, condition.field)
        });
        assert_eq!(told.collect::<Vec<_>>(), expect, "{failure:?} {mtls:?}");
    };
    let open = Some(FailureMode::Open);
    check(open, MtlsMode::Permissive, true, &["MeshPolicy shop/all spec.failureMode"]);
    check(open, MtlsMode::Disable, true, &["MeshPolicy shop/all spec.failureMode"]);
    check(open, MtlsMode::Strict, true, &[]);
    check(open, MtlsMode::Permissive, false, &[]);
    check(None, MtlsMode::Permissive, true, &[]);
    check(Some(FailureMode::Static), MtlsMode::Permissive, true, &[]);
}

#[test]
fn beyond_so_many_ports_the_strictest_holds_at_all() {
    let with_ports = |name: &str, ports: std::ops::Range<u16>| MeshPolicy {
        selector: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        port_mtls: ports.map(|port| (port, MtlsMode::Disable)).collect(),
        ..policy(name)
    };
    let check = |second: std::ops::Range<u16>, expect: (usize, MtlsMode), told: usize| {
        let policies = [with_ports("shop/a", 1..129), with_ports("shop/b", second)];
        let snapshot = with(&["shop/web web"], policies);
        let policy = snapshot.policy(&named("shop/web").0);
        assert_eq!((policy.ports.len(), policy.mtls(1)), expect);
        let conditions = &snapshot.conditions;
        assert_eq!(conditions.len(), told, "{conditions:?}");
        assert!(conditions.iter().all(|one| one.reason == Reason::LimitExceeded));
        assert!(conditions.iter().all(|one| one.subject == "MeshPolicy shop/b"));
    };
    check(200..328, (256, MtlsMode::Disable), 0);
    check(200..329, (0, MtlsMode::Strict), 1);
}
