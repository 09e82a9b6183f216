//! The life of a connection, one straight function a direction.
//!
//! [`outbound`] takes what the kernel redirected from a workload of this node, [`inbound`] what
//! peers' agents bring for one. A connection loads the snapshot once and decides with it alone.

pub mod accept;
pub mod breaker;
pub mod client_end;
pub mod conn;
pub mod listening;
pub mod party;
pub mod places;
pub mod realm;
pub mod server_name;
pub mod spread;
pub mod refusal;
pub mod upstream;
pub mod outbound;
pub mod inbound;
pub mod http;

use std::sync::Arc;
use std::time::Duration;

use crate::bounds;
use crate::datapath::Kernel;
use crate::identity::tls;
use crate::native::quota::Quota;
use crate::proxy::inbound::admission::{self, budget};
use crate::proxy::realm::Locals;
use crate::store::Reader;
use crate::sys::socket::PeerTimeout;
use crate::task::worker::Runtimes;
use crate::telemetry::Telemetry;
use crate::tunnels;

/// The state that both directions share.
#[derive(Clone, Debug)]
pub struct Context {
    /// The mesh.
    pub mesh: Reader,
    /// The kernel's records.
    pub kernel: Arc<Kernel>,
    /// Where connections are reported.
    pub telemetry: Telemetry,
    /// The workloads of this node.
    pub locals: Locals,
    /// The data threads.
    pub runtimes: Runtimes,
    /// The handshakes of peers that the workloads of this node have together.
    pub handshakes: budget::Node,
    /// The sockets of all of them.
    pub sockets: bounds::Node,
    /// Bytes that peers may leave unread on tunnels of the native transport to all of them.
    pub unread: Arc<Quota>,
    /// The settings.
    pub options: Options,
}

/// Settings of the proxies.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tunnels.
    pub tunnels: tunnels::Options,
    /// TLS sessions that may be resumed.
    pub sessions: tls::Bounds,
    /// How long a TCP connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// Connections that may wait to be accepted.
    pub backlog: i32,
    /// Peers that could not be reached.
    pub breaker: breaker::Options,
    /// Handshakes of peers with the workloads of one namespace.
    pub handshakes: admission::Options,
    /// Those with all workloads of the node.
    pub node_handshakes: budget::Most,
    /// How long a TCP peer may leave everything without an answer.
    pub peer_timeout: PeerTimeout,
}
