//! Bodies as they come from a client or a server.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use hyper::HeaderMap;
use hyper::body::{Frame, SizeHint};
use hyper::header::CONTENT_LENGTH;

use crate::io::unread::{Received, Unread};
use crate::proxy::http::body::BodyError;
use crate::proxy::http::fields::are_well_formed;
use crate::proxy::http::places::Place;

/// A body as it comes.
#[derive(Debug)]
pub enum Incoming {
    /// No bytes.
    Empty,
    /// A body that hyper reads.
    Hyper(hyper::body::Incoming),
    /// The body on a stream of HTTP/2.
    Stream(Stream),
}

/// The body on a stream of HTTP/2.
#[derive(Debug)]
pub struct Stream {
    received: Received,
    /// How much is still to come, if its head says so.
    left: Option<u64>,
    /// How much was given to whoever reads it that the peer may not send again yet.
    unreleased: usize,
    /// Only trailers may follow.
    has_ended: bool,
    /// Its sender may stop the other's body, which is still on its way, when all of it is said (RFC 9113,
    /// section 8.1).
    may_stop: bool,
    /// Of an answer: the server's stream is taken for as long.
    _place: Option<Place>,
}

impl Stream {
    /// The body of a request whose head has `fields`.
    pub fn of_request(stream: RecvStream, unread: &Unread, fields: &HeaderMap) -> Incoming {
        Self::incoming(stream, unread, fields, (false, None))
    }

    /// The body of an answer to a request that has taken `place`. `is_asking`: the request's own body is
    /// still on its way.
    pub fn of_answer(
        stream: RecvStream,
        unread: &Unread,
        fields: &HeaderMap,
        (is_asking, place): (bool, Option<Place>),
    ) -> Incoming {
        Self::incoming(stream, unread, fields, (is_asking, place))
    }

    fn incoming(
        stream: RecvStream,
        unread: &Unread,
        fields: &HeaderMap,
        (may_stop, place): (bool, Option<Place>),
    ) -> Incoming {
        if stream.is_end_stream() {
            return Incoming::Empty;
        }
        let (received, left) = (unread.watch(stream), content_length(fields));
        let (unreleased, has_ended) = (0, false);
        let body = Self { received, left, unreleased, has_ended, may_stop, _place: place };
        Incoming::Stream(body)
    }

    /// Lets the peer send as much again as whoever reads has taken: what was given it last is done with when
    /// it asks for more, so that a window bounds that too.
    fn release(&mut self) {
        if self.unreleased > 0 {
            // A stream that has ended has no window.
            let _ended: Result<(), h2::Error> = self.received.release(self.unreleased);
            self.unreleased = 0;
        }
    }

    /// Whether the sender of an answer has said all of it when it fails so.
    fn is_end(&self, error: &h2::Error) -> bool {
        let is_stop = error.is_reset() && error.reason() == Some(Reason::NO_ERROR);
        self.may_stop && is_stop && self.left.is_none_or(|left| left == 0)
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        self.release();
        if !self.has_ended {
            if let Some(data) = ready!(self.received.poll_data(cx)?) {
                self.unreleased = data.len();
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.has_ended = true;
        }
        let trailers = ready!(self.received.poll_trailers(cx)?);
        Poll::Ready(trailers.map(|trailers| {
            if are_well_formed(&trailers) {
                Ok(Frame::trailers(trailers))
            } else {
                Err(Reason::PROTOCOL_ERROR.into())
            }
        }))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.release();
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(incoming: hyper::body::Incoming) -> Self {
        Self::Hyper(incoming)
    }
}

impl hyper::body::Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Hyper(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|it| it.map_err(Into::into))),
            Self::Stream(stream) => Poll::Ready(match ready!(stream.poll_frame(cx)) {
                Some(Err(error)) if stream.is_end(&error) => None,
                frame => frame.map(|it| it.map_err(Into::into)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Hyper(incoming) => incoming.is_end_stream(),
            Self::Stream(stream) => stream.received.is_last(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Hyper(incoming) => incoming.size_hint(),
            Self::Stream(stream) => {
                stream.left.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

/// The length that a head gives its body, unless it gives several (RFC 9110, section 8.6).
fn content_length(fields: &HeaderMap) -> Option<u64> {
    let mut length = None;
    for line in fields.get_all(CONTENT_LENGTH) {
        for value in line.to_str().ok()?.split(',') {
            let value = value.trim();
            let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
            let value: u64 = value.parse().ok().filter(|_| is_number)?;
            if length.replace(value).is_some_and(|other| other != value) {
                return None;
            }
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_length_is_one_number() {
        let check = |lines: &[&'static str], expect: Option<u64>| {
            let mut fields = HeaderMap::new();
            for line in lines {
                fields.append(CONTENT_LENGTH, HeaderValue::from_static(line));
            }
            assert_eq!(content_length(&fields), expect, "{lines:?}");
        };
        check(&[], None);
        check(&["12"], Some(12));
        check(&["12", "12"], Some(12));
        check(&["12, 12"], Some(12));
        check(&["12", "13"], None);
        for none in ["", "+12", "-1", "1 2", "0x1", "12,", "18446744073709551616"] {
            check(&[none], None);
        }
    }
}
