//! Speaks with a client.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::bounds::Use;
use crate::failure::{Failure, Retry, Side, chain};
use crate::io::frames::Paced;
use crate::io::leg::Leg;
use crate::model::service::AppProtocol;
use crate::model::trace::Trace;
use crate::proxy::http::batch::Batch;
use crate::proxy::http::body::BodyError;
use crate::proxy::http::detect::{self, Guess, Version};
use crate::proxy::http::front::Front;
use crate::proxy::http::heads::Heads;
use crate::proxy::http::incoming::Incoming;
use crate::proxy::http::setup::{self, HEAD_TIMEOUT, Http2, LAST_REQUEST};
use crate::proxy::http::upgrade::Unmet;
use crate::proxy::http::{Site, exchange, faults, http2, plain};
use crate::proxy::places::Refused;
use crate::proxy::realm::{Local, Realm};
use crate::proxy::{Context, client_end};
use crate::sys::socket;

/// How much of a connection's beginning is looked at: more than HTTP/2's preface and any method.
const LOOK_BYTES: usize = 32;

/// How long a client that says nothing is waited for, before its connection is taken for one whose
/// server speaks first.
const PATIENCE: Duration = Duration::from_millis(100);

/// Serves a client's connection, if it is HTTP. If it is not, it is given back, and nothing of it was
/// read.
///
/// # Errors
///
/// The client's socket failed, or there is no memory left for it.
pub async fn accept(
    (context, realm, worker): (Arc<Context>, Arc<Realm>, usize),
    local: &Arc<Local>,
    leg: Leg,
    (client, destination): (SocketAddr, SocketAddr),
    protocol: AppProtocol,
) -> Result<Option<Leg>, Failure> {
    let mut leg = leg;
    let failed = |error: io::Error| {
        Failure::because(client_end::kind(&error), Side::Client, Retry::Safe, error)
    };
    let Some(version) = spoken(leg.stream(), protocol).await.map_err(failed)? else {
        return Ok(Some(leg));
    };
    let local = Arc::clone(local);
    let (id, rest): ([u8; 16], [u8; 8]) = rand::random();
    let trace = Trace::begin(id, rest);
    let telemetry = context.telemetry.clone();
    let site = Arc::new(Site { context, realm, worker, local, client, destination, trace });
    let failed = |error: &(dyn StdError + 'static)| {
        if let Some((code, reason)) = faults::of(error) {
            telemetry.request_answered(code, reason);
        }
        let error = chain(error);
        tracing::debug!(%client, %destination, error, "a client's HTTP connection failed");
    };
    let mut read = Vec::new();
    if version == Version::Http1 {
        match plain::serve::run(&site, &mut leg).await {
            Ok(Some(first)) => read = first,
            Ok(None) => return Ok(None),
            Err(error) => {
                failed(&error);
                return Ok(None);
            }
        }
    }
    let promised = Http2::promised(version, &site.local, Use::Outbound, None);
    let (most, _promise) = promised.map_err(Refused::failure)?;
    // Those that never come here do not carry its state.
    let front = Front::of_client(leg, read);
    if let Err(error) = Box::pin(run(site, front, (version, most))).await {
        failed(&*error);
    }
    Ok(None)
}

/// The version that the client speaks. `None`: no HTTP.
async fn spoken(stream: &TcpStream, protocol: AppProtocol) -> io::Result<Option<Version>> {
    match detect::declared(protocol) {
        Some(Guess::Http(version)) => return Ok(Some(version)),
        Some(_) => return Ok(None),
        None => {}
    }
    // Where it was said that it is HTTP, the client speaks first, and what is none is a request that is
    // malformed: it must not come past the routes.
    let (patience, otherwise) = match protocol {
        AppProtocol::Http | AppProtocol::WebSocket => (HEAD_TIMEOUT, Some(Version::Http1)),
        _ => (PATIENCE, None),
    };
    // The time may be over, which says that it is none.
    let looked = timeout(patience, looked_at(stream)).await.unwrap_or(Ok(None))?;
    Ok(looked.or(otherwise))
}

/// Looks at what the client says, and leaves it where it is.
async fn looked_at(stream: &TcpStream) -> io::Result<Option<Version>> {
    loop {
        stream.readable().await?;
        let mut first = [0; LOOK_BYTES];
        let looked = stream.try_io(Interest::READABLE, || {
            let count = socket::peek(stream, &mut first)?;
            let said = first.get(..count).unwrap_or_default();
            match detect::guess(said) {
                _ if said.is_empty() => Ok(None),
                Guess::Http(version) => Ok(Some(version)),
                Guess::Other => Ok(None),
                // It is looked at again when more has come.
                Guess::Unsure => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            looked => return looked,
        }
    }
}

/// Serves the requests of a client.
///
/// # Errors
///
/// The client has broken HTTP, or the connection.
async fn run(
    site: Arc<Site>,
    front: Front,
    (version, most): (Version, Http2),
) -> Result<(), BodyError> {
    let scope = site.local.scope.clone();
    let unmet = Arc::new(Unmet::default());
    let (kept, heads) = (Arc::clone(&unmet), Heads::of(most));
    let service = move |request: Request<Incoming>| {
        let (site, connection) = (Arc::clone(&site), (Arc::clone(&kept), Arc::clone(&heads)));
        // A client that is refused by then does not send its body, and the next request comes in
        // its place (RFC 9110, section 10.1.1).
        let expects = request.headers().contains_key(EXPECT);
        async move {
            let scope = site.local.scope.clone();
            let mut answer = exchange::run(site, version, request, connection).await;
            let may_close =
                version == Version::Http1 && answer.status() != StatusCode::SWITCHING_PROTOCOLS;
            let is_refused = expects && !answer.status().is_success();
            if may_close && (is_refused || scope.is_draining()) {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    };
    let mut draining = pin!(scope.draining());
    match version {
        Version::Http1 => {
            let service = service_fn(|request: Request<_>| {
                let answer = service(request.map(Incoming::Hyper));
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let served = {
                let serving = setup::http1_server(HEAD_TIMEOUT, most)
                    .serve_connection(TokioIo::new(front), service);
                let mut serving = pin!(serving.with_upgrades());
                let early = tokio::select! {
                    biased;
                    () = async { draining.as_mut().await; sleep(LAST_REQUEST).await } => None,
                    served = &mut serving => Some(served),
                };
                if let Some(served) = early {
                    served
                } else {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            };
            // hyper gives up a connection that it holds no more.
            unmet.end().await;
            served.map_err(Into::into)
        }
        Version::Http2 => {
            let service = move |request| {
                let answer = service(request);
                async move { Ok(answer.await) }
            };
            let mut serving = Batch::turns(Paced::of_client(front).bounding_resets(), |io| {
                http2::server::serve(io, &scope, most, service)
            });
            tokio::select! {
                biased;
                () = &mut draining => serving.future().graceful_shutdown(),
                served = &mut serving => return served,
            }
            serving.await
        }
    }
}
