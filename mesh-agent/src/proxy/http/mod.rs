//! HTTP of a workload of this node to a service that has HTTP routes: each request is routed by
//! itself, and goes to an endpoint by the way that any connection of the workload goes.
//!
//! [`serve`] speaks with the client, [`exchange`] decides about a request and has it answered, and
//! [`upstream`] keeps connections to endpoints. HTTP/1.1 is hyper's,
//! but for [`plain`] requests, and HTTP/2 is spoken by [`http2`].

pub mod answer;
pub mod attempt;
pub mod batch;
pub mod body;
pub mod counting;
pub mod decide;
pub mod detect;
pub mod exchange;
pub mod faults;
pub mod fields;
pub mod filtering;
pub mod front;
pub mod gate;
pub mod heads;
pub mod host;
pub mod http2;
pub mod incoming;
pub mod mirror;
pub mod places;
pub mod plain;
pub mod pool;
pub mod replay;
pub mod serve;
pub mod session;
pub mod setup;
pub mod upgrade;
pub mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::trace::Trace;
use crate::proxy::Context;
use crate::proxy::realm::{Local, Realm};

/// One client's connection: who it is, and what it has connected to.
#[derive(Clone)]
pub struct Site {
    /// The state that all connections share.
    pub context: Arc<Context>,
    /// The client's namespace.
    pub realm: Arc<Realm>,
    /// The data thread.
    pub worker: usize,
    /// The client's workload.
    pub local: Arc<Local>,
    /// The client's real address.
    pub client: SocketAddr,
    /// The service's address that it has connected to.
    pub destination: SocketAddr,
    /// The trace that the connection belongs to.
    pub trace: Option<Trace>,
}
