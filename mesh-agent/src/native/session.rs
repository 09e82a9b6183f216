//! The protocol of one tunnel as a state machine. Pure: bytes in, events and bytes out.
//!
//! Only the side that has opened the tunnel opens streams, numbered 1, 2, 3, … A stream has two
//! directions, each of which ends by itself; a reset ends both. The bytes that may be sent are bounded by the
//! window of each stream alone: all windows of a tunnel together are bounded too, by the number of
//! streams and by what they may grow to, so that a stream that is not read never holds up another.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::native::by_number::ByNumber;
use crate::native::frame::{Decoder, Frame, Hello, Open, PONG, Violation, code};
use crate::native::output::Output;

/// The largest window that a stream grows to: 10 Gbit/s at a round trip of 0.8 ms.
pub const MAX_WINDOW_BYTES: u32 = 1 << 20;

/// An allowance beyond it is refused: nobody has so much room.
const MAX_CREDIT: u32 = i32::MAX.cast_unsigned();

/// The side that has opened the tunnel, and so opens its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It was us.
    Client,
    /// It was the peer.
    Server,
}

/// The limits of a tunnel for its peer. Less than [`Hello::LEAST`] counts as that.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams at once.
    pub streams: u32,
    /// Bytes on a new stream that the application has not taken yet.
    pub window: u32,
    /// Bytes by which the windows of all streams together may grow beyond that.
    pub growth: u32,
}

/// An event on a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer asks for a stream.
    Open(u32, Open),
    /// The peer has accepted a stream.
    Accepted(u32),
    /// Bytes of a stream.
    Data(u32, Bytes),
    /// The peer sends no more on a stream.
    Ended(u32),
    /// The peer takes no more of a stream, for a [`code`], and sends no more. Anything before the
    /// peer's own end is as good as before.
    Reset(u32, u32),
    /// More may be sent on a stream.
    Credit(u32),
    /// The peer takes no more streams, and has not looked at those after the given one.
    GoAway(u32),
    /// The peer has answered a ping.
    Pong(u64),
}

/// A stream that does not exist any more, or never did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream is over")]
pub struct Over;

/// Both directions of one stream.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Bytes that we may send.
    credit: u32,
    /// Bytes that the peer may send.
    allowed: u32,
    /// Bytes that the application has taken and that the peer was not given again.
    taken: u32,
    /// `allowed` when nothing waits.
    window: u32,
    accepted: bool,
    sent_end: bool,
    got_end: bool,
}

/// One tunnel.
#[derive(Debug)]
pub struct Session {
    side: Side,
    limits: Limits,
    /// By how much windows may still grow.
    growth: u32,
    theirs: Option<Hello>,
    decoder: Decoder,
    flows: ByNumber<Flow>,
    /// The last stream that was opened.
    last: u32,
    /// We take no more streams.
    going: bool,
    /// The peer does not.
    gone: bool,
    /// Our pings that were not answered, in their order.
    pings: VecDeque<u64>,
    /// Those of the peer, since they were last asked for.
    pinged: u32,
    output: Output,
}

impl Session {
    /// A tunnel on which nothing was said. Its hello waits to be written.
    pub fn new(side: Side, mut limits: Limits) -> Self {
        // A peer sends as much before it knows better.
        limits.streams = limits.streams.max(Hello::LEAST.streams);
        limits.window = limits.window.clamp(Hello::LEAST.window, MAX_CREDIT);
        let mut output = Output::default();
        let Limits { streams, window, .. } = limits;
        output.frame(&Frame::Hello(Hello { streams, window }));
        Self {
            side,
            limits,
            growth: limits.growth,
            theirs: None,
            decoder: Decoder::default(),
            flows: ByNumber::default(),
            last: 0,
            going: false,
            gone: false,
            pings: VecDeque::new(),
            pinged: 0,
            output,
        }
    }

    /// Bytes that wait to be written.
    pub const fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// How many bytes wait to be written.
    pub fn waiting(&self) -> usize {
        self.output.remaining()
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.flows.len()
    }

    /// Whether a stream goes on, at least one way.
    pub fn has(&self, stream: u32) -> bool {
        self.flows.get(&stream).is_some_and(|flow| !flow.has_ended())
    }

    /// Whether we send nothing more on a stream.
    pub fn has_sent_last(&self, stream: u32) -> bool {
        self.flows.get(&stream).is_none_or(|flow| flow.sent_end)
    }

    /// How many streams we let the peer open at once.
    pub const fn allowed_streams(&self) -> u32 {
        self.limits.streams
    }

    /// How many streams the peer lets us open at once.
    pub fn most_streams(&self) -> u32 {
        self.theirs.unwrap_or(Hello::LEAST).streams
    }

    /// Whether the peer opens the streams.
    pub const fn is_server(&self) -> bool {
        matches!(self.side, Side::Server)
    }

    /// Whether a stream could be opened.
    pub fn has_room(&self) -> bool {
        let most = self.most_streams();
        !self.going
            && !self.gone
            && self.last < u32::MAX
            && u32::try_from(self.flows.len()).is_ok_and(|streams| streams < most)
    }

    /// Takes what has come, and tells what it means.
    ///
    /// # Errors
    ///
    /// The peer broke the protocol; the tunnel cannot go on.
    pub fn receive(
        &mut self,
        input: &mut BytesMut,
        tell: impl FnMut(Event),
    ) -> Result<(), Violation> {
        let mut opens = usize::MAX;
        self.receive_some(input, &mut opens, tell)
    }

    /// The same, until the peer has asked for `opens` streams, which are counted down: the rest stays
    /// in `input`.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`].
    pub fn receive_some(
        &mut self,
        input: &mut BytesMut,
        opens: &mut usize,
        mut tell: impl FnMut(Event),
    ) -> Result<(), Violation> {
        while *opens > 0
            && let Some(frame) = self.decoder.next(input)?
        {
            *opens -= usize::from(matches!(frame, Frame::Open(..)));
            match (frame, self.theirs) {
                (Frame::Hello(hello), None) => self.greeted(hello).for_each(&mut tell),
                (Frame::Hello(_), Some(_)) | (_, None) => return Err(Violation::Hello),
                (frame, Some(_)) => self.take(frame)?.into_iter().for_each(&mut tell),
            }
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<Option<Event>, Violation> {
        let event = match frame {
            Frame::Hello(_) => return Err(Violation::Hello),
            Frame::Skipped(_) => return Ok(None),
            Frame::Open(stream, open) => return self.asked(stream, open),
            Frame::Accept(stream) => {
                let server = self.side == Side::Server;
                let Some(flow) = self.flow(stream)? else { return Ok(None) };
                if flow.accepted || server {
                    return Err(Violation::Order(stream));
                }
                flow.accepted = true;
                Event::Accepted(stream)
            }
            Frame::Data(stream, data) => {
                let side = self.side;
                let Some(flow) = self.flow(stream)? else { return Ok(None) };
                if !flow.may_receive(side) {
                    return Err(Violation::Order(stream));
                }
                let length = u32::try_from(data.len()).ok();
                let left = length.and_then(|length| flow.allowed.checked_sub(length));
                flow.allowed = left.ok_or(Violation::Window(stream))?;
                Event::Data(stream, data)
            }
            Frame::End(stream) => return self.receive_end(stream),
            Frame::Reset(stream, code) => return self.receive_reset(stream, code),
            Frame::Credit(stream, bytes) => {
                let Some(flow) = self.flow(stream)? else { return Ok(None) };
                flow.add_credit(bytes).ok_or(Violation::Window(stream))?;
                Event::Credit(stream)
            }
            Frame::Ping(number) => {
                self.output.frame(&Frame::Pong(number));
                self.pinged = self.pinged.saturating_add(1);
                return Ok(None);
            }
            Frame::Pong(number) => {
                if self.pings.pop_front() != Some(number) {
                    return Err(Violation::Unexpected(PONG));
                }
                Event::Pong(number)
            }
            Frame::GoAway(last, _) => {
                self.gone = true;
                Event::GoAway(last)
            }
        };
        Ok(Some(event))
    }

    /// The peer's hello: streams that are open already may send the difference. They are told, as
    /// the peer gives no credit for what it has allowed from the start.
    fn greeted(&mut self, hello: Hello) -> impl Iterator<Item = Event> {
        self.theirs = Some(hello);
        let more = hello.window - Hello::LEAST.window;
        self.flows.iter_mut().filter(move |_| more > 0).map(move |(stream, flow)| {
            flow.credit = flow.credit.saturating_add(more);
            Event::Credit(*stream)
        })
    }

    /// The peer sends nothing more on a stream.
    fn receive_end(&mut self, stream: u32) -> Result<Option<Event>, Violation> {
        let side = self.side;
        let Some(flow) = self.flow(stream)? else { return Ok(None) };
        if !flow.may_receive(side) {
            return Err(Violation::Order(stream));
        }
        flow.got_end = true;
        self.forget_if_over(stream);
        Ok(Some(Event::Ended(stream)))
    }

    /// The peer neither takes nor sends any more on a stream. After its end that is about our
    /// direction alone: all that it had to say has come, and is there to be read. The stream keeps
    /// its window until then.
    fn receive_reset(&mut self, stream: u32, code: u32) -> Result<Option<Event>, Violation> {
        let Some(flow) = self.flow(stream)?.filter(|flow| !flow.has_ended()) else {
            return Ok(None);
        };
        if flow.got_end {
            flow.sent_end = true;
            self.forget_if_over(stream);
        } else {
            self.forget(stream);
        }
        Ok(Some(Event::Reset(stream, code)))
    }

    fn asked(&mut self, stream: u32, open: Open) -> Result<Option<Event>, Violation> {
        if self.side == Side::Client || Some(stream) != self.last.checked_add(1) {
            return Err(Violation::NotOpen(stream));
        }
        self.last = stream;
        let full =
            u32::try_from(self.flows.len()).map_or(true, |count| count >= self.limits.streams);
        if self.going || full {
            self.output.frame(&Frame::Reset(stream, code::NOT_TAKEN));
            return Ok(None);
        }
        self.insert(stream);
        Ok(Some(Event::Open(stream, open)))
    }

    fn insert(&mut self, stream: u32) {
        let flow = Flow {
            credit: self.theirs.unwrap_or(Hello::LEAST).window,
            allowed: self.limits.window,
            taken: 0,
            window: self.limits.window,
            accepted: false,
            sent_end: false,
            got_end: false,
        };
        self.flows.insert(stream, flow);
    }

    /// The stream of a frame that has come. `None`: it is over here, and the peer did not know when
    /// it sent the frame.
    fn flow(&mut self, stream: u32) -> Result<Option<&mut Flow>, Violation> {
        match self.flows.get_mut(&stream) {
            Some(flow) => Ok(Some(flow)),
            None if stream <= self.last => Ok(None),
            None => Err(Violation::NotOpen(stream)),
        }
    }

    fn forget_if_over(&mut self, stream: u32) {
        if self.flows.get(&stream).is_some_and(|flow| flow.has_ended() && flow.is_read()) {
            self.forget(stream);
        }
    }

    fn forget(&mut self, stream: u32) {
        if let Some(flow) = self.flows.remove(&stream) {
            self.growth += flow.window - self.limits.window;
        }
    }

    /// Whether the peer has said its hello: it knows who we are, and takes streams.
    pub const fn is_greeted(&self) -> bool {
        self.theirs.is_some()
    }

    /// Forgets a stream that the peer has never looked at.
    pub fn give_up(&mut self, stream: u32) {
        self.forget(stream);
    }

    /// Opens a stream, if there is room.
    pub fn open(&mut self, open: Open) -> Option<u32> {
        if self.side == Side::Server || !self.has_room() {
            return None;
        }
        self.last += 1;
        let stream = self.last;
        self.insert(stream);
        self.output.frame(&Frame::Open(stream, open));
        Some(stream)
    }

    /// How many pings have come since this was last asked.
    pub const fn take_pinged(&mut self) -> u32 {
        std::mem::replace(&mut self.pinged, 0)
    }

    /// Accepts a stream that the peer has asked for.
    ///
    /// # Errors
    ///
    /// The peer has given it up.
    pub fn accept(&mut self, stream: u32) -> Result<(), Over> {
        let flow = self.flows.get_mut(&stream).ok_or(Over)?;
        flow.accepted = true;
        self.output.frame(&Frame::Accept(stream));
        Ok(())
    }

    /// Sends as much of `data` as may be sent, and takes it off. 0: wait for [`Event::Credit`].
    ///
    /// # Errors
    ///
    /// The stream is over, or was ended here.
    pub fn send(&mut self, stream: u32, data: &mut Bytes) -> Result<usize, Over> {
        let flow = self.flows.get_mut(&stream).filter(|flow| !flow.sent_end).ok_or(Over)?;
        let most = usize::try_from(flow.credit).unwrap_or(usize::MAX);
        let part = data.split_to(data.len().min(most));
        let length = part.len();
        flow.credit = flow.credit.saturating_sub(u32::try_from(length).unwrap_or(u32::MAX));
        self.output.data(stream, part);
        Ok(length)
    }

    /// Sends no more on a stream.
    ///
    /// # Errors
    ///
    /// The stream is over.
    pub fn end(&mut self, stream: u32) -> Result<(), Over> {
        let flow = self.flows.get_mut(&stream).filter(|flow| !flow.sent_end).ok_or(Over)?;
        flow.sent_end = true;
        self.output.frame(&Frame::End(stream));
        self.forget_if_over(stream);
        Ok(())
    }

    /// Ends both directions of a stream, if it is not over. Bytes that were not taken are given up, too.
    pub fn reset(&mut self, stream: u32, code: u32) {
        let Some(flow) = self.flows.get(&stream) else { return };
        // The peer may still read what was sent before both ends.
        if !flow.has_ended() {
            self.output.frame(&Frame::Reset(stream, code));
        }
        self.forget(stream);
    }

    /// The application has taken bytes of a stream: lets the peer send as many again, and more if
    /// the stream is read as fast as it comes. A stream whose directions have both ended is over,
    /// and has room for another, when all of it was taken.
    pub fn taken(&mut self, stream: u32, bytes: usize) {
        let Some(flow) = self.flows.get_mut(&stream) else { return };
        flow.taken = flow.taken.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if flow.got_end {
            self.forget_if_over(stream);
            return;
        }
        if flow.taken < flow.window / 2 {
            return;
        }
        let mut credit = flow.taken;
        if flow.window <= MAX_WINDOW_BYTES / 2 && flow.window <= self.growth {
            self.growth -= flow.window;
            credit += flow.window;
            flow.window *= 2;
        }
        flow.taken = 0;
        flow.allowed += credit;
        self.output.frame(&Frame::Credit(stream, credit));
    }

    /// Asks the peer whether it is there.
    pub fn ping(&mut self, number: u64) {
        self.pings.push_back(number);
        self.output.frame(&Frame::Ping(number));
    }

    /// Takes no more streams; those that are open go on.
    pub fn go_away(&mut self, code: u32) {
        if !self.going {
            self.going = true;
            self.output.frame(&Frame::GoAway(self.last, code));
        }
    }
}

impl Flow {
    /// Whether more may come on it. A client is answered first; it may itself send before that.
    const fn may_receive(&self, side: Side) -> bool {
        !self.got_end && (self.accepted || matches!(side, Side::Server))
    }

    const fn has_ended(&self) -> bool {
        self.sent_end && self.got_end
    }

    /// Whether the application has taken all that has come.
    const fn is_read(&self) -> bool {
        self.allowed.saturating_add(self.taken) >= self.window
    }

    fn add_credit(&mut self, bytes: u32) -> Option<()> {
        self.credit = self.credit.checked_add(bytes).filter(|credit| *credit <= MAX_CREDIT)?;
        Some(())
    }
}

#[cfg(test)]
#[path = "session_tests/mod.rs"]
mod tests;
