//! Bytes that have been read and not passed on.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;

use bytes::BufMut as _;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use crate::io::chunk::{self, Large};

/// The room of a buffer at first: a request or an answer of usual size in one read.
pub const FIRST_BYTES: usize = 16 * 1024;

/// Spare buffers of one thread.
const MAX_SPARE: usize = 64;

thread_local! {
    /// Buffers that nobody uses. A connection that waits for its client has none.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes, with room behind them. Without either until it is read into.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    /// The room that is made next; 0: what a spare one has.
    wide: usize,
    /// It is one that reads much at once.
    large: Option<Large>,
}

impl Buffer {
    /// The bytes that there are.
    pub fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// The bytes that there are, to be changed in their place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..).unwrap_or_default()
    }

    /// Takes `count` bytes off. The room goes back when nothing is left.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.bytes.len() {
            self.give_back();
        }
    }

    /// Puts `head` in front of what is left after the first `count` bytes.
    pub fn replace(&mut self, count: usize, head: &[u8]) {
        let end = (self.start + count).min(self.bytes.len());
        self.bytes.splice(..end, head.iter().copied());
        self.start = 0;
    }

    /// The bytes that there are, for somebody else.
    pub fn into_filled(mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.drain(..self.start);
        bytes
    }

    /// Reads what `from` has, `limit` bytes of it at most: says how many. There is always room.
    /// While nothing comes, nothing is held that is empty.
    ///
    /// # Errors
    ///
    /// Those of `from`.
    pub async fn fill<From>(&mut self, from: &mut From, limit: usize) -> io::Result<usize>
    where
        From: AsyncRead + Unpin,
    {
        poll_fn(|cx| {
            self.make_room();
            let mut room = (&mut self.bytes).limit(limit);
            let read = poll_read_buf(Pin::new(&mut *from), cx, &mut room);
            if read.is_pending() && self.filled().is_empty() {
                self.give_back();
            }
            read
        })
        .await
    }

    fn make_room(&mut self) {
        if self.bytes.capacity() == 0 {
            let spare = || SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
            let spare = if self.wide == 0 { spare() } else { None };
            let room = self.wide.min(chunk::most()).max(FIRST_BYTES);
            self.bytes = spare.unwrap_or_else(|| Vec::with_capacity(room));
        }
        if self.bytes.len() == self.bytes.capacity() && self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        if self.bytes.len() == self.bytes.capacity() {
            self.bytes.reserve(self.bytes.len());
        }
    }

    /// After a read of `count` bytes that were passed on: takes them off, and a body that fills all
    /// the room gets more, one that needs little gets less.
    pub fn passed(&mut self, count: usize) {
        let room = self.bytes.capacity();
        if count == room && room < chunk::most() {
            self.give_back();
            self.wide = room * 2;
            self.large.get_or_insert_with(Large::count);
        } else if count < room / 4 && self.wide > 0 {
            self.give_back();
            self.wide = if room / 2 > FIRST_BYTES { room / 2 } else { 0 };
            if self.wide == 0 {
                self.large = None;
            }
        } else {
            self.bytes.clear();
            self.start = 0;
        }
    }

    fn give_back(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.start = 0;
        if bytes.capacity() == FIRST_BYTES {
            bytes.clear();
            // A thread that ends has no spare ones any more.
            let _ending = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < MAX_SPARE {
                    spare.push(bytes);
                }
            });
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.give_back();
    }
}
