//! What a tunnel's task and its streams share: the session, and what each stream waits for.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::time::Instant;

use crate::io::bulk::Bulk;
use crate::io::link::Link;
use crate::native::Error;
use crate::native::by_number::ByNumber;
use crate::native::frame::{Continued, Open, Violation, code};
use crate::native::inbox::Inbox;
use crate::native::part::Part;
use crate::native::quota::{Quota, Share};
use crate::native::session::{Event, Session};

/// What the task and the streams share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) session: Session,
    /// What the peer may use.
    pub(super) quota: Option<Arc<Quota>>,
    pub(super) slots: ByNumber<Slot>,
    /// Why the tunnel is over.
    pub(super) failed: Option<Arc<Error>>,
    /// Places that are taken, of streams that are open or will be.
    pub(super) leases: usize,
    /// No more streams.
    pub(super) retired: bool,
    /// Streams wait for what is to be written to become less.
    pub(super) starving: bool,
    /// The number of the last ping, and whether it was answered.
    pub(super) ping: (u64, bool),
    pub(super) driver: Option<Waker>,
    /// When the peer was last heard.
    pub(super) heard: Instant,
}

/// What a stream waits for.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) inbox: Inbox,
    /// Its part of what the peer may use.
    pub(super) share: Option<Share>,
    /// What was sent before the peer has accepted the stream. Sent again if it has not looked at it.
    pub(super) unconfirmed: Vec<Bytes>,
    pub(super) accepted: bool,
    pub(super) ended: bool,
    /// The peer goes on with the stream that continues this one.
    pub(super) moved: bool,
    /// The stream that continues this one.
    pub(super) next: Option<Arc<Part>>,
    /// Whether it is a bulk transfer, which gets a TLS connection of its own.
    pub(super) bulk: Bulk,
    pub(super) cut: Option<Cut>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Waits for it to have carried as much as a bulk transfer does.
    pub(super) mover: Option<Waker>,
}

/// Why a stream is over before its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The peer says so, with a code.
    Reset(u32),
    /// Too much of what the peer has sent was unread.
    Unread,
}

impl Slot {
    pub(super) fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Notes how much was sent or read at once.
    pub(super) fn carry(&mut self, bytes: usize) {
        self.bulk.carry(bytes);
        self.wake_mover();
    }

    fn wake_mover(&mut self) {
        if self.bulk.is_bulk()
            && let Some(mover) = self.mover.take()
        {
            mover.wake();
        }
    }
}

impl Core {
    /// Whether another stream may be opened.
    pub(super) fn has_room(&self) -> bool {
        let most = usize::try_from(self.session.most_streams()).unwrap_or(usize::MAX);
        !self.retired && self.failed.is_none() && self.leases < most
    }

    /// Lets the task run: there is something to write, or to end.
    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Why a stream is over, if it is.
    pub(super) fn broken(&self, stream: u32) -> Option<Error> {
        match self.slots.get(&stream).and_then(|slot| slot.cut) {
            Some(Cut::Reset(code)) => return Some(Error::Reset(code)),
            Some(Cut::Unread) => return Some(Error::Unread),
            None => {}
        }
        self.failed.as_ref().map(|failed| Error::Lost(Arc::clone(failed)))
    }

    /// Refuses streams that the peer has opened beyond what it may, counting also those that it has
    /// reset and that are still being worked on: a peer that opens and resets in a loop must not
    /// leave more behind than one that does not. And those beyond what the peer may have in all.
    pub(super) fn refuse_excess(&mut self, asked: &mut Vec<(u32, Asks)>) {
        let most = usize::try_from(self.session.allowed_streams()).unwrap_or(usize::MAX);
        while self.slots.len() > most
            && let Some((stream, _)) = asked.pop()
        {
            self.session.reset(stream, code::NOT_TAKEN);
            self.slots.remove(&stream);
        }
        let Some(quota) = &self.quota else { return };
        asked.retain(|(stream, _)| {
            let share = quota.stream();
            let fits = share.is_some();
            match self.slots.get_mut(stream) {
                Some(slot) if fits => slot.share = share,
                _ => {
                    self.session.reset(*stream, code::NOT_TAKEN);
                    self.slots.remove(stream);
                }
            }
            fits
        });
    }

    /// Gives up streams whose bytes are more than the peer may leave unread in all.
    pub(super) fn reset_excess(&mut self, streams: &[u32]) {
        for stream in streams {
            let Some(slot) = self.slots.get_mut(stream).filter(|slot| slot.cut.is_none()) else {
                continue;
            };
            tracing::debug!(stream, "a peer's stream is reset: too much is unread");
            self.session.reset(*stream, code::UNAVAILABLE);
            slot.cut = Some(Cut::Unread);
            slot.inbox = Inbox::default();
            if let Some(share) = &mut slot.share {
                share.read();
            }
            slot.wake();
        }
    }

    /// The peer takes no more streams, and has not looked at those after `last`.
    pub(super) fn gone(&mut self, last: u32) {
        self.retired = true;
        for (stream, slot) in self.slots.iter_mut().filter(|(stream, _)| **stream > last) {
            self.session.give_up(*stream);
            slot.cut = Some(Cut::Reset(code::NOT_TAKEN));
            slot.wake();
        }
    }

    /// Takes what has come.
    pub(super) fn receive(
        &mut self,
        input: &mut BytesMut,
        rest: &mut Rest,
    ) -> Result<(), Violation> {
        let Self { session, slots, .. } = self;
        session.receive(input, |event| Self::note(slots, event, rest))
    }

    /// Notes what has happened. Streams that the peer asks for are left in `asked`.
    pub(super) fn note(slots: &mut ByNumber<Slot>, event: Event, rest: &mut Rest) {
        let (Event::Open(stream, _)
        | Event::Continue(stream, _)
        | Event::Accepted(stream)
        | Event::Data(stream, _)
        | Event::Ended(stream)
        | Event::Moved(stream)
        | Event::Reset(stream, _)
        | Event::Credit(stream)) = event
        else {
            match event {
                Event::GoAway(last) => rest.gone = Some(last),
                Event::Pong(number) => rest.pong = Some(number),
                _ => {}
            }
            return;
        };
        match event {
            Event::Open(_, open) => {
                slots.insert(stream, Slot::default());
                rest.asked.push((stream, Asks::Open(open)));
                return;
            }
            Event::Continue(_, of) => {
                slots.insert(stream, Slot::default());
                rest.asked.push((stream, Asks::Continue(of)));
                return;
            }
            _ => {}
        }
        let Some(slot) = slots.get_mut(&stream) else { return };
        match event {
            Event::Credit(_) => {
                if let Some(writer) = slot.writer.take() {
                    writer.wake();
                }
                return;
            }
            Event::Reset(_, code) => {
                slot.cut = Some(Cut::Reset(code));
                slot.wake();
                return;
            }
            Event::Data(_, data) => {
                if slot.share.as_mut().is_some_and(|share| !share.came(data.len())) {
                    rest.excess.push(stream);
                }
                slot.inbox.push(data);
            }
            Event::Accepted(_) => {
                slot.accepted = true;
                slot.unconfirmed = Vec::new();
                slot.wake_mover();
                if let Some(writer) = slot.writer.take() {
                    writer.wake();
                }
            }
            Event::Ended(_) => slot.ended = true,
            Event::Moved(_) => slot.moved = true,
            _ => {}
        }
        if let Some(reader) = slot.reader.take() {
            reader.wake();
        }
    }

    /// Writes what is to be written. Ready: all of it.
    pub(super) fn write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut impl Link,
        dirty: &mut bool,
    ) -> Result<Poll<()>, Error> {
        *dirty |= self.session.output().has_remaining();
        if !*dirty {
            return Ok(Poll::Ready(()));
        }
        let written = io.poll_give(cx, self.session.output())?;
        *dirty = written.is_pending();
        Ok(written)
    }
}

/// What a peer asks for.
#[derive(Debug)]
pub(super) enum Asks {
    /// A connection to an application.
    Open(Open),
    /// To go on with a stream of another tunnel.
    Continue(Continued),
}

/// What is not for a stream that there is.
#[derive(Default)]
pub(super) struct Rest {
    /// Streams of which more is unread than the peer may leave.
    pub(super) excess: Vec<u32>,
    pub(super) asked: Vec<(u32, Asks)>,
    pub(super) gone: Option<u32>,
    pub(super) pong: Option<u64>,
}
