//! The state of a tunnel's task, and its watch over the peer.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::time::Instant;

use crate::io::silence::{Alarm, News, Step};
use crate::native::pings::Pings;
use crate::native::shared::Core;
use crate::native::sync::Receiver;
use crate::native::tunnel::Tunnel;

/// The state of a tunnel's task.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) released: Receiver<u32>,
    /// Bytes that have been read and were not looked at: a part of a frame.
    pub(super) input: BytesMut,
    /// More is there: the peer has asked for as many streams as it may in one turn.
    pub(super) is_held: bool,
    /// How many pings may still come.
    pub(super) pings: Pings,
    /// Something waits to be written.
    pub(super) is_dirty: bool,
    /// Streams of which bytes waited where they were read, after the last turn that read; and how
    /// many bytes it read.
    pub(super) slices: Vec<u32>,
    pub(super) n_read: usize,
    /// When a stream was last open.
    pub(super) used: Instant,
    /// When the last ping was sent.
    pub(super) pinged: Instant,
    /// Told when the tunnel is silent, and when it is heard again; `None`: we open no streams.
    pub(super) news: Option<Arc<News>>,
    /// When something is to be done about a peer that owes an answer, and what rings then.
    pub(super) due: Option<Instant>,
    pub(super) alarm: Alarm,
}

impl Driver {
    /// Puts a piece behind what is there: a part of a frame, if anything.
    pub(super) fn append(&mut self, piece: BytesMut) {
        if self.input.is_empty() {
            self.input = piece;
        } else {
            self.input.extend_from_slice(&piece);
        }
    }

    /// The peer was heard.
    pub(super) fn hear(&self, core: &mut Core) {
        core.heard = Instant::now();
        if core.silence.hear()
            && let Some(news) = &self.news
        {
            news.heard();
        }
    }

    /// Sends a ping, unless one is under way.
    pub(super) fn ping(&mut self, core: &mut Core, now: Instant) {
        if core.ping.1 {
            // Nobody answers what was not read.
            let number = rand::random();
            core.ping = (number, false);
            core.session.ping(number);
            self.pinged = now;
        }
        if self.news.is_some() {
            core.silence.ping(now);
        }
    }

    /// The last ping was answered.
    pub(super) fn answered(&self, core: &mut Core) {
        core.ping.1 = true;
        core.silence.answered(self.pinged.elapsed());
    }

    /// A tunnel that waits keeps no memory.
    pub(super) fn shrink(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }
}

impl Tunnel {
    /// Asks a peer whether it is there that owes an answer and says nothing, and gives up what may be
    /// opened elsewhere if it does not answer that either. Called after all that has come was read.
    pub(super) fn watch(&self, cx: &mut Context<'_>, driver: &mut Driver) {
        let Poll::Ready(()) = driver.alarm.poll(cx, driver.due) else { return };
        let (now, mut core) = (Instant::now(), self.lock());
        match core.silence.step(now) {
            Step::Wait => {}
            Step::Probe => driver.ping(&mut core, now),
            Step::Silent => {
                if let Some(news) = &driver.news {
                    news.silent();
                }
                core.give_up_unheard();
            }
        }
        drop(core);
        // There may be something to write, and when the alarm is to ring next is another time.
        self.wake_driver();
    }

    /// Whether the peer owes an answer, and nothing is heard from it.
    pub fn is_silent(&self) -> bool {
        self.lock().silence.is_silent()
    }

    /// Finds out whether the peer is there.
    pub fn probe(&self) {
        self.lock().silence.ask(Instant::now());
        self.wake_driver();
    }
}
