//! Sends a body on a stream of HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use hyper::body::{Body as _, Frame};

use crate::proxy::http::body::Body;
use crate::proxy::http::http2::reason;

/// A body on its way, after its head. It ends early if the stream is reset, or the connection has failed.
pub struct Sending {
    body: Body,
    stream: SendStream<Bytes>,
    /// A piece that waits for windows.
    waiting: Option<Piece>,
    /// Its bytes are left out: it is for a request that asks for none.
    is_for_head: bool,
}

struct Piece {
    data: Bytes,
    is_last: bool,
}

impl Sending {
    /// Sends `body` on `stream`.
    pub const fn new(body: Body, stream: SendStream<Bytes>, is_for_head: bool) -> Self {
        Self { body, stream, waiting: None, is_for_head }
    }

    /// Sends as much of what waits as h2 has room for; `None`: the stream has ended.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        while let Some(piece) = &mut self.waiting {
            let room = match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(_)) | None => return Poll::Ready(None),
                },
                room => room,
            };
            if room == 0 {
                continue;
            }
            let now = piece.data.split_to(room.min(piece.data.len()));
            let is_sent = piece.data.is_empty();
            let is_last = is_sent && piece.is_last;
            if is_sent {
                self.waiting = None;
            }
            if self.stream.send_data(now, is_last).is_err() || is_last {
                return Poll::Ready(None);
            }
        }
        Poll::Ready(Some(()))
    }

    /// Takes over the next frame; `None`: it was the last.
    fn take(&mut self, frame: Frame<Bytes>) -> Option<()> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let trailers = frame.into_trailers().ok()?;
                // Of a stream that has ended nothing more is sent.
                let _ended: Result<(), h2::Error> = self.stream.send_trailers(trailers);
                return None;
            }
        };
        let is_last = self.body.is_end_stream();
        if data.is_empty() || self.is_for_head {
            return if is_last { self.end() } else { Some(()) };
        }
        // Not before there is something to be sent: what one stream has reserved, no other has.
        self.stream.reserve_capacity(data.len());
        self.waiting = Some(Piece { data, is_last });
        Some(())
    }

    fn end(&mut self) -> Option<()> {
        let _ended: Result<(), h2::Error> = self.stream.send_data(Bytes::new(), true);
        None
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        if ready!(self.poll_sent(cx)).is_none() {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => self.take(frame),
            Some(Err(error)) => {
                tracing::debug!(%error, "a body breaks off");
                self.stream.send_reset(reason(&*error));
                None
            }
            None => self.end(),
        })
    }
}

impl Future for Sending {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            if ready!(this.poll_next(cx)).is_none() {
                return Poll::Ready(());
            }
        }
    }
}
