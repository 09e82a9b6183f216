//! The life of an inbound connection: one stream of a tunnel, to the application.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::failure::{Failure, Kind, Retry, Side};
use crate::hbone::connect::{Open, RequestError};
use crate::io::leg::Leg;
use crate::io::relay::{RelayError, Unsent};
use crate::model::snapshot::Snapshot;
use crate::model::spiffe::SpiffeId;
use crate::model::workload::Workload;
use crate::proxy::conn::Conn;
use crate::proxy::inbound::application::{Arrival, Scrutiny};
use crate::proxy::inbound::requests;
use crate::proxy::realm::{Local, Realm, Resident};
use crate::proxy::{Context, client_end};
use crate::telemetry::{Peer, Reporter, Security};
use crate::tunnels::{Counts, Ended, Incoming};

/// A stream's surroundings.
pub struct Inbound {
    /// The state that all connections share.
    pub context: Arc<Context>,
    /// The destination's namespace.
    pub realm: Arc<Realm>,
    /// The workload whose certificate the tunnel was given.
    pub local: Arc<Local>,
    /// The identity that the peer has proved.
    pub peer: SpiffeId,
    /// Where the tunnel came from.
    pub tunnel: SocketAddr,
}

/// Serves one stream. Steps that need no waiting are done at once: the future holds only the rest.
pub fn run(
    inbound: Inbound,
    open: Result<Open, RequestError>,
    incoming: Incoming,
) -> impl Future<Output = ()> + Send {
    let (context, mut conn, judged) = begin(inbound, open);
    async move {
        let served = match judged {
            Ok((arrival, scrutiny)) => match arrival.connect(&context, &mut conn).await {
                Ok(application) if scrutiny == Scrutiny::Nothing => {
                    relay(&context, &arrival, application, incoming, &mut conn).await
                }
                // Few connections come here, and they need room.
                Ok(application) => {
                    Box::pin(looked_at(context, arrival, application, incoming, &mut conn)).await
                }
                Err(failure) => refuse(incoming, failure),
            },
            Err(failure) => refuse(incoming, failure),
        };
        conn.finish(served);
    }
}

/// A connection that may be, and what of it is looked at.
type Judged = Result<(Arrival, Scrutiny), Failure>;

/// The arrival that a stream asks for, if it may be.
fn begin(inbound: Inbound, open: Result<Open, RequestError>) -> (Arc<Context>, Conn, Judged) {
    let Inbound { context, realm, local, peer, tunnel } = inbound;
    let claimed = open.as_ref().ok().and_then(|open| open.client);
    let mesh = context.mesh.load();
    let (client, source) = client(&mesh, claimed, tunnel, &peer);
    let to = open.as_ref().map_or(SocketAddr::new(tunnel.ip(), 0), |open| open.destination);
    let mut conn = Conn::new(&context.telemetry, Reporter::Destination, client, to);
    // Loopback is the host's own: an application that listens there only is reached from there only.
    let is_own = to.ip().to_canonical().is_loopback();
    let found = if is_own { None } else { realm.local_within(&mesh, to, &local) };
    let known = found.as_ref().unwrap_or(&local);
    conn.parties.security = Security::MutualTls;
    conn.parties.source = Peer { workload: source, principal: Some(peer.clone()) };
    conn.parties.destination = Peer {
        workload: Some(Arc::clone(&known.workload)),
        principal: Some(known.identity.id().clone()),
    };
    conn.trace = open.as_ref().ok().and_then(|open| open.trace);
    conn.established();
    let judged = arrive(open, found, &local, Arc::clone(&realm))
        .map(|(there, to)| Arrival::new(&mesh, there, to, (client, Some(peer))))
        .and_then(|arrival| arrival.judged(&mesh, &mut conn));
    drop(mesh);
    (context, conn, judged)
}

/// The destination of the stream, if it is for `found`, a workload that may be behind this tunnel.
fn arrive(
    open: Result<Open, RequestError>,
    found: Option<Arc<Local>>,
    tunnel: &Local,
    realm: Arc<Realm>,
) -> Result<(Resident, SocketAddr), Failure> {
    let refused = |error| Failure::because(Kind::Protocol, Side::Client, Retry::Never, error);
    let to = open.map_err(|error| refused(error.to_string()))?.destination;
    let nobody = || {
        let name = &tunnel.workload.name;
        refused(format!("{to} is neither of {name} nor of another workload with its identity"))
    };
    let local = found.ok_or_else(nobody)?;
    Ok((Resident { realm, local }, to))
}

/// Tells the peer.
fn refuse(incoming: Incoming, failure: Failure) -> Result<(), Failure> {
    incoming.refuse(failure.kind.connect_status());
    Err(failure)
}

/// Answers the peer, and moves bytes for as long as the policies allow.
async fn relay(
    context: &Context,
    arrival: &Arrival,
    mut application: Leg,
    incoming: Incoming,
    conn: &mut Conn,
) -> Result<(), Failure> {
    let stream = incoming
        .accept()
        .map_err(|error| Failure::because(Kind::Reset, Side::Client, Retry::Safe, error))?;
    let counts = Counts { to_peer: &conn.carried.received, from_peer: &conn.carried.sent };
    let patience = context.options.tunnels.answer_timeout;
    // The peer's agent, who has opened the tunnel, opens further ones.
    let copied = stream.relay(&mut application, Unsent::new(), counts, patience, || {});
    let copied = tokio::select! {
        biased;
        copied = copied => copied,
        forbidden = arrival.forbidden(context.mesh.clone(), Scrutiny::Nothing) => return Err(forbidden.note(conn)),
    };
    copied.map_err(|error| {
        if error.is_unread() {
            return Failure::because(Kind::Unread, Side::Mesh, Retry::IfIdempotent, error);
        }
        let (kind, side) = match error {
            Ended::Relay(RelayError::Application(_)) => (Kind::Reset, Side::Upstream),
            _ => (client_end::kind(&error), Side::Client),
        };
        Failure::because(kind, side, Retry::IfIdempotent, error)
    })
}

/// Answers the peer, and serves requests for as long as the policies allow.
async fn looked_at(
    context: Arc<Context>,
    arrival: Arrival,
    application: Leg,
    incoming: Incoming,
    conn: &mut Conn,
) -> Result<(), Failure> {
    let failed = |error| Failure::because(Kind::Reset, Side::Client, Retry::Safe, error);
    let stream = incoming.accept().map_err(failed)?;
    let io = stream.into_io(context.options.tunnels.answer_timeout).await.map_err(failed)?;
    requests::serve(context, arrival, (io, application), conn).await
}

/// The client that is shown to the application, and which workload that is.
///
/// A peer's claim counts only if the workload at that address has the identity that the peer has
/// proved; otherwise it is whoever opened the tunnel.
fn client(
    mesh: &Snapshot,
    claimed: Option<SocketAddr>,
    tunnel: SocketAddr,
    peer: &SpiffeId,
) -> (SocketAddr, Option<Arc<Workload>>) {
    let proved = |address: IpAddr| {
        let workloads = mesh.by_address.get(&address)?;
        workloads.iter().find(|workload| workload.identity == *peer).cloned()
    };
    let tunnel = SocketAddr::new(tunnel.ip().to_canonical(), tunnel.port());
    // No client has port 0, which would mean that the application is to see no address at all.
    if let Some(claimed) = claimed.filter(|claimed| claimed.port() != 0)
        && let Some(workload) = proved(claimed.ip())
    {
        return (claimed, Some(workload));
    }
    (tunnel, proved(tunnel.ip()))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;
    use crate::model::id::ResourceName;
    use crate::model::workload::Place;

    fn id(account: &str) -> SpiffeId {
        SpiffeId::new("cluster.local", "demo", account).unwrap()
    }

    fn mesh() -> Snapshot {
        let workload = |name: &str, address: &str| {
            let workload = Workload {
                name: ResourceName::new("demo", name),
                identity: id(name),
                node: Some("a".into()),
                addresses: vec![address.parse().unwrap()],
                labels: BTreeMap::new(),
                ports: Vec::new(),
                probes: Vec::new(),
                ready: true,
                place: Place::Unplaced,
            };
            (address.parse().unwrap(), vec![Arc::new(workload)])
        };
        let by_address = HashMap::from([workload("web", "10.0.0.1"), workload("db", "10.0.0.2")]);
        Snapshot { by_address, ..Snapshot::default() }
    }

    #[track_caller]
    fn check(claimed: Option<&str>, tunnel: &str, peer: &str, expect: (&str, Option<&str>)) {
        let claimed = claimed.map(|claimed| claimed.parse().unwrap());
        let (shown, workload) = client(&mesh(), claimed, tunnel.parse().unwrap(), &id(peer));
        let name = workload.as_ref().map(|workload| &*workload.name.name);
        assert_eq!((shown.to_string().as_str(), name), expect);
    }

    #[test]
    fn a_claim_counts_if_the_identity_matches() {
        let web = ("10.0.0.1:5", Some("web"));
        check(Some("10.0.0.1:5"), "10.0.0.1:9", "web", web);
        check(Some("10.0.0.1:5"), "192.168.0.1:9", "web", web);
        check(Some("10.0.0.1:0"), "192.168.0.1:9", "web", ("192.168.0.1:9", None));
    }

    #[test]
    fn another_workloads_address_cannot_be_claimed() {
        check(Some("10.0.0.1:5"), "10.0.0.2:9", "db", ("10.0.0.2:9", Some("db")));
        check(Some("10.9.9.9:5"), "[::ffff:10.0.0.2]:9", "db", ("10.0.0.2:9", Some("db")));
        check(None, "10.9.9.9:9", "db", ("10.9.9.9:9", None));
    }
}
