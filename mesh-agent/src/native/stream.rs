//! A stream of a tunnel, as its application's task holds it: a number, and the tunnel that owns all
//! the rest.
//!
//! Each direction has an explicit end: [`Outgoing::end`] for the one, the peer's for the other.
//! Dropping a stream says nothing to anybody: it tells the tunnel's task that nobody holds the stream
//! any more, and that task decides what the peer has to be told ([`Core::release`]).
//!
//! [`Core::release`]: crate::native::shared::Core::release

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};

use crate::io::load::Meter;
use crate::io::relay::{Broken, Incoming, Outgoing};
use crate::native::Error;
use crate::native::frame::{Hello, code};
use crate::native::inbox::Parts;
use crate::native::shared::{Core, Cut};
use crate::native::tunnel::Tunnel;

/// The bytes that may be sent before the peer has accepted a stream.
const MAX_UNCONFIRMED_BYTES: usize = Hello::LEAST.window as usize;

/// A stream. Dropped before it was left ([`Outgoing::leave`]), it is reset; after that, the peer may
/// end its own direction in its own time, but what it still sends is not taken.
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
    pub(super) const fn new(tunnel: Arc<Tunnel>, number: u32) -> Self {
        Self { tunnel, number }
    }

    /// Both halves.
    pub fn split(self: &Arc<Self>) -> (Sender, Receiver) {
        (Sender(Arc::clone(self)), Receiver(Arc::clone(self)))
    }

    /// Bytes sent on a stream that the peer has not looked at: they may be sent again on another.
    /// `None`: the application may have seen it.
    pub fn untaken(&self) -> Option<Bytes> {
        let mut core = self.tunnel.lock();
        let is_lost = core.failed.is_some();
        let slot = core.slots.get_mut(&self.number).filter(|slot| !slot.accepted)?;
        let untaken = matches!(slot.cut, Some(Cut::Reset(code::NOT_TAKEN) | Cut::Unheard))
            || (slot.cut.is_none() && is_lost && slot.unconfirmed.is_empty());
        untaken.then(|| std::mem::take(&mut slot.unconfirmed).freeze())
    }

    /// The code with which the peer has refused the stream, if it has.
    pub fn refusal(&self) -> Option<u32> {
        let core = self.tunnel.lock();
        match core.slots.get(&self.number).filter(|slot| !slot.accepted)?.cut? {
            Cut::Reset(code) => Some(code),
            Cut::Unread | Cut::Unheard => None,
        }
    }

    /// Counts the stream among those of its tunnel; `None` for a stream of a peer.
    pub fn meter(&self) -> Option<Arc<Meter>> {
        self.tunnel.lock().slots.get(&self.number)?.meter.clone()
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
        self.tunnel.lock().session.reset(self.number, code);
        self.tunnel.wake_driver();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.tunnel.release(self.number);
    }
}

impl Asked {
    /// Says yes.
    ///
    /// # Errors
    ///
    /// The peer has given it up.
    pub fn accept(self) -> Result<Stream, Error> {
        let Self(stream) = self;
        stream.tunnel.lock().accept(stream.number)?;
        stream.tunnel.wake_driver();
        Ok(stream)
    }

    /// Says no.
    pub fn refuse(self, code: u32) {
        self.0.reset(code);
    }
}

impl Core {
    /// Says yes to a stream that the peer has asked for.
    fn accept(&mut self, stream: u32) -> Result<(), Error> {
        self.session.accept(stream)?;
        if let Some(slot) = self.slots.get_mut(&stream) {
            slot.accepted = true;
        }
        Ok(())
    }

    /// Sends as much as may be sent, and takes it off. False: nothing may.
    pub(super) fn send(&mut self, stream: u32, data: &mut Bytes) -> Result<bool, Broken> {
        let Some(slot) = self.slots.get_mut(&stream) else {
            return Err(Broken::because(Error::Closed));
        };
        let sent = if slot.accepted {
            self.session.send(stream, data).map_err(Broken::because)?
        } else {
            // As much as there is room for; the rest waits for the answer.
            let room = MAX_UNCONFIRMED_BYTES.saturating_sub(slot.unconfirmed.len());
            let mut part = data.slice(..data.len().min(room));
            let sent = self.session.send(stream, &mut part).map_err(Broken::because)?;
            // A copy: what was read keeps more memory than it has bytes.
            slot.unconfirmed.extend_from_slice(&data.split_to(sent));
            sent
        };
        if sent > 0 {
            slot.carry(sent);
        }
        Ok(sent > 0)
    }
}

impl Outgoing for Sender {
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Broken>> {
        let Stream { tunnel, number } = &*self.0;
        let mut core = tunnel.lock();
        if let Some(error) = core.broken(*number) {
            if core.is_content(*number) {
                // As TCP does with bytes to a peer that has closed: nobody is there to read them.
                data.clear();
                return Poll::Ready(Ok(()));
            }
            return Poll::Ready(Err(Broken::because(error)));
        }
        // No bytes have all been sent, whatever there is room for.
        let sent = data.is_empty() || (!tunnel.is_full(&mut core) && core.send(*number, data)?);
        if !sent && let Some(slot) = core.slots.get_mut(number) {
            return remember(&mut slot.writer, cx);
        }
        drop(core);
        tunnel.wake_driver();
        Poll::Ready(Ok(()))
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Stream { tunnel, number } = &*self.0;
        let mut core = tunnel.lock();
        if let Some(error) = core.broken(*number) {
            let is_content = core.is_content(*number);
            return Poll::Ready(if is_content { Ok(()) } else { Err(Broken::because(error)) });
        }
        match core.slots.get_mut(number) {
            Some(slot) => remember(&mut slot.writer, cx),
            None => Poll::Ready(Err(Broken::because(Error::Closed))),
        }
    }

    fn end(&mut self) -> Result<(), Broken> {
        let Stream { tunnel, number } = &*self.0;
        let mut core = tunnel.lock();
        match core.session.end(*number) {
            Err(over) if !core.is_content(*number) => return Err(Broken::because(over)),
            _ => {}
        }
        drop(core);
        tunnel.wake_driver();
        Ok(())
    }

    fn leave(&mut self) {
        let Stream { tunnel, number } = &*self.0;
        if let Some(slot) = tunnel.lock().slots.get_mut(number) {
            slot.left = true;
        }
    }

    fn reset(&mut self) {
        self.0.reset(code::CANCEL);
    }
}

impl Incoming for Receiver {
    type Data = Parts;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Parts, Broken>>> {
        let Stream { tunnel, number } = &*self.0;
        let mut core = tunnel.lock();
        let error = core.broken(*number);
        let Some(slot) = core.slots.get_mut(number) else {
            return Poll::Ready(Some(Err(Broken::because(Error::Closed))));
        };
        if slot.is_readable() {
            let parts = slot.inbox.take();
            if parts.has_remaining() {
                if let Some(share) = &mut slot.share {
                    share.read();
                }
                slot.carry(parts.remaining());
                return Poll::Ready(Some(Ok(parts)));
            }
            if slot.ended {
                return Poll::Ready(None);
            }
        }
        match error {
            Some(error) => Poll::Ready(Some(Err(Broken::because(error)))),
            None => remember(&mut slot.reader, cx),
        }
    }

    fn is_last(&self) -> bool {
        let core = self.0.tunnel.lock();
        core.slots.get(&self.0.number).is_some_and(|slot| slot.ended && slot.inbox.is_empty())
    }

    fn taken(&mut self, bytes: usize) -> Result<(), Broken> {
        let Stream { tunnel, number } = &*self.0;
        let mut core = tunnel.lock();
        let before = core.session.waiting();
        core.session.taken(*number, bytes);
        let has_credit = core.session.waiting() > before;
        drop(core);
        if has_credit {
            tunnel.wake_driver();
        }
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
