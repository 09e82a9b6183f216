//! Reads what the kernel programs report of the connections that they decide alone.

use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use mesh_common::event::Event;
use mesh_common::maps;

use crate::sys::bpf;
use crate::sys::readable::Readable;
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
}

/// What was read at once.
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
    /// Reads `EVENTS`.
    pub(super) const fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Gives `each` what comes, until `scope` drains; then once more what is there. Needs a runtime.
    ///
    /// # Errors
    ///
    /// The ring buffer cannot be polled.
    pub async fn run(
        mut self,
        scope: Scope,
        mut each: impl FnMut(Batch<'_>) + Send,
    ) -> std::io::Result<()> {
        let readable = Readable::new(&self.ring)?;
        let mut events = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                () = scope.draining() => {}
                ready = readable.wait() => ready?,
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
