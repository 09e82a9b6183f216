//! Policies as they are written: the mesh's own, and Istio's of who may talk to whom.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, IgnoredAny};

use super::{IntOrString, Metadata};

/// A list of which it matters whether it is written: `[]` and nothing at all are not the same.
#[derive(Debug)]
pub(in crate::source::file) struct List<T>(pub(in crate::source::file) Option<Vec<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    /// `null` is an empty list: somebody began to write it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<Vec<T>>::deserialize(deserializer).map(|list| Self(Some(list.unwrap_or_default())))
    }
}

/// `spec.selector` of a policy (Istio `WorkloadSelector`).
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct Selector {
    pub(in crate::source::file) match_labels: Option<BTreeMap<String, String>>,
}

/// A nodemesh.dev/v1alpha1 `MeshPolicy`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(in crate::source::file) struct MeshPolicy {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    pub(in crate::source::file) metadata: Metadata,
    pub(in crate::source::file) spec: Option<MeshPolicySpec>,
    #[serde(default)]
    status: IgnoredAny,
}

/// A security.istio.io/v1 `PeerAuthentication`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(in crate::source::file) struct PeerAuthentication {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    pub(in crate::source::file) metadata: Metadata,
    pub(in crate::source::file) spec: Option<PeerAuthenticationSpec>,
    #[serde(default)]
    status: IgnoredAny,
}

/// Istio `PeerAuthentication`, as of 1.28.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct PeerAuthenticationSpec {
    mtls: Option<Mtls>,
    port_level_mtls: Option<BTreeMap<String, Mtls>>,
    selector: Option<Selector>,
}

impl From<PeerAuthenticationSpec> for MeshPolicySpec {
    /// The same words for the same things; the rest is not said.
    fn from(spec: PeerAuthenticationSpec) -> Self {
        let PeerAuthenticationSpec { mtls, port_level_mtls, selector } = spec;
        Self { mtls, port_level_mtls, selector, ..Self::default() }
    }
}

/// `spec` of a `MeshPolicy`; what Istio's `PeerAuthentication` has too has the same names.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct MeshPolicySpec {
    pub(in crate::source::file) acceleration: Option<String>,
    pub(in crate::source::file) ambiguous_paths: Option<String>,
    pub(in crate::source::file) egress: Option<String>,
    pub(in crate::source::file) failure_mode: Option<String>,
    pub(in crate::source::file) mtls: Option<Mtls>,
    pub(in crate::source::file) port_level_mtls: Option<BTreeMap<String, Mtls>>,
    pub(in crate::source::file) port_level_same_node: Option<BTreeMap<String, String>>,
    pub(in crate::source::file) same_node: Option<String>,
    pub(in crate::source::file) selector: Option<Selector>,
    pub(in crate::source::file) upgrades: List<String>,
}

/// Istio `PeerAuthentication.MutualTLS`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct Mtls {
    pub(in crate::source::file) mode: Option<String>,
}

/// A networking.istio.io/v1 `ServiceEntry`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(in crate::source::file) struct ServiceEntry {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    pub(in crate::source::file) metadata: Metadata,
    pub(in crate::source::file) spec: Option<ServiceEntrySpec>,
    #[serde(default)]
    status: IgnoredAny,
}

/// Istio `ServiceEntry`, as of 1.28.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct ServiceEntrySpec {
    pub(in crate::source::file) addresses: Vec<String>,
    pub(in crate::source::file) endpoints: Option<IgnoredAny>,
    pub(in crate::source::file) export_to: Option<Vec<String>>,
    pub(in crate::source::file) hosts: Vec<String>,
    pub(in crate::source::file) location: Option<String>,
    pub(in crate::source::file) ports: Vec<ExternalPort>,
    pub(in crate::source::file) resolution: Option<String>,
    pub(in crate::source::file) subject_alt_names: Option<IgnoredAny>,
    pub(in crate::source::file) workload_selector: Option<IgnoredAny>,
}

/// Istio `ServicePort`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct ExternalPort {
    name: IgnoredAny,
    pub(in crate::source::file) number: u32,
    pub(in crate::source::file) protocol: Option<String>,
    target_port: IgnoredAny,
}

/// A security.istio.io/v1 `AuthorizationPolicy`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(in crate::source::file) struct AuthorizationPolicy {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    pub(in crate::source::file) metadata: Metadata,
    pub(in crate::source::file) spec: Option<AuthorizationSpec>,
    #[serde(default)]
    status: IgnoredAny,
}

/// Istio `AuthorizationPolicy`, as of 1.28.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct AuthorizationSpec {
    pub(in crate::source::file) action: Option<String>,
    pub(in crate::source::file) provider: Option<Provider>,
    pub(in crate::source::file) rules: Option<Vec<Option<AuthorizationRule>>>,
    pub(in crate::source::file) selector: Option<Selector>,
    pub(in crate::source::file) target_ref: Option<TargetRef>,
    pub(in crate::source::file) target_refs: Option<Vec<TargetRef>>,
}

/// Istio `AuthorizationPolicy.ExtensionProvider`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct Provider {
    name: IgnoredAny,
}

/// Istio `PolicyTargetReference`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct TargetRef {
    pub(in crate::source::file) kind: String,
    group: IgnoredAny,
    name: IgnoredAny,
    namespace: IgnoredAny,
    section_name: IgnoredAny,
}

/// Istio `Rule`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct AuthorizationRule {
    pub(in crate::source::file) from: List<SourceEntry>,
    pub(in crate::source::file) to: List<OperationEntry>,
    pub(in crate::source::file) when: List<Condition>,
}

/// Istio `Rule.From`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct SourceEntry {
    pub(in crate::source::file) source: Option<AuthorizationSource>,
}

/// Istio `Source`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct AuthorizationSource {
    pub(in crate::source::file) ip_blocks: List<String>,
    pub(in crate::source::file) namespaces: List<String>,
    pub(in crate::source::file) not_ip_blocks: List<String>,
    pub(in crate::source::file) not_namespaces: List<String>,
    pub(in crate::source::file) not_principals: List<String>,
    pub(in crate::source::file) not_remote_ip_blocks: List<String>,
    pub(in crate::source::file) not_request_principals: List<String>,
    pub(in crate::source::file) not_service_accounts: List<String>,
    pub(in crate::source::file) principals: List<String>,
    pub(in crate::source::file) remote_ip_blocks: List<String>,
    pub(in crate::source::file) request_principals: List<String>,
    pub(in crate::source::file) service_accounts: List<String>,
}

/// Istio `Rule.To`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct OperationEntry {
    pub(in crate::source::file) operation: Option<Operation>,
}

/// Istio `Operation`. Its ports are strings there; numbers are taken too.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct Operation {
    pub(in crate::source::file) hosts: List<String>,
    pub(in crate::source::file) methods: List<String>,
    pub(in crate::source::file) not_hosts: List<String>,
    pub(in crate::source::file) not_methods: List<String>,
    pub(in crate::source::file) not_paths: List<String>,
    pub(in crate::source::file) not_ports: List<IntOrString>,
    pub(in crate::source::file) paths: List<String>,
    pub(in crate::source::file) ports: List<IntOrString>,
}

/// Istio `Condition`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct Condition {
    pub(in crate::source::file) key: String,
    pub(in crate::source::file) not_values: List<IntOrString>,
    pub(in crate::source::file) values: List<IntOrString>,
}
