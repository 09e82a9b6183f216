//! A stream of a tunnel, as its application's task holds it.
//!
//! It begins as one [`Part`] on one tunnel. If it turns out to be a bulk transfer it goes on with a
//! second part, on a tunnel that it has alone: each direction as soon as its sender has something to
//! send and knows of it.

use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;

use crate::io::relay::{Broken, Incoming, Outgoing};
use crate::native::Error;
use crate::native::frame::{Continued, Hello, code};
use crate::native::inbox::Parts;
use crate::native::part::{Came, Part};
use crate::native::shared::{Core, Cut};
use crate::native::tunnel::Lease;

/// What may be sent before the peer has accepted a stream.
const MAX_UNCONFIRMED_BYTES: usize = Hello::LEAST.window as usize;

/// A stream. Dropped before both its ends, it is reset.
#[derive(Debug)]
pub struct Stream(Part);

/// A stream that a peer asks for, and that waits for its answer.
#[derive(Debug)]
pub struct Asked(pub(super) Stream);

/// The half of a stream that goes to the peer.
#[derive(Debug)]
pub struct Sender {
    stream: Arc<Stream>,
    /// What it has gone on with.
    next: Option<Arc<Part>>,
}

/// The half that comes from it.
#[derive(Debug)]
pub struct Receiver {
    stream: Arc<Stream>,
    /// What it has gone on with.
    next: Option<Arc<Part>>,
}

impl Stream {
    pub(super) const fn of(part: Part) -> Self {
        Self(part)
    }

    /// Both halves.
    pub fn split(self: &Arc<Self>) -> (Sender, Receiver) {
        let sender = Sender { stream: Arc::clone(self), next: None };
        (sender, Receiver { stream: Arc::clone(self), next: None })
    }

    /// Sends what was sent before on a stream that was not taken.
    ///
    /// # Errors
    ///
    /// The stream was reset, or its tunnel failed.
    pub fn send_again(&self, sent: Vec<Bytes>) -> Result<(), Broken> {
        let mut core = self.0.tunnel.lock();
        for mut data in sent {
            // It is not more than any peer lets us send on a new stream.
            core.send(self.0.number, &mut data)?;
        }
        Ok(())
    }

    /// What was sent on a stream that the peer has not looked at: it may be sent again on another.
    /// `None`: the application may have seen it.
    pub fn untaken(&self) -> Option<Vec<Bytes>> {
        let mut core = self.0.tunnel.lock();
        let is_lost = core.failed.is_some();
        let slot = core.slots.get_mut(&self.0.number).filter(|slot| !slot.accepted)?;
        let untaken = slot.cut == Some(Cut::Reset(code::NOT_TAKEN))
            || (slot.cut.is_none() && is_lost && slot.unconfirmed.is_empty());
        untaken.then(|| std::mem::take(&mut slot.unconfirmed))
    }

    /// The code with which the peer has refused the stream, if it has.
    pub fn refusal(&self) -> Option<u32> {
        let core = self.0.tunnel.lock();
        match core.slots.get(&self.0.number).filter(|slot| !slot.accepted)?.cut? {
            Cut::Reset(code) => Some(code),
            Cut::Unread => None,
        }
    }

    /// Resolves when the peer has accepted the stream.
    ///
    /// # Errors
    ///
    /// It has refused, or the tunnel failed.
    pub fn poll_accepted(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_accepted(cx)
    }

    /// Resolves when the stream is a bulk transfer, and its peer lets it be continued on another
    /// tunnel: with what to ask for there.
    pub fn poll_bulk(&self, cx: &mut Context<'_>) -> Poll<Continued> {
        let stream = self.0.number;
        let mut core = self.0.tunnel.lock();
        let name = core.session.name();
        let Some(slot) = core.slots.get_mut(&stream) else { return Poll::Pending };
        match name {
            Some(tunnel) if slot.accepted && slot.bulk.is_bulk() => {
                Poll::Ready(Continued { tunnel, stream })
            }
            _ => remember(&mut slot.mover, cx),
        }
    }

    /// Goes on with a stream of `lease`, which was asked for with what [`Stream::poll_bulk`] gave:
    /// until its peer has accepted that, everything stays as it is.
    ///
    /// # Errors
    ///
    /// The tunnel failed, or the peer refused: the stream stays where it is.
    pub async fn go_on(&self, lease: Lease, with: Continued) -> Result<(), Error> {
        let next = lease.go_on(with).await?;
        self.0.go_on(Arc::new(next));
        Ok(())
    }
}

impl Asked {
    /// Says yes.
    ///
    /// # Errors
    ///
    /// The peer has given it up.
    pub fn accept(self) -> Result<Stream, Error> {
        self.0.0.accept()?;
        Ok(self.0)
    }

    /// Says no.
    pub fn refuse(self, code: u32) {
        self.0.0.reset(code);
    }
}

impl Core {
    /// Sends as much as may be sent, and takes it off. False: nothing may.
    pub(super) fn send(&mut self, stream: u32, data: &mut Bytes) -> Result<bool, Broken> {
        let Some(slot) = self.slots.get_mut(&stream) else {
            return Err(Broken::because(Error::Closed));
        };
        let sent = if slot.accepted {
            self.session.send(stream, data).map_err(Broken::because)?
        } else {
            // As much as there is room for; the rest waits for the answer.
            let unconfirmed: usize = slot.unconfirmed.iter().map(Bytes::len).sum();
            let mut part = data.slice(..data.len().min(MAX_UNCONFIRMED_BYTES - unconfirmed));
            let sent = self.session.send(stream, &mut part).map_err(Broken::because)?;
            if sent > 0 {
                slot.unconfirmed.push(data.split_to(sent));
            }
            sent
        };
        if sent == 0 {
            return Ok(false);
        }
        slot.carry(sent);
        self.wake_driver();
        Ok(true)
    }
}

impl Outgoing for Sender {
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Broken>> {
        if self.next.is_none() {
            self.next = self.stream.0.leave()?;
        }
        self.next.as_deref().unwrap_or(&self.stream.0).poll_send(cx, data)
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.next.as_deref().unwrap_or(&self.stream.0).poll_closed(cx)
    }

    fn end(&mut self) -> Result<(), Broken> {
        if self.next.is_none() {
            self.next = self.stream.0.leave()?;
        }
        self.next.as_deref().unwrap_or(&self.stream.0).end()
    }

    fn reset(&mut self) {
        if let Some(next) = &self.next {
            next.reset(code::CANCEL);
        }
        self.stream.0.reset(code::CANCEL);
    }
}

impl Incoming for Receiver {
    type Data = Parts;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Parts, Broken>>> {
        loop {
            let part = self.next.as_deref().unwrap_or(&self.stream.0);
            return Poll::Ready(match ready!(part.poll_data(cx)) {
                Came::Moved(next) => {
                    self.next = Some(next);
                    continue;
                }
                Came::Data(parts) => Some(Ok(parts)),
                Came::End => None,
                Came::Broken(error) => Some(Err(Broken::because(error))),
            });
        }
    }

    fn is_last(&self) -> bool {
        self.next.as_deref().unwrap_or(&self.stream.0).is_last()
    }

    fn taken(&mut self, bytes: usize) -> Result<(), Broken> {
        self.next.as_deref().unwrap_or(&self.stream.0).taken(bytes);
        Ok(())
    }
}

/// Waits for what wakes the waker that is left there.
pub(super) fn remember<T>(waker: &mut Option<Waker>, cx: &Context<'_>) -> Poll<T> {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
    Poll::Pending
}
