//! Kinds and groups that are not read, and are so like those that are that a typo is likely.

use crate::model::likely::distance;
use crate::store::update::Kind;

use super::header::Class;

/// The kinds that are read, and the `apiVersion` that is suggested for each.
const KINDS: [(Kind, &str); 9] = [
    (Kind::AuthorizationPolicy, "security.istio.io/v1"),
    (Kind::PeerAuthentication, "security.istio.io/v1"),
    (Kind::MeshPolicy, "nodemesh.dev/v1alpha1"),
    (Kind::Workload, "nodemesh.dev/v1alpha1"),
    (Kind::ServiceEntry, "networking.istio.io/v1"),
    (Kind::HttpRoute, "gateway.networking.k8s.io/v1"),
    (Kind::GrpcRoute, "gateway.networking.k8s.io/v1"),
    (Kind::TcpRoute, "gateway.networking.k8s.io/v1"),
    (Kind::Service, "v1"),
];

/// Groups all of whose kinds are read, but for [`OTHERS`]: another kind in them is a mistake.
const WHOLE: [&str; 2] = ["security.istio.io", "nodemesh.dev"];

/// Domains of groups with policies: a policy's kind of another group below them is a mistake.
const DOMAINS: [&str; 2] = ["istio.io", "nodemesh.dev"];

/// Kinds of the same groups that there are, and that look like a typo.
const OTHERS: [&str; 3] = ["RequestAuthentication", "TLSRoute", "UDPRoute"];

/// The longest `apiVersion` and `kind` that are compared, in bytes: comparing takes the product of both.
const MAX_LEN: usize = 64;

/// The kind that a document most likely should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Likely {
    pub(super) kind: Kind,
    /// No other kind is as likely.
    pub(super) is_sure: bool,
}

impl Likely {
    /// The words that its document should have.
    pub(super) fn words(self) -> String {
        let version = KINDS.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, it)| *it);
        format!("{version} {}", self.kind.as_str())
    }
}

/// The use of a document of an unknown kind or version.
pub(super) fn class(api_version: &str, kind: &str) -> Class {
    if api_version.len() > MAX_LEN || kind.len() > MAX_LEN || OTHERS.contains(&kind) {
        return Class::Unknown;
    }
    let (group, word) = (group(api_version).to_lowercase(), kind.to_lowercase());
    let is_near = |known: &str| match self::group(known) {
        "" => group.is_empty(),
        // Or a part of it alone.
        known => distance(known, &group) <= 2 || known.split('.').any(|label| label == group),
    };
    // Of the groups that have policies, the strictest that it may be.
    let strictest = || {
        let mut policies = KINDS.iter().filter(|(kind, _)| kind.is_policy());
        let found = policies.find(|(_, version)| is_near(version));
        found
            .map_or(Class::Unknown, |(kind, _)| Class::Like(Likely { kind: *kind, is_sure: false }))
    };
    if word.is_empty() {
        return strictest();
    }
    let is_below = |domain: &&str| {
        group.strip_suffix(*domain).is_some_and(|it| it.ends_with('.') || it.is_empty())
    };
    let policy =
        KINDS.iter().find(|(kind, _)| kind.is_policy() && kind.as_str().to_lowercase() == word);
    if let Some((kind, _)) = policy.filter(|_| DOMAINS.iter().any(is_below)) {
        return Class::Like(Likely { kind: *kind, is_sure: true });
    }
    if !KINDS.iter().any(|(_, version)| is_near(version)) {
        return Class::Unknown;
    }
    if word.ends_with("list") || distance("list", &word) <= 1 {
        return Class::LikeList;
    }
    let near = KINDS.iter().filter_map(|(kind, _)| {
        let known = kind.as_str().to_lowercase();
        let most = (known.len() / 4).max(if kind.is_policy() { 3 } else { 0 });
        let distance = distance(&known, &word);
        (distance <= most).then_some((distance, *kind))
    });
    let mut near: Vec<_> = near.collect();
    near.sort_by_key(|(distance, _)| *distance);
    match *near.as_slice() {
        [] if WHOLE.contains(&group.as_str()) => strictest(),
        [] => Class::Unknown,
        [(_, kind)] => Class::Like(Likely { kind, is_sure: true }),
        [(least, kind), (next, _), ..] => Class::Like(Likely { kind, is_sure: least < next }),
    }
}

/// The group of an `apiVersion`, which may lack the version.
fn group(api_version: &str) -> &str {
    match api_version.split_once('/') {
        Some((group, _)) => group,
        None if api_version.contains('.') => api_version,
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_are_like_what_was_meant_and_other_kinds_are_not() {
        let check = |api_version: &str, kind: &str, expect: Option<&str>| {
            let found = match class(api_version, kind) {
                Class::Like(likely) if likely.is_sure => Some(likely.words()),
                Class::Like(likely) => Some(format!("maybe {}", likely.words())),
                Class::LikeList => Some("list".to_owned()),
                _ => None,
            };
            assert_eq!(found.as_deref(), expect, "{api_version} {kind}");
        };
        let (authorization, peer, mesh) = (
            Some("security.istio.io/v1 AuthorizationPolicy"),
            Some("security.istio.io/v1 PeerAuthentication"),
            Some("nodemesh.dev/v1alpha1 MeshPolicy"),
        );
        check("security.istio.io/v1", "AuthorizationPolcy", authorization);
        check("security.istio.io/v1", "AuthorisationPolicy", authorization);
        check("security.istio.io/v1", "authorizationpolicies", authorization);
        check("security.istio.io/v1alpha1", "AuthorizationPolicy", authorization);
        check("security.istio.io", "AuthorizationPolicy", authorization);
        check("securty.istio.io/v1", "AuthorizationPolcy", authorization);
        check("v1", "AuthorizationPolicy", authorization);
        check("", "AuthorizationPolicy", authorization);
        check("security.istio.io/v1", "PeerAuthentification", peer);
        check("nodemesh.dev/v1", "MeshPolicy", mesh);
        check("nodemesh.dev/v1alpha1", "MeshPolicies", mesh);
        check("security.istio.io/v1", "MeshPolicy", mesh);
        check("security.istio.io/v1", "", Some("maybe security.istio.io/v1 AuthorizationPolicy"));
        check("nodemesh.dev/v1alpha1", "", Some("maybe nodemesh.dev/v1alpha1 MeshPolicy"));
        check("istio.io/v1", "AuthorizationPolicy", authorization);
        check("istio/v1", "AuthorizationPolicy", authorization);
        check("nodemesh/v1alpha1", "Workload", Some("nodemesh.dev/v1alpha1 Workload"));
        check("networking.istio.io/v1", "PeerAuthentication", peer);
        check("policy.nodemesh.dev/v1", "MeshPolicy", mesh);
        check(
            "security.istio.io/v1",
            "AuthzPolicy",
            Some("maybe security.istio.io/v1 AuthorizationPolicy"),
        );
        check("nodemesh.dev/v1alpha1", "Egress", Some("maybe nodemesh.dev/v1alpha1 MeshPolicy"));
        check("v1", "Sevice", Some("v1 Service"));
        check("v2", "Service", Some("v1 Service"));
        let http = "gateway.networking.k8s.io/v1 HTTPRoute";
        check("gateway.networking.k8s.io/v1alpha2", "HTTPRoute", Some(http));
        let maybe = format!("maybe {http}");
        check("gateway.networking.k8s.io/v1", "TTPRoute", Some(&maybe));
        check("v1", "Lst", Some("list"));
        check("security.istio.io/v1", "AuthorizationPolicyList", Some("list"));
        for (api_version, kind) in [
            ("apps/v1", "Deployment"),
            ("v1", "ConfigMap"),
            ("v1", "ServiceAccount"),
            ("v1", ""),
            ("", "Pod"),
            ("serving.knative.dev/v1", "Service"),
            ("policy.linkerd.io/v1alpha1", "AuthorizationPolicy"),
            ("networking.k8s.io/v1", "NetworkPolicy"),
            ("security.istio.io/v1", "RequestAuthentication"),
            ("networking.istio.io/v1", "WorkloadEntry"),
            ("networking.istio.io/v1", "DestinationRule"),
            ("gateway.networking.k8s.io/v1", "TLSRoute"),
            ("gateway.networking.k8s.io/v1", "Gateway"),
            ("gateway.networking.k8s.io/v1", "BackendTLSPolicy"),
        ] {
            check(api_version, kind, None);
        }
    }
}
