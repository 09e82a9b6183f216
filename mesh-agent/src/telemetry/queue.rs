//! A buffer of lines, bounded in bytes, and the loop of the one thread that writes them: neither those
//! who have a line nor those who end the process wait for a reader that has stopped.
//!
//! Appending a line is a lock and a copy. The writer is woken at most once in its time to linger, not
//! once a line, and is given everything that has come since.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// A buffer that a burst made larger than this is not kept.
const KEEP_BYTES: usize = 1 << 20;

/// The request to open the output by its name again, answered with the result.
pub(super) type Reopen = oneshot::Sender<io::Result<()>>;

/// The buffer.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Wakes the writer.
    wake: Condvar,
    /// Wakes those who [flush](Self::flush).
    written: Condvar,
    options: Options,
    dropped: AtomicU64,
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Bytes of lines that may wait; as many again are being written.
    pub(super) most_bytes: usize,
    /// How long the writer gathers lines after the first.
    pub(super) linger: Duration,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: usize,
    /// The writer sleeps until it is woken.
    idle: bool,
    /// The writer has lines that it has taken.
    writing: bool,
    /// Threads that wait until all is written.
    flushing: usize,
    closing: bool,
    reopen: Option<Reopen>,
}

/// Work for the writer.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    /// Whole lines.
    pub(super) lines: &'a [u8],
    /// Lines that were dropped before the next batch begins, since the start.
    pub(super) dropped: u64,
    /// These lines and all that follow go to an output that is to be opened first.
    pub(super) reopen: Option<Reopen>,
}

impl Queue {
    /// An empty buffer.
    pub(super) fn new(options: Options) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            written: Condvar::new(),
            options,
            dropped: AtomicU64::new(0),
        }
    }

    /// Poison is no harm: at worst the buffer ends in a part of a line.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends `line`, or counts it as dropped.
    pub(super) fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        let (before, after) = (waiting.bytes.len(), waiting.bytes.len().saturating_add(line.len()));
        if waiting.closing || after > self.options.most_bytes {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if after > waiting.bytes.capacity() {
            // Doubled, as a vector grows by itself, but never beyond the bound.
            let wanted = (2 * before).clamp(after, self.options.most_bytes);
            waiting.bytes.reserve_exact(wanted - before);
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        let early = self.early();
        if waiting.idle || (before < early && after >= early) {
            waiting.idle = false;
            drop(waiting);
            self.wake.notify_one();
        }
    }

    /// Lines that were lost.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Has the output opened by its name again before anything more is written.
    ///
    /// # Errors
    ///
    /// The queue is closed.
    pub(super) fn reopen(&self) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (done, is_done) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if waiting.closing {
                return Err(io::Error::other("the access log is closed"));
            }
            // One that waits already, for a disk that hangs, is told that it is not done.
            waiting.reopen = Some(done);
        }
        self.wake.notify_one();
        Ok(is_done)
    }

    /// Has the writer end once it has written what waits. Later lines are dropped.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// Waits until all lines are written, for `limit` at the most. Returns whether they are.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let mut waiting = self.lock();
        waiting.flushing += 1;
        self.wake.notify_one();
        let is_left = |waiting: &Waiting| waiting.lines > 0 || waiting.writing;
        (waiting, _) = self
            .written
            .wait_timeout_while(waiting, limit, |waiting| is_left(waiting))
            .unwrap_or_else(PoisonError::into_inner);
        waiting.flushing -= 1;
        !is_left(&waiting)
    }

    /// With so many bytes the writer does not linger.
    const fn early(&self) -> usize {
        self.options.most_bytes.div_ceil(2)
    }

    /// The thread: gives lines to `write` until the queue is closed. Those of a batch that it cannot write
    /// are counted as dropped.
    pub(super) fn write_all(&self, mut write: impl FnMut(Batch<'_>) -> io::Result<()>) {
        let mut bytes = vec![];
        loop {
            let (lines, is_last, reopen) = self.take(&mut bytes);
            let batch = Batch { lines: &bytes, dropped: self.dropped(), reopen };
            if write(batch).is_err() {
                self.dropped.fetch_add(lines as u64, Ordering::Relaxed);
            }
            bytes.clear();
            bytes.shrink_to(KEEP_BYTES);
            self.lock().writing = false;
            self.written.notify_all();
            if is_last {
                return;
            }
        }
    }

    /// Waits for lines, or another output, and moves the lines to `bytes`, which is empty. Returns their
    /// number, and whether nothing follows.
    fn take(&self, bytes: &mut Vec<u8>) -> (usize, bool, Option<Reopen>) {
        let mut waiting = self.lock();
        waiting.idle = true;
        let is_urgent = |waiting: &Waiting| waiting.closing || waiting.reopen.is_some();
        waiting = self
            .wake
            .wait_while(waiting, |waiting| waiting.lines == 0 && !is_urgent(waiting))
            .unwrap_or_else(PoisonError::into_inner);
        waiting.idle = false;
        let gathering = |waiting: &mut Waiting| {
            waiting.bytes.len() < self.early() && !is_urgent(waiting) && waiting.flushing == 0
        };
        (waiting, _) = self
            .wake
            .wait_timeout_while(waiting, self.options.linger, gathering)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.bytes, bytes);
        waiting.writing = true;
        (std::mem::take(&mut waiting.lines), waiting.closing, waiting.reopen.take())
    }
}
