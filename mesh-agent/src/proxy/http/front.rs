//! A socket to an application, for hyper.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::leg::{Leg, Linger};

/// A socket to an application. It is reset when it is dropped, unless it was shut down before.
#[derive(Debug)]
pub struct Front {
    leg: Leg,
    /// Bytes that were read already, and how many of them were asked for since.
    before: Vec<u8>,
    given: usize,
    end: End,
}

/// How a connection ends.
#[derive(Debug)]
enum End {
    /// At once.
    Now,
    /// When the client has ended it too, or was waited for.
    Waits,
    /// The wait has begun.
    Waiting(Linger),
}

impl Front {
    /// Of an application that is asked.
    pub const fn of_server(leg: Leg) -> Self {
        Self { leg, before: Vec::new(), given: 0, end: End::Now }
    }

    /// Of a client, of which `before` was read already.
    pub const fn of_client(leg: Leg, before: Vec<u8>) -> Self {
        Self { leg, before, given: 0, end: End::Waits }
    }
}

impl AsyncRead for Front {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(rest) = this.before.get(this.given..).filter(|rest| !rest.is_empty()) {
            let part = rest.len().min(buffer.remaining());
            buffer.put_slice(rest.get(..part).unwrap_or_default());
            this.given += part;
            if this.given == this.before.len() {
                this.before = Vec::new();
                this.given = 0;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(this.leg.stream()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Front {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.leg.stream()).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.leg.stream()).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.end, End::Now | End::Waits) {
            ready!(Pin::new(this.leg.stream()).poll_shutdown(cx))?;
            this.leg.complete();
        }
        if matches!(this.end, End::Waits) {
            this.end = End::Waiting(Linger::default());
        }
        match &mut this.end {
            End::Waiting(linger) => linger.poll(this.leg.stream(), cx),
            End::Now | End::Waits => Poll::Ready(Ok(())),
        }
    }
}
