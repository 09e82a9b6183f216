//! The life of an outbound connection.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::addr::user::to_socket;
use mesh_common::record::CAN_ACCELERATE;
use tokio::net::TcpStream;

use crate::bounds::{Held, Use};
use crate::failure::{Failure, Kind, Retry, Side};
use crate::io::copy::{self, Carried, CopyError};
use crate::io::leg::Leg;
use crate::io::relay::{RelayError, Unsent};
use crate::model::trace::Trace;
use crate::model::workload::Workload;
use crate::proxy::Context;
use crate::proxy::client_end::kind;
use crate::proxy::conn::Conn;
use crate::proxy::http;
use crate::proxy::outbound::{Picked, Resolved, resolve, same_node};
use crate::proxy::party;
use crate::proxy::places;
use crate::proxy::realm::{Local, Realm};
use crate::proxy::upstream::{self, Reach, Upstream, reach};
use crate::task::fair;
use crate::task::scope::Scope;
use crate::telemetry::{Peer, Reporter};
use crate::tunnels::{Counts, Ended};

/// So many tunnels are tried for a connection that none of them takes: after a partition those that were
/// open are silent one after the other, and the next one is new.
const TUNNELS: u32 = 4;

/// A connection that the agent serves.
pub struct Accepted {
    conn: Conn,
    origin: Origin,
    held: Option<Held>,
}

impl Accepted {
    /// The tasks of the workload's connections.
    pub fn scope(&self) -> &Scope {
        &self.origin.local.scope
    }
}

/// Takes a connection that the kernel sent to an outbound listener of `realm`, or of the workload `unit` in
/// it. `None`: it is not served, and that was reported.
pub fn accept(
    context: &Context,
    (realm, unit): (&Realm, Option<u64>),
    stream: &TcpStream,
    client: SocketAddr,
) -> Option<Box<Accepted>> {
    let mut conn = Conn::new(&context.telemetry, Reporter::Source, client, client);
    // One that has ended already has no address, and no record.
    let to = stream.local_addr().unwrap_or(client);
    let origin = match origin(context, (realm, unit), (client, to)) {
        Ok(origin) => origin,
        Err(failure) => {
            conn.finish(Err(failure));
            return None;
        }
    };
    match places::take(&origin.local, Use::Outbound, None) {
        Ok(held) => Some(Box::new(Accepted { conn, origin, held: Some(held) })),
        Err(refused) => {
            conn.set_addresses(origin.seen(), origin.destination);
            conn.parties.source = origin.peer();
            refused.finish(conn);
            None
        }
    }
}

/// Serves a connection on the data thread `worker`.
pub async fn run(
    context: Arc<Context>,
    realm: Arc<Realm>,
    worker: usize,
    stream: TcpStream,
    mut accepted: Box<Accepted>,
) {
    fair::run_for(party::workload(&accepted.origin.local.workload.name));
    let leg = Leg::holding(stream, accepted.held.take());
    let Accepted { conn, origin, .. } = &mut *accepted;
    let result = serve(&context, &realm, worker, leg, origin, conn).await;
    accepted.conn.finish(result);
}

async fn serve(
    context: &Arc<Context>,
    realm: &Arc<Realm>,
    worker: usize,
    mut leg: Leg,
    origin: &Origin,
    conn: &mut Conn,
) -> Result<(), Failure> {
    let seen = origin.seen();
    conn.parties.source = origin.peer();
    let (local, destination) = (&origin.local, origin.destination);
    leg = leg.accelerated(origin.accelerated);
    conn.set_addresses(seen, destination);
    let mesh = context.mesh.load();
    let namespace = local.identity.id().namespace();
    let dice = [rand::random(), rand::random()];
    let to = match &origin.neighbor {
        None => resolve(&mesh, destination, namespace, origin.picked, dice),
        Some(workload) => Resolved::itself(destination, Arc::clone(workload)),
    };
    drop(mesh);
    if let Some(protocol) = to.http {
        let way = (Arc::clone(context), Arc::clone(realm), worker);
        // Most connections never come here.
        let seeing = http::serve::accept(way, local, leg, (seen, destination), protocol);
        let Some(back) = Box::pin(seeing).await? else {
            conn.reported_otherwise();
            return Ok(());
        };
        leg = back;
    }
    let mesh = context.mesh.load();
    conn.parties.service = to.service;
    conn.route = to.route;
    let endpoint = to.endpoint?;
    let resident = same_node::destination(context, &mesh, local, &endpoint);
    conn.towards(&endpoint, resident.is_some());
    let shared = mesh.is_shared(endpoint.address.ip());
    drop(mesh);
    // TCP carries no trace of its own: the connection is where one begins.
    let (id, rest): ([u8; 16], [u8; 8]) = rand::random();
    conn.trace = Trace::begin(id, rest);
    conn.established();
    if let Some(resident) = resident {
        let ends = (seen, endpoint.address);
        let serving = same_node::run(context, local, &mut leg, ends, resident, conn);
        return Box::pin(serving).await;
    }
    let hostname = conn.parties.service.as_ref().map(|service| &*service.hostname);
    let trace = conn.trace;
    let from = Reach { realm, worker, local, client: seen, shared, trace, hostname };
    let counts = Counts { to_peer: &conn.carried.sent, from_peer: &conn.carried.received };
    let patience = context.options.tunnels.answer_timeout;
    let (mut sent, mut tried) = (Unsent::new(), 1);
    loop {
        let (stream, lease) = match reach(context, from, &endpoint).await? {
            Upstream::Mesh(stream, lease) => (stream, lease),
            Upstream::Plain(mut upstream) => {
                return relay(&mut leg, &mut upstream, &conn.carried).await;
            }
        };
        let another = || upstream::another(context, (realm, local), from, &endpoint);
        match stream.relay(&mut leg, sent, counts, patience, another).await {
            Err(Ended::NotTaken(unsent)) if tried < TUNNELS => {
                // The peer is stopping, has as many streams as it takes, or was not heard on this tunnel.
                lease.close();
                (sent, tried) = (unsent, tried + 1);
            }
            ended => return ended.map_err(failed),
        }
    }
}

/// Why a stream ended before both sides had closed.
fn failed(ended: Ended) -> Failure {
    if ended.is_unread() {
        return Failure::because(Kind::Unread, Side::Mesh, Retry::IfIdempotent, ended);
    }
    let side = match ended {
        Ended::Refused(error) => return upstream::classify(error),
        Ended::Relay(RelayError::Application(_)) => {
            return Failure::because(kind(&ended), Side::Client, Retry::IfIdempotent, ended);
        }
        Ended::Relay(RelayError::Peer(_)) | Ended::NotTaken(_) => Side::Upstream,
    };
    Failure::because(Kind::Reset, side, Retry::IfIdempotent, ended)
}

/// Moves bytes between two sockets of this node.
///
/// # Errors
///
/// One of them closed abruptly.
pub async fn relay(client: &mut Leg, upstream: &mut Leg, carried: &Carried) -> Result<(), Failure> {
    copy::both_ways(client, upstream, carried).await.map_err(|error| {
        let (kind, side) = match error {
            CopyError::Client(_) => (kind(&error), Side::Client),
            CopyError::Upstream(_) => (Kind::Reset, Side::Upstream),
        };
        Failure::because(kind, side, Retry::IfIdempotent, error)
    })
}

/// The kernel's record of a connection.
struct Origin {
    /// The client's address in its namespace.
    client: SocketAddr,
    /// The workload that it is of.
    local: Arc<Local>,
    /// Where it wants to go.
    destination: SocketAddr,
    /// The endpoint that the kernel has picked.
    picked: Option<Picked>,
    /// It goes to a loopback address, where this workload listens.
    neighbor: Option<Arc<Workload>>,
    /// Its bytes may come by a shorter way than TCP.
    accelerated: bool,
}

/// The workload of a connection and its destination, as the kernel recorded them.
fn origin(
    context: &Context,
    (realm, unit): (&Realm, Option<u64>),
    (client, to): (SocketAddr, SocketAddr),
) -> Result<Origin, Failure> {
    let no_origin = || Failure::new(Kind::NoOrigin, Side::Client, Retry::Never);
    let record = context
        .kernel
        .take_origin(realm.cookie, (client, to), unit)
        .map_err(|error| Failure::because(Kind::NoOrigin, Side::Mesh, Retry::Safe, error))?;
    let record = record.ok_or_else(no_origin)?;
    let local = realm.local_of(&record).ok_or_else(no_origin)?;
    let destination = to_socket(record.addr, record.port_be);
    let picked = (record.picked_port_be != 0).then(|| Picked {
        backend: usize::try_from(record.backend).unwrap_or(usize::MAX),
        address: to_socket(record.picked, record.picked_port_be),
    });
    let inside = || realm.local_by_id(record.destination).ok_or_else(no_origin);
    let neighbor = destination.ip().is_loopback().then(inside).transpose()?;
    let neighbor = neighbor.map(|neighbor| Arc::clone(&neighbor.workload));
    let accelerated = record.flags & CAN_ACCELERATE != 0;
    Ok(Origin { client, local, destination, picked, neighbor, accelerated })
}

impl Origin {
    /// The client's address towards others: inside its namespace it is loopback.
    fn seen(&self) -> SocketAddr {
        SocketAddr::new(source_address(&self.local, self.destination), self.client.port())
    }

    /// The workload that connects.
    fn peer(&self) -> Peer {
        Peer {
            workload: Some(Arc::clone(&self.local.workload)),
            principal: Some(self.local.identity.id().clone()),
        }
    }
}

/// The workload's own address of the destination's family, or its primary one.
fn source_address(local: &Local, destination: SocketAddr) -> std::net::IpAddr {
    let addresses = &local.workload.addresses;
    let same_family = addresses.iter().find(|ip| ip.is_ipv4() == destination.is_ipv4());
    same_family.or(addresses.first()).copied().unwrap_or(destination.ip())
}
