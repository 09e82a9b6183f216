//! Reaches an endpoint: a stream in a tunnel where an agent serves it, or plain TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mesh_common::HBONE_PORT;
use rustls::CommonState;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::bounds::{Held, Limit, Promise, Use};
use crate::failure::{Failure, Kind, Retry, Side};
use crate::hbone::connect::Open;
use crate::identity::tls::{Dial, Met, Target};
use crate::identity::verify::{PeerError, peer_error};
use crate::io::leg::Leg;
use crate::io::tls;
use crate::io::tls::handshake;
use crate::model::snapshot::Endpoint;
use crate::model::trace::Trace;
use crate::proxy::Context;
use crate::proxy::places;
use crate::proxy::realm::{Local, Realm};
use crate::proxy::refusal::{Refusal, Watched};
use crate::proxy::server_name;
use crate::sys::socket;
use crate::telemetry::{Protocol, Role};
use crate::tunnels::pool::{Key, Pool};
use crate::tunnels::{self, Dialed, Lease, Stream, Validity};

/// How long one attempt to connect to a peer's agent takes: the first SYN and the one that Linux sends
/// a second later (RFC 6298, section 2), so that there is one each second.
const CONNECT_AGAIN: Duration = Duration::from_secs(2);

/// A TLS connection to a peer's agent.
type Tls = Watched<tls::stream::Stream<TcpStream>>;

/// The way to an endpoint.
#[derive(Debug)]
pub enum Upstream {
    /// A stream in a tunnel. The lease keeps its place.
    Mesh(Stream, Lease),
    /// A TCP connection in plaintext, to an endpoint that no agent serves.
    Plain(Leg),
}

/// The source of a connection, its data thread, and its use.
#[derive(Clone, Copy)]
pub struct Reach<'a> {
    /// The namespace that the connection leaves from.
    pub realm: &'a Realm,
    /// The data thread.
    pub worker: usize,
    /// The source.
    pub local: &'a Local,
    /// The client's real address.
    pub client: SocketAddr,
    /// The endpoint's address is also that of other workloads.
    pub shared: bool,
    /// The trace that the connection belongs to.
    pub trace: Option<Trace>,
    /// The service's name, for the peer's log.
    pub hostname: Option<&'a str>,
}

/// Reaches `endpoint`.
///
/// # Errors
///
/// It could not be reached, or is not who it must be: a [`Failure`] on the upstream's side.
pub async fn reach(
    context: &Context,
    from: Reach<'_>,
    endpoint: &Endpoint,
) -> Result<Upstream, Failure> {
    if endpoint.workload.node.is_none() {
        let connected = plain(context, from, endpoint.address).await;
        let leg = connected.map(|(stream, held)| Leg::holding(stream, Some(held)));
        return leg.map(Upstream::Plain).map_err(classify);
    }
    let key = key(from, endpoint);
    let client = Some(from.client);
    let open = Open { destination: endpoint.address, client, trace: from.trace };
    let pool = from
        .realm
        .pools
        .get(from.worker)
        .ok_or_else(|| Failure::new(Kind::Internal, Side::Mesh, Retry::Safe))?;
    let attempt = Attempt::default();
    let dial = || Box::pin(dial(context, from, &key, &attempt));
    // A tunnel is rarely opened: its state is not carried by every connection's task.
    let reached = Box::pin(pool.stream(&key, &open, from.hostname, dial)).await;
    attempt.over(context, from.realm, &key, reached)
}

/// The result of one connection's dials: none in most cases, and two at most.
#[derive(Default)]
struct Attempt {
    /// The peer was dialed.
    dialed: AtomicBool,
    /// Why it was not: it has just failed.
    held: OnceLock<Failure>,
    /// Why the peer has refused us.
    refusal: Refusal,
}

impl Attempt {
    /// Remembers whether the peer could be reached, if that was tried.
    fn over(
        self,
        context: &Context,
        realm: &Realm,
        key: &Key,
        reached: Result<(Stream, Lease), tunnels::Error>,
    ) -> Result<Upstream, Failure> {
        let dialed = self.dialed.load(Ordering::Relaxed);
        let error = match reached {
            Ok((stream, lease)) => {
                if dialed {
                    realm.breaker().forget(key);
                }
                return Ok(Upstream::Mesh(stream, lease));
            }
            Err(error) => error,
        };
        let is_costly = is_costly(&error);
        let failure = match (self.refusal.get(), self.held.into_inner()) {
            (Some(peer), _) => {
                context.telemetry.handshake_failed(Role::Client, Kind::Identity);
                let peer = peer.clone();
                Failure::because(Kind::Identity, Side::Upstream, Retry::Never, peer)
            }
            (None, Some(failure)) => {
                context.telemetry.dial_held();
                failure
            }
            (None, None) => classify(error),
        };
        if dialed && is_costly {
            realm.breaker().failed(key, failure.again(), Instant::now(), rand::random());
        } else if dialed {
            realm.breaker().forget(key);
        }
        Err(failure)
    }
}

/// Whether a peer that was dialed in vain is left alone for a while: a handshake was made or begun,
/// or time was lost. Where nobody listens, asking costs a packet.
fn is_costly(error: &tunnels::Error) -> bool {
    match error {
        tunnels::Error::Connect(error) => {
            error.kind() != io::ErrorKind::ConnectionRefused && !is_over_limit(error)
        }
        tunnels::Error::Refused { .. } => false,
        tunnels::Error::H2(_)
        | tunnels::Error::Native(_)
        | tunnels::Error::Timeout
        | tunnels::Error::Tls(_)
        | tunnels::Error::Unheard => true,
    }
}

/// The parts that a task of its own needs to reach an endpoint. A stream may end before the tunnel
/// is open that it asks for; a handshake that is given up halfway would be a failure in the peer's
/// log, and wasted.
struct Way {
    context: Arc<Context>,
    realm: Arc<Realm>,
    local: Arc<Local>,
    worker: usize,
    client: SocketAddr,
    shared: bool,
    key: Key,
}

impl Way {
    /// The way of `from`, whose parts `realm` and `local` are.
    fn new(
        context: &Arc<Context>,
        (realm, local): (&Arc<Realm>, &Arc<Local>),
        from: Reach<'_>,
        endpoint: &Endpoint,
    ) -> Self {
        Self {
            context: Arc::clone(context),
            realm: Arc::clone(realm),
            local: Arc::clone(local),
            worker: from.worker,
            client: from.client,
            shared: from.shared,
            key: key(from, endpoint),
        }
    }

    fn pool(&self) -> Option<&Pool> {
        self.realm.pools.get(self.worker)
    }

    /// See [`dial`].
    async fn dial(&self, attempt: &Attempt) -> Result<Dialed<Tls>, tunnels::Error> {
        let from = Reach {
            realm: &self.realm,
            worker: self.worker,
            local: &self.local,
            client: self.client,
            shared: self.shared,
            trace: None,
            hostname: None,
        };
        dial(&self.context, from, &self.key, attempt).await
    }
}

/// Opens another tunnel to where `endpoint` is, in the background, if all that there are carry bulk
/// transfers and there may be one more. `owners` are the realm and the workload of `from`.
pub fn another(
    context: &Arc<Context>,
    owners: (&Arc<Realm>, &Arc<Local>),
    from: Reach<'_>,
    endpoint: &Endpoint,
) {
    let way = Way::new(context, owners, from, endpoint);
    if !way.pool().is_some_and(|pool| pool.is_crowded(&way.key)) {
        return;
    }
    let scope = way.realm.scope.clone();
    scope.spawn(Box::pin(async move {
        let Some(pool) = way.pool() else { return };
        let attempt = Attempt::default();
        let widening = pool.widen(&way.key, || way.dial(&attempt));
        tokio::select! {
            biased;
            () = way.realm.scope.draining() => {}
            () = widening => {}
        }
    }));
}

/// Which tunnels may carry a stream to `endpoint`.
fn key(from: Reach<'_>, endpoint: &Endpoint) -> Key {
    Key {
        source: from.local.identity.id().clone(),
        peer: SocketAddr::new(endpoint.address.ip(), HBONE_PORT),
        destination: endpoint.workload.identity.clone(),
        workload: from.shared.then(|| endpoint.workload.name.clone()),
    }
}

async fn plain(
    context: &Context,
    from: Reach<'_>,
    to: SocketAddr,
) -> Result<(TcpStream, Held), tunnels::Error> {
    let held = places::take(from.local, Use::Outbound, None)
        .map_err(|refused| tunnels::Error::Connect(io::Error::other(refused.limit)))?;
    let socket = from.realm.socket(context, to).map_err(tunnels::Error::Connect)?;
    match timeout(context.options.connect_timeout, socket.connect(to)).await {
        Ok(connected) => Ok((connected.map_err(tunnels::Error::Connect)?, held)),
        Err(_elapsed) => Err(tunnels::Error::Timeout),
    }
}

/// Connects to a peer's agent. Where packets are lost, Linux asks again after 1, 3 and 7 s, and others
/// wait for this connection: it is begun anew, so that a peer that can be reached again is found
/// within a second.
async fn connect(
    context: &Context,
    from: Reach<'_>,
    peer: SocketAddr,
) -> Result<(TcpStream, Held), tunnels::Error> {
    let connecting = async {
        loop {
            if let Ok(connected) = timeout(CONNECT_AGAIN, plain(context, from, peer)).await {
                return connected;
            }
        }
    };
    let limit = context.options.connect_timeout;
    timeout(limit, connecting).await.unwrap_or(Err(tunnels::Error::Timeout))
}

/// Connects to a peer's agent, unless that has just failed, and makes sure that it is the
/// destination's identity. A refusal of ours turns out later. Further facts are left
/// in `attempt`.
async fn dial(
    context: &Context,
    from: Reach<'_>,
    key: &Key,
    attempt: &Attempt,
) -> Result<Dialed<Tls>, tunnels::Error> {
    // A connection that may dial may do so on a second tunnel too.
    if !attempt.dialed.load(Ordering::Relaxed) {
        let held = from.realm.breaker().held(key, Instant::now());
        if let Some(failure) = held {
            // It is not asked again: what is returned here ends the attempt.
            let _second: Result<(), Failure> = attempt.held.set(failure);
            return Err(tunnels::Error::Timeout);
        }
        attempt.dialed.store(true, Ordering::Relaxed);
    }
    let (stream, held) = connect(context, from, key.peer).await?;
    let timeout_of_peer = context.options.peer_timeout;
    socket::limit_unacknowledged(&stream, timeout_of_peer).map_err(tunnels::Error::Connect)?;
    // The peer chooses its certificate by the address; a name is sent only where that is not
    // enough, because anyone on the way can read it.
    let name = key.workload.as_ref().and_then(server_name::of);
    let name = name.unwrap_or_else(|| ServerName::from(key.peer.ip()));
    let target = Target { peer: key.peer, expected: vec![key.destination.clone()], name };
    let dial = from.local.clients.dial(&target);
    let shaking = async {
        let shaken = handshake::connect(dial.config(), dial.name(), stream).await?;
        let (peer, protocol) = met(&dial, shaken.session())?;
        Ok((shaken.into_stream()?, peer, protocol))
    };
    let error = match timeout(context.options.handshake_timeout, shaking).await {
        Ok(Ok((tls, peer, protocol))) => {
            context.telemetry.handshake_done(Role::Client, peer.resumed);
            let validity = Validity { ours: dial.not_after(), peer: Arc::clone(&peer.standing) };
            let promise = promise(context, from.local, protocol)?;
            let bytes = promise.as_ref().map(Promise::bytes);
            let kept = (held, promise);
            let io = Watched::new(tls, Arc::clone(&attempt.refusal), peer.standing, kept);
            return Ok(Dialed { io, protocol, validity, bytes });
        }
        Ok(Err(error)) => tunnels::Error::Tls(error),
        Err(_elapsed) => tunnels::Error::Timeout,
    };
    context.telemetry.handshake_failed(Role::Client, kind(&error).0);
    Err(error)
}

/// The bytes that a tunnel of HBONE may make the agent keep; the native transport counts what really comes.
fn promise(
    context: &Context,
    local: &Local,
    protocol: Protocol,
) -> Result<Option<Promise>, tunnels::Error> {
    if protocol == Protocol::Native {
        return Ok(None);
    }
    let wanted = context.options.tunnels.hbone.wanted();
    let promised = places::promise(local, Use::Outbound, None, wanted);
    promised.map(Some).map_err(|refused| tunnels::Error::Connect(io::Error::other(refused.limit)))
}

/// The verified peer, and the protocol that is spoken with it.
fn met(dial: &Dial, session: &CommonState) -> io::Result<(Met, Protocol)> {
    let peer = dial.check(session)?;
    let protocol = tunnels::named(session.alpn_protocol());
    let protocol = protocol.ok_or_else(|| io::Error::other("the peer does not offer ALPN h2"))?;
    Ok((peer, protocol))
}

/// A [`Failure`] of the upstream's side. An error of an identity is said in our words:
/// rustls prints the fields of what it does not know.
pub fn classify(error: tunnels::Error) -> Failure {
    let (kind, retry) = kind(&error);
    // It is the application that has so many.
    let side = if kind == Kind::Limit { Side::Client } else { Side::Upstream };
    match about_identity(&error) {
        Some(peer) => Failure::because(kind, side, retry, peer),
        None => Failure::because(kind, side, retry, error),
    }
}

/// Whether there is no place for the socket.
fn is_over_limit(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Limit>)
}

/// The part of an error that is about the peer's identity or ours.
fn about_identity(error: &tunnels::Error) -> Option<PeerError> {
    match error {
        tunnels::Error::Tls(error) => peer_error(error),
        tunnels::Error::Connect(_)
        | tunnels::Error::H2(_)
        | tunnels::Error::Native(_)
        | tunnels::Error::Refused { .. }
        | tunnels::Error::Timeout
        | tunnels::Error::Unheard => None,
    }
}

/// The meaning of an error. Nothing of the application's has been sent in any of these.
fn kind(error: &tunnels::Error) -> (Kind, Retry) {
    if about_identity(error).is_some() {
        return (Kind::Identity, Retry::Never);
    }
    if error.is_violation() {
        return (Kind::Protocol, Retry::Safe);
    }
    match error {
        // TLS that failed later than in the handshake; or the peer has gone away.
        tunnels::Error::H2(error) => match error.get_io().map(io::Error::kind) {
            Some(io::ErrorKind::InvalidData) => (Kind::Tls, Retry::Safe),
            Some(_) => (Kind::Reset, Retry::Safe),
            None => (Kind::Protocol, Retry::Safe),
        },
        tunnels::Error::Native(error) => match error.io().map(io::Error::kind) {
            Some(io::ErrorKind::InvalidData) => (Kind::Tls, Retry::Safe),
            _ => (Kind::Reset, Retry::Safe),
        },
        tunnels::Error::Refused { protocol: Protocol::Hbone, status } => {
            Kind::of_hbone_status(*status)
        }
        tunnels::Error::Refused { protocol: Protocol::Native, status } => {
            Kind::of_native_status(*status)
        }
        tunnels::Error::Timeout | tunnels::Error::Unheard => (Kind::Timeout, Retry::Safe),
        tunnels::Error::Connect(error) if is_over_limit(error) => (Kind::Limit, Retry::Safe),
        tunnels::Error::Connect(_) => (Kind::Connect, Retry::Safe),
        tunnels::Error::Tls(_) => (Kind::Tls, Retry::Safe),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_keep_their_meaning() {
        for failed in Kind::ALL {
            let status = failed.connect_status();
            let of = |protocol| kind(&tunnels::Error::Refused { protocol, status }).0;
            let expect = match failed {
                Kind::Denied | Kind::Egress | Kind::Plaintext => Kind::Denied,
                Kind::Identity => Kind::Identity,
                Kind::NoOrigin | Kind::Protocol => Kind::Protocol,
                Kind::Timeout => Kind::Timeout,
                _ => Kind::Connect,
            };
            assert_eq!(of(Protocol::Native), expect, "{failed:?}");
            // Others say no more of an identity than that it is denied.
            let expect = if expect == Kind::Identity { Kind::Denied } else { expect };
            assert_eq!(of(Protocol::Hbone), expect, "{failed:?}");
        }
    }
}
