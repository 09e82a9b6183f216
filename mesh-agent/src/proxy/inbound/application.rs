//! The last step to an application of this node: whether it may be, and from inside its namespace.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use tokio::time::timeout;

use crate::authz::{self, Denial, HttpRequest, Request, Verdict};
use crate::bounds::{Client, Use};
use crate::datapath::kernel::Shown;
use crate::failure::{Failure, Kind, Retry, Side};
use crate::io::leg::Leg;
use crate::model::policy::{Acceleration, MtlsMode};
use crate::model::snapshot::Snapshot;
use crate::model::spiffe::SpiffeId;
use crate::proxy::Context;
use crate::proxy::conn::Conn;
use crate::proxy::places;
use crate::proxy::realm::{Local, Realm, Resident};
use crate::store::Reader;
use crate::telemetry::{Judged, Mention, Said, Telemetry};

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
    /// The client that is shown to the application.
    pub client: SocketAddr,
    /// The identity that the client has proved; `None`: it came in plaintext.
    pub principal: Option<SpiffeId>,
    /// The bytes to and from the application may take a shorter way than TCP.
    pub accelerate: bool,
}

/// The part of a connection that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrutiny {
    /// Nothing: whatever it carries may be.
    Nothing,
    /// Each of its requests, which policies judge.
    Requests,
}

/// Why a connection may not be, or not any more.
pub struct Forbidden {
    kind: Kind,
    said: Said,
    cause: String,
}

impl Forbidden {
    fn by(denial: &Denial) -> Self {
        Self { kind: Kind::Denied, said: denial.into(), cause: denial.to_string() }
    }

    /// The failure, of which `conn` reports the policy.
    pub fn note(self, conn: &mut Conn) -> Failure {
        conn.judged = Some(Judged { allowed: false, policy: self.said.policy.clone() });
        conn.telemetry().policy_said(self.said, 1);
        Failure::because(self.kind, Side::Client, Retry::Never, self.cause)
    }
}

impl Arrival {
    /// A connection of `client` to `to`, by what `mesh` says of the destination.
    pub fn new(
        mesh: &Snapshot,
        destination: Resident,
        to: SocketAddr,
        (client, principal): (SocketAddr, Option<SpiffeId>),
    ) -> Self {
        let Resident { realm, local } = destination;
        let policy = mesh.policy(&local.workload.name);
        let accelerate = policy.acceleration == Acceleration::Sockmap;
        Self { realm, local, to, client, principal, accelerate }
    }

    /// The scrutiny that the destination's policies need to allow it, if nothing but that
    /// `can` be; `conn` reports what they say.
    ///
    /// # Errors
    ///
    /// They do not: the cause names the policy.
    pub fn judge(
        &self,
        mesh: &Snapshot,
        can: Scrutiny,
        conn: &mut Conn,
    ) -> Result<Scrutiny, Failure> {
        match self.needed(mesh, can) {
            Ok(scrutiny) => {
                self.tell(mesh, None, conn.telemetry());
                conn.judged = Some(Judged { allowed: true, policy: None });
                Ok(scrutiny)
            }
            Err(refusal) => Err(refusal.note(conn)),
        }
    }

    /// The connection with what has to be looked at, where anything can be. `conn` reports what the
    /// destination's policies say.
    ///
    /// # Errors
    ///
    /// They do not allow it: the cause names the policy.
    pub fn judged(mut self, mesh: &Snapshot, conn: &mut Conn) -> Result<(Self, Scrutiny), Failure> {
        let scrutiny = self.judge(mesh, Scrutiny::Requests, conn)?;
        // A connection that is read as HTTP is read from the socket.
        self.accelerate &= scrutiny == Scrutiny::Nothing;
        Ok((self, scrutiny))
    }

    /// Waits until a later snapshot forbids it, with no more than `scrutiny`. Never, if none does.
    pub async fn forbidden(&self, mut mesh: Reader, scrutiny: Scrutiny) -> Forbidden {
        while mesh.changed().await {
            // Nobody closes it; one after the other, and others have their turn in between.
            let _turn = self.realm.judging.acquire().await;
            if let Some(refusal) = self.refusal(&mesh.load(), scrutiny) {
                return refusal;
            }
        }
        // The agent is stopping.
        pending().await
    }

    /// Why the destination's policies do not allow it, with no more than `scrutiny`.
    pub fn refusal(&self, mesh: &Snapshot, scrutiny: Scrutiny) -> Option<Forbidden> {
        self.needed(mesh, scrutiny).err()
    }

    /// Why they do not allow one of its requests.
    pub fn request_refusal(&self, mesh: &Snapshot, http: &HttpRequest<'_>) -> Option<Denial> {
        if let Some(gone) = self.gone(mesh) {
            return Some(gone);
        }
        let policy = mesh.policy(&self.local.workload.name);
        if let Some(refuses) = policy.refuses_ambiguous_paths.as_ref()
            && http.paths.is_ambiguous
        {
            return Some(Denial::Ambiguous(refuses.clone()));
        }
        match authz::decide(&policy.authorization, &self.request(Some(http))) {
            Verdict::Allow => None,
            Verdict::Deny(denial) => Some(denial),
            // Of a request that is seen, that is never said.
            Verdict::ByRequest(policy) => Some(Denial::Unseen(policy)),
        }
    }

    /// Counts and logs what policies tell of the connection, or of a request on it.
    pub fn tell(&self, mesh: &Snapshot, http: Option<&HttpRequest<'_>>, telemetry: &Telemetry) {
        let policies = &mesh.policy(&self.local.workload.name).authorization;
        for told in authz::told(policies, &self.request(http)) {
            let outcome = told.outcome.reason();
            let subject = (&told.policy, &self.local.workload.name);
            if let Some(mentioned) = telemetry.mention(Mention::DryRun, subject) {
                tracing::info!(
                    client = %self.client, server = %self.to, principal = self.principal.as_ref().map(tracing::field::display),
                    policy = %told.policy, rule = told.rule, outcome,
                    method = http.map(|http| http.method),
                    path = http.map(|http| http.paths.written()),
                    left_out = mentioned.left_out,
                    "a policy that is not enforced has its say"
                );
            }
            telemetry.policy_said(told.into(), 1);
        }
    }

    fn request<'a>(&'a self, http: Option<&'a HttpRequest<'a>>) -> Request<'a> {
        let (address, port) = (self.client.ip(), self.to.port());
        Request { principal: self.principal.as_ref(), address, port, http }
    }

    /// A connection that was open when the destination was in the mesh is not judged by the
    /// policies of nobody.
    fn gone(&self, mesh: &Snapshot) -> Option<Denial> {
        let name = &self.local.workload.name;
        (!mesh.workloads.contains_key(name)).then(|| Denial::Gone(name.clone()))
    }

    fn needed(&self, mesh: &Snapshot, can: Scrutiny) -> Result<Scrutiny, Forbidden> {
        if let Some(gone) = self.gone(mesh) {
            return Err(Forbidden::by(&gone));
        }
        let policy = mesh.policy(&self.local.workload.name);
        let port = self.to.port();
        if self.principal.is_none() && policy.mtls(port) == MtlsMode::Strict {
            let from = policy.mtls_from(port);
            let cause = match from {
                Some(from) => format!("{from} demands mutual TLS on port {port}"),
                None => format!("mutual TLS is demanded on port {port}"),
            };
            let said = Said { policy: from.cloned(), rule: None, reason: "plaintext" };
            return Err(Forbidden { kind: Kind::Plaintext, said, cause });
        }
        match authz::decide(&policy.authorization, &self.request(None)) {
            Verdict::Allow => Ok(Scrutiny::Nothing),
            Verdict::ByRequest(_) if can == Scrutiny::Requests => Ok(Scrutiny::Requests),
            Verdict::ByRequest(policy) => Err(Forbidden::by(&Denial::Unseen(policy))),
            Verdict::Deny(denial) => Err(Forbidden::by(&denial)),
        }
    }

    /// The client whose part of the bounds is used.
    pub fn on_behalf_of(&self) -> Client {
        match &self.principal {
            Some(principal) => Client::Identity(principal.clone()),
            None => Client::at(self.client.ip()),
        }
    }

    /// The use of its sockets.
    pub const fn used(&self) -> Use {
        if self.principal.is_some() { Use::Stream } else { Use::Plaintext }
    }

    /// Connects to the application.
    ///
    /// # Errors
    ///
    /// The port is the agent's own, there are too many sockets, or the application does not take the
    /// connection.
    pub async fn connect(&self, context: &Context, conn: &mut Conn) -> Result<Leg, Failure> {
        if OWN_PORTS.contains(&self.to.port()) {
            let cause = format!("port {} is the agent's own", self.to.port());
            return Err(Failure::because(Kind::Protocol, Side::Client, Retry::Never, cause));
        }
        conn.upstream_host = Some(self.to);
        let held = places::take(&self.local, self.used(), Some(self.on_behalf_of()));
        let held = held.map_err(places::Refused::failure)?;
        let failed = |error| Failure::because(Kind::Connect, Side::Upstream, Retry::Safe, error);
        let shown = Shown { client: self.client, accelerate: self.accelerate };
        let connecting = self.realm.connect_inside(context, self.to, shown);
        match timeout(context.options.connect_timeout, connecting).await {
            Ok(connected) => {
                let stream = connected.map_err(failed)?;
                conn.upstream_local = stream.local_addr().ok();
                Ok(Leg::holding(stream, Some(held)).accelerated(self.accelerate))
            }
            Err(_elapsed) => Err(Failure::new(Kind::Timeout, Side::Upstream, Retry::Safe)),
        }
    }
}
