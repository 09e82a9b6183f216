//! Reads from a socket in chunks whose size follows what the connection does.

use std::future::poll_fn;
use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::ReadHalf;

/// The least that one read asks for: a request, or a keystroke.
const MIN_BYTES: usize = 4 * 1024;

/// The most that one read asks for.
///
/// A bulk stream costs a third less CPU time at 64 KiB than at 16 KiB, and little less beyond;
/// 256 KiB are 16 TLS records of 2^14 bytes (RFC 8446, section 5.1), sealed and written at once.
pub const MAX_BYTES: usize = 256 * 1024;

/// Decides how much the next read asks for. No buffer is held between reads, so that a connection
/// that waits costs no memory.
#[derive(Debug)]
pub struct Chunks {
    size: usize,
    /// A read that gets less than there was room for is no sign that there is no more: where a
    /// shorter way ends and TCP begins, it happens in the middle of the stream.
    ask_again: bool,
}

impl Chunks {
    /// For a socket whose bytes may come by a shorter way than TCP, or may not.
    pub const fn new(accelerated: bool) -> Self {
        Self { size: 4 * MIN_BYTES, ask_again: accelerated }
    }

    /// Waits for data, and reads it. Empty at the end of the stream. Nothing is lost if the future
    /// is dropped.
    ///
    /// # Errors
    ///
    /// Those of `recv(2)`.
    pub async fn next(&mut self, from: &mut ReadHalf<'_>) -> io::Result<Bytes> {
        // Asks without a buffer first: most connections wait most of the time.
        poll_fn(|cx| from.as_ref().poll_read_ready(cx)).await?;
        let mut buffer = BytesMut::with_capacity(self.size);
        if self.ask_again {
            let read = loop {
                match from.try_read_buf(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        poll_fn(|cx| from.as_ref().poll_read_ready(cx)).await?;
                    }
                    read => break read?,
                }
            };
            self.adapt(read);
            return Ok(buffer.freeze());
        }
        // Not `try_read`: only this way a short read clears the readiness, which saves the read
        // that would find nothing.
        let read = from.read_buf(&mut buffer).await?;
        self.adapt(read);
        Ok(buffer.freeze())
    }

    /// Doubles after a full read, halves after one that used less than a quarter.
    const fn adapt(&mut self, read: usize) {
        if read == self.size && self.size < MAX_BYTES {
            self.size *= 2;
        } else if read < self.size / 4 && self.size > MIN_BYTES {
            self.size /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_follows_the_reads_within_bounds() {
        let mut chunks = Chunks::new(false);
        for _ in 0..20 {
            chunks.adapt(chunks.size);
        }
        assert_eq!(chunks.size, MAX_BYTES);
        for _ in 0..20 {
            chunks.adapt(1);
        }
        assert_eq!(chunks.size, MIN_BYTES);
    }
}
