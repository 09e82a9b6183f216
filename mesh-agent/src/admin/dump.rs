//! Answers of the server in JSON. `/config_dump` has the shape of ztunnel's, so that tools that
//! read that can read this.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::admin::{CertificateInfo, CertificateSummary, Certificates};
use crate::model::condition::{Finding, Reason};
use crate::model::id::ResourceName;
use crate::model::service::{Service, TargetPort};
use crate::model::snapshot::{Backend, Endpoints, Snapshot, Split, Target};
use crate::model::workload::Workload;
use crate::store::update::Key;
use crate::telemetry::rfc3339;

/// `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    /// The gates that are missing.
    pub(super) missing: Vec<String>,
    /// Workloads that are not protected, or not as a whole: the others are.
    pub(super) unprotected: Vec<String>,
}

/// One element of `/conditions`.
#[derive(Debug, Serialize)]
pub(super) struct Condition<'a> {
    file: String,
    document: usize,
    line: usize,
    subject: Cow<'a, str>,
    field: &'a str,
    reason: &'static str,
    message: Cow<'a, str>,
}

/// `/config_dump`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config<'a> {
    version: &'static str,
    revision: u64,
    workloads: Vec<WorkloadDump<'a>>,
    services: Vec<ServiceDump<'a>>,
    certificates: Vec<CertificateDump<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WorkloadDump<'a> {
    workload_ips: &'a [IpAddr],
    protocol: &'static str,
    uid: String,
    name: &'a str,
    namespace: &'a str,
    trust_domain: &'a str,
    service_account: &'a str,
    workload_name: &'a str,
    workload_type: &'static str,
    canonical_name: &'a str,
    canonical_revision: &'a str,
    node: &'a str,
    status: &'static str,
    cluster_id: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceDump<'a> {
    name: &'a str,
    namespace: &'a str,
    hostname: &'a str,
    vips: Vec<String>,
    ports: BTreeMap<u16, u16>,
    endpoints: BTreeMap<String, EndpointDump>,
    /// Ours: the weighted backends of each port.
    routes: Vec<RouteDump<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointDump {
    workload_uid: String,
    /// Service port to workload port.
    port: BTreeMap<u16, u16>,
    status: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RouteDump<'a> {
    port: u16,
    /// `None`: for clients of all namespaces without a route of their own.
    client_namespace: Option<&'a str>,
    route: Option<String>,
    backends: Vec<BackendDump>,
    /// The rules of HTTP routes, in the order in which equal ones win; `backends` is the service
    /// itself then.
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<Vec<RuleDump<'a>>>,
}

#[derive(Debug, Serialize)]
struct RuleDump<'a> {
    route: String,
    /// Its place in the route, from 0.
    rule: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    matches: usize,
    backends: Vec<BackendDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mirrors: Vec<BackendDump>,
}

#[derive(Debug, Serialize)]
struct BackendDump {
    service: String,
    port: u16,
    weight: u32,
    valid: bool,
    endpoints: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificateDump<'a> {
    identity: String,
    state: &'static str,
    cert_chain: Vec<CertificateItem<'a>>,
    root_certs: Vec<CertificateItem<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificateItem<'a> {
    pem: &'a str,
    serial_number: &'a str,
    valid_from: String,
    expiration_time: String,
}

/// The conditions, in the order of the files. `findings`: those that this node alone sees;
/// `no_acceleration`: why this kernel does not have it.
pub(super) fn conditions<'a>(
    snapshot: &'a Snapshot,
    findings: &'a [Finding],
    no_acceleration: Option<&str>,
) -> Vec<Condition<'a>> {
    let mut all: Vec<_> = snapshot.conditions.iter().collect();
    all.sort_by(|a, b| a.location.cmp(&b.location));
    let refused = no_acceleration.into_iter().flat_map(|why| {
        snapshot.acceleration.iter().map(move |(location, name)| Condition {
            file: location.file.display().to_string(),
            document: location.document,
            line: location.line,
            subject: format!("MeshPolicy {name}").into(),
            field: "spec.acceleration",
            reason: Reason::UnsupportedValue.as_str(),
            message: format!(
                "this node's kernel cannot accelerate connections, which go by TCP; use Linux 6.10 \
                 or later ({why})"
            )
            .into(),
        })
    });
    let written = all.into_iter().map(|condition| Condition {
        file: condition.location.file.display().to_string(),
        document: condition.location.document,
        line: condition.location.line,
        subject: condition.subject.as_str().into(),
        field: &condition.field,
        reason: condition.reason.as_str(),
        message: condition.message.as_str().into(),
    });
    let found = findings.iter().map(|finding| {
        let at = snapshot.locations.of(&finding.subject);
        Condition {
            file: at.map(|at| at.file.display().to_string()).unwrap_or_default(),
            document: at.map_or(0, |at| at.document),
            line: at.map_or(0, |at| at.line),
            subject: finding.subject.as_str().into(),
            field: finding.field,
            reason: finding.reason.as_str(),
            message: finding.message.as_str().into(),
        }
    });
    written.chain(refused).chain(found).collect()
}

/// Everything the agent knows, in the order of names.
pub(super) fn config<'a>(
    snapshot: &'a Snapshot,
    certificates: &'a Certificates,
    version: &'static str,
) -> Config<'a> {
    let mut workloads: Vec<_> = snapshot.workloads.values().collect();
    workloads.sort_by_key(|workload| &workload.name);
    let mut services: BTreeMap<&ResourceName, BTreeMap<u16, &Target>> = BTreeMap::new();
    for target in snapshot.services.values() {
        services.entry(&target.service.name).or_default().insert(target.port, target);
    }
    Config {
        version,
        revision: snapshot.revision,
        workloads: workloads.into_iter().map(|workload| workload_dump(workload)).collect(),
        services: services.values().filter_map(service_dump).collect(),
        certificates: certificates
            .held
            .iter()
            .map(|held| certificate_dump(held, &certificates.roots))
            .collect(),
    }
}

/// ztunnel's form is `cluster/group/kind/namespace/name`; ours has neither cluster nor group.
fn uid(workload: &Workload) -> String {
    format!("//Workload/{}", workload.name)
}

fn workload_dump(workload: &Workload) -> WorkloadDump<'_> {
    WorkloadDump {
        workload_ips: &workload.addresses,
        protocol: if workload.node.is_some() { "HBONE" } else { "TCP" },
        uid: uid(workload),
        name: &workload.name.name,
        namespace: &workload.name.namespace,
        trust_domain: workload.identity.trust_domain(),
        service_account: workload.identity.service_account(),
        workload_name: &workload.name.name,
        workload_type: "pod",
        canonical_name: workload.canonical_name(),
        canonical_revision: workload.canonical_revision(),
        node: workload.node.as_deref().unwrap_or_default(),
        status: "Healthy",
        cluster_id: "",
    }
}

/// All ports of one service. `None` cannot be: a service is here because it has a port.
fn service_dump<'a>(ports: &BTreeMap<u16, &'a Target>) -> Option<ServiceDump<'a>> {
    let service: &Service = &ports.first_key_value()?.1.service;
    let mut endpoints: BTreeMap<String, EndpointDump> = BTreeMap::new();
    let mut routes = vec![];
    for (port, target) in ports {
        let splits = std::iter::once((None, &target.default)).chain(
            target.by_namespace.iter().map(|(namespace, split)| (Some(&**namespace), split)),
        );
        for (client_namespace, split) in splits {
            routes.push(route_dump(*port, client_namespace, split));
            for backend in &split.backends {
                add_endpoints(&mut endpoints, service, *port, backend);
            }
        }
    }
    routes.sort_by_key(|route| (route.port, route.client_namespace));
    Some(ServiceDump {
        name: &service.name.name,
        namespace: &service.name.namespace,
        hostname: &service.hostname,
        // The part before the slash is ztunnel's network; ours has no name.
        vips: service.addresses.iter().map(|address| format!("/{address}")).collect(),
        ports: service.ports.iter().map(|port| (port.port, target_port(&port.target))).collect(),
        endpoints,
        routes,
    })
}

/// 0 for a name, as in ztunnel: it depends on the workload.
const fn target_port(target: &TargetPort) -> u16 {
    match target {
        TargetPort::Name(_) => 0,
        TargetPort::Number(number) => *number,
    }
}

/// The service's own endpoints; those of a route's other backends are with their services.
fn add_endpoints(
    all: &mut BTreeMap<String, EndpointDump>,
    service: &Service,
    port: u16,
    backend: &Backend,
) {
    let Endpoints::Resolved { endpoints, .. } = &backend.endpoints else { return };
    if backend.service != service.name || backend.port != port {
        return;
    }
    for endpoint in endpoints.iter() {
        let uid = uid(&endpoint.workload);
        let dump =
            EndpointDump { workload_uid: uid.clone(), port: BTreeMap::new(), status: "Healthy" };
        all.entry(uid).or_insert(dump).port.insert(port, endpoint.address.port());
    }
}

fn route_dump<'a>(port: u16, client_namespace: Option<&'a str>, split: &'a Split) -> RouteDump<'a> {
    let backends = |backends: &[Backend]| backends.iter().map(backend_dump).collect();
    RouteDump {
        port,
        client_namespace,
        route: split.route.as_ref().map(ToString::to_string),
        backends: backends(&split.backends),
        http: split.http.as_ref().map(|http| {
            let rules = http.rules.iter().map(|rule| RuleDump {
                route: Key { kind: http.kind.into(), name: (*rule.route).clone() }.to_string(),
                rule: rule.index,
                name: rule.rule.name.as_deref(),
                matches: rule.rule.matches.len(),
                backends: backends(&rule.backends),
                mirrors: backends(&rule.mirrors),
            });
            rules.collect()
        }),
    }
}

fn backend_dump(backend: &Backend) -> BackendDump {
    let (valid, endpoints) = match &backend.endpoints {
        Endpoints::Invalid => (false, 0),
        Endpoints::Resolved { endpoints, .. } => (true, endpoints.len()),
    };
    let service = backend.service.to_string();
    BackendDump { service, port: backend.port, weight: backend.weight, valid, endpoints }
}

fn certificate_dump<'a>(
    summary: &'a CertificateSummary,
    roots: &'a [CertificateInfo],
) -> CertificateDump<'a> {
    CertificateDump {
        identity: summary.identity.to_string(),
        state: "Available",
        cert_chain: summary.chain.iter().map(certificate_item).collect(),
        root_certs: roots.iter().map(certificate_item).collect(),
    }
}

fn certificate_item(info: &CertificateInfo) -> CertificateItem<'_> {
    CertificateItem {
        pem: &info.pem,
        serial_number: &info.serial_number,
        valid_from: rfc3339(info.valid_from),
        expiration_time: rfc3339(info.expires),
    }
}
