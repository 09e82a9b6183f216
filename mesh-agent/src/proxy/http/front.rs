//! A socket to an application, for hyper.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::ahead::End;
use crate::io::leg::{Leg, Linger};

/// A socket to an application. It is reset when it is dropped, unless it was shut down before.
#[derive(Debug)]
pub struct Front {
    leg: Leg,
    /// Bytes that were read already, and how many of them were asked for since.
    before: Vec<u8>,
    given: usize,
    end: Ending,
    /// The end of what its client says, and whether it has been passed on.
    half: Option<(Arc<End>, bool)>,
    /// Something was written since the last flush.
    is_dirty: bool,
}

/// How a connection ends.
#[derive(Debug)]
enum Ending {
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
        Self { leg, before: Vec::new(), given: 0, end: Ending::Now, half: None, is_dirty: false }
    }

    /// Passes the end of its client on, when it is due.
    #[must_use]
    pub fn passing_on(mut self, end: Arc<End>) -> Self {
        self.half = Some((end, false));
        self
    }

    /// Passes the end of its client on, if it is due and all is written.
    fn poll_pass_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some((end, is_passed)) = &mut self.half
            && !*is_passed
            && !self.is_dirty
            && end.is_due()
        {
            ready!(Pin::new(self.leg.stream()).poll_shutdown(cx))?;
            *is_passed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Notes that something of a request is written.
    fn note_write(&mut self) {
        self.is_dirty = true;
        if let Some((end, _)) = &self.half {
            end.write();
        }
    }

    /// Of a client, of which `before` was read already.
    pub const fn of_client(leg: Leg, before: Vec<u8>) -> Self {
        Self { leg, before, given: 0, end: Ending::Waits, half: None, is_dirty: false }
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
        ready!(this.poll_pass_on(cx))?;
        Pin::new(this.leg.stream()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Front {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.note_write();
        Pin::new(self.leg.stream()).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note_write();
        Pin::new(self.leg.stream()).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_dirty = false;
        // It may have been heard before all was written.
        self.poll_pass_on(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.end, Ending::Now | Ending::Waits) {
            ready!(Pin::new(this.leg.stream()).poll_shutdown(cx))?;
            this.leg.complete();
        }
        if matches!(this.end, Ending::Waits) {
            this.end = Ending::Waiting(Linger::default());
        }
        match &mut this.end {
            Ending::Waiting(linger) => linger.poll(this.leg.stream(), cx),
            Ending::Now | Ending::Waits => Poll::Ready(Ok(())),
        }
    }
}
