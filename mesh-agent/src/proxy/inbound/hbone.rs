//! A tunnel of a peer: TLS, who it is, and its streams.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::HBONE_PORT;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::bounds::{Client, Held, Use};
use crate::failure::{Failure, Kind, Retry, Side};
use crate::identity::standing::Standing;
use crate::identity::tls::Met;
use crate::identity::verify::peer_error;
use crate::io::tls::handshake;
use crate::io::tls::stream::Stream;
use crate::native::quota::Ends;
use crate::proxy::Context;
use crate::proxy::conn::Conn;
use crate::proxy::inbound::admission::Place;
use crate::proxy::inbound::admission::budget::Node;
use crate::proxy::inbound::last_hop::{self, Inbound};
use crate::proxy::party;
use crate::proxy::places;
use crate::proxy::realm::{Local, Realm};
use crate::proxy::server_name;
use crate::sys::socket;
use crate::task::clock;
use crate::task::ending::Ending;
use crate::task::fair;
use crate::telemetry::{Mention, Network, Peer, Protocol, Reporter, Role, Security};
use crate::tunnels::{self, Incoming};

/// A TLS connection of a peer's agent.
type Tls = Stream<TcpStream>;

/// A peer that may begin a handshake.
pub struct Accepted {
    client: SocketAddr,
    local: Arc<Local>,
    under_way: UnderWay,
    held: Held,
}

/// Takes a connection of a peer's agent to a workload of `realm`. `None`: it may not begin a
/// handshake, and that was reported.
pub fn accept(
    context: &Context,
    realm: &Arc<Realm>,
    stream: &TcpStream,
    client: SocketAddr,
) -> Option<Accepted> {
    let under_way = admit(context, realm, client)?;
    // The address that was dialed says whose certificate is expected, unless several share it.
    let address = stream.local_addr().map(|address| address.ip().to_canonical());
    let local = address.ok().and_then(|address| realm.local_of_address(address));
    let Some(local) = local else {
        tracing::debug!(%client, "a peer asked for an address that no workload here has");
        return None;
    };
    match places::take(&local, Use::Handshake, Some(Client::at(client.ip()))) {
        Ok(held) => Some(Accepted { client, local, under_way, held }),
        Err(refused) => {
            refused.finish(reported(context, &local, client));
            None
        }
    }
}

/// Serves its tunnel.
pub async fn run(context: Arc<Context>, realm: Arc<Realm>, stream: TcpStream, accepted: Accepted) {
    let Accepted { client, mut local, under_way, held } = accepted;
    fair::run_for(party::stranger(client.ip()));
    let handshake = handshake(&context, &realm, &mut local, stream).await;
    drop(under_way);
    match handshake {
        Ok((tls, protocol, Met { id: peer, standing, .. })) => {
            // Not before: who has no certificate takes no place from those who have.
            let identity = Client::Identity(peer.clone());
            let place = match places::take(&local, Use::Tunnel, Some(identity)) {
                Ok(place) => place,
                Err(refused) => {
                    let mut conn = reported(&context, &local, client);
                    conn.parties.security = Security::MutualTls;
                    conn.parties.source = Peer { workload: None, principal: Some(peer) };
                    return refused.finish(conn);
                }
            };
            drop(held);
            fair::run_for(party::peer(&peer, client.ip()));
            let ends = Ends { peer, local: local.workload.name.clone() };
            let tunnel = Shaken { context, realm, local, client, ends, standing, _place: place };
            Box::pin(tunnel.serve(tls, protocol)).await;
        }
        Err(failure) => refused(&context, &local, client, failure),
    }
}

/// A tunnel whose peer is known.
struct Shaken {
    context: Arc<Context>,
    realm: Arc<Realm>,
    local: Arc<Local>,
    client: SocketAddr,
    ends: Ends,
    standing: Arc<Standing>,
    _place: Held,
}

impl Shaken {
    /// Serves its streams.
    async fn serve(self, tls: Tls, protocol: Protocol) {
        let Self { context, realm, local, client, ends, standing, _place } = self;
        let counted = context.telemetry.tunnel_opened(protocol);
        let mut options = context.options.tunnels;
        // Held for as long as the tunnel; the native transport counts what really comes.
        let _promise = if protocol == Protocol::Hbone {
            let identity = Client::Identity(ends.peer.clone());
            match places::promise(&local, Use::Tunnel, Some(identity), options.hbone.wanted()) {
                Ok(promise) => {
                    options.hbone = options.hbone.within(promise.bytes());
                    Some(promise)
                }
                Err(refused) => {
                    let mut conn = reported(&context, &local, client);
                    conn.parties.security = Security::MutualTls;
                    conn.parties.source = Peer { workload: None, principal: Some(ends.peer) };
                    return refused.finish(conn);
                }
            }
        } else {
            None
        };
        let peer = &ends.peer;
        let handle = |open, incoming: Incoming| {
            // The peer opens its next tunnel with the certificate that it has now.
            if standing.stale(clock::now()).is_some() {
                return incoming.refuse_untaken();
            }
            let inbound = Inbound {
                context: Arc::clone(&context),
                realm: Arc::clone(&realm),
                local: Arc::clone(&local),
                peer: peer.clone(),
                tunnel: client,
            };
            local.scope.spawn(last_hop::run(inbound, open, incoming));
        };
        let retired = async {
            let reason = standing.staled().await;
            tracing::debug!(%client, %peer, %reason, "a peer's tunnel takes no more streams");
        };
        let cut = async {
            let reason = standing.fell().await;
            tracing::warn!(%client, %peer, %reason, "a peer's tunnel is ended");
        };
        let ending = Ending::within(&local.scope, retired, cut);
        let quota = |bounds| realm.quotas.of(&ends, bounds);
        let ping_timeout = options.native.as_ref().map(|native| native.ping_timeout);
        match tunnels::serve((tls, protocol), quota, &options, ending, handle).await {
            Err(error) if error.is_violation() => {
                context.telemetry.tunnel_violated(protocol);
                let reason = Failure::because(Kind::Protocol, Side::Client, Retry::Never, error);
                if let Some(mentioned) = context.telemetry.mention(Mention::Violation, peer) {
                    tracing::warn!(%client, %peer, reason = %reason.cause(),
                        left_out = mentioned.left_out,
                        "a peer's agent broke the protocol of its tunnel, which is closed");
                }
            }
            Err(error) if error.is_silence() => {
                let silent_ms = ping_timeout.unwrap_or_default().as_millis();
                if let Some(mentioned) = context.telemetry.mention(Mention::Silence, peer) {
                    tracing::warn!(%client, %peer, workload = %local.workload.name, silent_ms,
                        left_out = mentioned.left_out,
                        "a peer's agent does not answer: its tunnel is closed and the connections \
                         in it are reset; it opens another when it is back");
                }
            }
            Err(error) => tracing::debug!(%client, %peer, %error, "a peer's tunnel failed"),
            Ok(()) => {}
        }
        drop(counted);
    }
}

/// A handshake's place, until it is dropped.
struct UnderWay {
    realm: Arc<Realm>,
    node: Node,
    place: Place,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // The namespace's lock first, as in `admit`.
        self.realm.admission().finished(self.place, &mut self.node.lock());
    }
}

/// Whether a peer may begin a handshake. One that may not is counted, and mentioned now and then.
fn admit(context: &Context, realm: &Arc<Realm>, client: SocketAddr) -> Option<UnderWay> {
    let (node, now) = (&context.handshakes, Instant::now());
    let admitted = realm.admission().admit(client.ip(), &mut node.lock(), now);
    match admitted {
        Ok(place) => Some(UnderWay { realm: Arc::clone(realm), node: node.clone(), place }),
        Err(refused) => {
            context.telemetry.handshake_refused(refused.limit);
            let network = Network::from(client.ip());
            if let Some(count) = refused.mention
                && let Some(mentioned) = context.telemetry.mention(Mention::Handshakes, network)
            {
                tracing::warn!(client = %client.ip(), limit = refused.limit.as_str(), count,
                    left_out = mentioned.left_out,
                    "a peer's handshakes are refused: there are too many");
            }
            None
        }
    }
}

/// Makes sure who the peer is. `local` becomes the workload that it asks for by name, if it does.
async fn handshake(
    context: &Context,
    realm: &Realm,
    local: &mut Arc<Local>,
    stream: TcpStream,
) -> Result<(Tls, Protocol, Met), Failure> {
    // An error of an identity is said in our words, not in those of rustls.
    let failed = |error: io::Error| match peer_error(&error) {
        Some(peer) => Failure::because(Kind::Identity, Side::Client, Retry::Never, peer),
        None => Failure::because(Kind::Tls, Side::Client, Retry::Safe, error),
    };
    socket::limit_unacknowledged(&stream, context.options.peer_timeout).map_err(failed)?;
    let accepting = async {
        let hello = handshake::hello(stream).await?;
        let name = hello.server_name().and_then(server_name::workload);
        if let Some(named) = name.and_then(|name| realm.local_named(&name)) {
            *local = named;
        }
        let accept = local.server.accept();
        let shaken = hello.accept(accept.config()).await?;
        let peer = accept.check(shaken.session())?;
        let protocol = tunnels::named(shaken.session().alpn_protocol());
        let protocol =
            protocol.ok_or_else(|| io::Error::other("the peer does not offer ALPN h2"))?;
        Ok((shaken.into_stream()?, protocol, peer))
    };
    let (tls, protocol, peer) = match timeout(context.options.handshake_timeout, accepting).await {
        Ok(result) => result.map_err(failed)?,
        Err(_elapsed) => return Err(Failure::new(Kind::Timeout, Side::Client, Retry::Safe)),
    };
    context.telemetry.handshake_done(Role::Server, peer.resumed);
    Ok((tls, protocol, peer))
}

/// Reports a peer that was refused.
fn refused(context: &Context, local: &Local, client: SocketAddr, failure: Failure) {
    context.telemetry.handshake_failed(Role::Server, failure.kind);
    let network = Network::from(client.ip());
    if let Some(mentioned) = context.telemetry.mention(Mention::Peer, network) {
        tracing::warn!(%client, workload = %local.workload.name, failure = failure.kind.code(),
            reason = %failure.cause(), left_out = mentioned.left_out, "refused a peer's agent");
    }
    reported(context, local, client).finish(Err(failure));
}

/// The report of a peer that gets no tunnel.
fn reported(context: &Context, local: &Local, client: SocketAddr) -> Conn {
    let address = local.workload.addresses.first().map_or(client.ip(), |address| *address);
    let destination = SocketAddr::new(address, HBONE_PORT);
    let mut conn = Conn::new(&context.telemetry, Reporter::Destination, client, destination);
    conn.parties.destination = Peer {
        workload: Some(Arc::clone(&local.workload)),
        principal: Some(local.identity.id().clone()),
    };
    conn
}
