//! The source as its users see it: files in, updates out.

mod again;
mod empty;
mod heads;
mod malformed;
mod policies;
mod steps;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::model::id::ResourceName;
use crate::model::policy::{
    Acceleration, Egress, FailureMode, MeshPolicy, MtlsMode, PolicyKind, SameNode,
};
use crate::model::service::AppProtocol;
use crate::model::workload::Place;
use crate::store::update::Object;

const ECHO: &str = "\
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  clusterIP: 10.96.0.10
  ports: [{port: 80}]
";

fn domains() -> TrustDomains {
    TrustDomains::new("cluster.local", [])
}

/// A configuration directory and the source that reads it.
struct Lab {
    dir: TempDir,
    source: FileSource,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = FileSource::new(dir.path().to_owned(), domains(), true).unwrap();
        Self { dir, source }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).unwrap();
    }

    /// Loads, and checks what is in force (a word a resource: its name and first port or address)
    /// and how many conditions there are.
    fn check(&mut self, expect: &[&str], n_conditions: usize) -> Vec<Condition> {
        let update = self.source.load();
        let words: Vec<_> =
            update.resources.iter().map(|resource| word(&resource.object)).collect();
        assert_eq!(words, expect, "{:#?}", update.conditions);
        assert_eq!(update.conditions.len(), n_conditions, "{:#?}", update.conditions);
        update.conditions
    }
}

fn word(object: &Object) -> String {
    let number = match object {
        Object::Service(service) => service.ports.first().map(|port| port.port.to_string()),
        Object::TcpRoute(route) => route.backends.first().map(|backend| backend.weight.to_string()),
        Object::HttpRoute(route) => Some(route.rules.len().to_string()),
        Object::Workload(workload) => workload.addresses.first().map(ToString::to_string),
        Object::MeshPolicy(policy) => policy.mtls.map(|mode| format!("{mode:?}")),
        Object::External(external) => Some(format!("{} blocks", external.blocks.len())),
        Object::AuthorizationPolicy(policy) => Some(format!("{:?}", policy.action)),
    };
    format!("{} {}", object.key(), number.unwrap_or_default())
}

fn service(name: &str, port: u32) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: \
         10.96.0.10, ports: [{{port: {port}}}]}}\n"
    )
}

/// Loads one text. Each condition as `line field reason: message`.
fn conditions(text: &str) -> Vec<String> {
    let mut lab = Lab::new();
    lab.write("a.yaml", text);
    let one = |condition: Condition| {
        let Condition { location, field, reason, message, .. } = condition;
        format!("{} {field} {}: {message}", location.line, reason.as_str())
    };
    lab.source.load().conditions.into_iter().map(one).collect()
}

/// Checks that `text` has exactly these conditions, by how they begin.
#[track_caller]
fn check(text: &str, expect: &[&str]) {
    let found = conditions(text);
    assert_eq!(found.len(), expect.len(), "{found:#?}");
    for (found, expect) in found.iter().zip(expect) {
        assert!(found.starts_with(expect), "{found}\n  does not begin with\n{expect}");
    }
}

#[test]
fn every_example_is_without_a_condition() {
    let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"));
    let files = read::files(&dir, |_| false).unwrap().read;
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let mut lab = Lab::new();
        lab.write("example.yaml", &fs::read_to_string(&file).unwrap());
        let update = lab.source.load();
        assert!(!update.resources.is_empty(), "{}", file.display());
        let snapshot = crate::store::build::build(
            &crate::model::snapshot::Snapshot::default(),
            &BTreeMap::from([(NAME, update)]),
        );
        assert_eq!(snapshot.conditions, [], "{}", file.display());
    }
}

#[test]
fn what_kubectl_prints_is_read() {
    let dumped = "\
apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- apiVersion: v1
  kind: Service
  metadata:
    annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}
    creationTimestamp: '2026-01-31T12:00:00Z'
    managedFields: [{manager: kubectl, fieldsV1: {'f:spec': {'.': {}}}}]
    name: echo
    namespace: demo
    resourceVersion: '1'
    uid: 0d5c9d8e-0000-4000-8000-000000000000
  spec:
    clusterIP: 10.96.0.10
    clusterIPs: [10.96.0.10]
    internalTrafficPolicy: Cluster
    ipFamilies: [IPv4]
    ipFamilyPolicy: SingleStack
    ports:
    - {name: http, port: 80, protocol: TCP, targetPort: web, appProtocol: http}
    - {name: dns, port: 53, protocol: UDP, targetPort: 53}
    selector: {app: echo}
    sessionAffinity: None
    type: ClusterIP
  status: {loadBalancer: {}}
- apiVersion: gateway.networking.k8s.io/v1alpha2
  kind: TCPRoute
  metadata: {name: split, namespace: demo, creationTimestamp: null, generation: 3}
  spec:
    parentRefs: [{group: '', kind: Service, name: echo, port: 80}]
    rules: [{name: all, backendRefs: [{group: '', kind: Service, name: v1, port: 80, weight: 7}]}]
  status: {parents: []}
";
    let mut lab = Lab::new();
    lab.write("dump.yaml", dumped);
    lab.check(&["Service demo/echo 80", "TCPRoute demo/split 7"], 0);
}

#[test]
fn typos_are_found_where_they_are() {
    let route = "\
# a split
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: split}
spec:
  parentRefs: [{group: '', kind: Service, name: echo}]
  rules:
  - backendRefs:
    - name: v1
      port: 80
    - name: v2
      port: 80
      wieght: 10
";
    let text = format!("{ECHO}---\n{route}");
    check(
        &text,
        &["21 spec.rules[0].backendRefs[1].wieght Invalid: there is no field `wieght`; did you \
           mean `weight`?; until then it is left out"],
    );
}

#[test]
fn every_wrong_value_of_a_route_is_named_with_its_line() {
    check(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata:
  name: Split
  creationTimestamp: yesterday
spec:
  parentRefs:
  - name: echo
  - group: ''
    kind: Service
    name: echo
    sectionName: http
  rules:
  - backendRefs:
    - {name: v1, port: 0}
    - name: v2
      port: 80
      weight: 1000001
    - {name: v3}
    - {kind: Deployment, name: v4, port: 80}
  - backendRefs: []
",
        &[
            "4 metadata.name Invalid: `Split` is not a DNS-1123 name",
            "5 metadata.creationTimestamp Invalid: ",
            "8 spec.parentRefs[0] InvalidKind: ",
            "12 spec.parentRefs[1].sectionName UnsupportedValue: ",
            "15 spec.rules[0].backendRefs[0].port Invalid: 0 is not a port",
            "18 spec.rules[0].backendRefs[1].weight Invalid: 1000001 is not a weight",
            "19 spec.rules[0].backendRefs[2].port Invalid: ",
            "20 spec.rules[0].backendRefs[3] InvalidKind: ",
            "21 spec.rules[1] UnsupportedValue: ",
        ],
    );
}

#[test]
fn every_wrong_value_of_a_workload_is_named_with_its_line() {
    check(
        "\
apiVersion: nodemesh.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: a.b}
spec:
  addresses:
  - 10.0.0.1
  - 10.0.0.1
  - nowhere
  serviceAccount: Web
  ports:
  - {name: a, port: 70000}
  - {name: b, port: 8080}
  netns: run/netns/web
  cgroup: web
  probes:
  - port: 0
  - port: c
status:
  conditions:
  - {type: Initialized, status: 'Maybe'}
  - {type: Ready, status: 'No'}
",
        &[
            "3 metadata.namespace Invalid: ",
            "7 spec.addresses[1] Invalid: ",
            "8 spec.addresses[2] Invalid: ",
            "9 spec.serviceAccount Invalid: ",
            "11 spec.ports[0].port Invalid: 70000 is not a port",
            "14 spec.cgroup Invalid: a workload is in one place",
            "16 spec.probes[0].port Invalid: 0 is not a port",
            "17 spec.probes[1].port Invalid: `c` is none of the workload's ports",
            "21 status.conditions[1].status Invalid: `No` is no status",
        ],
    );
}

#[test]
fn every_wrong_value_of_a_service_is_named_with_its_line() {
    check(
        "\
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: ExternalName
  clusterIPs: [10.96.0.1]
  clusterIP: 10.96.0.2
  ports:
  - {port: 80}
  - {port: 80}
  - {port: 81, protocol: SCTP}
  - {port: 82, targetPort: '8080'}
",
        &[
            "5 spec.type UnsupportedValue: ",
            "7 spec.clusterIP Invalid: ",
            "10 spec.ports[1].port Invalid: ",
            "11 spec.ports[2].protocol UnsupportedValue: ",
            "12 spec.ports[3].targetPort Invalid: ",
        ],
    );
}

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{group: '', kind: Service, name: echo}]
  rules:
  - matches:
    - path: {type: Exact, value: /a}
      headers: [{name: b, value: c}]
    filters:
    - type: ExtensionRef
      extensionRef: {group: d, kind: E, name: f}
    timeouts: {request: 1m30s}
  - backendRefs: [{name: v1, port: 80}]
";

#[test]
fn http_and_grpc_routes_are_read_and_one_that_breaks_stays_as_it_was() {
    let mut lab = Lab::new();
    let grpc = ROUTE.replace("HTTPRoute", "GRPCRoute");
    let grpc = grpc.replace("path: {type: Exact, value: /a}", "method: {service: a}");
    let grpc = grpc.replace("    timeouts: {request: 1m30s}\n", "");
    let both = ["HTTPRoute default/a 2", "GRPCRoute default/a 2"];
    lab.write("a.yaml", &ROUTE.replace("/v1", "/v1beta1"));
    lab.write("b.yaml", &grpc);
    for condition in lab.check(&both, 2) {
        assert_eq!(condition.field, "spec.rules[0].filters[0].extensionRef");
        assert_eq!((condition.location.line, condition.reason), (12, Reason::InvalidKind));
    }
    lab.write("a.yaml", &ROUTE.replace("Exact", "Glob"));
    lab.write("b.yaml", &grpc.replace("ExtensionRef", "URLRewrite"));
    let conditions = lab.check(&both, 3);
    let refused = |one: &&Condition| one.reason == Reason::UnsupportedValue;
    let refused: Vec<_> = conditions.iter().filter(refused).collect();
    let fields: Vec<_> = refused.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(fields, ["spec.rules[0].matches[0].path.type", "spec.rules[0].filters[0].type"]);
    assert!(refused.iter().all(|one| one.message.ends_with("stays in force")), "{refused:#?}");
}

#[test]
fn what_a_port_speaks_is_taken_over() {
    let check = |written: &str, expect: AppProtocol| {
        let mut lab = Lab::new();
        lab.write("a.yaml", &ECHO.replace("port: 80", &format!("port: 80{written}")));
        let update = lab.source.load();
        assert_eq!(update.conditions, [], "{written}");
        let Some(Object::Service(service)) = update.resources.first().map(|r| &r.object) else {
            panic!("{update:?}");
        };
        assert_eq!(service.ports[0].protocol, expect, "{written}");
    };
    check("", AppProtocol::Unset);
    check(", appProtocol: null", AppProtocol::Unset);
    check(", appProtocol: http", AppProtocol::Http);
    check(", appProtocol: kubernetes.io/h2c", AppProtocol::H2c);
    check(", appProtocol: http2", AppProtocol::H2c);
    check(", appProtocol: grpc", AppProtocol::Grpc);
    check(", appProtocol: kubernetes.io/ws", AppProtocol::WebSocket);
    check(", appProtocol: tcp", AppProtocol::Other);
    check(", appProtocol: https", AppProtocol::Other);
}

#[test]
fn a_document_that_is_no_resource_does_not_take_the_others_with_it() {
    let text = format!("{ECHO}---\na: [\n---\nkind: Pod\n{}", service("other", 81));
    let mut lab = Lab::new();
    lab.write("a.yaml", &text);
    let conditions = lab.check(&["Service default/echo 80", "Service default/other 81"], 2);
    let places: Vec<_> = conditions.iter().map(|c| (c.location.document, c.reason)).collect();
    assert_eq!(places, [(2, Reason::Invalid), (3, Reason::UnsupportedValue)]);
    assert_eq!(conditions[1].location.line, 10);
}

#[test]
fn wrong_items_of_a_list_do_not_take_the_others_with_them() {
    let item = |name: &str, port: &str| {
        format!(
            "- apiVersion: v1\n  kind: Service\n  metadata: {{name: {name}}}\n  spec: {{ports: \
             [{{port: {port}}}]}}\n"
        )
    };
    let items = [item("a", "1"), item("b", "x"), item("c", "0"), item("d", "4")].concat();
    let text = format!("apiVersion: v1\nkind: List\nitems:\n{items}- kind: Pod\n");
    let mut lab = Lab::new();
    lab.write("a.yaml", &text);
    let conditions = lab.check(&["Service default/a 1", "Service default/d 4"], 3);
    let places: Vec<_> =
        conditions.iter().map(|c| (c.location.line, c.field.as_str(), &*c.subject)).collect();
    assert_eq!(
        places,
        [
            (11, "items[1].spec.ports[0].port", "Service default/b"),
            (15, "items[2].spec.ports[0].port", "Service default/c"),
            (20, "", "Pod"),
        ]
    );
}

#[test]
fn a_broken_document_stays_as_it_was() {
    let mut lab = Lab::new();
    lab.write("a.yaml", &(service("a", 1) + &service("b", 2)));
    lab.check(&["Service default/a 1", "Service default/b 2"], 0);
    // It can be told which one is broken: only that one stays.
    lab.write("a.yaml", &service("b", 0));
    let conditions = lab.check(&["Service default/b 2"], 1);
    assert!(conditions[0].message.ends_with("stays in force"), "{}", conditions[0].message);
    lab.write("a.yaml", &service("b", 3));
    lab.check(&["Service default/b 3"], 0);
    // A syntax error behind the name: still the same.
    lab.write("a.yaml", &(service("b", 3) + "  [\n" + &service("a", 4)));
    lab.check(&["Service default/a 4", "Service default/b 3"], 1);
    lab.remove("a.yaml");
    lab.check(&[], 0);
}

#[test]
fn what_an_unknown_document_may_have_been_stays() {
    let mut lab = Lab::new();
    lab.write("a.yaml", &(service("a", 1) + &service("b", 2)));
    lab.write("b.yaml", &service("c", 3));
    lab.check(&["Service default/a 1", "Service default/b 2", "Service default/c 3"], 0);
    lab.write("a.yaml", &(service("a", 11) + "---\n}\n"));
    lab.remove("b.yaml");
    lab.check(&["Service default/a 11", "Service default/b 2"], 1);
    // Moved to another file, it is not what the unknown document was.
    lab.write("b.yaml", &service("b", 22));
    lab.check(&["Service default/a 11", "Service default/b 22"], 1);
    lab.write("a.yaml", &service("a", 11));
    lab.remove("b.yaml");
    lab.check(&["Service default/a 11"], 0);
}

#[test]
fn an_unreadable_file_stays_as_it_was() {
    let mut lab = Lab::new();
    lab.write("a.yaml", &service("a", 1));
    lab.check(&["Service default/a 1"], 0);
    fs::write(lab.dir.path().join("a.yaml"), b"\xff").unwrap();
    lab.check(&["Service default/a 1"], 1);
    lab.remove("a.yaml");
    fs::create_dir(lab.dir.path().join("a.yaml")).unwrap();
    lab.check(&["Service default/a 1"], 1);
}

#[test]
fn an_unreadable_directory_stays_as_it_was() {
    let mut lab = Lab::new();
    lab.write("a.yaml", &service("a", 1));
    lab.check(&["Service default/a 1"], 0);
    fs::remove_dir_all(lab.dir.path()).unwrap();
    lab.check(&["Service default/a 1"], 1);
    assert!(FileSource::new(lab.dir.path().to_owned(), domains(), true).is_err());
}

#[test]
fn the_first_of_two_with_one_name_wins() {
    let mut lab = Lab::new();
    lab.write("b.yaml", &service("a", 2));
    lab.check(&["Service default/a 2"], 0);
    lab.write("a.yaml", &service("a", 1));
    let conditions = lab.check(&["Service default/a 1"], 1);
    assert_eq!(conditions[0].reason, Reason::Conflicted);
    assert!(conditions[0].location.file.ends_with("b.yaml"));
    // Broken, the first one stays as it was, and still wins.
    lab.write("a.yaml", &service("a", 0));
    lab.check(&["Service default/a 1"], 2);
    // Broken from the beginning, it has nothing to stay as.
    lab.remove("a.yaml");
    lab.check(&["Service default/a 2"], 0);
    lab.write("a.yaml", &service("a", 0));
    lab.check(&["Service default/a 2"], 1);
}

#[test]
fn a_good_document_does_not_conflict_with_itself_beside_a_broken_one_of_its_name() {
    let mut lab = Lab::new();
    lab.write("a.yaml", &(service("a", 0) + &service("a", 2)));
    for _ in 0..3 {
        let conditions = lab.check(&["Service default/a 2"], 1);
        let message = &conditions[0].message;
        assert!(message.ends_with("a.yaml:7 (document 2) is used"), "{message}");
    }
    // The present text counts, not the former one.
    lab.write("a.yaml", &(service("a", 0) + &service("b", 1) + &service("a", 3)));
    lab.check(&["Service default/a 3", "Service default/b 1"], 1);
    // A broken one that is put before it is another one.
    lab.write("a.yaml", &service("a", 3));
    lab.check(&["Service default/a 3"], 0);
    lab.write("a.yaml", &(service("a", 0) + &service("a", 3)));
    lab.check(&["Service default/a 3"], 1);
    lab.write("a.yaml", &(service("a", 0) + &service("a", 4)));
    lab.check(&["Service default/a 4"], 1);
}

#[test]
fn the_first_of_two_in_one_file_stays_as_it_was_when_it_breaks() {
    let mut lab = Lab::new();
    lab.write("a.yaml", &(service("a", 1) + &service("a", 2)));
    lab.check(&["Service default/a 1"], 1);
    lab.write("a.yaml", &(service("a", 0) + &service("a", 2)));
    for _ in 0..2 {
        let conditions = lab.check(&["Service default/a 1"], 2);
        let stays = conditions.iter().filter(|one| one.message.ends_with("stays in force"));
        assert_eq!(stays.count(), 1, "{conditions:?}");
        assert!(conditions.iter().any(|one| one.reason == Reason::Conflicted), "{conditions:?}");
    }
    lab.write("a.yaml", &(service("a", 3) + &service("a", 2)));
    lab.check(&["Service default/a 3"], 1);
    lab.write("a.yaml", &service("a", 2));
    lab.check(&["Service default/a 2"], 0);
}

#[test]
fn hidden_and_other_files_are_left_alone() {
    let mut lab = Lab::new();
    lab.write(".a.yaml", "}");
    lab.write("a.yaml~", "}");
    lab.write("a.yml", &service("a", 1));
    lab.check(&["Service default/a 1"], 0);
}

#[test]
fn a_place_and_an_identity_are_taken_over() {
    let mut lab = Lab::new();
    lab.write(
        "a.yaml",
        "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\nmetadata: {name: web, namespace: shop}\n\
         spec: {node: n, addresses: ['fd00::1'], cgroup: /system.slice/web.service}\n",
    );
    let update = lab.source.load();
    let Some(Object::Workload(workload)) = update.resources.first().map(|r| &r.object) else {
        panic!("{update:?}");
    };
    assert_eq!(workload.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/default");
    assert_eq!(workload.place, Place::Cgroup("system.slice/web.service".into()));
}

#[test]
fn probes_and_readiness_are_taken_over() {
    let check = |rest: &str, expect: (&[u16], bool)| {
        let mut lab = Lab::new();
        let text = format!(
            "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\nmetadata: {{name: web}}\nspec:\n  \
             addresses: [10.0.0.1]\n  ports: [{{name: http, port: 8080}}]\n{rest}"
        );
        lab.write("a.yaml", &text);
        let update = lab.source.load();
        assert_eq!(update.conditions, [], "{text}");
        let Some(Object::Workload(workload)) = update.resources.first().map(|r| &r.object) else {
            panic!("{update:?}");
        };
        assert_eq!((workload.probes.as_slice(), workload.ready), expect, "{text}");
    };
    let ready = |status: &str| {
        format!(
            "status:\n  phase: Running\n  conditions:\n  - {{type: Ready, status: '{status}', \
             lastProbeTime: null, reason: ContainersNotReady}}\n"
        )
    };
    check("", (&[], true));
    check("status:\n", (&[], true));
    check(&ready("True"), (&[], true));
    check(&ready("False"), (&[], false));
    check(&ready("Unknown"), (&[], false));
    check("  probes: [{port: 9000}, {port: http}, {port: 8080}]\n", (&[9000, 8080], true));
}

const POLICY: &str = "\
apiVersion: nodemesh.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop, creationTimestamp: '2026-01-31T12:00:00Z'}
spec:
  selector: {matchLabels: {app: web}}
  mtls: {mode: STRICT}
  portLevelMtls:
    8080: {mode: DISABLE}
    '8081': {mode: PERMISSIVE}
    8082: {mode: UNSET}
  sameNode: agent
  portLevelSameNode: {9090: mtls, 9091: direct}
  failureMode: closed
  acceleration: sockmap
  egress: registry-only
";

const RULES: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - from: [{source: {principals: ['*/sa/a'], ipBlocks: [10.0.0.0/8], notIpBlocks: ['fd00::1']}}]
    to: [{operation: {ports: ['80'], methods: [GET]}}]
    when: [{key: source.namespace, values: [a*], notValues: [b]}]
";

#[test]
fn a_mesh_policy_is_taken_over() {
    let mut lab = Lab::new();
    lab.write("a.yaml", POLICY);
    let update = lab.source.load();
    assert_eq!(update.conditions, []);
    let expect = MeshPolicy {
        kind: PolicyKind::Mesh,
        name: ResourceName::new("shop", "web"),
        created: "2026-01-31T12:00:00Z".to_owned(),
        selector: [("app".to_owned(), "web".to_owned())].into(),
        mtls: Some(MtlsMode::Strict),
        port_mtls: [(8080, MtlsMode::Disable), (8081, MtlsMode::Permissive)].into(),
        same_node: Some(SameNode::Agent),
        port_same_node: [(9090, SameNode::Mtls), (9091, SameNode::Direct)].into(),
        failure: Some(FailureMode::Closed),
        ambiguous_paths: None,
        acceleration: Some(Acceleration::Sockmap),
        egress: Some(Egress::RegistryOnly),
        upgrades: None,
        is_closed: false,
    };
    let objects: Vec<_> = update.resources.into_iter().map(|resource| resource.object).collect();
    assert_eq!(objects, [Object::MeshPolicy(expect.into())]);
}

#[test]
fn every_wrong_value_of_a_mesh_policy_is_named_with_its_line() {
    check(
        "\
apiVersion: nodemesh.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web}
spec:
  mtls:
    mode: strict
  portLevelMtls:
    8080: {mode: STRICT}
    web: {mode: STRICT}
    8081: {mode: MUTUAL}
    '08080': {mode: STRICT}
  sameNode: fast
  portLevelSameNode:
    0: agent
    1: agent
  failureMode: ajar
  acceleration: warp
",
        &[
            "6 spec.mtls.mode Invalid: `strict` is not known; write one of: STRICT, PERMISSIVE, ",
            "7 spec.portLevelMtls Invalid: the ports of different workloads have nothing in common",
            "8 spec.portLevelMtls.8080 Invalid: port 8080 is written twice",
            "9 spec.portLevelMtls.web Invalid: `web` is not a port",
            "10 spec.portLevelMtls.8081.mode Invalid: `MUTUAL` is not known",
            "12 spec.sameNode Invalid: `fast` is not known; write one of: direct, agent, mtls",
            "13 spec.portLevelSameNode Invalid: the ports of different workloads",
            "14 spec.portLevelSameNode.0 Invalid: 0 is not a port",
            "16 spec.failureMode Invalid: `ajar` is not known; write one of: closed, open, static",
            "17 spec.acceleration Invalid: `warp` is not known; write one of: none, sockmap",
        ],
    );
}

#[test]
fn an_authorization_policy_is_of_one_name_in_all_its_groups() {
    let policy = |group: &str, action: &str| {
        format!(
            "---\napiVersion: {group}\nkind: AuthorizationPolicy\nmetadata: {{name: a}}\nspec: \
             {{action: {action}, rules: [{{when: [{{key: connection.sni, values: [a]}}]}}]}}\n"
        )
    };
    let mut lab = Lab::new();
    for group in ["security.istio.io/v1", "security.istio.io/v1beta1", "nodemesh.dev/v1alpha1"] {
        lab.write("a.yaml", &policy(group, "ALLOW"));
        let conditions = lab.check(&["AuthorizationPolicy default/a Allow"], 1);
        assert_eq!(conditions[0].field, "spec.rules[0].when[0].key");
        assert_eq!(conditions[0].location.line, 5);
    }
    lab.write("b.yaml", &policy("security.istio.io/v1", "DENY"));
    let conditions = lab.check(&["AuthorizationPolicy default/a Allow"], 3);
    assert!(conditions.iter().any(|condition| condition.reason == Reason::Conflicted));
}

#[test]
fn a_broken_policy_stays_as_it_was() {
    let policy = |action: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: \
             a}}\nspec: {{action: {action}}}\n"
        )
    };
    let mut lab = Lab::new();
    lab.write("a.yaml", &policy("DENY"));
    lab.write("b.yaml", POLICY);
    let good = ["MeshPolicy shop/web Strict", "AuthorizationPolicy default/a Deny"];
    lab.check(&good, 0);
    lab.write("a.yaml", &policy("deny"));
    lab.write("b.yaml", &POLICY.replace("mode: STRICT", "mode: OFF"));
    let conditions = lab.check(&good, 2);
    for condition in conditions {
        assert!(condition.message.ends_with("stays in force"), "{condition}");
    }
}

#[tokio::test]
async fn changes_are_noticed_and_it_drains_to_zero() {
    let lab = Lab::new();
    // Laid out as Kubernetes mounts a ConfigMap: `..data` is swapped by a rename.
    let dir = lab.dir.path();
    let lay = |generation: &str, port| {
        let folder = dir.join(generation);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.yaml"), service("a", port)).unwrap();
        std::os::unix::fs::symlink(generation, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    lay("..1", 1);
    std::os::unix::fs::symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    let scope = Scope::new("source");
    let (tx, mut rx) = mpsc::channel(1);
    scope.spawn(lab.source.run(tx, channel().1, heads::gate(), scope.clone()));
    let next = async |rx: &mut mpsc::Receiver<Update>| {
        let update = rx.recv().await.unwrap();
        update.resources.iter().map(|resource| word(&resource.object)).collect::<Vec<_>>()
    };
    assert_eq!(next(&mut rx).await, ["Service default/a 1"]);
    let began = Instant::now();
    lay("..2", 2);
    assert_eq!(next(&mut rx).await, ["Service default/a 2"]);
    assert!(began.elapsed() < LOOK_AGAIN, "no event came");
    assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
    assert!(rx.recv().await.is_none());
}

#[test]
fn what_is_written_as_before_is_the_same_object_elsewhere() {
    let mut lab = Lab::new();
    let objects = |update: &Update| {
        let one = |resource: &Resource| match &resource.object {
            Object::Service(service) => (Arc::clone(service), resource.location.clone()),
            other => panic!("{other:?}"),
        };
        update.resources.iter().map(one).collect::<Vec<_>>()
    };
    let unused = "---\nkind: Unknown\n";
    lab.write("a.yaml", &[&service("a", 1), &service("b", 2), unused].concat());
    let before = lab.source.load();
    let first = objects(&before);
    lab.write(
        "a.yaml",
        &["\n---\nkind: New\n", &service("b", 2), &service("a", 3), unused].concat(),
    );
    let after = lab.source.load();
    let second = objects(&after);
    assert!(!Arc::ptr_eq(&first[0].0, &second[0].0), "another port");
    assert!(Arc::ptr_eq(&first[1].0, &second[1].0));
    let at = |location: &Location| (location.document, location.line);
    assert_eq!((at(&first[1].1), at(&second[1].1)), ((2, 7), (2, 5)));
    let places: Vec<_> = after.conditions.iter().map(|it| at(&it.location)).collect();
    assert_eq!(places, [(1, 3), (4, 15)]);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,300}") {
        document::read(Path::new("a.yaml"), &text, &domains(), &Documents::default());
    }

    #[test]
    fn no_damage_makes_it_panic(
        edits in prop::collection::vec((0usize..2000, "[-a-z:{}&*!|>'\"\t\n \\[\\]0-9]{0,3}"), 1..4),
    ) {
        let mut text = format!("{ECHO}---\n{POLICY}---\n{RULES}---\n{ROUTE}---\napiVersion: v1\nkind: List\n\
            items:\n- kind: Service\n  apiVersion: v1\n  metadata: {{name: b}}\n  spec: {{ports: \
            [{{port: 1}}]}}\n");
        let nothing = Documents::default();
        let read = |text: &str, last: &Documents| document::read(Path::new("a.yaml"), text, &domains(), last);
        let whole = read(&text, &nothing);
        for (at, insert) in edits {
            let at = at % text.len();
            text.replace_range(at..=at, &insert);
        }
        let n_lines = text.lines().count();
        let damaged = read(&text, &whole);
        prop_assert_eq!(&damaged.all, &read(&text, &nothing).all);
        for document in damaged.all {
            let is_good = matches!(document.outcome, Outcome::Good(_));
            prop_assert!(is_good || !document.conditions.is_empty());
            for condition in document.conditions {
                prop_assert!((1..=n_lines + 1).contains(&condition.location.line));
            }
        }
    }
}
