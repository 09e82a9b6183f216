//! The state of a tunnel: its session, and for each stream what came, what waits and who waits.
//!
//! It is behind one lock, and owns all of its streams: a [`Stream`] is a number. No function here
//! takes another tunnel's lock, nor does anything that is dropped here.
//!
//! [`Stream`]: crate::native::stream::Stream

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, BytesMut};
use tokio::time::Instant;

use crate::io::link::Link;
use crate::io::load::{Load, Meter};
use crate::io::silence::Silence;
use crate::native::Error;
use crate::native::by_number::ByNumber;
use crate::native::frame::{Open, Violation, code};
use crate::native::inbox::Inbox;
use crate::native::quota::{Quota, Share};
use crate::native::session::{Event, Session};

/// All that the tunnel's task and its streams share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) session: Session,
    /// The quota of the peer.
    pub(super) quota: Option<Arc<Quota>>,
    /// Streams that an application holds, and those that it has let go of and that have not ended.
    pub(super) slots: ByNumber<Slot>,
    /// Why the tunnel is over.
    pub(super) failed: Option<Arc<Error>>,
    /// The streams that we have opened, as far as the choice of the next one's tunnel depends on it.
    pub(super) load: Arc<Load>,
    /// No more streams.
    pub(super) retired: bool,
    /// Streams wait for what is to be written to become less.
    pub(super) starving: bool,
    /// The number of the last ping, and whether it was answered.
    pub(super) ping: (u64, bool),
    /// When the peer was last heard.
    pub(super) heard: Instant,
    /// Whether it owes an answer.
    pub(super) silence: Silence,
}

/// The event that a stream waits for.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) inbox: Inbox,
    /// Its part of what the peer may use.
    pub(super) share: Option<Share>,
    /// Bytes that were sent before the peer has accepted the stream. Sent again if it has not looked at it.
    pub(super) unconfirmed: BytesMut,
    pub(super) accepted: bool,
    pub(super) ended: bool,
    /// Counts it among the streams that we have opened.
    pub(super) meter: Option<Arc<Meter>>,
    pub(super) cut: Option<Cut>,
    /// Its holder has said and read all that it wanted to.
    pub(super) left: bool,
    /// Nobody holds it any more, and it has sent its end. So many ticks have passed since.
    pub(super) released: Option<u8>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

/// Ticks after which a stream that nobody holds does not wait for its peer's end any longer: more
/// than one full [`ping_interval`](crate::native::Options::ping_interval).
const LINGER_TICKS: u8 = 2;

/// Why a stream is over before its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The peer says so, with a code.
    Reset(u32),
    /// Too much of what the peer has sent was unread.
    Unread,
    /// Nothing was heard from the peer, and nothing was sent on the stream.
    Unheard,
}

impl Slot {
    pub(super) fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Notes how much was sent or read at once.
    pub(super) fn carry(&self, bytes: usize) {
        if let Some(meter) = &self.meter {
            meter.carry(bytes);
        }
    }

    /// Whether the peer owes the answer to whether it takes the stream.
    const fn is_unanswered(&self) -> bool {
        !self.accepted && self.cut.is_none() && self.released.is_none()
    }

    /// Whether bytes that have come may be read. After a reset they may not, unless they are all
    /// that the peer had to say: a reset that follows an end is about the other direction.
    pub(super) fn is_readable(&self) -> bool {
        match self.cut {
            None => true,
            Some(Cut::Reset(_)) => self.ended,
            Some(Cut::Unread | Cut::Unheard) => false,
        }
    }

    /// Ends the stream before its ends.
    fn cut(&mut self, cut: Cut) {
        self.cut = Some(cut);
        if !self.is_readable() {
            self.inbox = Inbox::default();
            if let Some(share) = &mut self.share {
                share.read();
            }
        }
        self.wake();
    }
}

impl Core {
    /// Whether another stream may be opened beside `leases` that are open or will be.
    pub(super) fn has_room(&self, leases: usize) -> bool {
        let most = usize::try_from(self.session.most_streams()).unwrap_or(usize::MAX);
        !self.retired && self.failed.is_none() && leases < most
    }

    /// Whether the peer has ended a stream, and then said that it wants nothing more either: it is
    /// content, as an application that closes its socket after its answer.
    pub(super) fn is_content(&self, stream: u32) -> bool {
        let slot = self.slots.get(&stream);
        slot.is_some_and(|slot| slot.ended && slot.cut == Some(Cut::Reset(code::NONE)))
    }

    /// Nobody holds a stream any more.
    ///
    /// If it was left in good order, and all was said and taken on our side, the peer may end its
    /// direction in its own time, as after close(2): what it still sends is answered by a reset.
    /// Otherwise the stream is reset now.
    pub(super) fn release(&mut self, stream: u32) {
        let Some(slot) = self.slots.get_mut(&stream) else { return };
        let has_said_all = self.session.has(stream) && self.session.has_sent_last(stream);
        if slot.left && has_said_all && slot.cut.is_none() && slot.inbox.is_empty() {
            slot.released = Some(0);
            return;
        }
        self.session.reset(stream, code::CANCEL);
        self.slots.remove(&stream);
    }

    /// Ends streams that nobody holds and whose peer has not ended them in time.
    pub(super) fn end_released(&mut self) {
        let Self { session, slots, .. } = self;
        slots.retain(|stream, slot| {
            let Some(ticks) = &mut slot.released else { return true };
            *ticks = ticks.saturating_add(1);
            let waits = *ticks < LINGER_TICKS;
            if !waits {
                session.reset(*stream, code::NONE);
            }
            waits
        });
    }

    /// Why a stream is over, if it is.
    pub(super) fn broken(&self, stream: u32) -> Option<Error> {
        match self.slots.get(&stream).and_then(|slot| slot.cut) {
            Some(Cut::Reset(code)) => return Some(Error::Reset(code)),
            Some(Cut::Unread) => return Some(Error::Unread),
            Some(Cut::Unheard) => return Some(Error::Unheard),
            None => {}
        }
        self.failed.as_ref().map(|failed| Error::Lost(Arc::clone(failed)))
    }

    /// Refuses streams that the peer has opened beyond what it may, counting also those that it has
    /// reset and that are still being worked on: a peer that opens and resets in a loop must not
    /// leave more behind than one that does not. And those beyond what the peer may have in all.
    pub(super) fn refuse_excess(&mut self, rest: &mut Rest) {
        let Rest { asked, excess, .. } = rest;
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
                Some(slot) if fits => {
                    slot.share = share;
                    // Bytes may have come together with the question.
                    let waits = slot.inbox.len();
                    if slot.share.as_mut().is_some_and(|share| !share.came(waits)) {
                        excess.push(*stream);
                    }
                }
                _ => {
                    self.session.reset(*stream, code::NOT_TAKEN);
                    self.slots.remove(stream);
                }
            }
            fits
        });
    }

    /// Gives up streams whose bytes are more than the peer may leave unread in all, and those that
    /// nobody holds and to which the peer still sends.
    pub(super) fn reset_excess(&mut self, rest: &Rest) {
        for stream in &rest.excess {
            // Those that the peer has ended and reset still have what it has sent.
            let is_given_up = |slot: &&mut Slot| slot.cut == Some(Cut::Unread);
            let Some(slot) = self.slots.get_mut(stream).filter(|slot| !is_given_up(slot)) else {
                continue;
            };
            tracing::debug!(stream, "a peer's stream is reset: too much is unread");
            self.session.reset(*stream, code::UNAVAILABLE);
            slot.cut(Cut::Unread);
        }
        for stream in &rest.late {
            self.session.reset(*stream, code::NONE);
            self.slots.remove(stream);
        }
    }

    /// Nothing is heard from the peer. Streams of ours that it has not answered, and on which nothing
    /// was sent, are given up: they may be opened on another tunnel. For the others, that wait with
    /// what they have sent, another tunnel is of use to those that come after them.
    pub(super) fn give_up_unheard(&mut self) {
        let Self { session, slots, .. } = self;
        for (stream, slot) in slots.iter_mut().filter(|(_, slot)| slot.is_unanswered()) {
            if slot.unconfirmed.is_empty() {
                session.reset(*stream, code::CANCEL);
                slot.cut(Cut::Unheard);
            } else if let Some(meter) = &slot.meter {
                meter.note_crowd();
            }
        }
    }

    /// The peer takes no more streams, and has not looked at those after `last`.
    pub(super) fn retire_after(&mut self, last: u32) {
        self.retired = true;
        if self.session.is_server() {
            // It says that it opens no more; we open none.
            return;
        }
        for (stream, slot) in self.slots.iter_mut().filter(|(stream, _)| **stream > last) {
            self.session.give_up(*stream);
            slot.cut(Cut::Reset(code::NOT_TAKEN));
        }
    }

    /// Takes what has come, as far as the peer may still ask for streams: `opens` are counted down.
    pub(super) fn receive(
        &mut self,
        input: &mut BytesMut,
        opens: &mut usize,
        rest: &mut Rest,
    ) -> Result<(), Violation> {
        let Self { session, slots, .. } = self;
        session.receive_some(input, opens, |event| Self::note(slots, event, rest))
    }

    /// Notes what has happened. Streams that the peer asks for are left in `asked`.
    pub(super) fn note(slots: &mut ByNumber<Slot>, event: Event, rest: &mut Rest) {
        let (Event::Open(stream, _)
        | Event::Accepted(stream)
        | Event::Data(stream, _)
        | Event::Ended(stream)
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
        if let Event::Open(_, open) = event {
            slots.insert(stream, Slot::default());
            rest.asked.push((stream, open));
            return;
        }
        let Some(slot) = slots.get_mut(&stream) else { return };
        if slot.released.is_some() {
            match event {
                // Its part of a window is given back as well, though nobody has read it.
                Event::Data(..) | Event::Ended(_) | Event::Reset(..) => rest.late.push(stream),
                _ => {}
            }
            return;
        }
        match event {
            Event::Credit(_) => {
                if let Some(writer) = slot.writer.take() {
                    writer.wake();
                }
                return;
            }
            Event::Reset(_, code) => {
                slot.cut(Cut::Reset(code));
                return;
            }
            Event::Data(_, data) => {
                if slot.share.as_mut().is_some_and(|share| !share.came(data.len())) {
                    rest.excess.push(stream);
                }
                if slot.inbox.push(data) {
                    rest.slices.push(stream);
                }
            }
            Event::Accepted(_) => {
                slot.accepted = true;
                slot.unconfirmed = BytesMut::new();
                if let Some(writer) = slot.writer.take() {
                    writer.wake();
                }
            }
            Event::Ended(_) => slot.ended = true,
            _ => {}
        }
        if let Some(reader) = slot.reader.take() {
            reader.wake();
        }
    }

    /// Copies bytes of these streams that wait where they were read, if they are the lesser part of
    /// `read` bytes: they keep all of that memory. Readers that keep up have taken theirs since.
    pub(super) fn copy_slices(&mut self, mut streams: Vec<u32>, read: usize) {
        // A stream is there once for each of its slices.
        streams.sort_unstable();
        streams.dedup();
        let slots = streams.iter().filter_map(|stream| self.slots.get(stream));
        let kept: usize = slots.map(|slot| slot.inbox.slices()).sum();
        if kept == 0 || kept >= read / 2 {
            return;
        }
        for stream in streams {
            if let Some(slot) = self.slots.get_mut(&stream) {
                slot.inbox.copy_slices();
            }
        }
    }

    /// The same for all streams, whatever part it is.
    pub(super) fn copy_all_slices(&mut self) {
        self.slots.values_mut().for_each(|slot| slot.inbox.copy_slices());
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

/// Frames that are for no stream that there is.
#[derive(Default)]
pub(super) struct Rest {
    /// Streams of which more is unread than the peer may leave.
    pub(super) excess: Vec<u32>,
    /// Streams that nobody holds, and to which the peer has sent, or that it has ended.
    pub(super) late: Vec<u32>,
    /// Streams that the peer asks for.
    pub(super) asked: Vec<(u32, Open)>,
    /// Streams of which bytes wait where they were read.
    pub(super) slices: Vec<u32>,
    pub(super) gone: Option<u32>,
    pub(super) pong: Option<u64>,
}
