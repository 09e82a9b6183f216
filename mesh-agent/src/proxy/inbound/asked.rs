//! The connection of HTTP to an application of this node, behind one of its client's.

use std::pin::Pin;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncGuard};

use crate::failure::{Failure, Kind, Retry, Side};
use crate::proxy::http::body::Body;
use crate::proxy::http::detect::Version;
use crate::proxy::http::places::{Place, Places};
use crate::proxy::http::setup::{self, Http2};
use crate::proxy::http::upstream::Counted;
use crate::task::scope::Scope;

/// The connection to the application. One request at a time, of HTTP/1.1; of HTTP/2, as many as the
/// client may have under way, also of those that it has taken back.
pub(super) enum Application {
    Http1(AsyncMutex<http1::SendRequest<Body>>),
    Http2(http2::SendRequest<Body>, Places),
}

/// A request's turn on it: of HTTP/1.1 until the request has its answer.
pub(super) enum Turn<'a> {
    Http1(AsyncGuard<'a, http1::SendRequest<Body>>),
    Http2(http2::SendRequest<Body>, Option<Place>),
}

/// What moves the bytes of that connection, until it ends.
pub(super) type Driving = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

impl Application {
    /// Waits for the request's turn.
    pub(super) async fn turn(&self) -> Turn<'_> {
        match self {
            Self::Http1(sender) => Turn::Http1(sender.lock().await),
            Self::Http2(sender, places) => Turn::Http2(sender.clone(), places.wait().await),
        }
    }
}

impl Turn<'_> {
    /// Sends a request, when the last one's answer has been read to its end.
    pub(super) async fn send(
        &mut self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender, place) => {
                if let Some(place) = place.take() {
                    place.hold(&mut request);
                }
                sender.send_request(request).await
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
    let failed = |error| Failure::because(Kind::Protocol, Side::Upstream, Retry::Safe, error);
    match version {
        Version::Http1 => {
            let handshake = setup::http1_client().handshake::<_, Body>(TokioIo::new(io));
            let (sender, driving) = handshake.await.map_err(failed)?;
            Ok((
                Application::Http1(AsyncMutex::new(sender)),
                Box::pin(async move { driving.with_upgrades().await }),
            ))
        }
        Version::Http2 => {
            let places = Places::new(most.places());
            let io = TokioIo::new(places.gated(io));
            let handshake = setup::http2_client(scope, most).handshake::<_, Body>(io);
            let (sender, driving) = handshake.await.map_err(failed)?;
            Ok((Application::Http2(sender, places), Box::pin(driving)))
        }
    }
}
