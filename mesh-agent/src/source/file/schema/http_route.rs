//! `HTTPRoute` and `GRPCRoute` as they are written: Gateway API v1.6, with its experimental fields.

use serde::de::IgnoredAny;

use super::{Metadata, ParentRef, Reference};

/// A Gateway API `HTTPRoute`.
pub(in crate::source::file) type HttpRoute = Route<HttpRule>;

/// A Gateway API `GRPCRoute`.
pub(in crate::source::file) type GrpcRoute = Route<GrpcRule>;

/// A route with rules of one kind.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound = "R: serde::Deserialize<'de>")]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(in crate::source::file) struct Route<R> {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    pub(in crate::source::file) metadata: Metadata,
    pub(in crate::source::file) spec: RouteSpec<R>,
    #[serde(default)]
    status: IgnoredAny,
}

/// Gateway API `HTTPRouteSpec` and `GRPCRouteSpec`.
///
/// `hostnames` are those of a gateway's listeners: in a mesh, routes are matched by the address of
/// the service (GEP-1294).
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound = "R: serde::Deserialize<'de>")]
#[expect(dead_code, reason = "the fields that are read past are listed to be known")]
pub(in crate::source::file) struct RouteSpec<R> {
    #[serde(default)]
    hostnames: IgnoredAny,
    #[serde(default)]
    pub(in crate::source::file) parent_refs: Vec<ParentRef>,
    #[serde(default)]
    pub(in crate::source::file) rules: Vec<R>,
    #[serde(default)]
    use_default_gateways: IgnoredAny,
}

/// Gateway API `HTTPRouteRule`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct HttpRule {
    pub(in crate::source::file) name: Option<String>,
    pub(in crate::source::file) matches: Vec<HttpMatch>,
    pub(in crate::source::file) filters: Vec<Filter>,
    pub(in crate::source::file) backend_refs: Vec<RouteBackend<Filter>>,
    pub(in crate::source::file) timeouts: Option<Timeouts>,
    pub(in crate::source::file) retry: Option<Retry>,
    pub(in crate::source::file) session_persistence: Option<SessionPersistence>,
}

/// Gateway API `GRPCRouteRule`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct GrpcRule {
    pub(in crate::source::file) name: Option<String>,
    pub(in crate::source::file) matches: Vec<GrpcMatch>,
    pub(in crate::source::file) filters: Vec<GrpcFilter>,
    pub(in crate::source::file) backend_refs: Vec<RouteBackend<GrpcFilter>>,
    pub(in crate::source::file) session_persistence: Option<SessionPersistence>,
}

/// Gateway API `HTTPRouteMatch`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct HttpMatch {
    pub(in crate::source::file) path: Option<PathMatch>,
    pub(in crate::source::file) headers: Vec<NamedMatch>,
    pub(in crate::source::file) query_params: Vec<NamedMatch>,
    pub(in crate::source::file) method: Option<String>,
}

/// Gateway API `GRPCRouteMatch`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct GrpcMatch {
    pub(in crate::source::file) method: Option<MethodMatch>,
    pub(in crate::source::file) headers: Vec<NamedMatch>,
}

/// Gateway API `HTTPPathMatch`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct PathMatch {
    #[serde(rename = "type")]
    pub(in crate::source::file) kind: Option<String>,
    pub(in crate::source::file) value: Option<String>,
}

/// Gateway API `GRPCMethodMatch`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct MethodMatch {
    #[serde(rename = "type")]
    pub(in crate::source::file) kind: Option<String>,
    pub(in crate::source::file) service: Option<String>,
    pub(in crate::source::file) method: Option<String>,
}

/// Gateway API `HTTPHeaderMatch`, `HTTPQueryParamMatch` and `GRPCHeaderMatch`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::source::file) struct NamedMatch {
    #[serde(rename = "type")]
    pub(in crate::source::file) kind: Option<String>,
    pub(in crate::source::file) name: String,
    pub(in crate::source::file) value: String,
}

/// Gateway API `HTTPBackendRef` and `GRPCBackendRef`, with filters of one kind.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound = "F: serde::Deserialize<'de>")]
pub(in crate::source::file) struct RouteBackend<F> {
    pub(in crate::source::file) group: Option<String>,
    pub(in crate::source::file) kind: Option<String>,
    pub(in crate::source::file) namespace: Option<String>,
    pub(in crate::source::file) name: String,
    pub(in crate::source::file) port: Option<i64>,
    pub(in crate::source::file) weight: Option<i64>,
    #[serde(default)]
    pub(in crate::source::file) filters: Vec<F>,
}

/// Gateway API `HTTPRouteFilter`: of the fields, the one that `type` says.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::source::file) struct Filter {
    #[serde(rename = "type")]
    pub(in crate::source::file) kind: String,
    pub(in crate::source::file) request_header_modifier: Option<HeaderModifier>,
    pub(in crate::source::file) response_header_modifier: Option<HeaderModifier>,
    pub(in crate::source::file) request_mirror: Option<RequestMirror>,
    pub(in crate::source::file) request_redirect: Option<RequestRedirect>,
    pub(in crate::source::file) url_rewrite: Option<UrlRewrite>,
    pub(in crate::source::file) cors: Option<Cors>,
    pub(in crate::source::file) external_auth: Option<ExternalAuth>,
    pub(in crate::source::file) extension_ref: Option<ExtensionRef>,
}

/// Gateway API `GRPCRouteFilter`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::source::file) struct GrpcFilter {
    #[serde(rename = "type")]
    kind: String,
    request_header_modifier: Option<HeaderModifier>,
    response_header_modifier: Option<HeaderModifier>,
    request_mirror: Option<RequestMirror>,
    extension_ref: Option<ExtensionRef>,
}

/// Gateway API `HTTPHeaderFilter`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct HeaderModifier {
    pub(in crate::source::file) set: Vec<Header>,
    pub(in crate::source::file) add: Vec<Header>,
    pub(in crate::source::file) remove: Vec<String>,
}

/// Gateway API `HTTPHeader`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::source::file) struct Header {
    pub(in crate::source::file) name: String,
    pub(in crate::source::file) value: String,
}

/// Gateway API `HTTPRequestMirrorFilter`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::source::file) struct RequestMirror {
    pub(in crate::source::file) backend_ref: ObjectRef,
    pub(in crate::source::file) percent: Option<i64>,
    pub(in crate::source::file) fraction: Option<Fraction>,
}

/// Gateway API `BackendObjectReference`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::source::file) struct ObjectRef {
    pub(in crate::source::file) group: Option<String>,
    pub(in crate::source::file) kind: Option<String>,
    pub(in crate::source::file) namespace: Option<String>,
    pub(in crate::source::file) name: String,
    pub(in crate::source::file) port: Option<i64>,
}

/// Gateway API `Fraction`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::source::file) struct Fraction {
    pub(in crate::source::file) numerator: i64,
    pub(in crate::source::file) denominator: Option<i64>,
}

/// Gateway API `HTTPRequestRedirectFilter`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct RequestRedirect {
    pub(in crate::source::file) scheme: Option<String>,
    pub(in crate::source::file) hostname: Option<String>,
    pub(in crate::source::file) path: Option<PathModifier>,
    pub(in crate::source::file) port: Option<i64>,
    pub(in crate::source::file) status_code: Option<i64>,
}

/// Gateway API `HTTPURLRewriteFilter`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct UrlRewrite {
    pub(in crate::source::file) hostname: Option<String>,
    pub(in crate::source::file) path: Option<PathModifier>,
}

/// Gateway API `HTTPPathModifier`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::source::file) struct PathModifier {
    #[serde(rename = "type")]
    pub(in crate::source::file) kind: String,
    pub(in crate::source::file) replace_full_path: Option<String>,
    pub(in crate::source::file) replace_prefix_match: Option<String>,
}

/// Gateway API `HTTPCORSFilter`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct Cors {
    pub(in crate::source::file) allow_origins: Vec<String>,
    pub(in crate::source::file) allow_credentials: Option<bool>,
    pub(in crate::source::file) allow_methods: Vec<String>,
    pub(in crate::source::file) allow_headers: Vec<String>,
    pub(in crate::source::file) expose_headers: Vec<String>,
    pub(in crate::source::file) max_age: Option<i64>,
}

/// Gateway API `HTTPExternalAuthFilter`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct ExternalAuth {
    backend_ref: IgnoredAny,
    forward_body: IgnoredAny,
    grpc: IgnoredAny,
    http: IgnoredAny,
    protocol: IgnoredAny,
}

/// Gateway API `LocalObjectReference`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::source::file) struct ExtensionRef {
    pub(in crate::source::file) group: String,
    pub(in crate::source::file) kind: String,
    pub(in crate::source::file) name: String,
}

/// Gateway API `HTTPRouteTimeouts`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct Timeouts {
    pub(in crate::source::file) request: Option<String>,
    pub(in crate::source::file) backend_request: Option<String>,
}

/// Gateway API `HTTPRouteRetry` (GEP-1731).
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct Retry {
    pub(in crate::source::file) codes: Vec<i64>,
    pub(in crate::source::file) attempts: Option<i64>,
    pub(in crate::source::file) backoff: Option<String>,
}

/// Gateway API `SessionPersistence` (GEP-1619).
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct SessionPersistence {
    pub(in crate::source::file) session_name: Option<String>,
    pub(in crate::source::file) absolute_timeout: Option<String>,
    pub(in crate::source::file) idle_timeout: Option<String>,
    #[serde(rename = "type")]
    pub(in crate::source::file) kind: Option<String>,
    pub(in crate::source::file) cookie_config: Option<CookieConfig>,
}

/// Gateway API `CookieConfig` (GEP-1619).
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::source::file) struct CookieConfig {
    pub(in crate::source::file) lifetime_type: Option<String>,
}

impl From<GrpcFilter> for Filter {
    fn from(filter: GrpcFilter) -> Self {
        Self {
            kind: filter.kind,
            request_header_modifier: filter.request_header_modifier,
            response_header_modifier: filter.response_header_modifier,
            request_mirror: filter.request_mirror,
            request_redirect: None,
            url_rewrite: None,
            cors: None,
            external_auth: None,
            extension_ref: filter.extension_ref,
        }
    }
}

impl From<RouteBackend<GrpcFilter>> for RouteBackend<Filter> {
    fn from(backend: RouteBackend<GrpcFilter>) -> Self {
        Self {
            group: backend.group,
            kind: backend.kind,
            namespace: backend.namespace,
            name: backend.name,
            port: backend.port,
            weight: backend.weight,
            filters: backend.filters.into_iter().map(Filter::from).collect(),
        }
    }
}

impl<'a, F> From<&'a RouteBackend<F>> for Reference<'a> {
    fn from(backend: &'a RouteBackend<F>) -> Self {
        Self {
            group: backend.group.as_deref(),
            kind: backend.kind.as_deref(),
            namespace: backend.namespace.as_deref(),
            name: &backend.name,
            port: backend.port,
        }
    }
}

impl<'a> From<&'a ObjectRef> for Reference<'a> {
    fn from(object: &'a ObjectRef) -> Self {
        Self {
            group: object.group.as_deref(),
            kind: object.kind.as_deref(),
            namespace: object.namespace.as_deref(),
            name: &object.name,
            port: object.port,
        }
    }
}
