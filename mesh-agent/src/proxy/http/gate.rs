//! A connection that says whether its other end reads: whether what is written goes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// Shut while something waits to be written.
#[derive(Debug, Default)]
pub struct Gate {
    is_shut: AtomicBool,
    opening: Notify,
}

impl Gate {
    /// Whether nothing waits to be written.
    pub fn is_open(&self) -> bool {
        !self.is_shut.load(Ordering::Acquire)
    }

    /// Waits until nothing does, or the connection is gone.
    pub async fn opened(&self) {
        loop {
            // From now on, it is told.
            let opening = self.opening.notified();
            if self.is_open() {
                return;
            }
            opening.await;
        }
    }

    fn open(&self) {
        if self.is_shut.swap(false, Ordering::AcqRel) {
            self.opening.notify_waiters();
        }
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        if written.is_pending() {
            self.is_shut.store(true, Ordering::Release);
        } else {
            self.open();
        }
        written
    }
}

/// A connection, and its gate.
#[derive(Debug)]
pub struct Gated<Io> {
    io: Io,
    gate: Arc<Gate>,
}

impl<Io> Gated<Io> {
    /// Gates a connection that is not used yet.
    pub const fn new(io: Io, gate: Arc<Gate>) -> Self {
        Self { io, gate }
    }
}

impl<Io> Drop for Gated<Io> {
    fn drop(&mut self) {
        // Waiting tasks are told so by the one that has the connection.
        self.gate.open();
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Gated<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Gated<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, data);
        self.gate.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, data);
        self.gate.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_gate_is_shut_while_something_waits() {
        let (near, mut far) = duplex(4);
        let gate = Arc::<Gate>::default();
        let mut near = Gated::new(near, Arc::clone(&gate));
        near.write_all(b"four").await.unwrap();
        assert!(gate.is_open());
        let read = async {
            while gate.is_open() {
                tokio::task::yield_now().await;
            }
            let mut read = [0; 8];
            let ((), read) = tokio::join!(gate.opened(), far.read_exact(&mut read));
            read.unwrap();
        };
        let (written, ()) = tokio::join!(near.write_all(b"more"), read);
        written.unwrap();
        assert!(gate.is_open());
    }

    #[tokio::test]
    async fn a_gate_whose_connection_is_gone_is_open() {
        let (near, _far) = duplex(1);
        let gate = Arc::<Gate>::default();
        let mut near = Gated::new(near, Arc::clone(&gate));
        let writing = near.write_all(b"more");
        tokio::select! {
            biased;
            _ = writing => unreachable!("nobody reads"),
            () = tokio::task::yield_now() => {}
        }
        assert!(!gate.is_open());
        drop(near);
        gate.opened().await;
    }
}
