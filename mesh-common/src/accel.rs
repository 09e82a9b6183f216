//! The shorter way between two sockets of one node: what is sent is put straight into the
//! receiver's queue, past TCP. When that may be done is decided here. Pure.
//!
//! A socket reads what came by the shorter way before what came by TCP. So the order is kept if
//! nothing goes the shorter way while anything that was sent by TCP has not been read. And the
//! shorter way has no back-pressure of its own, so a sender waits for a moment when much is waiting
//! in it, and leaves it when that becomes too much; TCP then holds the sender back.

use crate::record::FlowKey;

abi! {
    /// Value of `TALLIES`: what one direction of a connection has carried, by either way. The key
    /// is that of the direction: its client is the sender.
    pub struct Tally[64] {
        /// The connection's, as in [`Fast::id`].
        pub id: u64,
        /// The id of the workload that accepts the connection; 0: it does not leave its namespace.
        pub destination: u64,
        /// Bytes that the sender has offered; it alone writes this.
        pub sent: u64,
        /// Bytes that the receiver has read; it alone writes this.
        pub consumed: u64,
        /// The bytes that had been sent when `before` was last renewed.
        pub mark: u64,
        /// Messages that were sent before `mark`, and may not have been read.
        pub before: u32,
        /// Messages that were sent after it.
        pub since: u32,
        /// Bytes that took the shorter way; TCP has not counted these.
        pub shorter: u64,
        /// [`SHUT`] or nothing.
        pub flags: u32,
        /// The processor on which the receiver has last read.
        pub reader: u32,
    }
}

abi! {
    /// Value of `FAST`, kept on each socket whose connection may be accelerated.
    pub struct Fast[128] {
        /// The mark that tells the connection from an earlier one with the same addresses: the cookie of
        /// the socket that opened it. 0: the socket must not be accelerated.
        pub id: u64,
        /// The direction in which this socket receives: the key of its tally, and of the socket
        /// itself in `ACCELERATED`.
        pub receives: FlowKey,
        /// The direction in which it sends: the key of its tally, and of the other end.
        pub sends: FlowKey,
        /// The way that its last message took. Written under the socket's lock.
        pub way: Way,
        /// While the socket is reminded of what came by TCP: its own [`Keepalive`]. 0: it is not.
        pub own_keepalive: u32,
        /// While the socket sends slowly: its own `SO_MAX_PACING_RATE`. 0: it does not.
        pub own_pace: u32,
    }
}

abi! {
    /// Which way a sender's messages take.
    pub struct Way[16] {
        /// Bytes that had been sent when the shorter way was left: TCP begins there.
        pub seam: u64,
        /// [`BY_TCP`], [`SHORTER`], [`LEFT`] or [`NEVER`].
        pub state: u32,
        /// Explicit padding; always zero.
        pub pad: u32,
    }
}

/// `Way::state`: by TCP, until everything has been read.
pub const BY_TCP: u32 = 0;
/// `Way::state`: the shorter way.
pub const SHORTER: u32 = 1;
/// `Way::state`: by TCP for good: what was counted cannot be right.
pub const NEVER: u32 = 2;
/// `Way::state`: as [`BY_TCP`], and what took the shorter way before may not have been read.
pub const LEFT: u32 = 3;

/// `Tally::flags`: nothing may be put into this receiver's queue (any more).
pub const SHUT: u32 = 1;

/// How many bytes may wait in the shorter way before TCP takes over.
///
/// Less than TCP itself holds by default, 10 MiB (`net.ipv4.tcp_rmem` 6 MiB, `tcp_wmem` 4 MiB), and
/// enough for a reader that is not scheduled for a moment.
pub const LIMIT_BYTES: u64 = 8 << 20;

/// How many bytes may wait before a sender gives the reader a moment, in the hope that it will not
/// reach [`LIMIT_BYTES`]: as many as stay in a processor's cache.
pub const AMPLE_BYTES: u64 = 1 << 20;

/// How long a sender waits for the reader at most, in nanoseconds: 3/8 for each byte that it sends.
///
/// This is the cost of a byte by TCP between two namespaces (0.40 to 0.45 s of CPU per GB, measured
/// on Linux 6.18), so that nobody waits longer than what the shorter way saves.
#[inline]
pub const fn patience(size: u32) -> u64 {
    size as u64 * 3 / 8
}

/// How fast a sender may go after a packet with `size` bytes (`SO_MAX_PACING_RATE`, in bytes per
/// second), between the message with which it has left the shorter way and the moment when the
/// reader comes to that.
///
/// The next packet is a millisecond away, and not larger: the kernel sends at once what may go in a
/// millisecond, but at least two segments (`tcp_tso_autosize`).
#[inline]
pub const fn slow(size: u32) -> u32 {
    const LEAST: u32 = 4 << 20;
    match size.saturating_mul(1024) {
        0..LEAST => LEAST,
        pace => pace,
    }
}

/// How many messages may wait: each takes about 1.1 KiB of the kernel's memory besides its bytes
/// (measured on Linux 6.18). 4,096 × 1.1 KiB = 4.5 MiB.
pub const LIMIT_MESSAGES: u32 = 4_096;

/// A socket's settings of keepalive. Seconds are 1 to 32,767 (`MAX_TCP_KEEPIDLE`,
/// `MAX_TCP_KEEPINTVL` of the kernel): 15 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// `TCP_KEEPIDLE`.
    pub idle: u32,
    /// `TCP_KEEPINTVL`.
    pub interval: u32,
    /// `SO_KEEPALIVE`: 0 or 1.
    pub on: u32,
}

impl Keepalive {
    /// A probe a second.
    pub const EVERY_SECOND: Self = Self { idle: 1, interval: 1, on: 1 };
    const SECONDS: u32 = 0x7fff;

    /// As one number, which is never 0.
    #[inline]
    pub const fn pack(self) -> u32 {
        (self.idle & Self::SECONDS)
            | (self.interval & Self::SECONDS) << 15
            | (self.on & 1) << 30
            | 1 << 31
    }

    /// From what [`Self::pack`] has made.
    #[inline]
    pub const fn unpack(packed: u32) -> Self {
        Self {
            idle: packed & Self::SECONDS,
            interval: packed >> 15 & Self::SECONDS,
            on: packed >> 30 & 1,
        }
    }
}

impl Tally {
    /// Of a connection that has carried nothing.
    #[inline]
    pub const fn new(id: u64, destination: u64) -> Self {
        Self {
            id,
            destination,
            sent: 0,
            consumed: 0,
            mark: 0,
            before: 0,
            since: 0,
            shorter: 0,
            flags: 0,
            reader: 0,
        }
    }

    /// Whether so much waits that the reader should be given a moment, if it runs elsewhere.
    #[inline]
    pub const fn is_ample(&self, way: &Way) -> bool {
        // An amount that is too much already, or was counted wrongly, is not waited for.
        let waiting = self.sent.wrapping_sub(self.consumed);
        way.state == SHORTER && waiting > AMPLE_BYTES && waiting <= LIMIT_BYTES
    }

    /// Whether the sender is to go slowly: the reader has yet to come to where TCP begins.
    #[inline]
    pub const fn is_held(&self, way: &Way) -> bool {
        let until_seam = way.seam.wrapping_sub(self.consumed);
        way.state == LEFT && until_seam != 0 && until_seam <= u64::MAX / 2
    }

    /// Counts a message that the sender offers, and decides whether it takes the shorter way.
    ///
    /// `allowed` is the switch for all connections. Data that the receiver has read is counted after it
    /// was read, so there is never less waiting than it seems; what is counted wrongly makes the
    /// connection stay with TCP, where the order cannot be lost.
    #[inline]
    pub const fn offer(&mut self, way: &mut Way, size: u32, allowed: bool) -> bool {
        let before = self.sent;
        let waiting = before.wrapping_sub(self.consumed);
        let read_to_mark = self.mark.wrapping_sub(self.consumed);
        self.sent = before.wrapping_add(size as u64);
        // More was read than sent: the difference is a small negative number.
        if way.state == NEVER || waiting > u64::MAX / 2 {
            way.state = NEVER;
            return false;
        }
        if waiting == 0 {
            self.before = 0;
            self.since = 0;
        } else if read_to_mark == 0 || read_to_mark > u64::MAX / 2 {
            // Everything that was sent before the mark has been read.
            self.before = self.since;
            self.since = 0;
            self.mark = before;
        }
        let messages = self.before.saturating_add(self.since);
        self.since = self.since.saturating_add(1);
        let room = waiting <= LIMIT_BYTES && messages < LIMIT_MESSAGES;
        let in_order = way.state == SHORTER || waiting == 0;
        if allowed && self.flags & SHUT == 0 && room && in_order {
            way.state = SHORTER;
            return true;
        }
        if way.state == SHORTER {
            way.seam = before;
            way.state = LEFT;
        }
        false
    }

    /// Counts a message that took the shorter way: always as a whole.
    #[inline]
    pub const fn took(&mut self, size: u32) {
        self.shorter = self.shorter.wrapping_add(size as u64);
    }
}

impl Way {
    #[inline]
    const fn by(state: u32) -> Self {
        Self { seam: 0, state, pad: 0 }
    }
}

impl Fast {
    /// Of a connection with the id `id`.
    #[inline]
    pub const fn new(id: u64, receives: FlowKey, sends: FlowKey) -> Self {
        Self { id, receives, sends, way: Way::by(BY_TCP), own_keepalive: 0, own_pace: 0 }
    }

    /// Of a socket that must not be accelerated.
    #[inline]
    pub const fn refused() -> Self {
        let none = FlowKey::new(0, ([0; 4], 0), ([0; 4], 0));
        Self {
            id: 0,
            receives: none,
            sends: none,
            way: Way::by(NEVER),
            own_keepalive: 0,
            own_pace: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// The two sockets of one direction, as the kernel has them.
    struct Pipe {
        way: Way,
        tally: Option<Tally>,
        /// Messages in the receiver's queue of the shorter way: the numbers of their first and
        /// their last byte + 1.
        shorter: VecDeque<(u64, u64)>,
        /// The same for TCP.
        tcp: VecDeque<(u64, u64)>,
        /// The number of the next byte to be sent, and to be read.
        next: u64,
        read: u64,
        /// The bytes that were read and are not counted yet.
        uncounted: u64,
        /// The bytes that were counted and not sent.
        failed: u64,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A message; whether the switch is on, and whether the other end is found.
        Send { size: u32, on: bool, found: bool },
        /// A message of which TCP takes only a part: the rest is offered again.
        Partly { size: u32, taken: u32 },
        /// A read; whether it is counted at once.
        Read { size: u64, counted: bool },
        /// The bytes that were read are counted.
        Count,
        /// The receiver reads everything.
        Drain,
        /// Nothing may be put into the receiver's queue any more.
        Shut,
    }

    impl Default for Pipe {
        fn default() -> Self {
            Self {
                way: Way::by(BY_TCP),
                tally: None,
                shorter: VecDeque::new(),
                tcp: VecDeque::new(),
                next: 0,
                read: 0,
                uncounted: 0,
                failed: 0,
            }
        }
    }

    impl Pipe {
        fn tally(&mut self) -> &mut Tally {
            self.tally.get_or_insert(Tally::new(1, 0))
        }

        /// Sends, of which TCP takes `taken`; the switch may be on, and the other end be found.
        fn send(&mut self, size: u32, [on, found]: [bool; 2], taken: u32) {
            let mut way = self.way;
            let shorter = self.tally().offer(&mut way, size, on);
            self.way = way;
            let end = self.next + u64::from(taken);
            if shorter && found {
                // All of it, always: there is no back-pressure.
                let end = self.next + u64::from(size);
                self.shorter.push_back((self.next, end));
                self.next = end;
                self.tally().took(size);
                return;
            }
            if shorter {
                self.way.state = BY_TCP;
            }
            if taken > 0 {
                self.tcp.push_back((self.next, end));
                self.next = end;
            }
            self.failed += u64::from(size - taken);
        }

        /// One `recv()`: from the shorter way if there is anything, else from TCP; never both.
        fn read(&mut self, mut size: u64) -> u64 {
            let queue = if self.shorter.is_empty() { &mut self.tcp } else { &mut self.shorter };
            let mut total = 0;
            while size > 0
                && let Some((first, end)) = queue.front_mut()
            {
                assert_eq!(*first, self.read, "read in another order than sent");
                let part = size.min(*end - *first);
                *first += part;
                self.read += part;
                total += part;
                size -= part;
                if *first == *end {
                    queue.pop_front();
                }
            }
            self.uncounted += total;
            total
        }

        fn count(&mut self) {
            let uncounted = std::mem::take(&mut self.uncounted);
            let tally = self.tally();
            tally.consumed = tally.consumed.wrapping_add(uncounted);
        }

        fn take(&mut self, step: Step) {
            match step {
                Step::Send { size, on, found } => self.send(size, [on, found], size),
                Step::Partly { size, taken } => self.send(size, [true, true], taken.min(size)),
                Step::Read { size, counted } => {
                    self.read(size);
                    if counted {
                        self.count();
                    }
                }
                Step::Count => self.count(),
                Step::Drain => {
                    while self.read(u64::MAX) > 0 {}
                    self.count();
                }
                Step::Shut => self.tally().flags = SHUT,
            }
        }

        fn check(&mut self, largest: u64) {
            let way = self.way;
            if self.tally().is_held(&way) {
                assert!(!self.shorter.is_empty() || self.uncounted > 0, "held for nothing");
            }
            let waiting: u64 = self.shorter.iter().map(|(first, end)| end - first).sum();
            assert!(waiting <= LIMIT_BYTES + largest, "{waiting} bytes wait");
            let messages = u32::try_from(self.shorter.len()).unwrap();
            assert!(messages <= LIMIT_MESSAGES, "{messages} messages wait");
        }
    }

    /// As large as a message of the kernel can be: 17 fragments of 32 KiB.
    const LARGEST: u32 = 17 << 15;

    fn size() -> impl Strategy<Value = u32> {
        prop_oneof![Just(1_u32), 1..100_u32, 1..LARGEST]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => size().prop_map(|size| Step::Send { size, on: true, found: true }),
            2 => (size(), any::<bool>(), any::<bool>())
                .prop_map(|(size, on, found)| Step::Send { size, on, found }),
            6 => (1..4_000_000_u64, any::<bool>())
                .prop_map(|(size, counted)| Step::Read { size, counted }),
            1 => Just(Step::Count),
            4 => Just(Step::Drain),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        /// In all cases, bytes are read in the order in which they were sent, and what waits
        /// in the shorter way is bounded.
        #[test]
        fn the_order_is_kept_and_memory_bounded(
            start in prop_oneof![Just(0_u64), Just(u64::MAX - 1_000_000)],
            steps in prop::collection::vec(step(), 1..400),
        ) {
            let mut pipe = Pipe::default();
            let tally = pipe.tally();
            (tally.sent, tally.consumed, tally.mark) = (start, start, start);
            for step in steps {
                pipe.take(step);
                pipe.check(u64::from(LARGEST));
            }
        }

        /// A message of which a part was not sent is counted as a whole: what is wrongly counted
        /// never lets the order be lost.
        #[test]
        fn wrong_counts_keep_the_order(
            steps in prop::collection::vec(prop_oneof![
                8 => step(),
                2 => (size(), 0..LARGEST).prop_map(|(size, taken)| Step::Partly { size, taken }),
                1 => Just(Step::Shut),
            ], 1..400),
        ) {
            let mut pipe = Pipe::default();
            for step in steps {
                pipe.take(step);
                pipe.check(u64::from(LARGEST));
                if pipe.failed > 0 && matches!(pipe.way.state, BY_TCP | LEFT) {
                    // Counted and never sent: it is never all read, so TCP it remains.
                    let mut way = pipe.way;
                    prop_assert!(!pipe.tally.unwrap().offer(&mut way, 1, true));
                }
            }
        }

        /// A receiver that reads everything brings the sender back, if nothing was lost count of.
        #[test]
        fn who_has_read_all_is_served_the_shorter_way(
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut pipe = Pipe::default();
            for step in steps {
                pipe.take(step);
            }
            pipe.take(Step::Drain);
            let before = pipe.tally().shorter;
            pipe.take(Step::Send { size: 1, on: true, found: true });
            prop_assert_eq!(pipe.tally().shorter, before + 1);
        }
    }

    #[test]
    fn keepalive_survives() {
        for keepalive in [
            Keepalive::EVERY_SECOND,
            Keepalive { idle: 7_200, interval: 75, on: 0 },
            Keepalive { idle: 32_767, interval: 32_767, on: 1 },
        ] {
            assert_eq!(Keepalive::unpack(keepalive.pack()), keepalive);
            assert_ne!(keepalive.pack(), 0);
        }
    }

    #[test]
    fn a_reader_that_never_reads_is_bounded() {
        for size in [1, 1_000, 65_536, LARGEST] {
            let mut pipe = Pipe::default();
            for _ in 0..100_000 {
                pipe.take(Step::Send { size, on: true, found: true });
                pipe.check(u64::from(size));
            }
            assert_eq!(pipe.way.state, LEFT);
            pipe.take(Step::Drain);
            assert_eq!(pipe.read, pipe.next);
        }
    }

    #[test]
    fn a_sender_is_held_until_the_reader_comes_to_the_seam() {
        let mut pipe = Pipe::default();
        while pipe.way.state != LEFT {
            pipe.take(Step::Send { size: 65_536, on: true, found: true });
        }
        let held = |pipe: &mut Pipe| {
            let way = pipe.way;
            pipe.tally().is_held(&way)
        };
        pipe.take(Step::Send { size: 65_536, on: true, found: true });
        let waiting: u64 = pipe.shorter.iter().map(|(first, end)| end - first).sum();
        pipe.take(Step::Read { size: waiting - 1, counted: true });
        assert!(held(&mut pipe));
        pipe.take(Step::Read { size: 1, counted: true });
        assert!(!held(&mut pipe), "the rest is in TCP, which holds the sender back by itself");
        pipe.take(Step::Drain);
        assert!(!held(&mut pipe));
    }

    #[test]
    fn a_sender_gives_the_reader_a_moment_only_between_the_limits() {
        let waiting = |bytes, state| {
            let tally = Tally { sent: bytes, ..Tally::new(1, 0) };
            tally.is_ample(&Way::by(state))
        };
        assert!(!waiting(AMPLE_BYTES, SHORTER));
        assert!(waiting(AMPLE_BYTES + 1, SHORTER));
        assert!(waiting(LIMIT_BYTES, SHORTER));
        assert!(!waiting(LIMIT_BYTES + 1, SHORTER));
        assert!(!waiting(u64::MAX, SHORTER));
        assert!(!waiting(AMPLE_BYTES + 1, LEFT));
        assert_eq!((patience(0), patience(131_072)), (0, 49_152));
        assert_eq!(patience(u32::MAX), 1_610_612_735);
    }

    #[test]
    fn a_steady_stream_of_small_messages_stays() {
        let mut pipe = Pipe::default();
        for _ in 0..100 {
            pipe.take(Step::Send { size: 10, on: true, found: true });
        }
        // A hundred messages always wait, and none is ever waited for to be the last.
        for _ in 0..100_000 {
            pipe.take(Step::Send { size: 10, on: true, found: true });
            pipe.take(Step::Read { size: 10, counted: true });
        }
        assert_eq!(pipe.tally().shorter, 1_001_000);
    }

    #[test]
    fn more_read_than_sent_is_for_good() {
        let mut pipe = Pipe::default();
        pipe.tally().consumed = 10;
        pipe.take(Step::Send { size: 10, on: true, found: true });
        assert_eq!(pipe.way.state, NEVER);
        pipe.take(Step::Drain);
        pipe.take(Step::Send { size: 10, on: true, found: true });
        assert_eq!((pipe.way.state, pipe.shorter.len()), (NEVER, 0));
    }

    #[test]
    fn the_switch_ends_it_at_the_next_message() {
        let mut pipe = Pipe::default();
        pipe.take(Step::Send { size: 10, on: true, found: true });
        assert_eq!(pipe.shorter.len(), 1);
        pipe.take(Step::Send { size: 10, on: false, found: true });
        pipe.take(Step::Send { size: 10, on: true, found: true });
        assert_eq!((pipe.shorter.len(), pipe.tcp.len()), (1, 2));
        pipe.take(Step::Drain);
        pipe.take(Step::Send { size: 10, on: true, found: true });
        assert_eq!(pipe.shorter.len(), 1);
    }
}
