//! The mesh's configuration from a few lines of Rust.

mod policy;

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::pod::Pod;

pub use policy::{AuthorizationPolicy, MeshPolicy, Rule};

/// Documents of one namespace.
#[derive(Clone, Debug)]
pub struct Mesh {
    namespace: String,
    documents: Vec<String>,
}

impl Mesh {
    /// No documents, yet; those to come are in `namespace`.
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), documents: Vec::new() }
    }

    /// Adds a workload.
    #[must_use]
    pub fn workload(self, workload: &Workload) -> Self {
        let document = workload.yaml(&self.namespace);
        self.raw(document)
    }

    /// Adds a service.
    #[must_use]
    pub fn service(self, service: &Service) -> Self {
        let document = service.yaml(&self.namespace);
        self.raw(document)
    }

    /// Adds a route.
    #[must_use]
    pub fn route(self, route: &Route) -> Self {
        let document = route.yaml(&self.namespace);
        self.raw(document)
    }

    /// Adds a policy of how connections are carried.
    #[must_use]
    pub fn policy(self, policy: &MeshPolicy) -> Self {
        let document = policy.yaml(&self.namespace);
        self.raw(document)
    }

    /// Adds a policy of who may connect.
    #[must_use]
    pub fn authorization(self, policy: &AuthorizationPolicy) -> Self {
        let document = policy.yaml(&self.namespace);
        self.raw(document)
    }

    /// Adds a document as it is.
    #[must_use]
    pub fn raw(mut self, document: impl Into<String>) -> Self {
        self.documents.push(document.into());
        self
    }

    /// All documents.
    pub fn yaml(&self) -> String {
        self.documents.join("---\n")
    }
}

/// A workload, served by the agent of its pod's node.
#[derive(Clone, Debug)]
pub struct Workload {
    name: String,
    node: Option<String>,
    addresses: Vec<IpAddr>,
    account: Option<String>,
    labels: Vec<(String, String)>,
    ports: Vec<u16>,
    probes: Vec<u16>,
    ready: Option<bool>,
    netns: Option<PathBuf>,
}

impl Workload {
    /// The workload that runs in `pod`, under its name, node, addresses and namespace.
    pub fn of(pod: &Pod) -> Self {
        Self {
            node: Some(pod.node().name().to_owned()),
            netns: Some(pod.netns().path()),
            ..Self::external(pod)
        }
    }

    /// The workload that runs in `pod`, but without an agent: outside the mesh.
    pub fn external(pod: &Pod) -> Self {
        Self {
            name: pod.name().to_owned(),
            node: None,
            addresses: vec![pod.v4().into(), pod.v6().into()],
            account: None,
            labels: Vec::new(),
            ports: Vec::new(),
            probes: Vec::new(),
            ready: None,
            netns: None,
        }
    }

    /// With this name, instead of the pod's.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Sets its service account.
    #[must_use]
    pub fn account(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds a port on which it listens.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.ports.push(port);
        self
    }

    /// Adds a port at which its node looks whether it is healthy.
    #[must_use]
    pub fn probe(mut self, port: u16) -> Self {
        self.probes.push(port);
        self
    }

    /// Says whether it is ready: services send nothing to a workload that is not.
    #[must_use]
    pub fn ready(mut self, ready: bool) -> Self {
        self.ready = Some(ready);
        self
    }

    fn yaml(&self, namespace: &str) -> String {
        let mut out = head("nodemesh.dev/v1alpha1", "Workload", &self.name, namespace);
        if !self.labels.is_empty() {
            line(&mut out, &format!("  labels: {}", map(&self.labels)));
        }
        line(&mut out, "spec:");
        if let Some(node) = &self.node {
            line(&mut out, &format!("  node: {node}"));
        }
        line(&mut out, &format!("  addresses: {}", list(&self.addresses)));
        if let Some(account) = &self.account {
            line(&mut out, &format!("  serviceAccount: {account}"));
        }
        let ports = self.ports.iter().map(|port| format!("{{name: tcp-{port}, port: {port}}}"));
        line(&mut out, &format!("  ports: [{}]", ports.collect::<Vec<_>>().join(", ")));
        if let Some(netns) = &self.netns {
            line(&mut out, &format!("  netns: {}", netns.display()));
        }
        if !self.probes.is_empty() {
            let probes = self.probes.iter().map(|port| format!("{{port: {port}}}"));
            line(&mut out, &format!("  probes: [{}]", probes.collect::<Vec<_>>().join(", ")));
        }
        if let Some(ready) = self.ready {
            let status = if ready { "True" } else { "False" };
            let condition = format!("{{type: Ready, status: \"{status}\"}}");
            line(&mut out, &format!("status:\n  conditions: [{condition}]"));
        }
        out
    }
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    addresses: Vec<IpAddr>,
    selector: Vec<(String, String)>,
    ports: Vec<(u16, u16, Option<String>)>,
}

impl Service {
    /// A service without addresses, endpoints and ports, yet.
    pub fn new(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, addresses: Vec::new(), selector: Vec::new(), ports: Vec::new() }
    }

    /// Adds a virtual address.
    #[must_use]
    pub fn at(mut self, address: impl Into<IpAddr>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Selects the workloads with this label, and with those of other calls.
    #[must_use]
    pub fn select(mut self, key: &str, value: &str) -> Self {
        self.selector.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds a port, and the port of the workloads that it stands for.
    #[must_use]
    pub fn port(mut self, port: u16, target: u16) -> Self {
        self.ports.push((port, target, None));
        self
    }

    /// Adds a port of which it is said what is spoken on it (`appProtocol`).
    #[must_use]
    pub fn port_of(mut self, port: u16, target: u16, protocol: &str) -> Self {
        self.ports.push((port, target, Some(protocol.to_owned())));
        self
    }

    fn yaml(&self, namespace: &str) -> String {
        let mut out = head("v1", "Service", &self.name, namespace);
        line(&mut out, "spec:");
        if let Some(first) = self.addresses.first() {
            line(&mut out, &format!("  clusterIP: \"{first}\""));
            line(&mut out, &format!("  clusterIPs: {}", list(&self.addresses)));
        }
        line(&mut out, &format!("  selector: {}", map(&self.selector)));
        line(&mut out, "  ports:");
        for (port, target, protocol) in &self.ports {
            let names = format!("name: tcp-{port}, port: {port}, targetPort: {target}");
            let spoken = protocol.as_ref().map(|protocol| format!(", appProtocol: {protocol}"));
            let spoken = spoken.unwrap_or_default();
            line(&mut out, &format!("  - {{{names}, protocol: TCP{spoken}}}"));
        }
        out
    }
}

/// A route of a service's port to services by weight.
#[derive(Clone, Debug)]
pub struct Route {
    service: String,
    port: u16,
    backends: Vec<(String, u16, u32)>,
}

impl Route {
    /// The route `<service>-split` of a service's port, without backends, yet.
    pub fn new(service: &str, port: u16) -> Self {
        Self { service: service.to_owned(), port, backends: Vec::new() }
    }

    /// Adds a backend: a service and its port, with a weight.
    #[must_use]
    pub fn to(mut self, service: &str, port: u16, weight: u32) -> Self {
        self.backends.push((service.to_owned(), port, weight));
        self
    }

    fn yaml(&self, namespace: &str) -> String {
        let Self { service, port, backends } = self;
        let name = format!("{service}-split");
        let mut out = head("gateway.networking.k8s.io/v1", "TCPRoute", &name, namespace);
        line(&mut out, "spec:");
        let parent = format!("group: \"\", kind: Service, name: {service}, port: {port}");
        line(&mut out, &format!("  parentRefs: [{{{parent}}}]"));
        line(&mut out, "  rules:\n  - backendRefs:");
        for (service, port, weight) in backends {
            let backend = format!("name: {service}, port: {port}, weight: {weight}");
            line(&mut out, &format!("    - {{{backend}}}"));
        }
        out
    }
}

/// A directory of configuration files, as an agent watches it.
#[derive(Clone, Debug)]
pub struct ConfigDir {
    path: PathBuf,
}

impl ConfigDir {
    /// Makes the directory.
    ///
    /// # Errors
    ///
    /// The file system refuses.
    pub fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file `mesh.yaml` by these documents.
    ///
    /// # Errors
    ///
    /// The file system refuses.
    pub fn write(&self, mesh: &Mesh) -> Result<()> {
        self.write_file("mesh.yaml", &mesh.yaml())
    }

    /// Replaces a file as a whole: a reader sees the old one or the new one, nothing between.
    ///
    /// # Errors
    ///
    /// The file system refuses.
    pub fn write_file(&self, name: &str, text: &str) -> Result<()> {
        let (temporary, path) = (self.path.join(format!(".{name}.new")), self.path.join(name));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn head(version: &str, kind: &str, name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: {name}\n  namespace: {namespace}\n"
    )
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("invariant: a String takes all text");
}

fn list(addresses: &[IpAddr]) -> String {
    let quoted = addresses.iter().map(|address| format!("\"{address}\""));
    format!("[{}]", quoted.collect::<Vec<_>>().join(", "))
}

fn map(pairs: &[(String, String)]) -> String {
    let pairs = pairs.iter().map(|(key, value)| format!("{key}: \"{value}\""));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn documents_are_the_ones_that_kubernetes_users_know() {
        let mesh = Mesh::new("demo")
            .service(
                &Service::new("echo")
                    .at(Ipv4Addr::new(10, 96, 0, 10))
                    .select("app", "echo")
                    .port(80, 8080),
            )
            .route(&Route::new("echo", 80).to("echo-v1", 80, 90).to("echo-v2", 80, 10));
        let expect = r#"apiVersion: v1
kind: Service
metadata:
  name: echo
  namespace: demo
spec:
  clusterIP: "10.96.0.10"
  clusterIPs: ["10.96.0.10"]
  selector: {app: "echo"}
  ports:
  - {name: tcp-80, port: 80, targetPort: 8080, protocol: TCP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata:
  name: echo-split
  namespace: demo
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
  rules:
  - backendRefs:
    - {name: echo-v1, port: 80, weight: 90}
    - {name: echo-v2, port: 80, weight: 10}
"#;
        assert_eq!(mesh.yaml(), expect);
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let config = ConfigDir::create(folder.path().join("config")).unwrap();
        config.write_file("a.yaml", "one").unwrap();
        config.write_file("a.yaml", "two").unwrap();
        let names: Vec<_> =
            fs::read_dir(config.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a.yaml"]);
        assert_eq!(fs::read_to_string(config.path().join("a.yaml")).unwrap(), "two");
    }
}
