//! Policies as data: who may talk to whom, and how it is carried.

pub mod request;
pub mod upgrade;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::id::ResourceName;
use crate::model::likely::is_likely;
use crate::model::policy::request::{HeaderCondition, HttpOperation};
use crate::model::policy::upgrade::Upgrades;

/// The security demanded of connections to a workload (Istio's `PeerAuthentication` modes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MtlsMode {
    /// Plaintext is not captured and not demanded to be anything else.
    Disable,
    /// Mutual TLS where the peer can, plaintext otherwise.
    #[default]
    Permissive,
    /// Mutual TLS, or an identity that this node's kernel has verified.
    Strict,
}

/// How two workloads of one node talk. The order is that of strictness: of two that apply to one
/// connection, the later one wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SameNode {
    /// Decided and authorized in the kernel; the agent is not in the path.
    #[default]
    Direct,
    /// Through the agent, in plaintext inside of the node.
    Agent,
    /// Through the agent with mutual TLS, as between nodes.
    Mtls,
}

/// The kernel's action on a workload's connections while the agent does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureMode {
    /// Nothing to the mesh's destinations is let through at `connect()`, also what the kernel could
    /// decide alone. Connections that exist go on.
    Closed,
    /// In plaintext to the endpoint that the kernel picks, where that endpoint allows plaintext
    /// without its agent ([`WorkloadPolicy::is_guarded`]).
    Open,
    /// Connections that the kernel decides alone go on as it was last known; those that need the
    /// agent are denied.
    Static,
}

/// Whether bytes take a shorter way from socket to socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Acceleration {
    /// TCP as it is.
    #[default]
    Off,
    /// By sockmap, with a bound on the memory.
    Sockmap,
}

/// The action on requests whose paths servers read in different ways, where requests are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AmbiguousPaths {
    /// Each reading is judged: one that is denied denies, and all must be allowed.
    #[default]
    Judge,
    /// They are refused.
    Refuse,
}

/// The action on connections to what the mesh does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Egress {
    /// They are none of its business.
    #[default]
    Open,
    /// They are reported.
    Log,
    /// They are denied (Istio's `REGISTRY_ONLY`).
    RegistryOnly,
}

/// The namespaces whose policies apply to the whole mesh: ours, and Istio's by default, for those
/// who bring its policies along.
pub const ROOT_NAMESPACES: [&str; 2] = ["mesh-system", "istio-system"];

/// Whether the policies of `namespace` apply to the whole mesh (Istio's root namespace).
pub fn is_root(namespace: &str) -> bool {
    ROOT_NAMESPACES.contains(&namespace)
}

/// Which document says how connections are carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// A `MeshPolicy`.
    #[default]
    Mesh,
    /// An Istio `PeerAuthentication`, which says `mtls` alone.
    PeerAuthentication,
}

/// How connections of some workloads are carried. Settings that a policy leaves out are inherited: from the
/// policies of the namespace, then of the mesh, then the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshPolicy {
    /// Which document it is.
    pub kind: PolicyKind,
    /// Namespace and name. In one of [`ROOT_NAMESPACES`] it applies to every namespace.
    pub name: ResourceName,
    /// `metadata.creationTimestamp`; empty: older than any. Sorts by time.
    pub created: String,
    /// `spec.selector.matchLabels`; empty: every workload of the scope.
    pub selector: BTreeMap<String, String>,
    /// `spec.ambiguousPaths`.
    pub ambiguous_paths: Option<AmbiguousPaths>,
    /// `spec.mtls.mode`.
    pub mtls: Option<MtlsMode>,
    /// `spec.portLevelMtls`, by the workload's port.
    pub port_mtls: BTreeMap<u16, MtlsMode>,
    /// `spec.sameNode`.
    pub same_node: Option<SameNode>,
    /// `spec.portLevelSameNode`, by the workload's port.
    pub port_same_node: BTreeMap<u16, SameNode>,
    /// `spec.failureMode`.
    pub failure: Option<FailureMode>,
    /// `spec.acceleration`.
    pub acceleration: Option<Acceleration>,
    /// `spec.egress`.
    pub egress: Option<Egress>,
    /// `spec.upgrades`.
    pub upgrades: Option<Upgrades>,
    /// It stands for a document that cannot be read: nothing else that is said in its scope wins over it.
    pub is_closed: bool,
}

/// The settings in force for one workload, with every default filled in. Resolved once per snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadPolicy {
    /// The policy that refuses ambiguous paths of requests to the workload; `None`: they are judged.
    pub refuses_ambiguous_paths: Option<ResourceName>,
    /// For ports that are not in `ports`.
    pub mtls: MtlsMode,
    /// Which policy says `mtls`; `None`: the default.
    pub mtls_from: Option<ResourceName>,
    /// For ports that are not in `ports`.
    pub same_node: SameNode,
    /// Ports with settings of their own (of the workload, not of a service).
    pub ports: BTreeMap<u16, PortPolicy>,
    /// `None`: [`FailureMode::Static`] where `mtls` is strict, [`FailureMode::Open`] elsewhere.
    pub failure: Option<FailureMode>,
    /// For the workload's connections, whoever opens them.
    pub acceleration: Acceleration,
    /// For connections that the workload opens to what the mesh does not know.
    pub egress: Egress,
    /// For connections to the workload whose requests are judged or routed.
    pub upgrades: Upgrades,
    /// The policies whose scope the workload is in, by name; both actions.
    pub authorization: Vec<Arc<AuthorizationPolicy>>,
}

/// The settings in force for one port of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPolicy {
    /// The security demanded of connections to it.
    pub mtls: MtlsMode,
    /// Which policy says so.
    pub mtls_from: Option<ResourceName>,
    /// How workloads of the same node reach it.
    pub same_node: SameNode,
}

/// An Istio `AuthorizationPolicy`, as far as connections and requests have what it asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Namespace and name. In the root namespace it applies to the whole mesh.
    pub name: ResourceName,
    /// `spec.selector.matchLabels`; empty: every workload of the scope.
    pub selector: BTreeMap<String, String>,
    /// `spec.action`.
    pub action: Action,
    /// The annotation `istio.io/dry-run`: what it would do is told, and not done.
    pub dry_run: bool,
    /// `spec.rules`. None of them: the policy matches nothing (an `ALLOW` that denies all).
    pub rules: Vec<Rule>,
}

/// The consequence for a connection that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is allowed, unless a `DENY` matches too.
    Allow,
    /// It is told, and nothing else.
    Audit,
    /// It is refused.
    Deny,
}

/// One rule: it matches if one of `from`, one of `to` and all of `when` do. An empty list does not
/// restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `from[].source`.
    pub from: Vec<Source>,
    /// `to[].operation`.
    pub to: Vec<Operation>,
    /// `when[]`.
    pub when: Vec<When>,
    /// The rule asks for something that is not known here, in an `ALLOW` policy: it never matches.
    pub never: bool,
}

/// Where a connection comes from: every field that is not empty must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `principals`: `<trust domain>/ns/<namespace>/sa/<account>`.
    pub principals: Vec<Text>,
    /// `notPrincipals`.
    pub not_principals: Vec<Text>,
    /// `namespaces`, of the identity.
    pub namespaces: Vec<Text>,
    /// `notNamespaces`.
    pub not_namespaces: Vec<Text>,
    /// `ipBlocks`.
    pub ip_blocks: Vec<Block>,
    /// `notIpBlocks`.
    pub not_ip_blocks: Vec<Block>,
}

impl Source {
    /// How many values a client is compared with.
    pub fn values(&self) -> usize {
        let texts =
            [&self.principals, &self.not_principals, &self.namespaces, &self.not_namespaces];
        let blocks = self.ip_blocks.len() + self.not_ip_blocks.len();
        texts.iter().map(|texts| texts.len()).sum::<usize>() + blocks
    }
}

/// The destination of a connection: every field that is not empty must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// `ports`, of the workload.
    pub ports: Vec<u16>,
    /// `notPorts`.
    pub not_ports: Vec<u16>,
    /// The part that only requests have.
    pub http: HttpOperation,
}

/// A further condition of a rule: both sides must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct When {
    /// The keys that begin with `source.`.
    pub source: Source,
    /// `destination.port`.
    pub operation: Operation,
    /// `request.headers[…]`.
    pub header: Option<HeaderCondition>,
}

/// How Istio compares text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// `abc`: the same.
    Exact(String),
    /// `abc*`: begins with it.
    Prefix(String),
    /// `*abc`: ends with it.
    Suffix(String),
    /// `*`: there is one, whatever it is.
    Present,
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The network's address; bits beyond the prefix are zero.
    pub network: IpAddr,
    /// The length of the prefix: 0 to 32 or 128.
    pub prefix: u8,
}

impl WorkloadPolicy {
    /// The security demanded of connections to `port`.
    pub fn mtls(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).map_or(self.mtls, |port| port.mtls)
    }

    /// Which policy demands it.
    pub fn mtls_from(&self, port: u16) -> Option<&ResourceName> {
        self.ports.get(&port).map_or(self.mtls_from.as_ref(), |port| port.mtls_from.as_ref())
    }

    /// How workloads of the same node reach `port`, as far as the destination has a say.
    pub fn same_node(&self, port: u16) -> SameNode {
        self.ports.get(&port).map_or(self.same_node, |port| port.same_node)
    }

    /// The action while the agent does not answer.
    pub fn failure(&self) -> FailureMode {
        let default = match self.mtls {
            MtlsMode::Strict => FailureMode::Static,
            MtlsMode::Permissive | MtlsMode::Disable => FailureMode::Open,
        };
        self.failure.unwrap_or(default)
    }

    /// Whether connections of this node to `port` wait for an agent that does not answer, because
    /// the kernel cannot judge them alone: mutual TLS is demanded, or a policy is in force and no
    /// document says that the workload fails open.
    pub fn is_guarded(&self, port: u16) -> bool {
        let fails_open = self.failure == Some(FailureMode::Open);
        self.mtls(port) == MtlsMode::Strict
            || (self.enforced().next().is_some() && !fails_open)
            || self.denies_everything()
    }

    /// The same for connections from other nodes, whose agent does not answer: they arrive in
    /// plaintext, and the workload's own agent judges them without an identity. This says the same
    /// unless a policy asks for one.
    pub fn is_guarded_elsewhere(&self, port: u16) -> bool {
        let asks_who = || self.enforced().any(AuthorizationPolicy::names_identities);
        self.mtls(port) == MtlsMode::Strict || (self.is_guarded(port) && asks_who())
    }

    /// The first policy that is in force and not asked while the agent does not answer, because a
    /// document says that the workload fails open.
    pub fn unasked(&self) -> Option<&AuthorizationPolicy> {
        let ports = self.ports.values().map(|port| port.mtls).chain([self.mtls]);
        let takes_plaintext = ports.into_iter().any(|mode| mode != MtlsMode::Strict);
        let fails_open = self.failure == Some(FailureMode::Open) && takes_plaintext;
        self.enforced().next().filter(|_| fails_open && !self.denies_everything())
    }

    /// The policies that decide: neither tried out, nor only told, nor without any rule to deny by.
    fn enforced(&self) -> impl Iterator<Item = &AuthorizationPolicy> {
        let policies = self.authorization.iter().map(AsRef::as_ref);
        policies.filter(|policy: &&AuthorizationPolicy| match policy.action {
            Action::Audit => false,
            Action::Allow => !policy.dry_run,
            Action::Deny => !policy.dry_run && !policy.rules.is_empty(),
        })
    }

    /// Whether every connection is refused whoever opens it, as in the place of a policy that
    /// cannot be read: no agent needs to be asked.
    fn denies_everything(&self) -> bool {
        let mut allows = self.enforced().filter(|policy| policy.action == Action::Allow).peekable();
        let denies = |policy: &AuthorizationPolicy| {
            policy.action == Action::Deny && policy.rules.contains(&Rule::default())
        };
        (allows.peek().is_some() && allows.all(|policy| policy.rules.is_empty()))
            || self.enforced().any(denies)
    }
}

impl MeshPolicy {
    /// A policy that asks for the strictest of each setting that `text` mentions, for the workloads
    /// with these labels: in the place of one that cannot be read. `None`: none of them narrows
    /// anything.
    pub fn closed(
        kind: PolicyKind,
        (name, selector): (ResourceName, BTreeMap<String, String>),
        text: &str,
    ) -> Option<Self> {
        let mentions = |words: &[&str]| mentions(text, words);
        let is_mtls =
            kind == PolicyKind::PeerAuthentication || mentions(&["mtls", "portLevelMtls"]);
        let is_local = mentions(&["sameNode", "portLevelSameNode"]);
        let (is_egress, is_paths) = (mentions(&["egress"]), mentions(&["ambiguousPaths"]));
        let (is_failure, is_upgrades) = (mentions(&["failureMode"]), mentions(&["upgrades"]));
        let says_any = is_mtls || is_local || is_egress || is_paths || is_failure || is_upgrades;
        says_any.then(|| Self {
            kind,
            name,
            created: String::new(),
            selector,
            ambiguous_paths: is_paths.then_some(AmbiguousPaths::Refuse),
            mtls: is_mtls.then_some(MtlsMode::Strict),
            port_mtls: BTreeMap::new(),
            same_node: is_local.then_some(SameNode::Mtls),
            port_same_node: BTreeMap::new(),
            failure: is_failure.then_some(FailureMode::Closed),
            acceleration: None,
            egress: is_egress.then_some(Egress::RegistryOnly),
            upgrades: is_upgrades.then(|| Upgrades::only::<&str>(&[])),
            is_closed: true,
        })
    }
}

/// Whether one of these keys stands in `text`, as it is written or with a mistake.
fn mentions(text: &str, keys: &[&str]) -> bool {
    let is_near = |written: &str| keys.iter().any(|key| is_likely(written, key));
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    keys.iter().any(|key| text.contains(key))
        || text.split(':').any(|before| {
            let before = before.trim_end_matches([' ', '\t', '"', '\'']);
            before.rsplit(|c| !is_word(c)).next().is_some_and(is_near)
        })
}

impl AuthorizationPolicy {
    /// A policy that refuses everything to the workloads with these labels: in the place of one that
    /// cannot be read.
    pub fn deny_all(name: ResourceName, selector: BTreeMap<String, String>) -> Self {
        let rules = vec![Rule::default()];
        Self { name, selector, action: Action::Deny, dry_run: false, rules }
    }

    /// Whether it looks at the path of a request.
    pub fn asks_for_paths(&self) -> bool {
        let operations = self.rules.iter().flat_map(|rule| &rule.to);
        let mut http = operations.map(|operation| &operation.http);
        http.any(|http| !http.paths.is_empty() || !http.not_paths.is_empty())
    }

    /// Whether a rule asks who connects, beyond the address.
    fn names_identities(&self) -> bool {
        let names = |source: &Source| {
            [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces]
                .iter()
                .any(|texts| !texts.is_empty())
        };
        self.rules.iter().any(|rule| {
            rule.from.iter().chain(rule.when.iter().map(|when| &when.source)).any(names)
        })
    }
}

impl Text {
    /// Whether `value` is meant; `None`: there is none.
    pub fn matches(&self, value: Option<&str>) -> bool {
        value.is_some_and(|value| self.matches_joined(&[value]))
    }

    /// Whether the text that `parts` make together is meant. Spares making it.
    pub fn matches_joined(&self, parts: &[&str]) -> bool {
        match self {
            Self::Exact(text) => {
                let rest =
                    parts.iter().try_fold(text.as_str(), |rest, part| rest.strip_prefix(part));
                rest.is_some_and(str::is_empty)
            }
            Self::Prefix(text) => ends_within(text, parts.iter(), |rest, part| {
                if part.starts_with(rest) { Some("") } else { rest.strip_prefix(part) }
            }),
            Self::Suffix(text) => ends_within(text, parts.iter().rev(), |rest, part| {
                if part.ends_with(rest) { Some("") } else { rest.strip_suffix(part) }
            }),
            Self::Present => parts.iter().any(|part| !part.is_empty()),
        }
    }
}

/// Whether nothing is left of `text` when `take` has taken one part after the other off it.
fn ends_within<'a>(
    text: &'a str,
    mut parts: impl Iterator<Item = &'a &'a str>,
    take: fn(&'a str, &str) -> Option<&'a str>,
) -> bool {
    let rest = parts.try_fold(text, |rest, part| take(rest, part));
    rest.is_some_and(str::is_empty)
}

impl Block {
    /// Whether `address` is in the block; mapped IPv4 addresses count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (address, prefix) = (address.to_canonical(), u32::from(self.prefix));
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}
