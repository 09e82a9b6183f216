//! The body of an answer, as far as it has not come yet.

use std::io;

use crate::proxy::http::plain::chunks::{Chunks, Malformed};
use crate::proxy::http::plain::head::Framing;

/// The rest of an answer's body.
pub enum Rest {
    /// So many bytes.
    Length(u64),
    /// Chunks, until the last.
    Chunked(Chunks),
    /// All until the connection ends.
    Close,
    /// Nothing.
    Ended,
}

impl Rest {
    /// Of an answer whose head has come.
    pub fn of(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks::default()),
            Framing::Close => Self::Close,
        }
    }

    /// How many bytes of `input` belong to it.
    ///
    /// # Errors
    ///
    /// Its chunks are malformed.
    pub fn take(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        match self {
            Self::Length(left) => {
                let part = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= part as u64;
                Ok(part)
            }
            Self::Chunked(chunks) => chunks.take(input),
            Self::Close => Ok(input.len()),
            Self::Ended => Ok(0),
        }
    }

    /// Whether all of it has come.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_done(),
            Self::Close => false,
            Self::Ended => true,
        }
    }

    /// The endpoint says no more.
    ///
    /// # Errors
    ///
    /// There should be more.
    pub fn end(&mut self) -> io::Result<()> {
        match self {
            Self::Close => {
                *self = Self::Ended;
                Ok(())
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
