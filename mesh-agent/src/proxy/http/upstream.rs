//! A connection to an endpoint, by the way that any connection of the workload goes there.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::failure::{Failure, Kind, Retry, Side};
use crate::io::copy::Carried;
use crate::io::counted;
use crate::io::tied::Tie;
use crate::model::id::ResourceName;
use crate::model::service::Service;
use crate::model::snapshot::{Endpoint, Snapshot};
use crate::proxy;
use crate::proxy::conn::Conn;
use crate::proxy::http::Site;
use crate::proxy::http::body::{Body, BodyError};
use crate::proxy::http::detect::Version;
use crate::proxy::http::front::Front;
use crate::proxy::http::http2::client;
use crate::proxy::http::places::Places;
use crate::proxy::http::pool::{DRAINING_IDLE, IDLE, Key, Sender, Shared, Way};
use crate::proxy::http::setup::{self, Http2};
use crate::proxy::inbound::application::Forbidden;
use crate::proxy::outbound::same_node::{self, Opened};
use crate::proxy::places::Refused;
use crate::proxy::upstream::{self, Reach, Upstream, reach};
use crate::task::fair::{self, Party};
use crate::telemetry::{Parties, Peer, Reporter, RequestSeries};
use crate::tunnels::{Io, Lease};

/// The parts that live as long as a connection.
struct Kept {
    /// Its place on a tunnel.
    _lease: Option<Lease>,
    /// Its other end, if that is on this node.
    opened: Option<Opened>,
}

/// A connection as it is reported when it ends, with what lives as long.
pub struct Report {
    conn: Conn,
    kept: Kept,
}

impl Report {
    /// Where requests that the connection carries are counted.
    pub fn requests(&self) -> Option<RequestSeries> {
        self.conn.requests()
    }

    /// Why the connection may not be any more, as far as policies of this node say.
    pub fn refusal(&self, context: &proxy::Context) -> Option<Forbidden> {
        self.kept.opened.as_ref()?.refusal(context)
    }

    /// Waits until policies forbid it.
    pub async fn forbidden(&self, context: &proxy::Context) -> Forbidden {
        match &self.kept.opened {
            Some(opened) => opened.forbidden(context).await,
            None => pending().await,
        }
    }

    /// Reports that it may not be any more.
    pub fn forbid(mut self, forbidden: Forbidden) -> Failure {
        let failure = match &mut self.kept.opened {
            Some(opened) => forbidden.note(&mut opened.far),
            None => forbidden.note(&mut self.conn),
        };
        self.finish(Err(failure.again()));
        failure
    }

    /// Reports the end, whose reason `result` is.
    pub fn finish(mut self, result: Result<(), Failure>) {
        if let Some(opened) = self.kept.opened {
            opened.finish(&mut self.conn, &result);
        }
        self.conn.finish(result);
    }
}

/// The destination of a request.
#[derive(Clone, Debug)]
pub struct To {
    /// The service that the backend is.
    pub service: Option<Arc<Service>>,
    /// The route that says so.
    pub route: Option<Arc<ResourceName>>,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The version that is spoken.
    pub version: Version,
}

impl To {
    /// Which connections may carry a request of `site`.
    pub fn key(&self, site: &Site) -> Key {
        Key {
            source: site.local.workload.name.clone(),
            identity: site.local.identity.id().clone(),
            destination: self.endpoint.workload.name.clone(),
            endpoint: self.endpoint.address,
            way: Way::of(&site.context.mesh.load(), &site.local.workload, &self.endpoint),
            version: self.version,
        }
    }
}

/// Makes a connection for requests with this key, whose own task reports it when it ends.
///
/// # Errors
///
/// It could not be made, or may not be.
pub async fn connect(site: &Site, to: &To, key: &Key) -> Result<Sender, Failure> {
    let (io, report) = open(site, to).await?;
    spoken(site, key, io, report).await
}

/// Makes a connection, which is reported by whoever has it.
///
/// # Errors
///
/// It could not be made, or may not be, and that was reported.
pub async fn open(site: &Site, to: &To) -> Result<(Counted, Report), Failure> {
    let context = &*site.context;
    let mut conn = Conn::new(&context.telemetry, Reporter::Source, site.client, site.destination);
    match make(site, to, &mut conn).await {
        Ok((io, kept)) => {
            let io = Counted::new(io, Arc::clone(&conn.carried));
            Ok((io, Report { conn, kept }))
        }
        Err(failure) => {
            let again = failure.again();
            conn.finish(Err(failure));
            Err(again)
        }
    }
}

/// The parties of requests of `site` to `service`, before an endpoint is chosen.
pub fn parties(site: &Site, service: Option<&Arc<Service>>) -> Parties {
    let source = Peer {
        workload: Some(Arc::clone(&site.local.workload)),
        principal: Some(site.local.identity.id().clone()),
    };
    Parties { source, service: service.cloned(), ..Parties::unknown(Reporter::Source) }
}

async fn make(site: &Site, to: &To, conn: &mut Conn) -> Result<(Box<dyn Io>, Kept), Failure> {
    let (context, local) = (&*site.context, &*site.local);
    let mesh = context.mesh.load();
    let endpoint = &now(&mesh, &to.endpoint)?;
    let resident = same_node::destination(context, &mesh, local, endpoint);
    conn.parties = parties(site, to.service.as_ref());
    conn.towards(endpoint, resident.is_some());
    conn.route = to.route.as_deref().cloned();
    conn.trace = site.trace;
    let shared = mesh.is_shared(endpoint.address.ip());
    drop(mesh);
    conn.established();
    if let Some(resident) = resident {
        let ends = (site.client, endpoint.address);
        let (leg, opened) = Box::pin(same_node::open(context, local, ends, resident, conn)).await?;
        let kept = Kept { _lease: None, opened: Some(opened) };
        return Ok((Box::new(Front::of_server(leg)), kept));
    }
    let hostname = to.service.as_ref().map(|service| &*service.hostname);
    let from = Reach {
        realm: &site.realm,
        worker: site.worker,
        local,
        client: site.client,
        shared,
        trace: site.trace,
        hostname,
    };
    let patience = context.options.tunnels.answer_timeout;
    let mut is_first = true;
    loop {
        let (stream, lease) = match reach(context, from, endpoint).await? {
            Upstream::Plain(leg) => {
                let kept = Kept { _lease: None, opened: None };
                return Ok((Box::new(Front::of_server(leg)), kept));
            }
            Upstream::Mesh(stream, lease) => (stream, lease),
        };
        match stream.into_io(patience).await {
            Ok(io) => {
                return Ok((io, Kept { _lease: Some(lease), opened: None }));
            }
            Err(error) if is_first && error.is_stale_tunnel() => {
                lease.close();
                is_first = false;
            }
            Err(error) => return Err(upstream::classify(error)),
        }
    }
}

/// The endpoint as it is now: it was chosen before the body of the request had come, or before a pause.
///
/// # Errors
///
/// Its address or its port is not that workload's any more, and may be another one's.
fn now(mesh: &Snapshot, endpoint: &Endpoint) -> Result<Endpoint, Failure> {
    let Endpoint { address, workload } = endpoint;
    let there = mesh.workloads.get(&workload.name).filter(|now| mesh.listens(now, *address));
    let workload = there.cloned().ok_or_else(|| {
        let cause = format!("{address} is not {}'s any more", workload.name);
        Failure::because(Kind::NoEndpoint, Side::Upstream, Retry::Safe, cause)
    })?;
    Ok(Endpoint { address: *address, workload })
}

/// Begins HTTP on a connection.
async fn spoken(site: &Site, key: &Key, io: Counted, report: Report) -> Result<Sender, Failure> {
    let failed =
        |error: BodyError| Failure::because(Kind::Protocol, Side::Upstream, Retry::Safe, error);
    match key.version {
        Version::Http1 => {
            // The stream that it becomes, if a request switches protocols, is still the same connection.
            let (io, tie) = Tie::to(io);
            let handshake = setup::http1_client().handshake::<_, Body>(TokioIo::new(io));
            let (sender, driving) = handshake.await.map_err(|error| failed(error.into()))?;
            let driving = driving.with_upgrades();
            drive(site, key, report, (None, Some(tie)), async { Ok(driving.await?) });
            Ok(Sender::Http1(sender))
        }
        Version::Http2 => {
            let (most, promise) = Http2::shared(&site.local).map_err(Refused::failure)?;
            let begun = client::begin(io, &site.local.scope, most).await;
            let (requests, places, mut connection) = begun.map_err(|error| failed(error.into()))?;
            let shared = Shared::new(requests, places.clone());
            // Before others may have them.
            let own = shared
                .sender()
                .ok_or_else(|| Failure::new(Kind::Reset, Side::Upstream, Retry::Safe))?;
            let (mut tell, told) = oneshot::channel();
            // Requests that are under way have their answers, also when policies forbid further ones.
            site.local.scope.spawn(Box::pin(async move {
                fair::run_for(Party::own());
                let moving = poll_fn(|cx| {
                    if tell.poll_closed(cx).is_ready() {
                        connection.close();
                    }
                    Pin::new(&mut connection).poll(cx)
                });
                let ended = moving.await;
                let _unheard = tell.send(ended);
                drop(promise);
            }));
            let driving = async { told.await.unwrap_or(Ok(())) };
            drive(site, key, report, (Some(places), None), driving);
            if let Some(pool) = site.realm.http.get(site.worker) {
                pool.share(key, shared);
            }
            Ok(own)
        }
    }
}

/// Drives a connection until it ends, and reports it. `places`: of one that several requests share; `tie`: of
/// one that may become something else than HTTP.
fn drive<Driving>(
    site: &Site,
    key: &Key,
    report: Report,
    (places, mut tie): (Option<Places>, Option<Tie>),
    driving: Driving,
) where
    Driving: Future<Output = Result<(), BodyError>> + Send + 'static,
{
    let (site, key, scope) = (site.clone(), key.clone(), site.local.scope.clone());
    let draining = scope.clone();
    scope.spawn(Box::pin(async move {
        // Not the one's who had it opened: others use it too.
        fair::run_for(Party::own());
        let forbidden = {
            let mut driving = std::pin::pin!(driving);
            let (mut carried, mut idle) = (0, IDLE);
            loop {
                tokio::select! {
                    biased;
                    () = draining.draining(), if idle == IDLE => idle = DRAINING_IDLE,
                    ended = &mut driving => match ended {
                        Ok(()) => break None,
                        Err(error) => {
                            let (kind, side) = (Kind::Reset, Side::Upstream);
                            let failure = Failure::because(kind, side, Retry::IfIdempotent, error);
                            return report.finish(Err(failure));
                        }
                    },
                    forbidden = report.forbidden(&site.context) => break Some(forbidden),
                    () = sleep(idle) => {
                        if let Some(pool) = site.realm.http.get(site.worker) {
                            pool.sweep(idle);
                            // Of HTTP/2, whether it is used shows in what it has carried.
                            let now = report.conn.carried.sent.load(Ordering::Relaxed);
                            if let Some(places) = places.as_ref().filter(|_| now == carried) {
                                pool.forget(&key, places);
                            }
                            carried = now;
                        }
                    }
                }
            }
        };
        // HTTP has ended. The one that has the bytes from here on has the connection.
        let forbidden = match (forbidden, &mut tie) {
            (None, Some(tie)) => tokio::select! {
                biased;
                () = tie.gone() => None,
                forbidden = report.forbidden(&site.context) => Some(forbidden),
            },
            (forbidden, _) => forbidden,
        };
        let Some(forbidden) = forbidden else { return report.finish(Ok(())) };
        if let Some(tie) = tie {
            tie.cut();
        }
        drop(report.forbid(forbidden));
    }));
}

/// A connection whose bytes are counted.
pub type Counted = counted::Counted<Box<dyn Io>, Arc<Carried>>;
