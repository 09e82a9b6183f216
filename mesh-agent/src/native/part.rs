//! What a stream is on one tunnel.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};

use crate::io::relay::Broken;
use crate::native::Error;
use crate::native::frame::code;
use crate::native::inbox::Parts;
use crate::native::stream::remember;
use crate::native::tunnel::{Lease, Tunnel};

/// A stream's part on one tunnel. Dropped before both its ends, it is reset.
#[derive(Debug)]
pub struct Part {
    pub(super) tunnel: Arc<Tunnel>,
    pub(super) number: u32,
    /// Keeps the place on a tunnel that the stream was moved to.
    _lease: Option<Lease>,
}

/// What comes next on a part.
#[derive(Debug)]
pub(super) enum Came {
    /// Bytes.
    Data(Parts),
    /// Nothing more.
    End,
    /// Nothing more here: the stream goes on with this.
    Moved(Arc<Part>),
    /// It was reset, or its tunnel failed.
    Broken(Error),
}

impl Part {
    pub(super) const fn of(tunnel: Arc<Tunnel>, number: u32, lease: Option<Lease>) -> Self {
        Self { tunnel, number, _lease: lease }
    }

    pub(super) fn reset(&self, code: u32) {
        let mut core = self.tunnel.lock();
        core.session.reset(self.number, code);
        core.wake_driver();
    }

    /// Says yes to the peer, who has asked for it.
    pub(super) fn accept(&self) -> Result<(), Error> {
        let mut core = self.tunnel.lock();
        core.session.accept(self.number)?;
        if let Some(slot) = core.slots.get_mut(&self.number) {
            slot.accepted = true;
        }
        core.wake_driver();
        Ok(())
    }

    pub(super) fn poll_accepted(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
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

    /// Whether a stream of another tunnel may continue it: it goes on both ways, or one, and was
    /// not continued yet.
    pub(super) fn may_go_on(tunnel: &Tunnel, number: u32) -> bool {
        let core = tunnel.lock();
        let slot = core.slots.get(&number);
        core.failed.is_none()
            && core.session.has(number)
            && slot.is_some_and(|slot| {
                slot.accepted && slot.cut.is_none() && slot.next.is_none() && !slot.moved
            })
    }

    /// Goes on with `next` from now on. What has ended here has ended there.
    pub(super) fn go_on(&self, next: Arc<Self>) {
        Self::attach(&self.tunnel, self.number, next);
    }

    pub(super) fn attach(tunnel: &Tunnel, number: u32, next: Arc<Self>) {
        let mut core = tunnel.lock();
        let has_ended = core.session.has_sent_last(number);
        let Some(slot) = core.slots.get_mut(&number) else {
            // Dropping `next` takes its own tunnel's lock.
            drop(core);
            return;
        };
        slot.next = Some(Arc::clone(&next));
        slot.wake();
        drop(core);
        if has_ended {
            let _over: Result<(), Broken> = next.end();
        }
    }

    /// What the stream goes on with, if it does: this part sends nothing more.
    pub(super) fn leave(&self) -> Result<Option<Arc<Self>>, Broken> {
        let mut core = self.tunnel.lock();
        let next = core.slots.get(&self.number).and_then(|slot| slot.next.clone());
        let Some(next) = next else { return Ok(None) };
        if let Some(error) = core.broken(self.number) {
            return Err(Broken::because(error));
        }
        core.session.moved(self.number).map_err(Broken::because)?;
        core.wake_driver();
        Ok(Some(next))
    }

    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<(), Broken>> {
        let mut core = self.tunnel.lock();
        if let Some(error) = core.broken(self.number) {
            return Poll::Ready(Err(Broken::because(error)));
        }
        let sent = !self.tunnel.is_full(&mut core) && core.send(self.number, data)?;
        if !sent && let Some(slot) = core.slots.get_mut(&self.number) {
            return remember(&mut slot.writer, cx);
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut core = self.tunnel.lock();
        if let Some(error) = core.broken(self.number) {
            return Poll::Ready(Err(Broken::because(error)));
        }
        match core.slots.get_mut(&self.number) {
            Some(slot) => remember(&mut slot.writer, cx),
            None => Poll::Ready(Err(Broken::because(Error::Closed))),
        }
    }

    pub(super) fn end(&self) -> Result<(), Broken> {
        let mut core = self.tunnel.lock();
        core.session.end(self.number).map_err(Broken::because)?;
        core.wake_driver();
        Ok(())
    }

    pub(super) fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Came> {
        let mut core = self.tunnel.lock();
        let error = core.broken(self.number);
        let Some(slot) = core.slots.get_mut(&self.number) else {
            return Poll::Ready(Came::Broken(Error::Closed));
        };
        // After a reset nothing that came before it counts.
        if slot.cut.is_none() {
            let parts = slot.inbox.take();
            if parts.has_remaining() {
                if let Some(share) = &mut slot.share {
                    share.read();
                }
                slot.carry(parts.remaining());
                return Poll::Ready(Came::Data(parts));
            }
            if slot.ended {
                return Poll::Ready(Came::End);
            }
            if slot.moved
                && let Some(next) = &slot.next
            {
                return Poll::Ready(Came::Moved(Arc::clone(next)));
            }
        }
        match error {
            Some(error) => Poll::Ready(Came::Broken(error)),
            None => remember(&mut slot.reader, cx),
        }
    }

    /// Whether the end has come, and nothing waits before it.
    pub(super) fn is_last(&self) -> bool {
        let core = self.tunnel.lock();
        core.slots.get(&self.number).is_some_and(|slot| slot.ended && slot.inbox.is_empty())
    }

    pub(super) fn taken(&self, bytes: usize) {
        let mut core = self.tunnel.lock();
        let before = core.session.waiting();
        core.session.taken(self.number, bytes);
        if core.session.waiting() > before {
            core.wake_driver();
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.reset(code::CANCEL);
        let slot = self.tunnel.lock().slots.remove(&self.number);
        // What the stream went on with takes its own tunnel's lock as it ends.
        drop(slot);
    }
}
