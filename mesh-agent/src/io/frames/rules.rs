//! Limits of frames of HTTP/2 that may not come too often.

use tokio::time::{Duration, Instant};

use crate::io::frames::{ACK, Head, kind};
use crate::task::allowance::Allowance;

/// How many SETTINGS may come at once. gRPC's libraries change their window after some round trips, ten
/// times a second at the most.
const SETTINGS_BURST: u32 = 64;

/// Milliseconds in which one more may come.
pub(super) const SETTINGS_EACH_MS: u64 = 100;

/// How many requests a client may take back in [`RESETS_TIME`], if they are more than half of those that
/// it has sent (CVE-2023-44487; Envoy's `premature_reset_total_stream_count` is as many).
const RESETS_BURST: u32 = 500;

/// The time in which they are counted.
const RESETS_TIME: Duration = Duration::from_secs(1);

/// More has come of something than any peer has use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Excess {
    #[error("SETTINGS of HTTP/2 come again and again")]
    Settings,
    #[error("requests of HTTP/2 are sent and taken back again and again")]
    Resets,
}

/// How many SETTINGS may still come.
#[derive(Debug)]
pub(super) struct Settings(Allowance<SETTINGS_BURST, SETTINGS_EACH_MS>);

impl Settings {
    pub(super) const fn new(now: Instant) -> Self {
        Self(Allowance::new(now))
    }

    pub(super) fn take(&mut self, now: Instant) -> Result<(), Excess> {
        if self.0.take(1, now) { Ok(()) } else { Err(Excess::Settings) }
    }
}

/// Requests that a client has taken back, in a time.
#[derive(Debug)]
pub(super) struct Resets {
    requests: u32,
    taken_back: u32,
    since: Instant,
    /// The last stream: what comes later of one is no request but its trailers.
    last: u32,
}

impl Resets {
    pub(super) const fn new(now: Instant) -> Self {
        Self { requests: 0, taken_back: 0, since: now, last: 0 }
    }

    pub(super) fn count(&mut self, head: Head, now: Instant) -> Result<(), Excess> {
        if now.saturating_duration_since(self.since) >= RESETS_TIME {
            *self = Self { last: self.last, ..Self::new(now) };
        }
        if head.kind == kind::RST_STREAM {
            self.taken_back = self.taken_back.saturating_add(1);
        } else if head.stream > self.last {
            self.last = head.stream;
            self.requests = self.requests.saturating_add(1);
        }
        let is_most = self.taken_back > self.requests / 2;
        if self.taken_back > RESETS_BURST && is_most { Err(Excess::Resets) } else { Ok(()) }
    }
}

/// Limits of frames that may not come too often.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) settings: Settings,
    /// `None`: a tunnel, whose applications reset connections as they like.
    pub(super) resets: Option<Resets>,
}

impl Rules {
    pub(super) fn check(&mut self, head: Head) -> Result<(), Excess> {
        match (head.kind, &mut self.resets) {
            (kind::SETTINGS, _) if head.flags & ACK == 0 => self.settings.take(Instant::now()),
            (kind::HEADERS | kind::RST_STREAM, Some(resets)) => resets.count(head, Instant::now()),
            _ => Ok(()),
        }
    }
}
