//! Reads from a socket in chunks whose size follows what the connection does, and what all others of its
//! thread do.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::ReadHalf;

use crate::task::units;

/// The least that one read asks for: a request, or a keystroke.
const MIN_BYTES: usize = 4 * 1024;

/// The most that one read asks for.
///
/// A bulk stream costs a third less CPU time at 64 KiB than at 16 KiB, and little less beyond;
/// 256 KiB are 16 TLS records of 2^14 bytes (RFC 8446, section 5.1), sealed and written at once.
pub const MAX_BYTES: usize = 256 * 1024;

/// The size of one read where very many are large. A connection whose other side takes nothing keeps
/// its last read in each direction: as much as its two sockets stand for in the agent's memory.
const LEAST_LARGE_BYTES: usize = 16 * 1024;

/// The size of the large reads of a thread together, beyond [`LEAST_LARGE_BYTES`] each. It bounds
/// what is kept, and how long it takes until each of them has had its turn.
const TOGETHER_BYTES: usize = 8 << 20;

/// Of a turn's 128 units one such read takes so many.
const READ_UNITS: usize = 64;

thread_local! {
    /// How many of this thread's connections read more than [`LEAST_LARGE_BYTES`] at once.
    static LARGE: Cell<usize> = const { Cell::new(0) };
}

/// One of the connections of a thread that read more than [`LEAST_LARGE_BYTES`] at once, until it is
/// dropped.
#[derive(Debug)]
pub struct Large(());

impl Large {
    /// Counts one more.
    pub fn count() -> Self {
        LARGE.set(LARGE.get() + 1);
        Self(())
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        // A thread that is ending counts no more.
        let _ended = LARGE.try_with(|large| large.set(large.get().saturating_sub(1)));
    }
}

/// The most that one read asks for now, on this thread.
pub fn most() -> usize {
    let each = TOGETHER_BYTES / LARGE.get().max(1);
    each.clamp(LEAST_LARGE_BYTES, MAX_BYTES)
}

/// Decides how much the next read asks for. No buffer is held between reads, so that a connection
/// that waits costs no memory.
#[derive(Debug)]
pub struct Chunks {
    size: usize,
    /// A read that gets less than there was room for is no sign that there is no more: where a
    /// shorter way ends and TCP begins, it happens in the middle of the stream.
    ask_again: bool,
    large: Option<Large>,
}

impl Chunks {
    /// For a socket whose bytes may come by a shorter way than TCP, or may not.
    pub const fn new(accelerated: bool) -> Self {
        Self { size: 4 * MIN_BYTES, ask_again: accelerated, large: None }
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
        let most = most();
        let asked = self.size.min(most);
        let mut buffer = BytesMut::with_capacity(asked);
        if self.ask_again {
            let read = loop {
                match from.try_read_buf(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        poll_fn(|cx| from.as_ref().poll_read_ready(cx)).await?;
                    }
                    read => break read?,
                }
            };
            self.adapt(read, asked);
            spend(read, most).await;
            return Ok(buffer.freeze());
        }
        // Not `try_read`: only this way a short read clears the readiness, which saves the read
        // that would find nothing.
        let read = from.read_buf(&mut buffer).await?;
        self.adapt(read, asked);
        spend(read, most).await;
        Ok(buffer.freeze())
    }

    /// Doubles after a full read, halves after one that used less than a quarter.
    fn adapt(&mut self, read: usize, asked: usize) {
        if read == asked && self.size < MAX_BYTES {
            self.size *= 2;
        } else if read < asked / 4 && self.size > MIN_BYTES {
            self.size /= 2;
        }
        if self.size > LEAST_LARGE_BYTES {
            self.large.get_or_insert_with(Large::count);
        } else {
            self.large = None;
        }
    }
}

/// Has others come to their turn after two reads that are as large as they may be.
async fn spend(read: usize, most: usize) {
    poll_fn(|cx| {
        units::spend(cx, read * READ_UNITS / most);
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_follows_the_reads_within_bounds() {
        let mut chunks = Chunks::new(false);
        for _ in 0..20 {
            chunks.adapt(chunks.size, chunks.size);
        }
        assert_eq!((chunks.size, LARGE.get()), (MAX_BYTES, 1));
        for _ in 0..20 {
            chunks.adapt(1, chunks.size);
        }
        assert_eq!((chunks.size, LARGE.get()), (MIN_BYTES, 0));
    }

    #[test]
    fn many_share_what_a_thread_reads_at_once() {
        let mut all = Vec::new();
        let mut kept = 0;
        for n in 1..=2_000 {
            let mut chunks = Chunks::new(false);
            let mut last = 0;
            for _ in 0..10 {
                last = chunks.size.min(most());
                chunks.adapt(last, last);
            }
            kept += last;
            all.push(chunks);
            assert!(n * most() <= TOGETHER_BYTES.max(n * LEAST_LARGE_BYTES));
        }
        // Each keeps its last read, however many there were when it was made.
        assert!(kept <= 2_000 * LEAST_LARGE_BYTES + 4 * TOGETHER_BYTES, "{kept}");
        assert_eq!((LARGE.get(), most()), (2_000, LEAST_LARGE_BYTES));
        drop(all);
        assert_eq!((LARGE.get(), most()), (0, MAX_BYTES));
    }
}
