//! A place on a tunnel, for one stream.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::native::Error;
use crate::native::frame::Open;
use crate::native::quota::Quota;
use crate::native::shared::Slot;
use crate::native::stream::Stream;
use crate::native::tunnel::Tunnel;

/// For how long it is assumed that a peer that was heard is still there.
const RECENT: Duration = Duration::from_secs(1);

/// A place on a tunnel. Dropping it frees the place.
#[derive(Debug)]
pub struct Lease {
    tunnel: Arc<Tunnel>,
    /// The tunnel was chosen although it carries bulk.
    is_crowded: bool,
}

impl Lease {
    /// A place that was taken.
    pub(super) const fn new(tunnel: Arc<Tunnel>) -> Self {
        Self { tunnel, is_crowded: false }
    }

    /// Opens the stream of this place: once. If the peer was heard a moment ago its answer is not
    /// waited for; see [`Stream::untaken`].
    ///
    /// # Errors
    ///
    /// The tunnel failed, or the peer refused.
    pub async fn open(&self, open: Open) -> Result<Stream, Error> {
        let (stream, is_sure) = self.ask(open)?;
        if is_sure {
            return Ok(stream);
        }
        poll_fn(|cx| stream.poll_accepted(cx)).await?;
        Ok(stream)
    }

    /// Asks for a stream; says whether the peer was heard a moment ago.
    pub(super) fn ask(&self, open: Open) -> Result<(Stream, bool), Error> {
        let (now, mut core) = (Instant::now(), self.tunnel.lock());
        if let Some(failed) = &core.failed {
            return Err(Error::Lost(Arc::clone(failed)));
        }
        let stream = core.session.open(open).ok_or(Error::Full)?;
        let share = core.quota.as_ref().and_then(Quota::stream);
        // The number of streams is bounded by the session.
        let meter = core.load.add(u32::MAX).map(Arc::new);
        if let Some(meter) = meter.as_ref().filter(|_| self.is_crowded) {
            meter.note_crowd();
        }
        core.slots.insert(stream, Slot { share, meter, ..Slot::default() });
        let is_sure = core.session.is_greeted() && now - core.heard < RECENT;
        core.silence.ask(now);
        drop(core);
        self.tunnel.wake_driver();
        Ok((Stream::new(Arc::clone(&self.tunnel), stream), is_sure))
    }

    /// The tunnel was chosen although it carries bulk, because all do.
    pub fn note_crowd(&mut self) {
        self.is_crowded = true;
    }

    /// Lets nobody else take a place on this tunnel. One that is silent may be heard again, and does
    /// so by itself until then.
    pub fn close(&self) {
        if !self.tunnel.is_silent() {
            self.tunnel.retire();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.tunnel.leases.fetch_sub(1, Ordering::AcqRel);
        self.tunnel.wake_driver();
    }
}
