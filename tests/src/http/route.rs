//! Routes of HTTP, gRPC and TCP as documents of Gateway API.

/// A route of HTTP in `namespace`: what its parent is, in the braces of a `parentRef`, and its rules,
/// each line of which is indented by two spaces.
pub fn http(namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    document("HTTPRoute", (namespace, name), parent, rules)
}

/// A route of gRPC, likewise.
pub fn grpc(namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    document("GRPCRoute", (namespace, name), parent, rules)
}

/// A route of TCP, likewise.
pub fn tcp(namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    document("TCPRoute", (namespace, name), parent, rules)
}

fn document(kind: &str, (namespace, name): (&str, &str), parent: &str, rules: &str) -> String {
    let rules = rules.trim_matches('\n').trim_end();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: \"\", kind: Service, {parent}}}]
  rules:
{rules}
"
    )
}
