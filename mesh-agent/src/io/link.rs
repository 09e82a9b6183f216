//! A connection that gives what it reads without a copy, and takes what is to be written in pieces.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::{poll_read_buf, poll_write_buf};

/// A connection as tunnels of ours use it.
pub trait Link {
    /// The next piece of what the peer has sent, which is not empty; `None` at the end. Nothing is
    /// held while it is waited for.
    ///
    /// # Errors
    ///
    /// Those of the socket, or of what protects it.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<BytesMut>>>;

    /// Writes `data`, and takes off what it has taken over. Ready when all of it, and of what was
    /// given earlier, was written.
    ///
    /// # Errors
    ///
    /// Those of the socket, or of what protects it.
    fn poll_give(&mut self, cx: &mut Context<'_>, data: &mut impl Buf) -> Poll<io::Result<()>>;
}

/// A connection without protection, for tests.
#[derive(Debug)]
pub struct Plain<Io>(pub Io);

/// How much of a [`Plain`] one is read at once.
const READ_BYTES: usize = 64 * 1024;

impl<Io: AsyncRead + AsyncWrite + Unpin> Link for Plain<Io> {
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<BytesMut>>> {
        let mut piece = BytesMut::with_capacity(READ_BYTES);
        let length = ready!(poll_read_buf(Pin::new(&mut self.0), cx, &mut piece))?;
        Poll::Ready(Ok((length > 0).then_some(piece)))
    }

    fn poll_give(&mut self, cx: &mut Context<'_>, data: &mut impl Buf) -> Poll<io::Result<()>> {
        while data.has_remaining() {
            if ready!(poll_write_buf(Pin::new(&mut self.0), cx, data))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Pin::new(&mut self.0).poll_flush(cx)
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Plain<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Plain<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
