//! Requests to an application of this node, each of which the destination's policies judge.
//!
//! Only connections come here about which policies ask what requests alone can tell: methods, paths,
//! hosts, fields. All others are bytes. One connection of a client is one to the application, with
//! the same version of HTTP, so that neither sees more of the mesh than that something is not allowed:
//! a request that is refused never reaches the application, and its client is told nothing but that.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use http_body_util::BodyExt as _;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue, UPGRADE};
use hyper::http::request;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, Version as HttpVersion};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use crate::authz::path::{self, Readings};
use crate::authz::{Denial, HttpRequest};
use crate::failure::{Failure, Kind, Retry, Side};
use crate::io::ahead::{self, End};
use crate::io::frames::Paced;
use crate::io::leg::Leg;
use crate::model::snapshot::Snapshot;
use crate::proxy::conn::Conn;
use crate::proxy::http::answer::{self, Reason, Refusal};
use crate::proxy::http::batch::Batch;
use crate::proxy::http::body::{self, Body, BodyError};
use crate::proxy::http::detect::{self, Guess, Version};
use crate::proxy::http::fields::clean;
use crate::proxy::http::front::Front;
use crate::proxy::http::heads::Heads;
use crate::proxy::http::incoming::Incoming;
use crate::proxy::http::setup::{self, Http2};
use crate::proxy::http::upgrade::{self, Unmet};
use crate::proxy::http::upstream::Counted;
use crate::proxy::http::{counting, exchange, host, http2};
use crate::proxy::inbound::application::{Arrival, Scrutiny};
use crate::proxy::inbound::asked::{Application, Driving, begin};
use crate::proxy::places::Refused;
use crate::proxy::{Context, client_end};
use crate::telemetry::{
    self, Mention, Mentioned, Network, RequestKind, RequestSeries, Said, Upgrade,
};
use crate::tunnels::Io;

/// The text for a client whose request may not be. Which policy says so is for those to see who
/// have written it.
const DENIED: &str = "access denied";

/// Logged of a request that is none.
const MALFORMED: &str = "a request is malformed";

/// Told of a path that is none by RFC 3986.
const MALFORMED_PATH: &str = "the path has characters that RFC 3986 does not allow there";

/// How much is read to see which version is spoken: more than the preface of HTTP/2.
const LOOK_BYTES: usize = 32;

/// How long a client may say nothing. Longer than any pool of connections keeps one that rests: that one
/// ends is for the client or the application to decide, and they would not have met us.
const PATIENCE: Duration = Duration::from_mins(15);

/// The parts that the requests of one connection have in common.
struct Point {
    context: Arc<Context>,
    arrival: Arrival,
    version: Version,
    /// Its limits.
    most: Http2,
    /// The heads of its requests that wait.
    heads: Arc<Heads>,
    application: Application,
    /// End of a client of HTTP/1.1, which the application is told.
    end: Arc<End>,
    series: Option<RequestSeries>,
    /// Both ends of a connection that has become something else.
    upgraded: Mutex<Option<(OnUpgrade, OnUpgrade)>>,
    /// The client's connection, if hyper gives it up at its end.
    unmet: Unmet,
    /// Why a request was denied, the last that was.
    denied: Mutex<Option<Denial>>,
    /// A request that was refused is in the log.
    noted: AtomicBool,
}

impl Point {
    /// Keeps the connection of a request that has asked for an upgrade and was not given it.
    fn keep(&self, client: Option<OnUpgrade>) {
        if let Some(client) = client {
            self.unmet.keep(client);
        }
    }
}

/// Serves the requests that come by `io` to `application`, for as long as policies allow the
/// connection.
///
/// # Errors
///
/// It is not HTTP, or one of the two has broken it, or policies allow the connection no longer.
pub async fn serve(
    context: Arc<Context>,
    arrival: Arrival,
    (mut io, application): (impl Io + 'static, Leg),
    conn: &mut Conn,
) -> Result<(), Failure> {
    let mut first = Vec::with_capacity(LOOK_BYTES);
    let Some(version) = spoken(&mut io, &mut first).await? else {
        // Without requests there is nothing that could be allowed.
        let refusal = arrival.refusal(&context.mesh.load(), Scrutiny::Nothing);
        return refusal.map_or_else(not_http, |refusal| Err(refusal.note(conn)));
    };
    let (read, write) = tokio::io::split(io);
    let client = tokio::io::join(io::Cursor::new(first).chain(read), write);
    let end = Arc::<End>::default();
    let application = Front::of_server(application).passing_on(Arc::clone(&end));
    let application = Counted::new(Box::new(application), Arc::clone(&conn.carried));
    let client_of = Some(arrival.on_behalf_of());
    let promised = Http2::promised(version, &arrival.local, arrival.used(), client_of);
    let (most, _promise) = promised.map_err(Refused::failure)?;
    let (application, driving) = begin(version, application, (&arrival.local.scope, most)).await?;
    let series = conn.requests();
    let point = Arc::new(Point {
        context,
        arrival,
        version,
        most,
        heads: Heads::of(most),
        application,
        end,
        series,
        upgraded: Mutex::default(),
        unmet: Unmet::default(),
        denied: Mutex::default(),
        noted: AtomicBool::new(false),
    });
    let mesh = point.context.mesh.clone();
    let served = tokio::select! {
        biased;
        served = converse(Arc::clone(&point), client, driving) => served,
        forbidden = point.arrival.forbidden(mesh, Scrutiny::Requests) => {
            return Err(forbidden.note(conn));
        }
    };
    if let Some(denial) = locked(&point.denied).take() {
        conn.judged =
            Some(telemetry::Judged { allowed: false, policy: Said::from(&denial).policy });
    }
    served
}

fn not_http() -> Result<(), Failure> {
    Err(Failure::new(Kind::Denied, Side::Client, Retry::Never))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked has left a whole value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The version that the client speaks, with what was read of it in `first`. `None`: no HTTP.
async fn spoken(io: &mut impl Io, first: &mut Vec<u8>) -> Result<Option<Version>, Failure> {
    let look = async {
        loop {
            match detect::guess(first) {
                Guess::Http(version) => return Ok(Some(version)),
                Guess::Other => return Ok(None),
                Guess::Unsure if io.read_buf(first).await? == 0 => return Ok(None),
                Guess::Unsure => {}
            }
        }
    };
    let failed = |error: io::Error| {
        Failure::because(client_end::kind(&error), Side::Client, Retry::Safe, error)
    };
    // A client that says nothing asks for nothing.
    timeout(PATIENCE, look).await.unwrap_or(Ok(None)).map_err(failed)
}

/// Serves until one of the two ends it, and then what the connection has become, if it has.
async fn converse<C>(point: Arc<Point>, client: C, driving: Driving) -> Result<(), Failure>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (ended, stopped) = oneshot::channel();
    // It has to be driven to the end, also while its last answer is on the way to the client.
    let drive = async {
        let driven = driving.await;
        // Nobody waits if the client has ended it.
        let _unheard = ended.send(driven);
        pending::<Infallible>().await
    };
    let serve = async {
        let served = serving(&point, client, stopped).await;
        let upgraded = locked(&point.upgraded).take();
        match upgraded {
            Some((ours, theirs)) => exchange::upgraded(ours, theirs).await,
            None => point.unmet.end().await,
        }
        served
    };
    tokio::select! {
        served = serve => served,
        never = drive => match never {},
    }
}

/// A request that the application has not answered, so that its connection is broken off.
#[derive(Debug, thiserror::Error)]
#[error("the application has not answered")]
struct Unanswered(#[source] BodyError);

/// The client has broken HTTP, or its connection.
fn broken(error: BodyError) -> Failure {
    Failure::because(client_end::kind(&*error), Side::Client, Retry::IfIdempotent, error)
}

/// Serves the client until the application's connection has ended, or the agent stops; requests that
/// are under way are finished.
async fn serving<C>(
    point: &Arc<Point>,
    client: C,
    application: oneshot::Receiver<Result<(), BodyError>>,
) -> Result<(), Failure>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let scope = point.arrival.local.scope.clone();
    let draining = scope.draining();
    let mut stop = pin!(async {
        tokio::select! {
            () = draining => {}
            () = left(point, application) => {}
        }
    });
    let service = |request: Request<Incoming>| {
        let point = Arc::clone(point);
        async move { answered(&point, request).await }
    };
    match point.version {
        Version::Http1 => {
            // A task that waits for an answer reads nothing, and would not see that nobody waits for it.
            let (client, mut failing) = ahead::watched(client, Arc::clone(&point.end));
            let service = service_fn(|request: Request<_>| {
                let answered = service(request.map(Incoming::Hyper));
                async move { answered.await.map_err(Unanswered) }
            });
            let serving = setup::http1_server(PATIENCE, point.most)
                .serve_connection(TokioIo::new(client), service);
            let mut serving = pin!(serving.with_upgrades());
            let mut is_stopping = false;
            loop {
                tokio::select! {
                    biased;
                    () = &mut stop, if !is_stopping => {
                        is_stopping = true;
                        serving.as_mut().graceful_shutdown();
                    }
                    served = &mut serving => {
                        return served.map_err(|error| broken(error.into()));
                    }
                    error = &mut failing => return Err(broken(error.into())),
                }
            }
        }
        Version::Http2 => {
            let mut serving = Batch::turns(Paced::of_client(client).bounding_resets(), |io| {
                http2::server::serve(io, &scope, point.most, service)
            });
            tokio::select! {
                biased;
                () = &mut stop => serving.future().graceful_shutdown(),
                served = &mut serving => return served.map_err(broken),
            }
            serving.await.map_err(broken)
        }
    }
}

/// Waits until the application has ended the connection, and no request waits for it any more.
async fn left(point: &Point, ended: oneshot::Receiver<Result<(), BodyError>>) {
    let _how = ended.await;
    if let Application::Http1(sender) = &point.application {
        drop(sender.lock().await);
    }
    // A connection that has switched ends otherwise.
    if locked(&point.upgraded).is_some() {
        pending::<()>().await;
    }
}

/// A request that may be, as the application gets it.
struct Judged {
    head: request::Parts,
    upgrade: Option<upgrade::Upgrade>,
}

/// Judges a request.
///
/// # Errors
///
/// It may not be, or it can be read in several ways.
fn judged(point: &Point, mut head: request::Parts) -> Result<Judged, Refusal> {
    let refused = |reason, details: &str| Refusal { reason, details: details.to_owned() };
    if head.method == Method::CONNECT {
        let details = "CONNECT is not forwarded where requests are judged";
        return Err(refused(Reason::Connect, details));
    }
    host::settle(&mut head, point.version).map_err(|malformed| {
        note(point, &head, MALFORMED, &malformed);
        Refusal::from(malformed)
    })?;
    if !path::is_valid(head.uri.path()) {
        note(point, &head, MALFORMED, &MALFORMED_PATH);
        return Err(refused(Reason::Malformed, MALFORMED_PATH));
    }
    let is_asked = head.headers.contains_key(UPGRADE);
    let asked = clean(&mut head, point.version, point.arrival.to);
    let mesh = point.context.mesh.load();
    let policy = mesh.policy(&point.arrival.local.workload.name);
    let is_allowed = |protocol: &str| policy.upgrades.has(protocol);
    let upgrade = asked.and_then(|asked| asked.allow(&mut head.headers, is_allowed));
    if is_asked && upgrade.is_none() {
        point.context.telemetry.upgrade(Upgrade::Removed);
    }
    if let Some(denial) = denial(point, &mesh, &head) {
        point.context.telemetry.policy_said((&denial).into(), 1);
        note(point, &head, "a request is denied", &denial);
        *locked(&point.denied) = Some(denial);
        return Err(refused(Reason::Denied, DENIED));
    }
    Ok(Judged { head, upgrade })
}

/// The application's answer to a request, or a refusal.
///
/// # Errors
///
/// The application has ended the connection, or broken HTTP: the client sees no more than that either.
async fn answered(
    point: &Point,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, BodyError> {
    let (began, is_grpc) = (Instant::now(), answer::is_grpc(request.headers()));
    let refused = |refusal: &Refusal| {
        if let Some(series) = &point.series {
            series.answered(counting::kind_of(refusal.reason, is_grpc), began.elapsed());
        }
        answer::refusal(refusal, is_grpc)
    };
    let client = request.extensions_mut().remove::<OnUpgrade>();
    let (head, incoming) = request.into_parts();
    let judging = point.heads.hold(&head).and_then(|held| Ok((held, judged(point, head)?)));
    let (_held, Judged { head, upgrade }) = match judging {
        Ok(judged) => judged,
        Err(refusal) => {
            point.keep(client);
            let answer = refused(&refusal);
            // Nobody was waited for, and the next request may be there already.
            yield_now().await;
            return Ok(answer);
        }
    };
    let mut turn = point.application.turn().await;
    point.end.begin();
    let end = Arc::clone(&point.end);
    let body = body::then(incoming, move || end.hand_on());
    let sent = turn.send(Request::from_parts(head, body)).await;
    let mut response = match sent {
        Ok(response) => response,
        Err(error) => {
            if let Some(series) = &point.series {
                let kind = RequestKind { is_grpc, flags: counting::CUT, ..RequestKind::well(0) };
                series.answered(kind, began.elapsed());
            }
            return Err(error);
        }
    };
    let ends = point.version == Version::Http1 && is_last(&response);
    let status = response.status();
    match upgrade::switched(upgrade.as_ref(), status, response.headers_mut()) {
        Ok(true) => {
            point.context.telemetry.upgrade(Upgrade::Switched);
            let theirs = hyper::upgrade::on(&mut response);
            *locked(&point.upgraded) = client.map(|ours| (ours, theirs));
        }
        Ok(false) => {
            point.keep(client);
            if ends {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        Err(unasked) => {
            point.context.telemetry.upgrade(Upgrade::Refused);
            point.keep(client);
            let refusal = Refusal { reason: Reason::Broken, details: unasked.to_string() };
            return Ok(refused(&refusal));
        }
    }
    let response = response.map(Incoming::boxed_unsync);
    Ok(match &point.series {
        Some(series) => counting::watched(series.clone(), is_grpc, began, response),
        None => response,
    })
}

/// Whether the application closes the connection after this answer.
fn is_last(response: &Response<Incoming>) -> bool {
    let mut said = response.headers().get_all(CONNECTION).iter();
    let closes = said.any(|value| {
        let words = value.as_bytes().split(|byte| *byte == b',');
        words.map(<[u8]>::trim_ascii).any(|word| word.eq_ignore_ascii_case(b"close"))
    });
    closes || response.version() == HttpVersion::HTTP_10
}

/// Logs a request that is refused. The first one of a connection is logged for operators, so that a
/// client cannot fill the log; the connection's line in the access log has the last denial.
fn note(point: &Point, head: &request::Parts, what: &str, reason: &dyn fmt::Display) {
    let (client, workload) = (point.arrival.client, &point.arrival.local.workload.name);
    let (method, path) = (&head.method, head.uri.path());
    let is_first = !point.noted.swap(true, Ordering::Relaxed);
    let subject = (Network::from(client.ip()), workload);
    let is_stranger = point.arrival.principal.is_none();
    let kind = if is_stranger { Mention::Stranger } else { Mention::Request };
    let mention = || point.context.telemetry.mention(kind, subject);
    if let Some(Mentioned { left_out }) = is_first.then(mention).flatten() {
        tracing::info!(%client, %workload, %method, path, %reason, left_out, "{what}");
    } else {
        tracing::debug!(%client, %workload, %method, path, %reason, "{what}");
    }
}

/// Why a request may not be, by the policies as they are now: its host is the one that the application
/// will see.
fn denial(point: &Point, mesh: &Snapshot, head: &request::Parts) -> Option<Denial> {
    let headers: &HeaderMap = &head.headers;
    let paths = Readings::of(head.uri.path());
    let host = match head.uri.authority() {
        Some(authority) => Some(authority.as_str().to_ascii_lowercase()),
        None => {
            headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).to_lowercase())
        }
    };
    let host = host.map(Cow::Owned);
    let http = HttpRequest { method: head.method.as_str(), host, paths, headers };
    point.arrival.tell(mesh, Some(&http), &point.context.telemetry);
    point.arrival.request_refusal(mesh, &http)
}
