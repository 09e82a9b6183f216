//! Reads ahead from a socket for a reader that asks for little at a time, with no buffer of its own
//! while it waits.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read at once: 16 TLS records of 2^14 bytes (RFC 8446, section 5.1). rustls asks for
/// 4 KiB at a time; at 64 KiB a bulk stream costs a tenth more.
const BYTES: usize = 256 * 1024;

thread_local! {
    /// The thread's buffer. A reader has it only while it holds bytes that nobody has asked for yet,
    /// which is rarely more than one at a time.
    static SPARE: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
}

/// A socket that is read ahead of what is asked for.
#[derive(Debug)]
pub struct Ahead<Io> {
    io: Io,
    buffer: Option<Box<[u8]>>,
    /// Which of the buffer's bytes were read and not asked for.
    from: usize,
    to: usize,
}

impl<Io> Ahead<Io> {
    /// Reads `io` ahead.
    pub const fn new(io: Io) -> Self {
        Self { io, buffer: None, from: 0, to: 0 }
    }

    /// The socket.
    pub const fn get_mut(&mut self) -> &mut Io {
        &mut self.io
    }

    fn give_back(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            SPARE.with_borrow_mut(|spare| *spare = Some(buffer));
        }
    }
}

fn spare() -> Box<[u8]> {
    let spare = SPARE.with_borrow_mut(Option::take);
    spare.unwrap_or_else(|| vec![0; BYTES].into_boxed_slice())
}

impl<Io: AsyncRead + Unpin> AsyncRead for Ahead<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.from == this.to {
            let buffer = this.buffer.get_or_insert_with(spare);
            let mut ahead = ReadBuf::new(buffer);
            let read = Pin::new(&mut this.io).poll_read(cx, &mut ahead);
            (this.from, this.to) = (0, ahead.filled().len());
            if this.to == 0 {
                this.give_back();
            }
            ready!(read)?;
        }
        if let Some(buffer) = &this.buffer {
            let waiting = buffer.get(this.from..this.to).unwrap_or_default();
            let (now, _later) = waiting.split_at(waiting.len().min(out.remaining()));
            out.put_slice(now);
            this.from += now.len();
        }
        if this.from == this.to {
            this.give_back();
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Ahead<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn every_byte_comes_once_whoever_has_the_buffer() {
        let pair = || duplex(2 * BYTES);
        let ((mut one, to_one), (mut two, to_two)) = (pair(), pair());
        let (mut ahead, mut other) = (Ahead::new(to_one), Ahead::new(to_two));
        let data: Vec<u8> =
            (0..BYTES + 9_000).map(|at| ((at * 31) >> 3).to_le_bytes()[0]).collect();
        one.write_all(&data).await.unwrap();
        two.write_all(b"other").await.unwrap();
        drop((one, two));
        let mut got = vec![0; 5_000];
        ahead.read_exact(&mut got).await.unwrap();
        // It has kept the rest, and the other has a buffer of its own.
        assert!(ahead.buffer.is_some());
        let mut seen = String::new();
        other.read_to_string(&mut seen).await.unwrap();
        ahead.read_to_end(&mut got).await.unwrap();
        assert!(got == data && seen == "other");
        assert!(ahead.buffer.is_none() && other.buffer.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_waits_has_no_buffer() {
        let (mut one, io) = duplex(100);
        let mut ahead = Ahead::new(io);
        let mut byte = [0];
        tokio::select! {
            biased;
            _ = ahead.read(&mut byte) => panic!("there is nothing"),
            () = tokio::task::yield_now() => {}
        }
        assert!(ahead.buffer.is_none());
        one.write_all(b"x").await.unwrap();
        assert_eq!(ahead.read(&mut byte).await.unwrap(), 1);
        assert!(ahead.buffer.is_none());
    }
}
