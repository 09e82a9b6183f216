//! The life of a connection that arrived in plaintext: the kernel knew of no permission for it, and
//! gave it to the agent instead of the application.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::bounds::{Client, Held, Use};
use crate::failure::{Failure, Kind, Retry, Side};
use crate::io::leg::Leg;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;
use crate::proxy::Context;
use crate::proxy::conn::Conn;
use crate::proxy::http::front::Front;
use crate::proxy::inbound::application::{Arrival, Scrutiny};
use crate::proxy::inbound::requests;
use crate::proxy::outbound::tcp::relay;
use crate::proxy::party;
use crate::proxy::places;
use crate::proxy::realm::{Realm, Resident};
use crate::task::fair;
use crate::task::scope::Scope;
use crate::telemetry::{Peer, Reporter};

/// A connection that the agent serves.
pub struct Accepted {
    conn: Conn,
    arrival: Arrival,
    scrutiny: Scrutiny,
    held: Held,
}

impl Accepted {
    /// The tasks of the workload's connections.
    pub fn scope(&self) -> &Scope {
        &self.arrival.local.scope
    }
}

/// Takes a connection to the plaintext listener of `realm`. Its own address is the one that the
/// client connected to. `None`: it may not be, and that was reported.
pub fn accept(
    context: &Context,
    realm: &Arc<Realm>,
    stream: &TcpStream,
    client: SocketAddr,
) -> Option<Box<Accepted>> {
    let to = stream.local_addr().map_or(client, canonical);
    let client = canonical(client);
    let mut conn = Conn::new(&context.telemetry, Reporter::Destination, client, to);
    let mesh = context.mesh.load();
    let arrival = match arrive(&mesh, Arc::clone(realm), to, client) {
        Ok(arrival) => arrival,
        Err(failure) => {
            conn.established();
            conn.finish(Err(failure));
            return None;
        }
    };
    conn.parties.source = Peer { workload: client_workload(&mesh, client), principal: None };
    let destination = Some(Arc::clone(&arrival.local.workload));
    conn.parties.destination = Peer { workload: destination, principal: None };
    let held = match places::take(&arrival.local, Use::Plaintext, Some(Client::at(client.ip()))) {
        Ok(held) => held,
        Err(refused) => {
            refused.finish(conn);
            return None;
        }
    };
    conn.established();
    match arrival.judged(&mesh, &mut conn) {
        Ok((arrival, scrutiny)) => Some(Box::new(Accepted { conn, arrival, scrutiny, held })),
        Err(failure) => {
            conn.finish(Err(failure));
            None
        }
    }
}

/// Serves it.
pub async fn run(context: Arc<Context>, stream: TcpStream, accepted: Box<Accepted>) {
    let Accepted { mut conn, arrival, scrutiny, held } = *accepted;
    fair::run_for(party::stranger(arrival.client.ip()));
    let leg = Leg::holding(stream, Some(held));
    let result = match scrutiny {
        Scrutiny::Nothing => serve(&context, &arrival, leg, &mut conn).await,
        Scrutiny::Requests => Box::pin(looked_at(context, arrival, leg, &mut conn)).await,
    };
    conn.finish(result);
}

/// The arrival of a connection: its workload and its client.
fn arrive(
    mesh: &Snapshot,
    realm: Arc<Realm>,
    to: SocketAddr,
    client: SocketAddr,
) -> Result<Arrival, Failure> {
    let not_ours = || Failure::new(Kind::NoOrigin, Side::Client, Retry::Never);
    let local = realm.local_at(mesh, to).ok_or_else(not_ours)?;
    Ok(Arrival::new(mesh, Resident { realm, local }, to, (client, None)))
}

/// Connects to the application, and moves bytes for as long as the policies allow.
async fn serve(
    context: &Context,
    arrival: &Arrival,
    mut leg: Leg,
    conn: &mut Conn,
) -> Result<(), Failure> {
    let mut application = arrival.connect(context, conn).await?;
    tokio::select! {
        biased;
        copied = relay(&mut leg, &mut application, &conn.carried) => copied,
        forbidden = arrival.forbidden(context.mesh.clone(), Scrutiny::Nothing) => Err(forbidden.note(conn)),
    }
}

/// The same, request by request.
async fn looked_at(
    context: Arc<Context>,
    arrival: Arrival,
    leg: Leg,
    conn: &mut Conn,
) -> Result<(), Failure> {
    let application = arrival.connect(&context, conn).await?;
    requests::serve(context, arrival, (Front::of_client(leg, Vec::new()), application), conn).await
}

/// Which workload the client seems to be. An address proves nothing: it is for people to see.
fn client_workload(mesh: &Snapshot, client: SocketAddr) -> Option<Arc<Workload>> {
    match mesh.by_address.get(&client.ip()).map(Vec::as_slice) {
        Some([workload]) => Some(Arc::clone(workload)),
        _ => None,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
