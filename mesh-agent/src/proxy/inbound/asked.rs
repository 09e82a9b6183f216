//! The connection of HTTP to an application of this node, behind one of its client's.

use std::pin::Pin;

use h2::Reason;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncGuard, oneshot};

use crate::failure::{Failure, Kind, Retry, Side};
use crate::proxy::http::body::{Body, BodyError};
use crate::proxy::http::detect::Version;
use crate::proxy::http::http2::client::{self, Requests};
use crate::proxy::http::incoming::Incoming;
use crate::proxy::http::places::{Place, Places};
use crate::proxy::http::setup::{self, Http2};
use crate::proxy::http::upstream::Counted;
use crate::task::scope::Scope;

/// The connection to the application. One request at a time, of HTTP/1.1; of HTTP/2, as many as the
/// client may have under way, also of those that it has taken back.
pub(super) enum Application {
    Http1(AsyncMutex<http1::SendRequest<Body>>),
    Http2(Requests, Places),
}

/// A request's turn on it: of HTTP/1.1 until the request has its answer, of HTTP/2 until that has ended.
pub(super) enum Turn<'a> {
    Http1(AsyncGuard<'a, http1::SendRequest<Body>>),
    Http2(&'a Requests, Option<Place>),
}

/// The end of that connection. One of HTTP/1.1 moves bytes only while it is polled.
pub(super) type Driving = Pin<Box<dyn Future<Output = Result<(), BodyError>> + Send>>;

impl Application {
    /// Waits for the request's turn.
    pub(super) async fn turn(&self) -> Turn<'_> {
        match self {
            Self::Http1(sender) => Turn::Http1(sender.lock().await),
            Self::Http2(requests, places) => Turn::Http2(requests, places.wait().await),
        }
    }
}

impl Turn<'_> {
    /// Sends a request, when the last one's answer has been read to its end.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, BodyError> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?.map(Incoming::Hyper))
            }
            Self::Http2(requests, place) => {
                let sent = requests.clone().send(request, place.take()).await;
                sent.map_err(|failed| match failed.unsent {
                    // The client may ask again (RFC 9113, section 8.7).
                    Some(_) => h2::Error::from(Reason::REFUSED_STREAM).into(),
                    None => failed.error,
                })
            }
        }
    }
}

/// Begins HTTP with the application.
///
/// # Errors
///
/// It does not speak HTTP.
pub(super) async fn begin(
    version: Version,
    io: Counted,
    (scope, most): (&Scope, Http2),
) -> Result<(Application, Driving), Failure> {
    let failed =
        |error: BodyError| Failure::because(Kind::Protocol, Side::Upstream, Retry::Safe, error);
    match version {
        Version::Http1 => {
            let handshake = setup::http1_client().handshake::<_, Body>(TokioIo::new(io));
            let (sender, driving) = handshake.await.map_err(|error| failed(error.into()))?;
            Ok((
                Application::Http1(AsyncMutex::new(sender)),
                Box::pin(async move { Ok(driving.with_upgrades().await?) }),
            ))
        }
        Version::Http2 => {
            let begun = client::begin(io, scope, most).await;
            let (requests, places, connection) = begun.map_err(|error| failed(error.into()))?;
            let (tell, told) = oneshot::channel();
            // It says goodbye to the application when its client has left.
            scope.spawn(Box::pin(async move {
                let _unheard = tell.send(connection.await);
            }));
            let driving = async { told.await.unwrap_or(Ok(())) };
            Ok((Application::Http2(requests, places), Box::pin(driving)))
        }
    }
}
