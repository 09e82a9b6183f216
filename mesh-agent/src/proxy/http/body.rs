//! Bodies of requests and answers as they pass through.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::HeaderMap;
use hyper::body::{Frame, SizeHint};
use tokio::time::Sleep;

use crate::proxy::http::incoming::Incoming;

/// Why a body ended before its end.
pub type BodyError = Box<dyn StdError + Send + Sync>;

/// A body on its way.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

fn never(error: Infallible) -> BodyError {
    match error {}
}

/// No bytes.
pub fn empty() -> Body {
    Empty::new().map_err(never).boxed_unsync()
}

/// These bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(never).boxed_unsync()
}

/// A body that fails when `late` resolves before its end: what the client has got so far must not
/// pass for the whole.
pub fn until(body: Body, late: Sleep) -> Body {
    Until { body, late: Box::pin(late) }.boxed_unsync()
}

struct Until {
    body: Body,
    late: Pin<Box<Sleep>>,
}

impl hyper::body::Body for Until {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(self.late.as_mut().poll(cx));
        Poll::Ready(Some(Err("the time for the request is over".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The part of a body that is seen on its way.
pub enum Seen<'a> {
    /// The fields after it.
    Trailers(&'a HeaderMap),
    /// Its end, perhaps more than once.
    End,
    /// It has broken off.
    Failed,
}

/// A body that is looked at on its way.
pub fn watched<B>(body: B, watch: impl FnMut(Seen<'_>) + Send + 'static) -> Body
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
{
    let mut watched = Watched { body, watch };
    watched.look();
    watched.boxed_unsync()
}

/// A body at whose end something is given back.
pub fn then(body: Incoming, done: impl FnOnce() + Send + 'static) -> Body {
    let mut done = Some(done);
    watched(body, move |seen| match seen {
        Seen::End => {
            if let Some(done) = done.take() {
                done();
            }
        }
        Seen::Failed => done = None,
        Seen::Trailers(_) => {}
    })
}

struct Watched<B, Watch> {
    body: B,
    watch: Watch,
}

/// Nothing is pinned to the one that looks.
impl<B: Unpin, Watch> Unpin for Watched<B, Watch> {}

impl<B: hyper::body::Body, Watch: FnMut(Seen<'_>)> Watched<B, Watch> {
    fn look(&mut self) {
        if self.body.is_end_stream() {
            (self.watch)(Seen::End);
        }
    }
}

impl<B, Watch> hyper::body::Body for Watched<B, Watch>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BodyError>> + Unpin,
    Watch: FnMut(Seen<'_>),
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => (self.watch)(Seen::End),
            Some(Err(_)) => (self.watch)(Seen::Failed),
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    (self.watch)(Seen::Trailers(trailers));
                }
                self.look();
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
