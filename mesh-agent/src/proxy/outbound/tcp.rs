//! The life of an outbound connection.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::addr::user::to_socket;
use tokio::net::TcpStream;

use crate::failure::{Failure, Kind, Retry, Side};
use crate::hbone::stream::{self, StreamError};
use crate::io::copy::{self, CopyError};
use crate::io::leg::Leg;
use crate::proxy::Context;
use crate::proxy::conn::Conn;
use crate::proxy::outbound::resolve;
use crate::proxy::realm::{Local, Realm};
use crate::proxy::upstream::{Reach, Upstream, reach};
use crate::telemetry::{Peer, Reporter, Security};

/// Serves a connection that the kernel sent to the outbound listener of `realm` on the data thread
/// `worker`.
pub async fn run(
    context: Arc<Context>,
    realm: Arc<Realm>,
    worker: usize,
    stream: TcpStream,
    client: SocketAddr,
) {
    let mut conn = Conn::new(&context.telemetry, Reporter::Source, client, client);
    let result = serve(&context, &realm, worker, Leg::new(stream), client, &mut conn).await;
    conn.finish(result);
}

async fn serve(
    context: &Context,
    realm: &Realm,
    worker: usize,
    mut leg: Leg,
    client: SocketAddr,
    conn: &mut Conn,
) -> Result<(), Failure> {
    let (local, destination) = origin(context, realm, client)?;
    // The client's address inside its namespace is loopback; towards others it is the workload's.
    let seen = SocketAddr::new(source_address(&local, destination), client.port());
    conn.set_addresses(seen, destination);
    let mesh = context.mesh.load();
    let namespace = local.identity.id().namespace();
    let to = resolve(&mesh, destination, namespace, [rand::random(), rand::random()]);
    conn.parties.source = Peer {
        workload: Some(Arc::clone(&local.workload)),
        principal: Some(local.identity.id().clone()),
    };
    conn.parties.service = to.service;
    conn.route = to.route;
    let endpoint = to.endpoint?;
    let meshed = endpoint.workload.node.is_some();
    conn.upstream_host = Some(endpoint.address);
    conn.parties.security = if meshed { Security::MutualTls } else { Security::None };
    conn.parties.destination = Peer {
        principal: meshed.then(|| endpoint.workload.identity.clone()),
        workload: Some(Arc::clone(&endpoint.workload)),
    };
    drop(mesh);
    conn.established();
    let hostname = conn.parties.service.as_ref().map(|service| &*service.hostname);
    let from = Reach { realm, worker, local: &local, client: seen, hostname };
    match reach(context, from, &endpoint).await? {
        Upstream::Mesh(stream, lease) => {
            let carried = &conn.carried;
            let copied =
                stream::both_ways(&mut leg, stream, &carried.sent, &carried.received).await;
            drop(lease);
            copied.map_err(|error| {
                let side = match error {
                    StreamError::Application(_) => Side::Client,
                    StreamError::Peer(_) => Side::Upstream,
                };
                Failure::because(Kind::Reset, side, Retry::IfIdempotent, error)
            })
        }
        Upstream::Plain(mut upstream) => {
            copy::both_ways(&mut leg, &mut upstream, &conn.carried).await.map_err(|error| {
                let side = match error {
                    CopyError::Client(_) => Side::Client,
                    CopyError::Upstream(_) => Side::Upstream,
                };
                Failure::because(Kind::Reset, side, Retry::IfIdempotent, error)
            })
        }
    }
}

/// Whose connection it is and where it wants to go, as the kernel recorded it.
fn origin(
    context: &Context,
    realm: &Realm,
    client: SocketAddr,
) -> Result<(Arc<Local>, SocketAddr), Failure> {
    let no_origin = || Failure::new(Kind::NoOrigin, Side::Client, Retry::Never);
    let record = context
        .kernel
        .take_origin(realm.cookie, client)
        .map_err(|error| Failure::because(Kind::NoOrigin, Side::Mesh, Retry::Safe, error))?;
    let record = record.ok_or_else(no_origin)?;
    let local = realm.local_of(&record).ok_or_else(no_origin)?;
    Ok((local, to_socket(record.addr, record.port_be)))
}

/// The workload's own address of the destination's family, or its primary one.
fn source_address(local: &Local, destination: SocketAddr) -> std::net::IpAddr {
    let addresses = &local.workload.addresses;
    let same_family = addresses.iter().find(|ip| ip.is_ipv4() == destination.is_ipv4());
    same_family.or(addresses.first()).copied().unwrap_or(destination.ip())
}
