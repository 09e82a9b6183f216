//! Policies from a few lines of Rust.

use super::{head, line, map};

/// The namespace whose policies apply to the whole mesh.
const ROOT_NAMESPACE: &str = "mesh-system";

/// How connections to some workloads are carried. Says nothing, until it is told what.
#[derive(Clone, Debug)]
pub struct MeshPolicy {
    name: String,
    is_root: bool,
    selector: Vec<(String, String)>,
    settings: Vec<(&'static str, String)>,
    port_mtls: Vec<(u16, String)>,
    port_same_node: Vec<(u16, String)>,
}

impl MeshPolicy {
    /// A policy for all workloads of its namespace.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            is_root: false,
            selector: Vec::new(),
            settings: Vec::new(),
            port_mtls: Vec::new(),
            port_same_node: Vec::new(),
        }
    }

    /// Makes it one of the whole mesh.
    #[must_use]
    pub fn root(mut self) -> Self {
        self.is_root = true;
        self
    }

    /// Selects the workloads with this label, and with those of other calls.
    #[must_use]
    pub fn select(mut self, key: &str, value: &str) -> Self {
        self.selector.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Sets what is demanded of connections: `STRICT`, `PERMISSIVE` or `DISABLE`.
    #[must_use]
    pub fn mtls(mut self, mode: &str) -> Self {
        self.settings.push(("mtls", format!("{{mode: {mode}}}")));
        self
    }

    /// The same for one port of the selected workloads.
    #[must_use]
    pub fn port_mtls(mut self, port: u16, mode: &str) -> Self {
        self.port_mtls.push((port, format!("{{mode: {mode}}}")));
        self
    }

    /// Sets how workloads of one node talk: `direct`, `agent` or `mtls`.
    #[must_use]
    pub fn same_node(mut self, way: &str) -> Self {
        self.settings.push(("sameNode", way.to_owned()));
        self
    }

    /// The same for one port of the selected workloads.
    #[must_use]
    pub fn port_same_node(mut self, port: u16, way: &str) -> Self {
        self.port_same_node.push((port, way.to_owned()));
        self
    }

    /// Sets what happens while there is no agent: `closed`, `open` or `static`.
    #[must_use]
    pub fn failure(mut self, mode: &str) -> Self {
        self.settings.push(("failureMode", mode.to_owned()));
        self
    }

    /// Sets whether bytes take a shorter way: `none` or `sockmap`.
    #[must_use]
    pub fn acceleration(mut self, way: &str) -> Self {
        self.settings.push(("acceleration", way.to_owned()));
        self
    }

    pub(super) fn yaml(&self, namespace: &str) -> String {
        let namespace = if self.is_root { ROOT_NAMESPACE } else { namespace };
        let mut out = head("nodemesh.dev/v1alpha1", "MeshPolicy", &self.name, namespace);
        line(&mut out, "spec:");
        line(&mut out, &format!("  selector: {{matchLabels: {}}}", map(&self.selector)));
        for (field, value) in &self.settings {
            line(&mut out, &format!("  {field}: {value}"));
        }
        let by_port =
            [("portLevelMtls", &self.port_mtls), ("portLevelSameNode", &self.port_same_node)];
        for (field, ports) in by_port.into_iter().filter(|(_, ports)| !ports.is_empty()) {
            let ports = ports.iter().map(|(port, value)| format!("{port}: {value}"));
            line(&mut out, &format!("  {field}: {{{}}}", ports.collect::<Vec<_>>().join(", ")));
        }
        out
    }
}

/// Permission to connect to some workloads: Istio's `AuthorizationPolicy`.
#[derive(Clone, Debug)]
pub struct AuthorizationPolicy {
    name: String,
    is_root: bool,
    action: &'static str,
    is_dry: bool,
    selector: Vec<(String, String)>,
    rules: Vec<Rule>,
}

impl AuthorizationPolicy {
    /// A policy that allows what its rules match, and nothing else.
    pub fn allow(name: &str) -> Self {
        let (selector, rules) = (Vec::new(), Vec::new());
        Self {
            name: name.to_owned(),
            is_root: false,
            action: "ALLOW",
            is_dry: false,
            selector,
            rules,
        }
    }

    /// A policy that tells what its rules match.
    pub fn audit(name: &str) -> Self {
        Self { action: "AUDIT", ..Self::allow(name) }
    }

    /// Tries it out: what it would do is told, and not done.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.is_dry = true;
        self
    }

    /// A policy that denies what its rules match.
    pub fn deny(name: &str) -> Self {
        Self { action: "DENY", ..Self::allow(name) }
    }

    /// Makes it one of the whole mesh.
    #[must_use]
    pub fn root(mut self) -> Self {
        self.is_root = true;
        self
    }

    /// Selects the workloads with this label, and with those of other calls.
    #[must_use]
    pub fn select(mut self, key: &str, value: &str) -> Self {
        self.selector.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds a rule.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    pub(super) fn yaml(&self, namespace: &str) -> String {
        let namespace = if self.is_root { ROOT_NAMESPACE } else { namespace };
        let mut out = head("security.istio.io/v1", "AuthorizationPolicy", &self.name, namespace);
        if self.is_dry {
            line(&mut out, "  annotations: {istio.io/dry-run: 'true'}");
        }
        line(&mut out, "spec:");
        line(&mut out, &format!("  selector: {{matchLabels: {}}}", map(&self.selector)));
        line(&mut out, &format!("  action: {}", self.action));
        let rules = self.rules.iter().map(Rule::yaml).collect::<Vec<_>>();
        line(&mut out, &format!("  rules: [{}]", rules.join(", ")));
        out
    }
}

/// A rule that matches every connection, until it is told more. Of the values of one field one
/// must match, of the fields all.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    source: Vec<(&'static str, Vec<String>)>,
    operation: Vec<(&'static str, Vec<String>)>,
}

impl Rule {
    /// The connections of these principals, such as `cluster.local/ns/demo/sa/web`.
    #[must_use]
    pub fn principals(mut self, principals: &[&str]) -> Self {
        self.source.push(("principals", strings(principals)));
        self
    }

    /// The connections of all others.
    #[must_use]
    pub fn not_principals(mut self, principals: &[&str]) -> Self {
        self.source.push(("notPrincipals", strings(principals)));
        self
    }

    /// The connections of identities of these namespaces.
    #[must_use]
    pub fn namespaces(mut self, namespaces: &[&str]) -> Self {
        self.source.push(("namespaces", strings(namespaces)));
        self
    }

    /// The connections from these blocks of addresses, such as `10.0.0.0/8`.
    #[must_use]
    pub fn ip_blocks(mut self, blocks: &[&str]) -> Self {
        self.source.push(("ipBlocks", strings(blocks)));
        self
    }

    /// The connections to these ports of the workload.
    #[must_use]
    pub fn ports(mut self, ports: &[u16]) -> Self {
        self.operation.push(("ports", ports.iter().map(ToString::to_string).collect()));
        self
    }

    /// The connections to all others.
    #[must_use]
    pub fn not_ports(mut self, ports: &[u16]) -> Self {
        self.operation.push(("notPorts", ports.iter().map(ToString::to_string).collect()));
        self
    }

    fn yaml(&self) -> String {
        let fields = |fields: &[(&str, Vec<String>)]| {
            let field = |(name, values): &(&str, Vec<String>)| {
                let values: Vec<_> = values.iter().map(|value| format!("\"{value}\"")).collect();
                format!("{name}: [{}]", values.join(", "))
            };
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        };
        let mut parts = Vec::new();
        if !self.source.is_empty() {
            parts.push(format!("from: [{{source: {{{}}}}}]", fields(&self.source)));
        }
        if !self.operation.is_empty() {
            parts.push(format!("to: [{{operation: {{{}}}}}]", fields(&self.operation)));
        }
        format!("{{{}}}", parts.join(", "))
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Mesh;
    use super::*;

    #[test]
    fn policies_are_the_ones_that_istio_users_know() {
        let strict = MeshPolicy::new("strict").root().mtls("STRICT").failure("closed");
        let ways = MeshPolicy::new("ways")
            .select("app", "echo")
            .port_mtls(8080, "DISABLE")
            .port_same_node(8080, "agent");
        let rule = Rule::default()
            .principals(&["cluster.local/ns/demo/sa/web"])
            .ip_blocks(&["10.0.0.0/8", "fd00::/8"])
            .ports(&[8080]);
        let web = AuthorizationPolicy::allow("web").select("app", "echo").rule(rule);
        let deny = AuthorizationPolicy::deny("all").root().rule(Rule::default());
        let mesh = Mesh::new("demo").policy(&strict).policy(&ways);
        let mesh = mesh.authorization(&web).authorization(&deny);
        let expect = r#"apiVersion: nodemesh.dev/v1alpha1
kind: MeshPolicy
metadata:
  name: strict
  namespace: mesh-system
spec:
  selector: {matchLabels: {}}
  mtls: {mode: STRICT}
  failureMode: closed
---
apiVersion: nodemesh.dev/v1alpha1
kind: MeshPolicy
metadata:
  name: ways
  namespace: demo
spec:
  selector: {matchLabels: {app: "echo"}}
  portLevelMtls: {8080: {mode: DISABLE}}
  portLevelSameNode: {8080: agent}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: web
  namespace: demo
spec:
  selector: {matchLabels: {app: "echo"}}
  action: ALLOW
  rules: [{from: [{source: {principals: ["cluster.local/ns/demo/sa/web"], ipBlocks: ["10.0.0.0/8", "fd00::/8"]}}], to: [{operation: {ports: ["8080"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: all
  namespace: mesh-system
spec:
  selector: {matchLabels: {}}
  action: DENY
  rules: [{}]
"#;
        assert_eq!(mesh.yaml(), expect);
    }
}
