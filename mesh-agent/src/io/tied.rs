//! A connection that is given away, with somebody who may still end it, and hears of its end.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

#[derive(Debug, Default)]
struct Shared {
    is_cut: AtomicBool,
    /// The task that has the connection.
    holder: AtomicWaker,
}

/// The connection. One that is cut has failed: nothing more is read or written.
#[derive(Debug)]
pub struct Tied<Io> {
    io: Io,
    shared: Arc<Shared>,
    /// Dropped with it.
    _is_there: oneshot::Sender<Infallible>,
}

/// The other end of the tie.
#[derive(Debug)]
pub struct Tie {
    shared: Arc<Shared>,
    gone: oneshot::Receiver<Infallible>,
}

impl Tie {
    /// Ties a connection.
    pub fn to<Io>(io: Io) -> (Tied<Io>, Self) {
        let shared = Arc::<Shared>::default();
        let (is_there, gone) = oneshot::channel();
        let tied = Tied { io, shared: Arc::clone(&shared), _is_there: is_there };
        (tied, Self { shared, gone })
    }

    /// Waits until nobody has the connection any more.
    pub async fn gone(&mut self) {
        // Nothing is ever sent.
        let _gone = (&mut self.gone).await;
    }

    /// Has it fail.
    pub fn cut(&self) {
        self.shared.is_cut.store(true, Ordering::Release);
        self.shared.holder.wake();
    }
}

impl<Io> Tied<Io> {
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        // First: who cuts it after the look wakes this task.
        self.shared.holder.register(cx.waker());
        if self.shared.is_cut.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Tied<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Tied<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_a_connection_that_is_cut_sees_that_it_failed() {
        let (near, _far) = duplex(4);
        let (mut near, mut tie) = Tie::to(near);
        let kind = |failed: io::Error| failed.kind();
        let mut byte = [0];
        let (read, ()) = tokio::join!(near.read(&mut byte), async {
            tokio::task::yield_now().await;
            tie.cut();
        });
        assert_eq!(read.map_err(kind), Err(io::ErrorKind::ConnectionAborted));
        assert_eq!(near.write(b"x").await.map_err(kind), Err(io::ErrorKind::ConnectionAborted));
        drop(near);
        tie.gone().await;
    }

    #[tokio::test]
    async fn a_connection_that_waits_to_be_written_to_is_cut_as_well() {
        let (near, _far) = duplex(1);
        let (mut near, tie) = Tie::to(near);
        let (written, ()) = tokio::join!(near.write_all(b"more than it takes"), async {
            tokio::task::yield_now().await;
            tie.cut();
        });
        written.unwrap_err();
    }

    #[tokio::test]
    async fn its_bytes_pass() {
        let (near, mut far) = duplex(16);
        let (mut near, _tie) = Tie::to(near);
        near.write_all(b"there").await.unwrap();
        far.write_all(b"back").await.unwrap();
        let (mut there, mut back) = ([0; 5], [0; 4]);
        far.read_exact(&mut there).await.unwrap();
        near.read_exact(&mut back).await.unwrap();
        assert_eq!((&there, &back), (b"there", b"back"));
    }
}
