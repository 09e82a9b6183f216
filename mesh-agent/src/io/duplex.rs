//! A stream of a tunnel as one object that is read and written like a socket, for protocols that
//! other libraries speak.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use crate::io::relay::{Broken, Incoming, Outgoing};
use crate::task::units;

/// The most that one write takes over: it is copied.
const WRITE_BYTES: usize = 64 * 1024;

/// How much is read by one unit of a task's budget: 128 KiB in a turn. Their content may be much more
/// work than their number.
const UNIT_BYTES: usize = 1024;

/// Both halves of a stream. Dropped before it was shut down, it resets the stream.
#[derive(Debug)]
pub struct Duplex<S, R: Incoming> {
    send: S,
    receive: R,
    /// Data that has come and was not asked for yet.
    data: Option<R::Data>,
    ended: bool,
}

impl<S: Outgoing, R: Incoming> Duplex<S, R> {
    /// Of both halves.
    pub const fn new(send: S, receive: R) -> Self {
        Self { send, receive, data: None, ended: false }
    }
}

fn broken(error: Broken) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl<S: Outgoing + Unpin, R: Incoming<Data: Unpin> + Unpin> AsyncRead for Duplex<S, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // As a socket does: what is there is read in parts, between which others have their turn.
        let begun = ready!(coop::poll_proceed(cx));
        let this = &mut *self;
        loop {
            if let Some(data) = this.data.as_mut().filter(|data| Buf::has_remaining(*data)) {
                let before = buffer.remaining();
                while data.has_remaining() && buffer.remaining() > 0 {
                    let part = data.chunk().len().min(buffer.remaining());
                    buffer.put_slice(data.chunk().get(..part).unwrap_or_default());
                    data.advance(part);
                }
                begun.made_progress();
                let taken = before - buffer.remaining();
                units::spend(cx, taken / UNIT_BYTES);
                this.receive.taken(taken).map_err(broken)?;
                return Poll::Ready(Ok(()));
            }
            let data = ready!(this.receive.poll_data(cx));
            begun.made_progress();
            this.data = match data {
                Some(data) => Some(data.map_err(broken)?),
                None => return Poll::Ready(Ok(())),
            };
        }
    }
}

impl<S: Outgoing + Unpin, R: Incoming<Data: Unpin> + Unpin> AsyncWrite for Duplex<S, R> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let turn = ready!(coop::poll_proceed(cx));
        let part = data.get(..data.len().min(WRITE_BYTES)).unwrap_or_default();
        let mut rest = Bytes::copy_from_slice(part);
        while rest.len() == part.len() && !part.is_empty() {
            let sent = ready!(self.send.poll_send(cx, &mut rest));
            turn.made_progress();
            sent.map_err(broken)?;
        }
        Poll::Ready(Ok(part.len() - rest.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.ended, true) {
            self.send.end().map_err(broken)?;
            // Its protocol has said all: whoever drops it then has no use for the rest.
            self.send.leave();
        }
        Poll::Ready(Ok(()))
    }
}
