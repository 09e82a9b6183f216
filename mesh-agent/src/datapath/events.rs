//! Reads what the kernel programs report of the connections that they decide alone.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use mesh_common::event::Event;
use mesh_common::maps;

use crate::sys::bpf;
use crate::sys::readable::Readable;
use crate::task::duty::Duty;
use crate::task::scope::Scope;

/// How long the reader rests when it has read all there is. While it rests the kernel wakes nobody:
/// with thousands of connections a second, waking would cost more than what is read.
const REST: Duration = Duration::from_millis(20);

/// The most events that are handed on at once. Other tasks have their turn after each batch.
const BATCH: usize = 256;

/// The reader of `EVENTS`. One may read at a time: where it is, is kept in the map itself, so that
/// a successor goes on where a predecessor has stopped.
pub struct Events {
    ring: RingBuf<MapData>,
    /// Where the map is pinned.
    pin: PathBuf,
}

/// Events that were read at once.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// In the order in which they happened, as far as one CPU is concerned.
    pub events: &'a [Event],
    /// Records that are no events of this version of the contract; they were skipped.
    pub malformed: usize,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Reads `EVENTS`, which is pinned at `pin`.
    pub(super) const fn new(ring: RingBuf<MapData>, pin: PathBuf) -> Self {
        Self { ring, pin }
    }

    /// Begins anew where another process has stopped: how far it has read is looked up once.
    fn open_again(&mut self) -> io::Result<()> {
        let map = MapData::from_pin(&self.pin).map_err(io::Error::other)?;
        self.ring = RingBuf::try_from(Map::RingBuf(map)).map_err(io::Error::other)?;
        Ok(())
    }

    /// Gives `each` what comes while it is this process's duty, until `scope` drains; then once more
    /// what is there. Needs a runtime.
    ///
    /// # Errors
    ///
    /// The ring buffer cannot be polled.
    pub async fn run(
        mut self,
        duty: Duty,
        scope: Scope,
        mut each: impl FnMut(Batch<'_>) + Send,
    ) -> io::Result<()> {
        let mut readable = Readable::new(&self.ring)?;
        let mut returns = 0;
        let mut events = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                () = scope.draining() => {}
                ready = readable.wait() => ready?,
            }
            let Some(work) = duty.work(&scope).await else { return Ok(()) };
            if std::mem::replace(&mut returns, work.returns) != work.returns {
                drop(readable);
                self.open_again()?;
                readable = Readable::new(&self.ring)?;
            }
            let mut last_turns = maps::EVENT_BYTES / size_of::<Event>() / BATCH;
            // Until nothing is left: what is left would not wake us again.
            while self.next(&mut events, &mut each) && last_turns > 0 {
                last_turns -= usize::from(scope.is_draining());
                tokio::task::yield_now().await;
            }
            if scope.is_draining() {
                return Ok(());
            }
            drop(work);
            tokio::select! {
                biased;
                () = scope.draining() => {}
                () = tokio::time::sleep(REST) => {}
            }
        }
    }

    /// Hands one batch on. False: there are no more now.
    fn next(&mut self, events: &mut Vec<Event>, each: &mut impl FnMut(Batch<'_>)) -> bool {
        events.clear();
        let mut malformed = 0;
        let mut more = true;
        while more && events.len() + malformed < BATCH {
            match self.ring.next().map(|record| bpf::value(&record)) {
                Some(Some(event)) => events.push(event),
                Some(None) => malformed += 1,
                None => more = false,
            }
        }
        if !events.is_empty() || malformed > 0 {
            each(Batch { events, malformed });
        }
        more
    }
}
