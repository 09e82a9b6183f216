//! Writes of one turn of a connection's task, as one.
//!
//! h2 writes each frame with a body by itself, and hands each to the kernel at once: a connection on
//! which several answers are ready makes a system call, and wakes its client, for each of them. Here
//! they wait until the task has nothing more to say, which is before it sleeps.

use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much may wait. Bytes beyond it go at once.
const MAX_BYTES: usize = 64 * 1024;

/// A connection whose writes wait for the end of the turn.
#[derive(Debug)]
pub struct Batch<T>(Arc<Mutex<Inner<T>>>);

#[derive(Debug)]
struct Inner<T> {
    io: T,
    waiting: BytesMut,
}

/// A task's future that uses a [`Batch`], and what it has written at each of its turns.
#[derive(Debug)]
pub struct Turns<F, T, Output> {
    future: Pin<Box<F>>,
    batch: Batch<T>,
    /// The result of the future, once it has ended, until everything is written.
    output: Option<Output>,
}

impl<T: AsyncWrite + Unpin> Batch<T> {
    /// Runs what `begin` makes of the connection.
    pub fn turns<F: Future>(io: T, begin: impl FnOnce(Self) -> F) -> Turns<F, T, F::Output> {
        let inner = Arc::new(Mutex::new(Inner { io, waiting: BytesMut::new() }));
        let future = Box::pin(begin(Self(Arc::clone(&inner))));
        Turns { future, batch: Self(inner), output: None }
    }

    /// Only one task has it, which takes turns with itself.
    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
        }
        // Connections that rest keep nothing.
        self.waiting = BytesMut::new();
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Makes room for more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.len() < MAX_BYTES { Poll::Ready(Ok(())) } else { self.poll_written(cx) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Batch<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut inner.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Batch<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        ready!(inner.poll_room(cx))?;
        inner.waiting.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        ready!(inner.poll_room(cx))?;
        for slice in data {
            inner.waiting.extend_from_slice(slice);
        }
        Poll::Ready(Ok(data.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// At the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_written(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

impl<F, T, Output> Turns<F, T, Output> {
    /// The future that is run.
    pub fn future(&mut self) -> Pin<&mut F> {
        self.future.as_mut()
    }
}

impl<F, T, Output> Future for Turns<F, T, Output>
where
    F: Future<Output = Output>,
    T: AsyncWrite + Unpin,
    Output: Unpin,
{
    type Output = Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Output> {
        let this = &mut *self;
        if this.output.is_none()
            && let Poll::Ready(output) = this.future.as_mut().poll(cx)
        {
            this.output = Some(output);
        }
        let written = this.batch.inner().poll_written(cx);
        match (written, this.output.take()) {
            (Poll::Ready(_), Some(output)) => Poll::Ready(output),
            (Poll::Pending, output) => {
                this.output = output;
                Poll::Pending
            }
            (Poll::Ready(Ok(())), None) => Poll::Pending,
            // Reading finds out as well, and says it to whoever asks.
            (Poll::Ready(Err(_)), None) => {
                mem::take(&mut this.batch.inner().waiting);
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::task::yield_now;

    use super::*;

    /// Counts writes.
    #[derive(Debug)]
    struct Counted<T>(T, Arc<Mutex<usize>>);

    impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            *self.1.lock().unwrap() += 1;
            Pin::new(&mut self.0).poll_write(cx, data)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn a_turn_is_one_write() {
        let (near, mut far) = duplex(1 << 20);
        let count = Arc::new(Mutex::new(0));
        let turns = Batch::turns(Counted(near, Arc::clone(&count)), |mut io| async move {
            for _ in 0..3 {
                io.write_all(b"abc").await.unwrap();
                io.flush().await.unwrap();
            }
            yield_now().await;
            io.write_all(b"de").await.unwrap();
            io
        });
        let io = turns.await;
        assert_eq!(*count.lock().unwrap(), 2);
        drop(io);
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"abcabcabcde");
    }

    #[tokio::test]
    async fn a_reader_that_is_slow_holds_the_writer_back_and_gets_everything() {
        let (near, mut far) = duplex(100);
        let data: Vec<u8> = (0..=255).cycle().take(5 * MAX_BYTES).collect();
        let sent = data.clone();
        let turns = Batch::turns(near, |mut io| async move {
            for part in sent.chunks(1000) {
                io.write_all(part).await.unwrap();
                assert!(io.inner().waiting.len() < MAX_BYTES + 1000);
            }
        });
        let mut seen = Vec::new();
        let ((), read) = tokio::join!(turns, async { far.read_to_end(&mut seen).await.unwrap() });
        assert_eq!((read, seen == data), (data.len(), true));
    }

    #[tokio::test]
    async fn the_end_comes_after_what_waits() {
        let (near, mut far) = duplex(4);
        let turns = Batch::turns(near, |mut io| async move {
            io.write_all(b"hello, world").await.unwrap();
            io.shutdown().await.unwrap();
        });
        let mut seen = String::new();
        let ((), _) = tokio::join!(turns, far.read_to_string(&mut seen));
        assert_eq!(seen, "hello, world");
    }
}
