//! HBONE: one HTTP/2 `CONNECT` stream a connection, over mutual TLS, as Istio's ztunnel speaks it.
//!
//! [`pool`] keeps tunnels to peers, [`server`] takes theirs, [`stream`] moves bytes between a
//! stream and a socket. Who a peer is has been decided when a tunnel comes here: by `identity`.

pub mod connect;
pub mod stream;
pub mod tunnel;
pub mod pool;
pub mod server;

use std::io;
use std::time::Duration;

/// What tunnels need to be told; nothing else of the settings reaches them.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Streams on one tunnel before another tunnel is opened; and those that a peer may open.
    pub max_streams: u32,
    /// Bytes the peer may send on one stream before we take them (RFC 9113, section 5.2).
    pub stream_window_bytes: u32,
    /// The same for the whole tunnel. `max_streams` times the stream's, so that streams that are
    /// not read never hold the others up.
    pub tunnel_window_bytes: u32,
    /// The largest frame that a peer may send (RFC 9113, section 4.2).
    pub max_frame_bytes: u32,
    /// Bytes that a stream may have waiting to be sent.
    pub max_send_buffer_bytes: usize,
    /// How long a peer may take to answer `CONNECT`.
    pub answer_timeout: Duration,
    /// How long a tunnel without streams is kept.
    pub idle_timeout: Duration,
    /// How often a quiet peer is asked whether it is there.
    pub ping_interval: Duration,
    /// How long it has to answer.
    pub ping_timeout: Duration,
}

/// Streams that were reset here and are remembered, so that what the peer had under way on them is
/// ignored.
const MAX_REMEMBERED_RESETS: usize = 1024;

// Of both builders `max_local_error_reset_streams` is set to `None`: h2 counts every stream of
// which something arrives after it was forgotten, never counts down, and ends the whole tunnel at
// 1,024. Applications reset connections all day, and a tunnel lives as long.

/// Why a stream could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TCP connection to the peer.
    #[error("cannot connect to the peer's agent")]
    Connect(#[source] io::Error),
    /// The peer broke HTTP/2, or went away.
    #[error("the tunnel failed")]
    H2(#[from] h2::Error),
    /// The peer answered `CONNECT` with another status than 200.
    #[error("the peer's agent refused with status {0}")]
    Refused(u16),
    /// A deadline passed.
    #[error("the peer's agent did not answer in time")]
    Timeout,
    /// TLS, or who the peer is.
    #[error("no TLS with the peer's agent")]
    Tls(#[source] io::Error),
}

impl Error {
    /// Whether the tunnel went away before the peer saw the stream, so that another tunnel may be
    /// tried (RFC 9113, section 8.7).
    pub fn is_stale_tunnel(&self) -> bool {
        match self {
            Self::H2(error) => error.is_go_away() || error.is_io() || is_refused_stream(error),
            Self::Connect(_) | Self::Refused(_) | Self::Timeout | Self::Tls(_) => false,
        }
    }
}

fn is_refused_stream(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM)
}
