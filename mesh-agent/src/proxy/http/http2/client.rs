//! Asks a server of HTTP/2.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use hyper::body::Body as _;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::{Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::io::counted::Counted;
use crate::io::frames::Paced;
use crate::io::unread::Unread;
use crate::proxy::http::body::{Body, BodyError};
use crate::proxy::http::fields::are_well_formed;
use crate::proxy::http::gate::Gated;
use crate::proxy::http::http2::sending::Sending;
use crate::proxy::http::http2::{SLICES, cause, strip_request};
use crate::proxy::http::incoming::{Incoming, Stream};
use crate::proxy::http::places::{Place, Places, Size};
use crate::proxy::http::setup::{self, Http2};
use crate::task::scope::Scope;

/// Requests on one connection, which ends when the last of its clones and of their answers is gone.
#[derive(Clone)]
pub struct Requests {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

struct Shared {
    unread: Arc<Unread>,
    scope: Scope,
    /// It takes no more requests.
    is_closed: AtomicBool,
}

/// The connection, which moves the bytes of its requests for as long as it is polled.
pub struct Connection<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    frames: client::Connection<Moved<Io>, Bytes>,
    shared: Arc<Shared>,
    /// As many requests as the server allows.
    size: Size,
}

/// How bytes come and go.
type Moved<Io> = Counted<Gated<Paced<Io>>, Arc<Unread>>;

/// A request that has no answer.
#[derive(Debug)]
pub struct Failed {
    /// The reason.
    pub error: BodyError,
    /// The request, if nothing of it was sent.
    pub unsent: Option<Request<Body>>,
}

/// Begins HTTP/2 on `io`, which keeps no more than `most`. Bodies of requests are sent in `scope`. Each
/// request needs one of the places: of one for which the server has no stream h2 would keep the head, also
/// when nobody waits for it any more.
///
/// # Errors
///
/// The socket has failed.
pub async fn begin<Io>(
    io: Io,
    scope: &Scope,
    most: Http2,
) -> Result<(Requests, Places, Connection<Io>), h2::Error>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let unread = Unread::within(most.server_window(), SLICES);
    let size = Size::new(most.places());
    let places = size.places().clone();
    let io = Arc::clone(&unread).counted(places.gated(io));
    let (sender, frames) = setup::http2_client(most).handshake(io).await?;
    let (scope, is_closed) = (scope.clone(), AtomicBool::new(false));
    let shared = Arc::new(Shared { unread, scope, is_closed });
    let requests = Requests { sender, shared: Arc::clone(&shared) };
    Ok((requests, places, Connection { frames, shared, size }))
}

impl<Io> Connection<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    /// Takes no more requests.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl<Io> Future for Connection<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Result<(), BodyError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let ended = Pin::new(&mut self.frames).poll(cx);
        self.shared.unread.copy_if_due();
        let streams = self.frames.max_concurrent_send_streams();
        self.size.fit(streams);
        if ended.is_ready() {
            self.shared.close();
        }
        // A server that says goodbye has not failed.
        ended.map(|ended| match ended {
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => Ok(()),
            ended => ended.map_err(cause),
        })
    }
}

impl<Io> Drop for Connection<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }
}

impl Requests {
    /// Whether the connection takes no more requests.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed.load(Ordering::Acquire)
    }

    /// Sends a request, and waits for the head of its answer, whose body keeps `place`. The rest of its
    /// own body is sent in the connection's scope. Dropped before that, it takes the request back.
    ///
    /// # Errors
    ///
    /// The connection has ended, or the server has reset the request.
    pub async fn send(
        mut self,
        request: Request<Body>,
        place: Option<Place>,
    ) -> Result<Response<Incoming>, Failed> {
        if let Err(error) = poll_fn(|cx| self.sender.poll_ready(cx)).await {
            self.shared.close();
            return Err(Failed { error: cause(error), unsent: Some(request) });
        }
        let failed = |error| Failed { error: cause(error), unsent: None };
        let (head, body) = assembled(request);
        let has_ended = body.is_end_stream();
        let (answer, stream) = self.sender.send_request(head, has_ended).map_err(failed)?;
        let sending = (!has_ended).then(|| Sending::new(body, stream, false));
        let mut asking = Asking { sender: self.sender, is_open: false, sending, answer };
        let answer = poll_fn(|cx| asking.poll(cx)).await.map_err(failed)?;
        let is_asking = asking.sending.is_some();
        if let Some(sending) = asking.sending {
            self.shared.scope.spawn(sending);
        }
        if !are_well_formed(answer.headers()) {
            return Err(failed(Reason::PROTOCOL_ERROR.into()));
        }
        let (head, stream) = answer.into_parts();
        let (unread, fields) = (&self.shared.unread, &head.headers);
        let body = Stream::of_answer(stream, unread, fields, (is_asking, place));
        Ok(Response::from_parts(head, body))
    }
}

/// A request that has no answer yet.
struct Asking {
    sender: SendRequest<Bytes>,
    /// The server allows its stream.
    is_open: bool,
    sending: Option<Sending>,
    answer: ResponseFuture,
}

impl Asking {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, h2::Error>> {
        if let Poll::Ready(answered) = Pin::new(&mut self.answer).poll(cx) {
            return Poll::Ready(answered);
        }
        let Some(sending) = &mut self.sending else { return Poll::Pending };
        // Until then its body would take the window of those whose turn it is. An error is the answer's too.
        self.is_open = self.is_open || self.sender.poll_ready(cx).is_ready();
        if self.is_open && Pin::new(sending).poll(cx).is_ready() {
            self.sending = None;
        }
        Poll::Pending
    }
}

/// The head of a request as HTTP/2 has it, and its body.
fn assembled(request: Request<Body>) -> (Request<()>, Body) {
    let (mut head, body) = request.into_parts();
    strip_request(&mut head.headers);
    // Of other methods a body is expected (RFC 9110, section 8.6).
    let is_plain = matches!(head.method, Method::GET | Method::HEAD | Method::DELETE);
    if let Some(length) = body.size_hint().exact()
        && (length > 0 || !is_plain)
    {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    (Request::from_parts(head, ()), body)
}
