//! Remembers why a peer's agent refused our certificate.
//!
//! A TLS 1.3 client has finished its handshake before the server looks at its certificate, so the
//! refusal arrives when HTTP/2 has begun: h2 keeps its text only, and often not even that, because
//! writing to a peer that has closed fails first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::bounds::{Held, Promise};
use crate::identity::standing::Standing;
use crate::identity::verify::{PeerError, peer_error};
use crate::io::link::Link;

/// Where the refusal is left, if there is one.
pub type Refusal = Arc<OnceLock<PeerError>>;

/// A TLS connection that is watched for a refusal.
#[derive(Debug)]
pub struct Watched<Io> {
    io: Io,
    refusal: Refusal,
    /// Whether the peer would still be accepted.
    standing: Arc<Standing>,
    /// Why writing failed, while the peer's last words are awaited.
    failed: Option<io::Error>,
    /// Its place among the agent's sockets, and in its memory, if it was promised any.
    _held: (Held, Option<Promise>),
}

impl<Io: AsyncRead + Unpin> Watched<Io> {
    /// Leaves a refusal in `refusal`. Nothing more is read or written once the peer of `standing`
    /// is revoked: a tunnel reads and writes every few seconds, if only to ask who is there.
    pub const fn new(
        io: Io,
        refusal: Refusal,
        standing: Arc<Standing>,
        held: (Held, Option<Promise>),
    ) -> Self {
        Self { io, refusal, standing, failed: None, _held: held }
    }

    /// Whether the peer may still be talked to.
    fn stands(&self) -> io::Result<()> {
        match self.standing.fallen() {
            None => Ok(()),
            Some(why) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                rustls::Error::from(PeerError::clone(why)),
            )),
        }
    }

    /// Takes down what an error says about identities.
    fn note(&self, error: &io::Error) {
        if let Some(peer) = peer_error(error) {
            // The first one counts.
            let _second: Result<(), PeerError> = self.refusal.set(peer);
        }
    }

    /// After a write that failed, waits for what the peer said before it closed. It is not long:
    /// the kernel has it, and at the latest the end of the stream.
    fn wrote<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match ready!(result) {
            Ok(done) => Poll::Ready(Ok(done)),
            Err(error) => {
                self.failed = Some(error);
                self.last_words(cx)
            }
        }
    }

    fn last_words<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let mut byte = [0];
        let last = Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut byte));
        if let Err(error) = ready!(last) {
            self.note(&error);
        }
        let failed = self.failed.take();
        Poll::Ready(Err(failed.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))
    }
}

impl<Io: Link + AsyncRead + Unpin> Link for Watched<Io> {
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<BytesMut>>> {
        self.stands()?;
        let result = ready!(self.io.poll_take(cx));
        Poll::Ready(result.inspect_err(|error| self.note(error)))
    }

    fn poll_give(&mut self, cx: &mut Context<'_>, data: &mut impl Buf) -> Poll<io::Result<()>> {
        if self.failed.is_some() {
            return self.last_words(cx);
        }
        self.stands()?;
        let result = self.io.poll_give(cx, data);
        self.wrote(cx, result)
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stands()?;
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        Poll::Ready(result.inspect_err(|error| self.note(error)))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.failed.is_some() {
            return self.last_words(cx);
        }
        self.stands()?;
        let result = Pin::new(&mut self.io).poll_write(cx, data);
        self.wrote(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.failed.is_some() {
            return self.last_words(cx);
        }
        self.stands()?;
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, data);
        self.wrote(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed.is_some() {
            return self.last_words(cx);
        }
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.wrote(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
