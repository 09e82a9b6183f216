//! HTTP/1.1: accepts, limits, routes and answers.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::admin::listener::Listener;
use crate::admin::{State, certs, dump};
use crate::task::clock;
use crate::task::scope::Scope;

/// Connections at one time; others wait in the listener's backlog. A scraper needs one.
const MAX_CONNECTIONS: usize = 64;

/// Answers of the size of the mesh that are kept at one time, until their clients have read them.
const MAX_LARGE: usize = 2;

/// Connections that are taken at most once the scope drains.
const MAX_LAST: u32 = 64;

/// A client that sends no complete header for so long is disconnected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest life of a connection. A scrape of 10,000 series takes less than a second.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// After `accept` failed, mostly for want of descriptors: let others give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// `OpenMetrics` 1.0, "Negotiation" (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Paths that are served, and one line about each.
const PATHS: &[(&str, &str)] = &[
    ("/certs", "the certificates in use, and who makes them (JSON)"),
    ("/conditions", "what is wrong with the configuration (JSON)"),
    ("/config_dump", "workloads, services and certificates, as ztunnel prints them (JSON)"),
    ("/coverage", "how connections of this node's workloads really went (JSON)"),
    ("/healthz", "200 while the agent runs"),
    ("/healthz/ready", "the same as /readyz"),
    ("/metrics", "metrics (OpenMetrics)"),
    ("/readyz", "200 if the agent is ready; otherwise 503 and what is missing (JSON)"),
    ("/stats/prometheus", "the same as /metrics"),
];

/// Paths for scrapers and probes, which have no business with the rest.
const PROBES: &[&str] = &["/healthz", "/healthz/ready", "/metrics", "/readyz", "/stats/prometheus"];

/// Answers of the size of the mesh, which people ask for.
const LARGE: &[&str] = &["/certs", "/conditions", "/config_dump", "/coverage"];

/// The turns of those who ask: to have an answer made that takes long, and to have a large one.
struct Turns {
    making: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// The text of a large answer, for as long as it is kept.
struct Large {
    text: Bytes,
    _turn: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// How much is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Everything.
    All,
    /// Metrics and health.
    Probes,
}

/// Serves until `scope` drains.
///
/// # Errors
///
/// The listener cannot be used from the current runtime.
pub async fn serve(
    listener: Listener,
    surface: Surface,
    state: State,
    scope: Scope,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let large = Arc::new(Semaphore::new(MAX_LARGE));
    let state = Arc::new((state, Turns { making: Arc::new(Semaphore::new(1)), large }));
    match listener {
        Listener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            let accept =
                move |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
            accept_all(accept, permits, surface, (state, scope)).await;
        }
        Listener::Unix(file, listener) => {
            listener.set_nonblocking(true)?;
            let listener = UnixListener::from_std(listener)?;
            let accept =
                move |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
            accept_all(accept, permits, surface, (state, scope)).await;
            drop(file);
        }
    }
    Ok(())
}

async fn accept_all<S>(
    accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<S>> + Send,
    permits: Arc<Semaphore>,
    surface: Surface,
    (state, scope): (Arc<(State, Turns)>, Scope),
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut last = MAX_LAST;
    while last > 0 {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let permit = permit.expect("invariant: the semaphore is never closed");
            poll_fn(&accept).await.map(|stream| (stream, permit))
        };
        // Those that wait already are answered: a successor listens at the same place.
        let accepted = tokio::select! {
            biased;
            accepted = accepted => accepted,
            () = scope.draining() => return,
        };
        last -= u32::from(scope.is_draining());
        match accepted {
            Ok((stream, permit)) => {
                let state = Arc::clone(&state);
                scope.spawn(Box::pin(connection(stream, surface, state, permit)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the admin server");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One request, one connection: a scrape every few seconds saves nothing by keeping it, and a
/// client that keeps it would hold one of few places.
async fn connection<S>(
    stream: S,
    surface: Surface,
    state: Arc<(State, Turns)>,
    permit: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<_>| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answered(state, surface, request).await) }
    });
    let serving = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIMEOUT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection ended badly"),
        Err(_elapsed) => tracing::debug!("an admin connection took too long"),
    }
    drop(permit);
}

/// The answer to one request. An answer that takes long is made on another thread, one after the
/// other: whoever asks in a loop holds up neither this thread nor the scraper for longer than one
/// answer takes.
async fn answered<B>(
    state: Arc<(State, Turns)>,
    surface: Surface,
    request: Request<B>,
) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let is_large = LARGE.contains(&&*path);
    if !is_large && !matches!(&*path, "/metrics" | "/stats/prometheus") {
        return respond(&state.0, surface, &method, &path);
    }
    let turn = if is_large { Arc::clone(&state.1.large).acquire_owned().await.ok() } else { None };
    let making = Arc::clone(&state.1.making).acquire_owned().await;
    // With the turns: a client that goes away gives back nothing that is still being made.
    let made = spawn_blocking(move || {
        let made = respond(&state.0, surface, &method, &path);
        drop(making);
        (made, turn)
    });
    let (made, turn) = made.await.unwrap_or_else(|error| {
        let text = format!("the answer cannot be made: {error}\n");
        (answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, text), None)
    });
    let Some(turn) = turn else { return made };
    let (head, body) = made.into_parts();
    let text = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    Response::from_parts(head, Full::new(Bytes::from_owner(Large { text, _turn: turn })))
}

/// The answer to one request, made at once.
pub(super) fn respond(
    state: &State,
    surface: Surface,
    method: &Method,
    path: &str,
) -> Response<Full<Bytes>> {
    if !surface.paths().any(|(known, _)| *known == path) {
        return answer(StatusCode::NOT_FOUND, TEXT, surface.index());
    }
    if method != Method::GET {
        let text = format!("{path} answers GET only\n");
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match path {
        "/certs" => json(StatusCode::OK, &certs::report(&(state.certificates)(), clock::now())),
        "/coverage" => json(StatusCode::OK, &(state.coverage)()),
        "/conditions" => {
            let (snapshot, lacks) = ((state.snapshot)(), (state.no_acceleration)());
            let findings = (state.findings)();
            json(StatusCode::OK, &dump::conditions(&snapshot, &findings, lacks.as_deref()))
        }
        "/config_dump" => {
            let certificates = (state.certificates)();
            let snapshot = (state.snapshot)();
            json(StatusCode::OK, &dump::config(&snapshot, &certificates, state.version))
        }
        "/metrics" | "/stats/prometheus" => {
            answer(StatusCode::OK, OPEN_METRICS, state.telemetry.encode())
        }
        "/readyz" | "/healthz/ready" => {
            let missing = state.ready.pending();
            let ready = missing.is_empty();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let found = (state.findings)().into_iter();
            let found = found.filter(|finding| finding.reason.is_unprotected());
            let unprotected =
                found.map(|finding| format!("{}: {}", finding.subject, finding.reason.as_str()));
            let unprotected = unprotected.collect();
            json(status, &dump::Readiness { ready, missing, unprotected })
        }
        _ => answer(StatusCode::OK, TEXT, "ok\n".to_owned()),
    }
}

impl Surface {
    /// The paths that are served, and what each is about.
    fn paths(self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        PATHS.iter().filter(move |(path, _)| self == Self::All || PROBES.contains(path))
    }

    fn index(self) -> String {
        use std::fmt::Write as _;

        let mut text = "not found; there are:\n".to_owned();
        for (path, about) in self.paths() {
            writeln!(text, "  {path:20}{about}").expect("invariant: a String takes all text");
        }
        text
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => answer(status, JSON, text + "\n"),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn answer(status: StatusCode, content: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content));
    response
}
