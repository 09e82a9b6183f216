//! A stream of a tunnel, as its application's task holds it.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};

use crate::io::relay::{Broken, Incoming, Outgoing};
use crate::native::Error;
use crate::native::frame::{Hello, code};
use crate::native::inbox::Parts;
use crate::native::shared::Core;
use crate::native::tunnel::Tunnel;

/// What may be sent before the peer has accepted a stream.
const MAX_UNCONFIRMED_BYTES: usize = Hello::LEAST.window as usize;

/// A stream. Dropped before both its ends, it is reset.
#[derive(Debug)]
pub struct Stream {
    tunnel: Arc<Tunnel>,
    number: u32,
}

/// A stream that a peer asks for, and that waits for its answer.
#[derive(Debug)]
pub struct Asked(pub(super) Stream);

/// The half of a stream that goes to the peer.
#[derive(Debug)]
pub struct Sender(Arc<Stream>);

/// The half that comes from it.
#[derive(Debug)]
pub struct Receiver(Arc<Stream>);

impl Stream {
    pub(super) const fn of(tunnel: Arc<Tunnel>, number: u32) -> Self {
        Self { tunnel, number }
    }

    /// Both halves.
    pub fn split(self: &Arc<Self>) -> (Sender, Receiver) {
        (Sender(Arc::clone(self)), Receiver(Arc::clone(self)))
    }

    /// Sends what was sent before on a stream that was not taken.
    ///
    /// # Errors
    ///
    /// The stream was reset, or its tunnel failed.
    pub fn send_again(&self, sent: Vec<Bytes>) -> Result<(), Broken> {
        let mut core = self.tunnel.lock();
        for mut data in sent {
            // It is not more than any peer lets us send on a new stream.
            core.send(self.number, &mut data)?;
        }
        Ok(())
    }

    /// What was sent on a stream that the peer has not looked at: it may be sent again on another.
    /// `None`: the application may have seen it.
    pub fn untaken(&self) -> Option<Vec<Bytes>> {
        let mut core = self.tunnel.lock();
        let is_lost = core.failed.is_some();
        let slot = core.slots.get_mut(&self.number).filter(|slot| !slot.accepted)?;
        let untaken = slot.reset == Some(code::NOT_TAKEN)
            || (slot.reset.is_none() && is_lost && slot.unconfirmed.is_empty());
        untaken.then(|| std::mem::take(&mut slot.unconfirmed))
    }

    /// The code with which the peer has refused the stream, if it has.
    pub fn refusal(&self) -> Option<u32> {
        let core = self.tunnel.lock();
        core.slots.get(&self.number).filter(|slot| !slot.accepted)?.reset
    }

    /// Resolves when the peer has accepted the stream.
    ///
    /// # Errors
    ///
    /// It has refused, or the tunnel failed.
    pub fn poll_accepted(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut core = self.tunnel.lock();
        if let Some(error) = core.broken(self.number) {
            return Poll::Ready(Err(error));
        }
        match core.slots.get_mut(&self.number) {
            Some(slot) if slot.accepted => Poll::Ready(Ok(())),
            Some(slot) => remember(&mut slot.reader, cx),
            None => Poll::Ready(Err(Error::Closed)),
        }
    }

    fn reset(&self, code: u32) {
        let mut core = self.tunnel.lock();
        core.session.reset(self.number, code);
        core.wake_driver();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reset(code::CANCEL);
        self.tunnel.lock().slots.remove(&self.number);
    }
}

impl Asked {
    /// Says yes.
    ///
    /// # Errors
    ///
    /// The peer has given it up.
    pub fn accept(self) -> Result<Stream, Error> {
        {
            let mut core = self.0.tunnel.lock();
            core.session.accept(self.0.number)?;
            if let Some(slot) = core.slots.get_mut(&self.0.number) {
                slot.accepted = true;
            }
            core.wake_driver();
        }
        Ok(self.0)
    }

    /// Says no.
    pub fn refuse(self, code: u32) {
        self.0.reset(code);
    }
}

impl Core {
    /// Sends as much as may be sent, and takes it off. False: nothing may.
    fn send(&mut self, stream: u32, data: &mut Bytes) -> Result<bool, Broken> {
        let all = data.clone();
        let Some(slot) = self.slots.get(&stream) else {
            return Err(Broken::because(Error::Closed));
        };
        let accepted = slot.accepted;
        if !accepted {
            let unconfirmed: usize = slot.unconfirmed.iter().map(Bytes::len).sum();
            let room = MAX_UNCONFIRMED_BYTES - unconfirmed;
            if room < all.len() {
                // As much as there is room for; the rest waits for the answer.
                let mut part = data.split_to(room);
                let sent = self.session.send(stream, &mut part).map_err(Broken::because)?;
                *data = all.slice(sent..);
                return Ok(self.sent(stream, all.slice(..sent)));
            }
        }
        let sent = self.session.send(stream, data).map_err(Broken::because)?;
        Ok(self.sent(stream, all.slice(..sent)))
    }

    fn sent(&mut self, stream: u32, sent: Bytes) -> bool {
        if sent.is_empty() {
            return false;
        }
        if let Some(slot) = self.slots.get_mut(&stream).filter(|slot| !slot.accepted) {
            slot.unconfirmed.push(sent);
        }
        self.wake_driver();
        true
    }
}

impl Outgoing for Sender {
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Broken>> {
        let Stream { tunnel, number } = &*self.0;
        let mut core = tunnel.lock();
        if let Some(error) = core.broken(*number) {
            return Poll::Ready(Err(Broken::because(error)));
        }
        let sent = !tunnel.is_full(&mut core) && core.send(*number, data)?;
        if !sent && let Some(slot) = core.slots.get_mut(number) {
            return remember(&mut slot.writer, cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut core = self.0.tunnel.lock();
        if let Some(error) = core.broken(self.0.number) {
            return Poll::Ready(Err(Broken::because(error)));
        }
        match core.slots.get_mut(&self.0.number) {
            Some(slot) => remember(&mut slot.writer, cx),
            None => Poll::Ready(Err(Broken::because(Error::Closed))),
        }
    }

    fn end(&mut self) -> Result<(), Broken> {
        let mut core = self.0.tunnel.lock();
        core.session.end(self.0.number).map_err(Broken::because)?;
        core.wake_driver();
        Ok(())
    }

    fn reset(&mut self) {
        self.0.reset(code::CANCEL);
    }
}

impl Incoming for Receiver {
    type Data = Parts;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Parts, Broken>>> {
        let number = self.0.number;
        let mut core = self.0.tunnel.lock();
        let error = core.broken(number);
        let Some(slot) = core.slots.get_mut(&number) else {
            return Poll::Ready(Some(Err(Broken::because(Error::Closed))));
        };
        // After a reset nothing that came before it counts.
        if slot.reset.is_none() {
            let parts = slot.inbox.take();
            if parts.has_remaining() {
                return Poll::Ready(Some(Ok(parts)));
            }
        }
        match error {
            _ if slot.ended && slot.reset.is_none() => Poll::Ready(None),
            Some(error) => Poll::Ready(Some(Err(Broken::because(error)))),
            None => remember(&mut slot.reader, cx),
        }
    }

    fn taken(&mut self, bytes: usize) -> Result<(), Broken> {
        let mut core = self.0.tunnel.lock();
        let before = core.session.waiting();
        core.session.taken(self.0.number, bytes);
        if core.session.waiting() > before {
            core.wake_driver();
        }
        Ok(())
    }
}

/// Waits for what wakes the waker that is left there.
fn remember<T>(waker: &mut Option<Waker>, cx: &Context<'_>) -> Poll<T> {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
    Poll::Pending
}
