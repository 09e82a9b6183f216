//! Serves a client of HTTP/2.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::{Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream};
use hyper::body::Body as _;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::{Method, Request, Response};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::io::counted::Counted;
use crate::io::unread::Unread;
use crate::proxy::http::body::{Body, BodyError};
use crate::proxy::http::fields::are_well_formed;
use crate::proxy::http::http2::sending::Sending;
use crate::proxy::http::http2::{SLICES, cause, reason, strip_answer};
use crate::proxy::http::incoming::{Incoming, Stream};
use crate::proxy::http::setup::{self, Http2};
use crate::task::scope::Scope;

/// A client's connection, which ends with it, or when its last request is answered after
/// [`Serving::graceful_shutdown`].
pub struct Serving<Io, Service>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    state: State<Counted<Io, Arc<Unread>>>,
    unread: Arc<Unread>,
    scope: Scope,
    service: Service,
    is_stopping: bool,
}

enum State<Io: AsyncRead + AsyncWrite + Unpin> {
    /// Until the client's settings have come.
    Greeting(Handshake<Io, Bytes>),
    Serving(Connection<Io, Bytes>),
}

/// Serves the client at `io`, whose connection keeps no more than `most`: each request has a task in
/// `scope`, which `service` answers.
pub fn serve<Io, Service>(
    io: Io,
    scope: &Scope,
    most: Http2,
    service: Service,
) -> Serving<Io, Service>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let unread = Unread::within(most.window(), SLICES);
    let greeting = setup::http2_server(most).handshake(Arc::clone(&unread).counted(io));
    let (state, scope) = (State::Greeting(greeting), scope.clone());
    Serving { state, unread, scope, service, is_stopping: false }
}

impl<Io, Service> Serving<Io, Service>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    /// Takes no more requests, and ends when those that are under way are answered.
    pub fn graceful_shutdown(&mut self) {
        self.is_stopping = true;
        if let State::Serving(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
    }
}

impl<Io, Service, Answer> Future for Serving<Io, Service>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    Service: Fn(Request<Incoming>) -> Answer + Unpin,
    Answer: Future<Output = Result<Response<Body>, BodyError>> + Send + 'static,
{
    type Output = Result<(), BodyError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let this = &mut *self;
        loop {
            let connection = match &mut this.state {
                State::Greeting(greeting) => {
                    let mut connection = ready!(Pin::new(greeting).poll(cx)).map_err(cause)?;
                    if this.is_stopping {
                        connection.graceful_shutdown();
                    }
                    this.state = State::Serving(connection);
                    continue;
                }
                State::Serving(connection) => connection,
            };
            let next = connection.poll_accept(cx);
            this.unread.copy_if_due();
            let Some(next) = ready!(next) else { return Poll::Ready(Ok(())) };
            let (request, mut respond) = next.map_err(cause)?;
            if !are_well_formed(request.headers()) {
                respond.send_reset(Reason::PROTOCOL_ERROR);
                continue;
            }
            let is_for_head = request.method() == Method::HEAD;
            let answer = (this.service)(taken(request, &this.unread));
            let state = Progress::Answering { answer };
            this.scope.spawn(Box::pin(Exchange { respond, is_for_head, state }));
        }
    }
}

/// A request with its body. The body of a CONNECT is none of ours.
fn taken(request: Request<RecvStream>, unread: &Unread) -> Request<Incoming> {
    let (head, stream) = request.into_parts();
    let body = if head.method == Method::CONNECT {
        Incoming::Empty
    } else {
        Stream::of_request(stream, unread, &head.headers)
    };
    Request::from_parts(head, body)
}

pin_project! {
    /// A request, until it has its answer.
    struct Exchange<Answer> {
        respond: SendResponse<Bytes>,
        is_for_head: bool,
        #[pin]
        state: Progress<Answer>,
    }
}

pin_project! {
    #[project = ProgressNow]
    enum Progress<Answer> {
        Answering { #[pin] answer: Answer },
        Sending { sending: Sending },
    }
}

impl<Answer> Future for Exchange<Answer>
where
    Answer: Future<Output = Result<Response<Body>, BodyError>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            let answered = match this.state.as_mut().project() {
                ProgressNow::Sending { sending } => return Pin::new(sending).poll(cx),
                ProgressNow::Answering { answer } => match answer.poll(cx) {
                    Poll::Ready(answered) => answered,
                    // Its client has taken it back, or is gone: nobody waits for the answer.
                    Poll::Pending => return this.respond.poll_reset(cx).map(|_how| ()),
                },
            };
            let sending = match answered {
                Ok(answer) => reply(this.respond, answer, *this.is_for_head),
                Err(error) => {
                    this.respond.send_reset(reason(&*error));
                    None
                }
            };
            let Some(sending) = sending else { return Poll::Ready(()) };
            this.state.set(Progress::Sending { sending });
        }
    }
}

/// Sends the head of an answer; its body, if it has one, is to be sent.
fn reply(
    respond: &mut SendResponse<Bytes>,
    answer: Response<Body>,
    is_for_head: bool,
) -> Option<Sending> {
    let (mut head, body) = answer.into_parts();
    strip_answer(&mut head.headers);
    let has_ended = body.is_end_stream();
    if !has_ended && let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    match respond.send_response(Response::from_parts(head, ()), has_ended) {
        Ok(stream) => (!has_ended).then(|| Sending::new(body, stream, is_for_head)),
        Err(error) => {
            tracing::debug!(%error, "an answer cannot be sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
            None
        }
    }
}
