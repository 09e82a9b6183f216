//! Core/v1 `Service`.

use std::net::IpAddr;

use crate::model::condition::Reason;
use crate::model::service::{AppProtocol, Service, ServicePort, TargetPort};

use super::super::schema::{self, IntOrString, ServiceSpec};
use super::{Problems, check};

/// The most ports of a service. Kubernetes has no bound of its own but that of an object's size.
const MAX_PORTS: usize = 1_024;

/// The most virtual addresses of a service; Kubernetes has two at most, one of each family.
const MAX_ADDRESSES: usize = 16;

/// Kubernetes' default cluster domain: what services' host names end with.
const CLUSTER_DOMAIN: &str = "cluster.local";

pub(super) fn convert(written: schema::Service, problems: &mut Problems) -> Option<Service> {
    let spec = written.spec;
    unsupported(&spec, problems);
    let addresses = addresses(&spec, problems);
    let ports = ports(spec.ports.unwrap_or_default(), problems);
    let name = check::name(&written.metadata, check::is_label, problems)?;
    let hostname = format!("{}.{}.svc.{CLUSTER_DOMAIN}", name.name, name.namespace).into();
    Some(Service { name, hostname, addresses, ports, selector: spec.selector.unwrap_or_default() })
}

/// Fields that the mesh does not support, and would silently do wrong.
fn unsupported(spec: &ServiceSpec, problems: &mut Problems) {
    let reason = Reason::UnsupportedValue;
    match spec.kind.as_deref() {
        None | Some("ClusterIP" | "NodePort" | "LoadBalancer") => {}
        Some("ExternalName") => {
            let message = "services of type ExternalName are not supported; describe the external \
                           host as a Workload without `node` and select it";
            problems.refuse("spec.type", reason, message);
        }
        Some(_) => problems.invalid("spec.type", "this is no type of service; write ClusterIP"),
    }
    if spec.session_affinity.as_deref().is_some_and(|affinity| affinity != "None") {
        let message = "session affinity is not supported, connections are spread; write None";
        problems.note("spec.sessionAffinity", reason, message);
    }
    if spec.internal_traffic_policy.as_deref().is_some_and(|policy| policy != "Cluster") {
        let message = "endpoints of every node are used all the same; write Cluster";
        problems.note("spec.internalTrafficPolicy", reason, message);
    }
}

/// The virtual addresses: `clusterIPs`, or `clusterIP` alone.
fn addresses(spec: &ServiceSpec, problems: &mut Problems) -> Vec<IpAddr> {
    let is_headless = |text: &str| text.is_empty() || text == "None";
    let one = spec.cluster_ip.as_deref();
    let Some(all) = spec.cluster_ips.as_deref().filter(|all| !all.is_empty()) else {
        let one = one.filter(|text| !is_headless(text));
        return one
            .and_then(|text| check::address("spec.clusterIP", text, problems))
            .into_iter()
            .collect();
    };
    if one.is_some() && one != all.first().map(String::as_str) {
        let message = "this is not the first of clusterIPs; make them the same, or remove one";
        problems.invalid("spec.clusterIP", message);
    }
    if let [only] = all
        && is_headless(only)
    {
        return Vec::new();
    }
    if !check::at_most("spec.clusterIPs", all.len(), MAX_ADDRESSES, problems) {
        return Vec::new();
    }
    check::addresses("spec.clusterIPs", all, problems)
}

/// The TCP ports. UDP is passed by, which the mesh never touches; other protocols are reported.
fn ports(written: Vec<schema::ServicePort>, problems: &mut Problems) -> Vec<ServicePort> {
    if !check::at_most("spec.ports", written.len(), MAX_PORTS, problems) {
        return Vec::new();
    }
    let mut ports: Vec<ServicePort> = Vec::with_capacity(written.len());
    for (i, written) in written.into_iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        let number = check::port(&format!("{path}.port"), written.port, problems);
        match written.protocol.as_deref() {
            None | Some("TCP") => {}
            Some("UDP") => continue,
            Some(_) => {
                let message = "only TCP is carried, this port is left alone; write TCP or UDP";
                let path = format!("{path}.protocol");
                problems.note(path, Reason::UnsupportedValue, message);
                continue;
            }
        }
        let Some(port) = number else { continue };
        if ports.iter().any(|other| other.port == port) {
            let message = format!("port {port} is written twice; remove one of them");
            problems.invalid(format!("{path}.port"), message);
        }
        let path = format!("{path}.targetPort");
        let Some(target) = target(&path, written.target_port, port, problems) else { continue };
        let protocol = written.app_protocol.as_deref().map_or(AppProtocol::Unset, protocol);
        ports.push(ServicePort { name: written.name.unwrap_or_default(), port, target, protocol });
    }
    ports
}

/// The meaning of `appProtocol`. The words of Kubernetes (KEP-3726) and of IANA, and those that meshes
/// have given a meaning.
fn protocol(written: &str) -> AppProtocol {
    match written {
        "" => AppProtocol::Unset,
        "http" => AppProtocol::Http,
        "kubernetes.io/h2c" | "http2" => AppProtocol::H2c,
        "grpc" => AppProtocol::Grpc,
        "kubernetes.io/ws" => AppProtocol::WebSocket,
        _ => AppProtocol::Other,
    }
}

fn target(
    path: &str,
    written: Option<IntOrString>,
    port: u16,
    problems: &mut Problems,
) -> Option<TargetPort> {
    match written {
        None => Some(TargetPort::Number(port)),
        Some(IntOrString::Int(number)) => {
            check::port(path, number, problems).map(TargetPort::Number)
        }
        // Kubernetes wants a letter in a port's name, so that `"8080"` is seen to be a mistake.
        Some(IntOrString::String(name))
            if check::is_label(&name) && name.bytes().any(|b| b.is_ascii_alphabetic()) =>
        {
            Some(TargetPort::Name(name))
        }
        Some(IntOrString::String(_)) => {
            let message = "this is neither a port nor the name of one; write a number without \
                           quotes, or the name of a workload's port";
            problems.invalid(path, message);
            None
        }
    }
}
