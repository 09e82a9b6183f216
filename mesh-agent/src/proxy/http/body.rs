//! Bodies of requests and answers as they pass through.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

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

/// A body at whose end something is given back.
pub fn then(body: Incoming, done: impl FnOnce() + Send + 'static) -> Body {
    let mut then = Then { body, done: Some(Box::new(done)) };
    then.look();
    then.boxed_unsync()
}

struct Then {
    body: Incoming,
    done: Option<Box<dyn FnOnce() + Send>>,
}

impl Then {
    fn look(&mut self) {
        if self.body.is_end_stream()
            && let Some(done) = self.done.take()
        {
            done();
        }
    }
}

impl hyper::body::Body for Then {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => {
                if let Some(done) = self.done.take() {
                    done();
                }
            }
            Some(Ok(_)) => self.look(),
            Some(Err(_)) => self.done = None,
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
