//! Between two workloads of this node, through the agent and without TLS: the bytes never leave the
//! node, and the kernel has said whose socket it is.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::authz::{self, Request, Verdict};
use crate::failure::Failure;
use crate::io::leg::Leg;
use crate::model::policy::SameNode;
use crate::model::snapshot::{Endpoint, Snapshot};
use crate::proxy::Context;
use crate::proxy::conn::Conn;
use crate::proxy::inbound::application::{Arrival, Forbidden, Scrutiny};
use crate::proxy::outbound::tcp;
use crate::proxy::realm::{Local, Resident};
use crate::telemetry::{Parties, Reporter};

/// The endpoint as a workload of this node, if `source` may reach it without TLS. A connection that could go
/// straight, and comes to the agent because the kernel could not tell, goes this way too. Where
/// policies look at requests, it is not: they are looked at where tunnels end.
pub fn destination(
    context: &Context,
    mesh: &Snapshot,
    source: &Local,
    endpoint: &Endpoint,
) -> Option<Resident> {
    let resident = context.locals.get(&endpoint.workload.name)?;
    let (theirs, port) = (mesh.policy(&endpoint.workload.name), endpoint.address.port());
    let demanded = mesh.policy(&source.workload.name).same_node.max(theirs.same_node(port));
    let by_request = || {
        source.workload.addresses.iter().any(|address| {
            let principal = Some(source.identity.id());
            let request = Request { principal, address: *address, port, http: None };
            matches!(authz::decide(&theirs.authorization, &request), Verdict::ByRequest(_))
        })
    };
    // One host's loopback is no network, whatever is demanded between its workloads.
    (endpoint.address.ip().is_loopback() || (demanded < SameNode::Mtls && !by_request()))
        .then_some(resident)
}

/// A connection to an application of this node, with the report of the destination's end.
pub struct Opened {
    /// The report.
    pub far: Conn,
    arrival: Arrival,
    is_itself: bool,
}

impl Opened {
    fn begin(
        context: &Context,
        source: &Local,
        (client, to): (SocketAddr, SocketAddr),
        destination: Resident,
        conn: &Conn,
    ) -> (Self, Result<(), Failure>) {
        let mut far = Conn::new(&context.telemetry, Reporter::Destination, client, to);
        far.parties = Parties { reporter: Reporter::Destination, ..conn.parties.clone() };
        far.carried = Arc::clone(&conn.carried);
        far.trace = conn.trace;
        far.established();
        // A workload needs no permission to reach itself.
        let is_itself = source.workload.name == destination.local.workload.name;
        let principal = Some(source.identity.id().clone());
        let mesh = context.mesh.load();
        let arrival = Arrival::new(&mesh, destination, to, (client, principal));
        let judged = if is_itself {
            Ok(())
        } else {
            arrival.judge(&mesh, Scrutiny::Nothing, &mut far).map(drop)
        };
        (Self { far, arrival, is_itself }, judged)
    }

    /// Why it may not be any more.
    pub fn refusal(&self, context: &Context) -> Option<Forbidden> {
        if self.is_itself {
            return None;
        }
        self.arrival.refusal(&context.mesh.load(), Scrutiny::Nothing)
    }

    /// Waits until a later snapshot forbids it. Never, if none does.
    pub async fn forbidden(&self, context: &Context) -> Forbidden {
        if self.is_itself {
            pending::<()>().await;
        }
        self.arrival.forbidden(context.mesh.clone(), Scrutiny::Nothing).await
    }

    /// Reports the destination's end, and to `conn` what that knows.
    pub fn finish(self, conn: &mut Conn, result: &Result<(), Failure>) {
        conn.upstream_local = self.far.upstream_local;
        conn.judged.clone_from(&self.far.judged);
        self.far.finish(result.as_ref().copied().map_err(Failure::again));
    }
}

/// Connects `source`, whose end `conn` reports, to an application of this node.
///
/// # Errors
///
/// The destination's policies do not allow it, or it did not take the connection.
pub async fn open(
    context: &Context,
    source: &Local,
    ends: (SocketAddr, SocketAddr),
    destination: Resident,
    conn: &mut Conn,
) -> Result<(Leg, Opened), Failure> {
    let (mut opened, judged) = Opened::begin(context, source, ends, destination, conn);
    let connected = match judged {
        Ok(()) => opened.arrival.connect(context, &mut opened.far).await,
        Err(failure) => Err(failure),
    };
    match connected {
        Ok(leg) => Ok((leg, opened)),
        Err(failure) => {
            opened.finish(conn, &Err(failure.again()));
            Err(failure)
        }
    }
}

/// Serves the connection of `source`, that `conn` reports, and reports the destination's end too.
///
/// # Errors
///
/// The destination's policies do not allow it, or it did not take the connection, or one of the ends
/// closed abruptly.
pub async fn run(
    context: &Context,
    source: &Local,
    leg: &mut Leg,
    ends: (SocketAddr, SocketAddr),
    destination: Resident,
    conn: &mut Conn,
) -> Result<(), Failure> {
    let (mut application, mut opened) = open(context, source, ends, destination, conn).await?;
    let carried = Arc::clone(&conn.carried);
    let result = tokio::select! {
        biased;
        copied = tcp::relay(leg, &mut application, &carried) => copied,
        forbidden = opened.forbidden(context) => Err(forbidden.note(&mut opened.far)),
    };
    opened.finish(conn, &result);
    result
}
