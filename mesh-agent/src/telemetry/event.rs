//! Reports of connections: each is built once, at its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::failure::Failure;
use crate::model::id::ResourceName;
use crate::model::service::Service;
use crate::model::snapshot::Endpoint;
use crate::model::spiffe::SpiffeId;
use crate::model::trace::Trace;
use crate::model::workload::Workload;

/// The end of one connection. Metrics and the access-log line are made from this value alone.
#[derive(Debug)]
pub struct ConnectionEnd {
    /// The parties of the connection.
    pub parties: Parties,
    /// When it was accepted.
    pub start: SystemTime,
    /// From the accept to the end.
    pub lasted: Duration,
    /// Bytes from the client towards the destination (Envoy's `BYTES_RECEIVED`), whoever reports.
    pub received_bytes: u64,
    /// Bytes to the client (Envoy's `BYTES_SENT`), whoever reports.
    pub sent_bytes: u64,
    /// The client's address.
    pub downstream_remote: SocketAddr,
    /// The address that the client connected to: the original destination.
    pub downstream_local: SocketAddr,
    /// The endpoint that was connected to, or tried last.
    pub upstream_host: Option<SocketAddr>,
    /// Our own address on the connection to it.
    pub upstream_local: Option<SocketAddr>,
    /// The route that chose the backend.
    pub route: Option<ResourceName>,
    /// Why it failed; `None` if both sides closed in order.
    pub failure: Option<Failure>,
    /// The carrier.
    pub path: Path,
    /// The policies' verdict, if they were asked.
    pub judged: Option<Judged>,
    /// The smoothed round-trip time, if the kernel said it.
    pub srtt: Option<Duration>,
    /// The trace that it belongs to; those through agents do.
    pub trace: Option<Trace>,
}

/// The parties by which a connection's metrics are counted. Cheap to clone: pointers only.
#[derive(Clone, Debug)]
pub struct Parties {
    /// Which end this agent serves.
    pub reporter: Reporter,
    /// The opening end.
    pub source: Peer,
    /// The end that answered, or should have.
    pub destination: Peer,
    /// The service that was asked for.
    pub service: Option<Arc<Service>>,
    /// The security between the two ends.
    pub security: Security,
}

/// One end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The workload, if it is one that the mesh knows.
    pub workload: Option<Arc<Workload>>,
    /// The identity that was proved, or that this agent proves for its own workload.
    pub principal: Option<SpiffeId>,
}

/// The security of a connection between its two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// Nothing: plaintext.
    None,
    /// Mutual TLS.
    MutualTls,
    /// It does not leave the node, whose kernel has identified both ends.
    Kernel,
}

/// The carrier of a connection, or the one that refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// The agent.
    Agent,
    /// The kernel alone.
    Direct,
    /// The kernel, past an agent that did not answer.
    Bypass,
    /// The kernel, to what the mesh does not know.
    Outside,
}

/// The verdict of the destination's policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The connection may be.
    pub allowed: bool,
    /// The policy that decided; `None`: no policy had to.
    pub policy: Option<ResourceName>,
}

/// Which end of a connection an agent serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reporter {
    /// The end that was connected to.
    Destination,
    /// The end that connected.
    Source,
}

impl ConnectionEnd {
    /// Why it has failed; `None` also if its client has reset it.
    pub fn failed(&self) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| failure.kind.is_failure())
    }
}

impl Parties {
    /// A connection of which nothing but the reporter is known.
    pub fn unknown(reporter: Reporter) -> Self {
        Self {
            reporter,
            source: Peer::default(),
            destination: Peer::default(),
            service: None,
            security: Security::None,
        }
    }

    /// It goes to `endpoint`; `on_node`: without leaving the node.
    pub fn go_to(&mut self, endpoint: &Endpoint, on_node: bool) {
        let meshed = endpoint.workload.node.is_some();
        self.security = match (on_node, meshed) {
            // The kernel has said whose socket it is, and the bytes do not leave the node.
            (true, _) => Security::Kernel,
            (false, true) => Security::MutualTls,
            (false, false) => Security::None,
        };
        self.destination = Peer {
            principal: meshed.then(|| endpoint.workload.identity.clone()),
            workload: Some(Arc::clone(&endpoint.workload)),
        };
    }

    /// The word for the security of the connection, in log and metrics.
    pub const fn security_policy(&self) -> &'static str {
        match self.security {
            Security::None => "none",
            Security::MutualTls => "mutual_tls",
            Security::Kernel => "kernel",
        }
    }
}

impl Path {
    /// The word used in the access log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Direct => "direct",
            Self::Bypass => "bypass",
            Self::Outside => "outside",
        }
    }
}

impl Reporter {
    /// Both.
    pub const ALL: &[Self] = &[Self::Destination, Self::Source];

    /// The word used in the access log and the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Destination => "destination",
            Self::Source => "source",
        }
    }
}
