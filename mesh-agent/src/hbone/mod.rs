//! HBONE: one HTTP/2 `CONNECT` stream a connection, over mutual TLS, as Istio's ztunnel speaks it.
//!
//! [`tunnel`] opens streams, [`server`] takes those of peers. The identity of a peer has been decided when a
//! tunnel comes here: by `identity`.

pub mod connect;
pub mod stream;
pub mod tunnel;
pub mod server;

use std::io;
use std::time::Duration;

use crate::bounds::Wanted;
use crate::io::unread::Slices;

/// Settings of tunnels; nothing else of the settings reaches them.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Streams on one tunnel before another tunnel is opened; and those that a peer may open.
    pub max_streams: u32,
    /// Tunnels to one peer that may be open because all of them carry bulk.
    pub max_connections: usize,
    /// How long it is remembered that a tunnel has carried bulk: more is expected for so long.
    pub bulk_memory: Duration,
    /// Bytes the peer may send on one stream before we take them (RFC 9113, section 5.2).
    pub stream_window_bytes: u32,
    /// The same for the whole tunnel. `max_streams` times the stream's, so that streams that are
    /// not read never hold the others up.
    pub tunnel_window_bytes: u32,
    /// The largest frame that a peer may send (RFC 9113, section 4.2).
    pub max_frame_bytes: u32,
    /// Bytes that a stream may have waiting to be sent.
    pub max_send_buffer_bytes: usize,
    /// How long a tunnel without streams is kept.
    pub idle_timeout: Duration,
    /// How often a quiet peer is asked whether it is there.
    pub ping_interval: Duration,
    /// How long it has to answer.
    pub ping_timeout: Duration,
    /// How long a client has to begin.
    pub greeting_timeout: Duration,
}

/// The least that a stream may have waiting to be sent.
const LEAST_SEND_BUFFER_BYTES: u32 = 4 << 10;

/// The least window of a tunnel: that of HTTP/2 itself (RFC 9113, section 6.9.2).
const LEAST_WINDOW_BYTES: u32 = 65_535;

/// The memory without which a tunnel is no use: half a MiB of window, and 5 KiB to be sent on each of a
/// hundred streams.
const LEAST_BYTES: u32 = 1 << 20;

impl Options {
    /// The memory that a tunnel wants: what is not read of what comes, and of what is sent.
    pub fn wanted(&self) -> Wanted {
        let most = self.tunnel_window_bytes.saturating_mul(2).max(LEAST_BYTES);
        Wanted { least: LEAST_BYTES, most }
    }

    /// Of a tunnel that was promised so many bytes.
    #[must_use]
    pub fn within(self, promised: u32) -> Self {
        let window = (promised / 2).clamp(LEAST_WINDOW_BYTES, self.tunnel_window_bytes);
        let each = (window / self.max_streams.max(1)).max(LEAST_SEND_BUFFER_BYTES);
        let each = usize::try_from(each).unwrap_or(usize::MAX);
        let max_send_buffer_bytes = self.max_send_buffer_bytes.min(each);
        Self { tunnel_window_bytes: window, max_send_buffer_bytes, ..self }
    }
}

/// All that waits on streams is copied, into pieces of at most 64 KiB; the relay has one slice at a time,
/// and does not need a copy.
const COPIED: Slices = Slices { waiting: usize::MAX, passed: 0, piece: 64 * 1024 };

/// Streams that were reset here and are remembered, so that what the peer had under way on them is
/// ignored.
const MAX_REMEMBERED_RESETS: usize = 1024;

// Of both builders `max_local_error_reset_streams` is set to `None`: h2 counts every stream of
// which something arrives after it was forgotten, never counts down, and ends the whole tunnel at
// 1,024. Applications reset connections all day, and a tunnel lives as long.

/// The protocol's name in TLS, as HBONE requires.
pub const ALPN: &[u8] = b"h2";

/// Why a stream could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tunnel has taken its last stream.
    #[error("the tunnel takes no more streams")]
    Closed,
    /// The peer's certificate was revoked, or expired too long ago.
    #[error("the peer's certificate is not valid any more")]
    Distrusted,
    /// Nothing is heard from the peer.
    #[error("nothing is heard from the peer's agent")]
    Unheard,
    /// The request cannot be written.
    #[error("cannot ask for the stream")]
    Open(#[source] io::Error),
    /// The peer broke HTTP/2, or went away.
    #[error("the tunnel failed")]
    H2(#[from] h2::Error),
    /// The peer answered `CONNECT` with another status than 200.
    #[error("the peer's agent refused with status {0}")]
    Refused(u16),
}

/// Whether the tunnel went away before the peer saw the stream, so that another tunnel may be tried
/// (RFC 9113, section 8.7).
pub fn is_stale_tunnel(error: &h2::Error) -> bool {
    error.is_go_away() || error.is_io() || error.reason() == Some(h2::Reason::REFUSED_STREAM)
}
