//! Why a stream could not be had, whichever of the two protocols was spoken.

use std::io;

use crate::hbone;
use crate::io::tls;
use crate::native;
use crate::telemetry::Protocol;

/// Why a stream could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TCP connection to the peer.
    #[error("cannot connect to the peer's agent")]
    Connect(#[source] io::Error),
    /// TLS, or who the peer is.
    #[error("no TLS with the peer's agent")]
    Tls(#[source] io::Error),
    /// A deadline passed.
    #[error("the peer's agent did not answer in time")]
    Timeout,
    /// Nothing is heard from the peer, and nothing was sent to its application.
    #[error("nothing is heard from the peer's agent")]
    Unheard,
    /// The peer answered with another status than 200, of which each protocol has its own.
    #[error("the peer's agent refused with status {status}")]
    Refused {
        /// Its protocol.
        protocol: Protocol,
        /// Its answer.
        status: u16,
    },
    /// The peer broke HTTP/2, or went away.
    #[error("the tunnel failed")]
    H2(#[source] h2::Error),
    /// The peer broke the native transport, or went away.
    #[error("the tunnel failed")]
    Native(#[source] native::Error),
}

impl From<hbone::Error> for Error {
    fn from(error: hbone::Error) -> Self {
        match error {
            hbone::Error::Open(error) => Self::Connect(error),
            hbone::Error::H2(error) => Self::H2(error),
            hbone::Error::Unheard => Self::Unheard,
            hbone::Error::Refused(status) => Self::Refused { protocol: Protocol::Hbone, status },
            hbone::Error::Closed | hbone::Error::Distrusted => Self::Timeout,
        }
    }
}

impl From<native::Error> for Error {
    fn from(error: native::Error) -> Self {
        match error {
            native::Error::Reset(status @ 100..600) => {
                let status = u16::try_from(status).unwrap_or(u16::MAX);
                Self::Refused { protocol: Protocol::Native, status }
            }
            native::Error::Unheard => Self::Unheard,
            error => Self::Native(error),
        }
    }
}

impl Error {
    /// Whether the peer broke the protocol of the tunnel.
    pub fn is_violation(&self) -> bool {
        match self {
            // h2 has found it, and says goodbye with the reason; or TLS has.
            Self::H2(error) => {
                error.is_library() || error.get_io().is_some_and(tls::stream::is_violation)
            }
            Self::Native(error) => error.is_violation(),
            Self::Connect(_)
            | Self::Refused { .. }
            | Self::Timeout
            | Self::Tls(_)
            | Self::Unheard => false,
        }
    }

    /// Whether the peer does not answer on a tunnel that was open.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Native(error) if error.is_silence())
    }

    /// Whether the tunnel went away before the peer saw the stream, so that another tunnel may be
    /// tried.
    pub fn is_stale_tunnel(&self) -> bool {
        match self {
            Self::H2(error) => hbone::is_stale_tunnel(error),
            Self::Native(error) => error.is_stale_tunnel(),
            Self::Unheard => true,
            Self::Connect(_) | Self::Refused { .. } | Self::Timeout | Self::Tls(_) => false,
        }
    }
}
