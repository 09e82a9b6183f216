//! Policies of the mesh and of Istio, and what becomes of those that cannot be read.

use super::{Lab, check};
use crate::model::condition::Reason;
use crate::model::policy::upgrade::Upgrades;
use crate::model::policy::{AmbiguousPaths, Egress, FailureMode, MtlsMode, Rule, SameNode};
use crate::store::update::Object;

#[test]
fn a_peer_authentication_says_a_part_of_a_mesh_policy() {
    let mut lab = Lab::new();
    lab.write(
        "a.yaml",
        "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  mtls: {mode: STRICT}
  portLevelMtls: {8080: {mode: DISABLE}}
---
apiVersion: nodemesh.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop}
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: default}
spec: {sameNode: direct}
",
    );
    let closed = "PeerAuthentication default/default Strict";
    let expect = ["MeshPolicy shop/web ", closed, "PeerAuthentication shop/web Strict"];
    let conditions = lab.check(&expect, 1);
    assert!(conditions[0].message.contains("there is no field `sameNode`"), "{conditions:?}");
}

/// The policy in force for a broken `AuthorizationPolicy`, with how many labels, and what is said.
#[track_caller]
fn closed(lab: &mut Lab, text: &str, labels: usize) {
    lab.write("a.yaml", text);
    let conditions = lab.check(&["AuthorizationPolicy shop/web Deny"], 1);
    let end = "until then, for the workloads that it is for, all connections are refused";
    assert!(conditions[0].message.ends_with(end), "{conditions:?}");
    let update = lab.source.load();
    let Object::AuthorizationPolicy(policy) = &update.resources[0].object else { panic!() };
    assert_eq!((policy.selector.len(), policy.rules.as_slice()), (labels, &[Rule::default()][..]));
}

#[test]
fn an_authorization_policy_that_never_was_good_refuses_everything_in_its_scope() {
    let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                metadata: {name: web, namespace: shop}\n";
    let selector = "selector: {matchLabels: {app: web}}";
    let mut lab = Lab::new();
    // A field that there is not, a value that may not be, and no YAML from some place on.
    closed(&mut lab, &format!("{head}spec: {{{selector}, acton: ALLOW}}\n"), 1);
    closed(&mut lab, &format!("{head}spec: {{{selector}, action: allow}}\n"), 1);
    closed(&mut lab, &format!("{head}spec: {{selector: web, action: ALLOW}}\n"), 0);
    closed(&mut lab, &format!("{head}spec: {{selector: {{matchLabels: {{app: 'w*'}}}}}}\n"), 0);
    // Once it is good it stays so, and what is gone is gone.
    lab.write("a.yaml", &format!("{head}spec: {{{selector}, rules: [{{}}]}}\n"));
    lab.check(&["AuthorizationPolicy shop/web Allow"], 0);
    lab.write("a.yaml", &format!("{head}spec: {{{selector}, action: allow}}\n"));
    let conditions = lab.check(&["AuthorizationPolicy shop/web Allow"], 1);
    assert!(conditions[0].message.ends_with("what was last good of it stays in force"));
    lab.write("a.yaml", "");
    lab.check(&[], 0);
}

#[test]
fn a_policy_about_mutual_tls_that_never_was_good_is_strict_in_its_scope() {
    let mut lab = Lab::new();
    let mut check = |kind: &str, spec: &str, expect: &[&str]| {
        let api =
            if kind == "MeshPolicy" { "nodemesh.dev/v1alpha1" } else { "security.istio.io/v1" };
        let head =
            format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: web, namespace: shop}}\n");
        lab.write("a.yaml", &format!("{head}spec: {spec}\n"));
        let conditions = lab.check(expect, 1);
        let end = "the strictest of each setting that it mentions is in force";
        assert_eq!(conditions[0].message.ends_with(end), !expect.is_empty(), "{conditions:?}");
        let update = lab.source.load();
        let policy = update.resources.first().map(|first| match &first.object {
            Object::MeshPolicy(policy) => (policy.mtls, policy.egress, policy.selector.len()),
            other => panic!("{other:?}"),
        });
        lab.write("a.yaml", "");
        lab.check(&[], 0);
        policy
    };
    let strict = Some(MtlsMode::Strict);
    let selector = "selector: {matchLabels: {app: web}}";
    let found = check("MeshPolicy", "{mtls: {mod: STRICT}}", &["MeshPolicy shop/web Strict"]);
    assert_eq!(found, Some((strict, None, 0)));
    let spec = format!("{{{selector}, mtls: {{mode: strict}}}}");
    let found = check("PeerAuthentication", &spec, &["PeerAuthentication shop/web Strict"]);
    assert_eq!(found, Some((strict, None, 1)));
    let found = check("MeshPolicy", "{egress: registry}", &["MeshPolicy shop/web "]);
    assert_eq!(found, Some((None, Some(Egress::RegistryOnly), 0)));
    assert_eq!(check("MeshPolicy", "{acceleration: quick}", &[]), None);
    // A setting that is misspelled itself.
    for spec in ["{mtsl: {mode: STRICT}}", "{mTLS: {mode: STRICT}}", "{'portLevelMTLS': {}}"] {
        let found = check("MeshPolicy", spec, &["MeshPolicy shop/web Strict"]);
        assert_eq!(found, Some((strict, None, 0)), "{spec}");
    }
    let found = check("MeshPolicy", "{egres: RegistryOnly}", &["MeshPolicy shop/web "]);
    assert_eq!(found, Some((None, Some(Egress::RegistryOnly), 0)));
}

#[test]
fn every_setting_that_a_broken_mesh_policy_mentions_is_the_strictest() {
    let head = "apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: web}\n";
    let check = |spec: &str| {
        let mut lab = Lab::new();
        lab.write("a.yaml", &format!("{head}spec: {spec}\n"));
        let found = lab.source.load().resources;
        let Some(Object::MeshPolicy(policy)) = found.first().map(|it| it.object.clone()) else {
            panic!("{spec}")
        };
        policy
    };
    assert_eq!(check("{sameNode: mtls, x: 1}").same_node, Some(SameNode::Mtls));
    assert_eq!(check("{portLevelSameNode: {}, x: 1}").same_node, Some(SameNode::Mtls));
    assert_eq!(check("{failuremode: closed}").failure, Some(FailureMode::Closed));
    assert_eq!(check("{ambiguouspaths: x}").ambiguous_paths, Some(AmbiguousPaths::Refuse));
    let upgrades = check("{upgrades: 1}").upgrades.clone().unwrap();
    assert!(!upgrades.has("websocket"));
}

#[test]
fn a_mesh_policy_refuses_ambiguous_paths() {
    let mut lab = Lab::new();
    let mut check = |word: &str, expect: Result<AmbiguousPaths, &str>| {
        let head = "apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\n";
        let rest = format!("metadata: {{name: web}}\nspec: {{ambiguousPaths: {word}}}\n");
        lab.write("a.yaml", &format!("{head}{rest}"));
        let update = lab.source.load();
        match expect {
            Ok(expect) => {
                let Object::MeshPolicy(policy) = &update.resources[0].object else { panic!() };
                assert_eq!(policy.ambiguous_paths, Some(expect));
            }
            Err(expect) => {
                let said = &update.conditions[0].message;
                assert!(said.contains(expect), "{said}");
            }
        }
    };
    check("normalize", Err("`normalize` is not known; write one of: judge, refuse"));
    check("refuse", Ok(AmbiguousPaths::Refuse));
    check("judge", Ok(AmbiguousPaths::Judge));
}

#[test]
fn a_service_entry_is_its_addresses() {
    let head = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                metadata: {name: api, namespace: shop}\n";
    let mut lab = Lab::new();
    let spec = "{hosts: [api.example.com], addresses: [192.0.2.7/24, '2001:db8::/32'], \
                location: MESH_EXTERNAL, resolution: NONE, exportTo: [., other], \
                ports: [{number: 443, name: tls, protocol: TLS}, {number: 53, protocol: UDP}]}";
    lab.write("a.yaml", &format!("{head}spec: {spec}\n"));
    lab.check(&["ServiceEntry shop/api 2 blocks"], 0);
    let update = lab.source.load();
    let Object::External(external) = &update.resources[0].object else { panic!() };
    assert_eq!(external.ports, [443]);
    let namespaces: Vec<_> = external.exported_to.as_ref().unwrap().iter().map(|n| &**n).collect();
    assert_eq!(namespaces, ["shop", "other"]);
    assert_eq!(external.blocks[0].network.to_string(), "192.0.2.0");
    let udp = "{addresses: [192.0.2.1], ports: [{number: 53, protocol: udp}]}";
    lab.write("a.yaml", &format!("{head}spec: {udp}\n"));
    lab.check(&["ServiceEntry shop/api 0 blocks"], 0);
    lab.write("a.yaml", &format!("{head}spec: {{addresses: [192.0.2.1], resolution: DNS}}\n"));
    let conditions = lab.check(&["ServiceEntry shop/api 1 blocks"], 1);
    assert_eq!(conditions[0].field, "spec.resolution");
    for wrong in ["{hosts: [a]}", "{addresses: [a]}", "{addresses: [::], ports: [{number: 0}]}"] {
        let mut lab = Lab::new();
        lab.write("a.yaml", &format!("{head}spec: {wrong}\n"));
        lab.check(&[], 1);
    }
}

#[test]
fn a_mesh_policy_may_leave_everything_out() {
    for spec in ["", "spec:\n", "spec: {}\n", "spec: {mtls: {}, selector: {}}\n"] {
        let text = "apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: a}\n";
        let mut lab = Lab::new();
        lab.write("a.yaml", &format!("{text}{spec}"));
        lab.check(&["MeshPolicy default/a "], 0);
    }
}

#[test]
fn the_protocols_of_upgrades_are_listed() {
    let head =
        "apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: web}\nspec:\n";
    let listed = |written: &str| {
        let mut lab = Lab::new();
        lab.write("a.yaml", &format!("{head}{written}"));
        lab.check(&["MeshPolicy default/web "], 0);
        let Object::MeshPolicy(policy) = &lab.source.load().resources[0].object else { panic!() };
        policy.upgrades.clone()
    };
    assert_eq!(listed("  mtls: {}\n"), None);
    assert_eq!(listed("  upgrades: []\n"), Some(Upgrades::only::<&str>(&[])));
    let both = Upgrades::only(&["websocket", "Foo/1"]);
    assert_eq!(listed("  upgrades: [websocket, Foo/1]\n"), Some(both));
    check(
        &format!("{head}  upgrades: [websocket, h2c, 'a b']\n"),
        &[
            "5 spec.upgrades[1] Invalid: `h2c` carries requests that no policy and no route would see",
            "5 spec.upgrades[2] Invalid: `a b` is not a protocol as RFC 9110",
        ],
    );
}

#[test]
fn a_policy_with_too_many_ports_is_strict_at_all_of_them() {
    let ports = |n: u16| {
        let all: Vec<_> = (1..=n).map(|port| format!("{port}: {{mode: DISABLE}}")).collect();
        format!(
            "apiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: web}}\n\
             spec: {{selector: {{matchLabels: {{app: web}}}}, portLevelMtls: {{{}}}}}\n",
            all.join(", ")
        )
    };
    let mut lab = Lab::new();
    let mut check = |n: u16, expect: (usize, Option<MtlsMode>), told: usize| {
        lab.write("a.yaml", &ports(n));
        let update = lab.source.load();
        let Object::MeshPolicy(policy) = &update.resources[0].object else { panic!() };
        assert_eq!((policy.port_mtls.len(), policy.mtls), expect);
        assert_eq!(update.conditions.len(), told);
        assert!(update.conditions.iter().all(|one| one.reason == Reason::LimitExceeded));
    };
    check(128, (128, None), 0);
    check(129, (0, Some(MtlsMode::Strict)), 1);
    check(65_535, (0, Some(MtlsMode::Strict)), 1);
}

#[test]
fn documents_that_are_too_large_for_the_kernel_are_left_out() {
    let list =
        |n: usize, item: &dyn Fn(usize) -> String| (1..=n).map(item).collect::<Vec<_>>().join(", ");
    let workload = |addresses: usize, ports: usize, probes: usize| {
        format!(
            "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\nmetadata: {{name: x}}\n\
             spec: {{addresses: [{}], ports: [{}], probes: [{}]}}\n",
            list(addresses, &|n| format!("10.0.{}.{}", n / 250, n % 250 + 1)),
            list(ports, &|n| format!("{{name: p{n}, port: {n}}}")),
            list(probes, &|n| format!("{{port: {n}}}")),
        )
    };
    let service = |ports: usize| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: x}}\n\
             spec: {{clusterIP: 10.96.0.1, ports: [{}]}}\n",
            list(ports, &|n| format!("{{name: p{n}, port: {n}}}")),
        )
    };
    let entry = |addresses: usize, ports: usize| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: x}}\n\
             spec: {{hosts: [x], addresses: [{}], ports: [{}]}}\n",
            list(addresses, &|n| format!("10.{}.{}.0/24", n / 250, n % 250)),
            list(ports, &|n| format!("{{number: {n}, name: p{n}}}")),
        )
    };
    let check = |text: String, fits: bool, field: &str| {
        let mut lab = Lab::new();
        lab.write("a.yaml", &text);
        let update = lab.source.load();
        let told: Vec<_> = update.conditions.iter().map(|one| (one.reason, &*one.field)).collect();
        let expect = if fits { vec![] } else { vec![(Reason::LimitExceeded, field)] };
        assert_eq!((update.resources.len(), told), (usize::from(fits), expect));
    };
    check(workload(64, 1_024, 64), true, "");
    check(workload(65, 1, 1), false, "spec.addresses");
    check(workload(1, 1_025, 1), false, "spec.ports");
    check(workload(1, 1, 65), false, "spec.probes");
    check(service(1_024), true, "");
    check(service(1_025), false, "spec.ports");
    check(entry(4_096, 4), true, "");
    check(entry(4_096, 5), false, "spec.addresses");
}
