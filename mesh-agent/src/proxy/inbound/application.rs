//! The last step to an application of this node: whether it may be, and from inside its namespace.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use tokio::time::timeout;

use crate::authz::{self, Request};
use crate::failure::{Failure, Kind, Retry, Side};
use crate::io::leg::Leg;
use crate::model::policy::MtlsMode;
use crate::model::snapshot::Snapshot;
use crate::model::spiffe::SpiffeId;
use crate::proxy::Context;
use crate::proxy::conn::Conn;
use crate::proxy::realm::{Local, Realm};
use crate::store::Reader;

/// Ports of the agent itself: a connection to one of them would be a loop (as ztunnel refuses).
const OWN_PORTS: [u16; 4] = [OUTBOUND_PORT, PLAINTEXT_PORT, HBONE_PORT, 15080];

/// A connection that has come as far as the destination's agent.
pub struct Arrival {
    /// The destination's namespace.
    pub realm: Arc<Realm>,
    /// The destination.
    pub local: Arc<Local>,
    /// Where its application listens.
    pub to: SocketAddr,
    /// Who is shown to the application as its client.
    pub client: SocketAddr,
    /// The identity that the client has proved; `None`: it came in plaintext.
    pub principal: Option<SpiffeId>,
}

impl Arrival {
    /// Whether the destination's policies allow it.
    ///
    /// # Errors
    ///
    /// They do not: the cause names the policy.
    pub fn judge(&self, mesh: &Snapshot) -> Result<(), Failure> {
        let policy = mesh.policy(&self.local.workload.name);
        let port = self.to.port();
        if self.principal.is_none() && policy.mtls(port) == MtlsMode::Strict {
            let cause = match policy.mtls_from(port) {
                Some(from) => {
                    format!("PeerAuthentication {from} demands mutual TLS on port {port}")
                }
                None => format!("mutual TLS is demanded on port {port}"),
            };
            return Err(Failure::because(Kind::Plaintext, Side::Client, Retry::Never, cause));
        }
        let request =
            Request { principal: self.principal.as_ref(), address: self.client.ip(), port };
        match authz::decide(&policy.authorization, &request) {
            authz::Verdict::Allow => Ok(()),
            authz::Verdict::Deny(denial) => {
                let cause = denial.to_string();
                Err(Failure::because(Kind::Denied, Side::Client, Retry::Never, cause))
            }
        }
    }

    /// Waits until a later snapshot forbids it. Never, if none does.
    pub async fn forbidden(&self, mut mesh: Reader) -> Failure {
        while mesh.changed().await {
            if let Err(failure) = self.judge(&mesh.load()) {
                return failure;
            }
        }
        // The agent is stopping.
        pending().await
    }

    /// Connects to the application.
    ///
    /// # Errors
    ///
    /// The port is the agent's own, or the application does not take the connection.
    pub async fn connect(&self, context: &Context, conn: &mut Conn) -> Result<Leg, Failure> {
        if OWN_PORTS.contains(&self.to.port()) {
            let cause = format!("port {} is the agent's own", self.to.port());
            return Err(Failure::because(Kind::Protocol, Side::Client, Retry::Never, cause));
        }
        conn.upstream_host = Some(self.to);
        let failed = |error| Failure::because(Kind::Connect, Side::Upstream, Retry::Safe, error);
        let socket = self.realm.socket(context, self.to, Some(self.client)).map_err(failed)?;
        match timeout(context.options.connect_timeout, socket.connect(self.to)).await {
            Ok(connected) => {
                let stream = connected.map_err(failed)?;
                conn.upstream_local = stream.local_addr().ok();
                Ok(Leg::new(stream))
            }
            Err(_elapsed) => Err(Failure::new(Kind::Timeout, Side::Upstream, Retry::Safe)),
        }
    }
}
