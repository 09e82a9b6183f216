//! One attempt to have a request answered by one endpoint.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper::http::request;
use hyper::{Request, Response};

use crate::failure::Failure;
use crate::proxy::http::Site;
use crate::proxy::http::body::{self, Body, BodyError};
use crate::proxy::http::http2::client::{Failed, Requests};
use crate::proxy::http::incoming::Incoming;
use crate::proxy::http::places::Place;
use crate::proxy::http::pool::{Key, Sender};
use crate::proxy::http::replay::Replay;
use crate::proxy::http::upstream::{self, To};

/// The result of it.
pub enum Sent {
    /// An answer.
    Answered(Response<Body>),
    /// Nothing was sent: the endpoint cannot be reached.
    Unreached(Failure),
    /// The endpoint has broken HTTP, or the connection, after it may have acted.
    Broken(BodyError),
    /// It takes too long.
    Late,
    /// The body was sent to another endpoint, and was not kept.
    Spent,
}

/// How often a request is sent again that its endpoint has not looked at.
const MAX_UNSEEN: u32 = 3;

/// Whether the endpoint says that it has not looked at the request, which may be sent again then
/// (RFC 9113, section 8.7): servers of HTTP/2 end their connections so, for example nginx after 1,000
/// requests.
fn is_unseen(error: &(dyn StdError + 'static)) -> bool {
    error.downcast_ref::<h2::Error>().is_some_and(|cause| {
        cause.is_remote()
            && match cause.reason() {
                Some(h2::Reason::REFUSED_STREAM) => true,
                Some(h2::Reason::NO_ERROR) => cause.is_go_away(),
                _ => false,
            }
    })
}

/// Sends a request to the endpoint of `to`, on a connection that waits or on a new one.
pub async fn send(site: &Arc<Site>, to: &To, head: &request::Parts, replay: &mut Replay) -> Sent {
    let key = to.key(site);
    let Some(mut body) = replay.take() else { return Sent::Spent };
    let mut unseen = 0;
    loop {
        let pooled = site.realm.http.get(site.worker).and_then(|pool| pool.take(&key));
        let is_fresh = pooled.is_none();
        let sender = match pooled {
            Some(sender) => sender,
            None => match Box::pin(upstream::connect(site, to, &key)).await {
                Ok(sender) => sender,
                Err(failure) => {
                    restore(replay, body);
                    return Sent::Unreached(failure);
                }
            },
        };
        let request = assembled(head, body);
        let Failed { error, unsent } = match once(site, &key, sender, request).await {
            Ok(response) => return Sent::Answered(response),
            Err(failed) => failed,
        };
        // A connection that has waited may have been closed meanwhile: nothing was sent on it.
        body = match unsent {
            Some(request) if !is_fresh => request.into_body(),
            _ if unseen < MAX_UNSEEN && is_unseen(&*error) => {
                unseen += 1;
                match replay.take() {
                    Some(body) => body,
                    None => return Sent::Broken(error),
                }
            }
            _ => return Sent::Broken(error),
        };
    }
}

/// A body that was not sent can be sent to somebody else.
fn restore(replay: &mut Replay, body: Body) {
    if !replay.is_whole() {
        *replay = Replay::Unsent(Some(body));
    }
}

fn assembled(head: &request::Parts, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers.clone();
    // The case of field names, as the client has written them.
    *request.extensions_mut() = head.extensions.clone();
    request
}

async fn once(
    site: &Arc<Site>,
    key: &Key,
    sender: Sender,
    request: Request<Body>,
) -> Result<Response<Body>, Failed> {
    match sender {
        Sender::Http1(sender) => http1(site, key, sender, request).await,
        Sender::Http2(requests, place) => http2(requests, place, request).await,
    }
}

async fn http1(
    site: &Arc<Site>,
    key: &Key,
    mut sender: http1::SendRequest<Body>,
    request: Request<Body>,
) -> Result<Response<Body>, Failed> {
    let response = sender.try_send_request(request).await.map_err(|mut failed| {
        let unsent = failed.take_message();
        Failed { error: failed.into_error().into(), unsent }
    })?;
    let (site, key, kept) = (Arc::clone(site), key.clone(), sender);
    Ok(response.map(|incoming| {
        body::then(Incoming::Hyper(incoming), move || {
            let scope = site.local.scope.clone();
            let mut sender = kept;
            // It is ready when its task has seen the end as well, which is soon.
            scope.spawn(Box::pin(async move {
                if poll_fn(|cx| sender.poll_ready(cx)).await.is_ok()
                    && let Some(pool) = site.realm.http.get(site.worker)
                {
                    pool.put(&key, sender);
                }
            }));
        })
    }))
}

async fn http2(
    requests: Requests,
    place: Place,
    request: Request<Body>,
) -> Result<Response<Body>, Failed> {
    let response = requests.send(request, Some(place)).await?;
    Ok(response.map(Incoming::boxed_unsync))
}
