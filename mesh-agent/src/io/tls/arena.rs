//! Where a data thread reads into.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// How much is read at once: 16 records of 2^14 bytes (RFC 8446, section 5.1).
const READ_BYTES: usize = 256 * 1024;

/// The least room that a read is worth.
const LEAST_BYTES: usize = 64 * 1024;

thread_local! {
    /// The thread's buffer. A connection has it only while it has read a part of a record, which is
    /// rarely more than a few at a time; so one that waits has no buffer.
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// Reads from `io`, behind what is in `input`; says how much.
pub(super) fn poll_fill<Io>(
    io: &mut Io,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>>
where
    Io: AsyncRead + Unpin,
{
    if input.is_empty() {
        *input = SPARE.take();
    }
    // Bytes that were read before and are not needed any more are written over, while they are still in the
    // processor's cache; what somebody has kept stays, and the room behind it is used.
    let room = READ_BYTES.saturating_sub(input.len());
    if !input.try_reclaim(room) && input.capacity() - input.len() < LEAST_BYTES {
        input.reserve(room);
    }
    let read = poll_read_buf(Pin::new(io), cx, input);
    give_back(input);
    read
}

/// Gives the buffer back if nothing is in it.
pub(super) fn give_back(input: &mut BytesMut) {
    if input.is_empty() && input.capacity() > 0 {
        SPARE.set(std::mem::take(input));
    }
}
