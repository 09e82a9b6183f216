//! A request's body, kept as far as it may have to be sent again or to somebody else too.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};

use crate::proxy::http::body::{self, Body, BodyError};

/// The most that is kept of one body. A longer one is sent once, and to nobody else.
const MAX_BYTES: usize = 64 * 1024;

/// A body, or what is known of it.
pub enum Replay {
    /// All of it: as often as needed.
    Whole(Bytes, Option<HeaderMap>),
    /// Its beginning, and what is still to come: once.
    Rest(Bytes, Option<Incoming>),
    /// What was to be sent and was not: once.
    Unsent(Option<Body>),
}

/// Reads a body, unless it is too long.
pub async fn gather(mut incoming: Incoming) -> Replay {
    let mut bytes = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = incoming.frame().await {
        // What is wrong with it is seen when it is sent.
        let Ok(frame) = frame else { return Replay::Rest(bytes.freeze(), Some(incoming)) };
        match frame.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if bytes.len() > MAX_BYTES {
            return Replay::Rest(bytes.freeze(), Some(incoming));
        }
    }
    Replay::Whole(bytes.freeze(), trailers)
}

impl Replay {
    /// A body that is sent once, as it comes.
    pub fn once(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            return Self::Whole(Bytes::new(), None);
        }
        Self::Rest(Bytes::new(), Some(incoming))
    }

    /// Whether it can be sent again.
    pub const fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(..))
    }

    /// A copy of it, if it is whole.
    pub fn copy(&self) -> Option<Body> {
        match self {
            Self::Whole(bytes, None) if bytes.is_empty() => Some(body::empty()),
            Self::Whole(bytes, None) => Some(body::full(bytes.clone())),
            Self::Whole(bytes, trailers) => {
                let kept = Kept { first: bytes.clone(), rest: None, trailers: trailers.clone() };
                Some(kept.boxed_unsync())
            }
            Self::Rest(..) | Self::Unsent(_) => None,
        }
    }

    /// It, to be sent. `None`: it was, and cannot be again.
    pub fn take(&mut self) -> Option<Body> {
        match self {
            Self::Whole(..) => self.copy(),
            Self::Unsent(body) => body.take(),
            Self::Rest(first, rest) => {
                let (first, rest) = (std::mem::take(first), Some(rest.take()?));
                Some(Kept { first, rest, trailers: None }.boxed_unsync())
            }
        }
    }
}

/// What was read, then what comes.
struct Kept {
    first: Bytes,
    rest: Option<Incoming>,
    trailers: Option<HeaderMap>,
}

impl hyper::body::Body for Kept {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))));
        }
        if let Some(rest) = &mut self.rest {
            let frame = ready!(Pin::new(rest).poll_frame(cx));
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.len() as u64;
        let mut hint = self.rest.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint);
        match hint.exact() {
            Some(rest) => hint.set_exact(first + rest),
            None => hint.set_lower(first + hint.lower()),
        }
        hint
    }
}
