//! The transport between two agents of this mesh: many connections in one TLS connection.
//!
//! It is negotiated by [`ALPN`]; a peer that does not offer it is spoken to by HBONE.
//! `docs/transport.md` specifies it byte by byte. [`frame`], [`output`], [`inbox`] and [`session`]
//! are the protocol, as functions of bytes; [`tunnel`] and [`stream`] do the input and the output.

pub mod frame;
mod by_number;
mod driver;
pub mod output;
mod pings;
pub mod inbox;
pub mod session;
#[cfg(any(test, feature = "test-support"))]
pub mod pair;
mod shared;
mod sync;
pub mod tunnel;
pub mod lease;
pub mod quota;
pub mod stream;
#[cfg(all(test, feature = "model"))]
mod model_tests;
#[cfg(any(test, feature = "test-support"))]
pub mod harness;
#[cfg(any(test, feature = "test-support"))]
mod fixture;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::io::tls;
use crate::native::frame::{Violation, code};
use crate::native::quota::Bounds;
use crate::native::session::{Limits, Over};

/// The protocol's name in TLS (RFC 7301), with the version that cannot be extended compatibly.
pub const ALPN: &[u8] = b"nodemesh/1";

/// Settings of tunnels; nothing else of the settings reaches them.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Limits of a peer.
    pub limits: Limits,
    /// Limits of peers that have connected to a workload in its agent, over all their tunnels.
    pub clients: Bounds,
    /// Limits of peers that a workload has connected to in its agent. It opens as many streams
    /// as its application asks for: only bytes are bounded.
    pub servers: Bounds,
    /// Tunnels of one data thread to one peer: further ones are opened because the others carry bulk.
    pub max_tunnels: usize,
    /// Bytes that may wait to be written before streams are held up.
    pub max_output_bytes: usize,
    /// How long a tunnel without streams is kept.
    pub idle_timeout: Duration,
    /// How often a quiet peer is asked whether it is there.
    pub ping_interval: Duration,
    /// How long it has to answer.
    pub ping_timeout: Duration,
}

/// Why a stream could not be had, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer has closed the tunnel.
    #[error("the peer's agent has closed the tunnel")]
    Closed,
    /// The peer's certificate was revoked, or expired too long ago.
    #[error("the peer's certificate is not valid any more")]
    Distrusted,
    /// The peer asks for more answers than it reads.
    #[error("the peer's agent asks for more than it reads")]
    Flood,
    /// The tunnel takes no more streams.
    #[error("the tunnel takes no more streams")]
    Full,
    /// The tunnel's TLS connection.
    #[error("the tunnel failed")]
    Io(#[from] io::Error),
    /// The tunnel failed, for all its streams.
    #[error(transparent)]
    Lost(Arc<Self>),
    /// The peer refused the stream, or reset it.
    #[error("the peer's agent says {}", said(*.0))]
    Reset(u32),
    /// The peer does not answer.
    #[error("the peer's agent does not answer")]
    Silent,
    /// Nothing is heard from the peer: the stream was given up before anything was sent on it.
    #[error("nothing is heard from the peer's agent")]
    Unheard,
    /// The stream was given up here: see [`Options::clients`] and [`Options::servers`].
    #[error("more of what the peer has sent is unread than this agent keeps")]
    Unread,
    /// The peer broke the protocol.
    #[error("the peer's agent broke the protocol")]
    Violation(#[from] Violation),
}

impl Error {
    /// The error of the system or TLS, if it was one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io(error) => Some(error),
            Self::Lost(error) => error.io(),
            _ => None,
        }
    }

    /// Whether the peer does not answer.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Lost(error) => error.is_silence(),
            error => matches!(error, Self::Silent),
        }
    }

    /// Whether the peer broke the protocol.
    pub fn is_violation(&self) -> bool {
        match self {
            Self::Lost(error) => error.is_violation(),
            Self::Io(error) => tls::stream::is_violation(error),
            error => matches!(error, Self::Violation(_) | Self::Flood),
        }
    }

    /// Whether the tunnel went away before the peer looked at the stream, so that another tunnel
    /// may be tried: of a stream that was not accepted.
    pub fn is_stale_tunnel(&self) -> bool {
        match self {
            Self::Closed
            | Self::Flood
            | Self::Full
            | Self::Io(_)
            | Self::Silent
            | Self::Unheard => true,
            Self::Lost(error) => error.is_stale_tunnel(),
            Self::Reset(code) => *code == code::NOT_TAKEN,
            Self::Distrusted | Self::Unread | Self::Violation(_) => false,
        }
    }
}

/// A code in words.
fn said(code: u32) -> String {
    match code {
        code::NONE => "that it is stopping".to_owned(),
        code::CANCEL => "that the application has reset the connection".to_owned(),
        code::NOT_TAKEN => "that it takes no more streams".to_owned(),
        code::PROTOCOL => "that we broke the protocol".to_owned(),
        status => format!("no, with status {status}"),
    }
}

impl From<Over> for Error {
    fn from(_over: Over) -> Self {
        Self::Closed
    }
}
