//! A request's body, kept as far as it may have to be sent again or to somebody else too.
//!
//! A body that is kept is read before anybody has a place for the request, and a client decides when it ends:
//! it counts among the [`Bodies`] of the client's workload until the last copy of it is gone.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body as _, Frame, SizeHint};

use crate::bounds::{Bodies, KeptBody};
use crate::proxy::http::body::{self, Body, BodyError};
use crate::proxy::http::heads;
use crate::proxy::http::incoming::Incoming;
use crate::telemetry::Unkept;

/// The most that is kept of one body. A longer one is sent once, and to nobody else.
const MAX_BYTES: usize = 64 * 1024;

/// The most bytes of a frame: that of HTTP/2, unless more was agreed (RFC 9113, section 4.2).
const FRAME_BYTES: u64 = 16 * 1024;

/// A body, or what is known of it.
pub enum Replay {
    /// All of it: as often as needed.
    Whole(Bytes, Option<HeaderMap>),
    /// Its beginning, and what is still to come: once.
    Rest(Bytes, Option<Incoming>),
    /// A body that was to be sent and was not: once.
    Unsent(Option<Body>),
}

/// The kept part of a body, as long as one copy of it is somewhere.
struct Counted {
    bytes: BytesMut,
    _kept: KeptBody,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body, unless it is too long, or the client's workload has others kept already; `told` is
/// told then, and it is sent once, as it comes.
pub async fn gather(
    mut incoming: Incoming,
    bodies: &Arc<Bodies>,
    told: impl FnOnce(Unkept),
) -> Replay {
    if incoming.is_end_stream() {
        return Replay::Whole(Bytes::new(), None);
    }
    let (mut bytes, mut kept) = (BytesMut::new(), bodies.keep());
    loop {
        // Before it is read: from then on the client may send as much again.
        let next = incoming.size_hint().upper().unwrap_or(FRAME_BYTES).min(FRAME_BYTES);
        let next = usize::try_from(next).unwrap_or(usize::MAX);
        if !kept.hold(bytes.capacity().max(bytes.len() + next)) {
            told(Unkept::Room);
            return Replay::Rest(counted(bytes, kept), Some(incoming));
        }
        let trailers = match incoming.frame().await.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => {
                bytes.extend_from_slice(&data);
                if bytes.len() <= MAX_BYTES {
                    continue;
                }
                told(Unkept::Long);
                return Replay::Rest(counted(bytes, kept), Some(incoming));
            }
            // An error in it is seen when it is sent.
            Some(Err(_)) => return Replay::Rest(counted(bytes, kept), Some(incoming)),
            Some(Ok(Err(frame))) => frame.into_trailers().ok(),
            None => None,
        };
        let size = trailers.as_ref().map_or(0, heads::size);
        if kept.hold(bytes.capacity() + size) {
            return Replay::Whole(counted(bytes, kept), trailers);
        }
        told(Unkept::Room);
        let first = counted(bytes, kept);
        return Replay::Unsent(Some(Kept { first, rest: None, trailers }.boxed_unsync()));
    }
}

fn counted(bytes: BytesMut, kept: KeptBody) -> Bytes {
    if bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(Counted { bytes, _kept: kept }) }
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

/// Bytes that were read, then those to come.
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
            return Poll::Ready(frame);
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
        let mut hint =
            self.rest.as_ref().map_or(SizeHint::with_exact(0), hyper::body::Body::size_hint);
        match hint.exact() {
            Some(rest) => hint.set_exact(first + rest),
            None => hint.set_lower(first + hint.lower()),
        }
        hint
    }
}
