//! The documents as they are written: every official field of each kind, so that typos are found.
//!
//! Fields that the mesh does not use are read past. Values are checked in `convert`.

mod http_route;
mod policy;

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, Visitor};

pub(super) use http_route::{
    Cors, ExtensionRef, Filter, GrpcMatch, GrpcRoute, GrpcRule, Header, HeaderModifier, HttpMatch,
    HttpRoute, HttpRule, MethodMatch, NamedMatch, PathMatch, PathModifier, RequestMirror,
    RequestRedirect, Retry, Route, RouteBackend, SessionPersistence, Timeouts, UrlRewrite,
};
pub(super) use policy::{
    AuthorizationPolicy, AuthorizationRule, AuthorizationSource, AuthorizationSpec, Condition,
    List, MeshPolicy, MeshPolicySpec, Operation, PeerAuthentication, Selector, ServiceEntry,
};

/// `metadata` (`k8s.io/apimachinery`, meta/v1 `ObjectMeta`).
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Metadata {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) creation_timestamp: Option<String>,
    pub(super) annotations: Option<Annotations>,
    deletion_grace_period_seconds: IgnoredAny,
    deletion_timestamp: IgnoredAny,
    finalizers: IgnoredAny,
    generate_name: IgnoredAny,
    generation: IgnoredAny,
    managed_fields: IgnoredAny,
    owner_references: IgnoredAny,
    resource_version: IgnoredAny,
    self_link: IgnoredAny,
    uid: IgnoredAny,
}

/// The annotations that are looked at; those of others are read past.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Annotations {
    /// Istio: the policy is tried out, not enforced.
    #[serde(rename = "istio.io/dry-run")]
    pub(super) dry_run: Option<String>,
    /// Ours: what keeps a user with one backend of a route.
    #[serde(rename = "nodemesh.dev/split-by")]
    pub(super) split_by: Option<String>,
}

/// A core/v1 `Service`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(super) struct Service {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    pub(super) metadata: Metadata,
    pub(super) spec: ServiceSpec,
    #[serde(default)]
    status: IgnoredAny,
}

/// Core/v1 `ServiceSpec`, as of Kubernetes 1.34.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(super) cluster_ips: Option<Vec<String>>,
    pub(super) internal_traffic_policy: Option<String>,
    pub(super) ports: Option<Vec<ServicePort>>,
    pub(super) selector: Option<BTreeMap<String, String>>,
    pub(super) session_affinity: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    allocate_load_balancer_node_ports: IgnoredAny,
    #[serde(rename = "externalIPs")]
    external_ips: IgnoredAny,
    external_name: IgnoredAny,
    external_traffic_policy: IgnoredAny,
    health_check_node_port: IgnoredAny,
    ip_families: IgnoredAny,
    ip_family_policy: IgnoredAny,
    load_balancer_class: IgnoredAny,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: IgnoredAny,
    load_balancer_source_ranges: IgnoredAny,
    publish_not_ready_addresses: IgnoredAny,
    session_affinity_config: IgnoredAny,
    traffic_distribution: IgnoredAny,
}

/// Core/v1 `ServicePort`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(super) struct ServicePort {
    pub(super) name: Option<String>,
    pub(super) port: i64,
    pub(super) protocol: Option<String>,
    pub(super) target_port: Option<IntOrString>,
    pub(super) app_protocol: Option<String>,
    #[serde(default)]
    node_port: IgnoredAny,
}

/// A Gateway API `TCPRoute`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(super) struct TcpRoute {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    pub(super) metadata: Metadata,
    pub(super) spec: TcpRouteSpec,
    #[serde(default)]
    status: IgnoredAny,
}

/// Gateway API `TCPRouteSpec`, v1.6.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(super) struct TcpRouteSpec {
    #[serde(default)]
    pub(super) parent_refs: Vec<ParentRef>,
    pub(super) rules: Vec<TcpRouteRule>,
    #[serde(default)]
    use_default_gateways: IgnoredAny,
}

/// Gateway API `ParentReference`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ParentRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) section_name: Option<String>,
    pub(super) port: Option<i64>,
}

/// Gateway API `TCPRouteRule`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(super) struct TcpRouteRule {
    #[serde(default)]
    name: IgnoredAny,
    #[serde(default)]
    pub(super) backend_refs: Vec<BackendRef>,
}

/// Gateway API `BackendRef`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BackendRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<i64>,
    pub(super) weight: Option<i64>,
}

/// The parts of any kind of reference to a backend that identify the object.
#[derive(Debug)]
pub(super) struct Reference<'a> {
    pub(super) group: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) port: Option<i64>,
}

impl<'a> From<&'a BackendRef> for Reference<'a> {
    fn from(backend: &'a BackendRef) -> Self {
        Self {
            group: backend.group.as_deref(),
            kind: backend.kind.as_deref(),
            namespace: backend.namespace.as_deref(),
            name: &backend.name,
            port: backend.port,
        }
    }
}

/// A nodemesh.dev/v1alpha1 `Workload`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(super) struct Workload {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    pub(super) metadata: Metadata,
    pub(super) spec: WorkloadSpec,
    pub(super) status: Option<WorkloadStatus>,
}

/// `spec` of a `Workload`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct WorkloadSpec {
    pub(super) addresses: Vec<String>,
    pub(super) cgroup: Option<String>,
    pub(super) netns: Option<String>,
    pub(super) node: Option<String>,
    pub(super) ports: Vec<WorkloadPort>,
    pub(super) probes: Vec<WorkloadProbe>,
    pub(super) service_account: Option<String>,
    pub(super) systemd_unit: Option<String>,
}

/// One port of a `Workload`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WorkloadPort {
    pub(super) name: String,
    pub(super) port: i64,
}

/// One health probe of a `Workload`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WorkloadProbe {
    pub(super) port: IntOrString,
}

/// `status` of a `Workload`; what else a controller may keep there is read past.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WorkloadStatus {
    pub(super) conditions: Vec<WorkloadCondition>,
}

/// One of a `Workload`'s conditions, as core/v1 `PodCondition` has them.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(super) struct WorkloadCondition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    #[serde(default)]
    last_probe_time: IgnoredAny,
    #[serde(default)]
    last_transition_time: IgnoredAny,
    #[serde(default)]
    message: IgnoredAny,
    #[serde(default)]
    observed_generation: IgnoredAny,
    #[serde(default)]
    reason: IgnoredAny,
}

/// A number or a name (`k8s.io/apimachinery`, `IntOrString`).
#[derive(Debug)]
pub(super) enum IntOrString {
    Int(i64),
    String(String),
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntOrStringVisitor)
    }
}

struct IntOrStringVisitor;

impl Visitor<'_> for IntOrStringVisitor {
    type Value = IntOrString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port number or the name of a port")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<IntOrString, E> {
        Ok(IntOrString::Int(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<IntOrString, E> {
        Ok(IntOrString::Int(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<IntOrString, E> {
        Ok(IntOrString::String(name.to_owned()))
    }
}
