//! From the data threads to the access log's file, through one bounded buffer and one thread.
//!
//! Appending a line is a lock and a copy. The writer is woken at most once in [`LINGER`], not once
//! a line, and writes everything that has come since with one system call.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

/// How long the writer gathers lines after the first. Nobody reads a log faster; 100 wake-ups a
/// second cost nothing that can be measured.
const LINGER: Duration = Duration::from_millis(10);

/// A buffer that a burst made larger than this is not kept.
const KEEP_BYTES: usize = 1 << 20;

/// Where access-log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the end of this file, which is made if it is not there.
    File(PathBuf),
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
}

/// The access log.
#[derive(Debug)]
pub(super) struct AccessLog {
    /// `None`: off.
    queue: Option<Arc<Queue>>,
    writer: Mutex<Option<Writer>>,
}

#[derive(Debug)]
struct Writer {
    thread: JoinHandle<()>,
    /// Resolves, with an error, when the thread has ended.
    ended: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    most_lines: usize,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: usize,
    /// The writer sleeps until it is woken.
    idle: bool,
    closing: bool,
}

impl AccessLog {
    /// Opens `target` and starts the thread `access-log`.
    pub(super) fn open(target: &Target, most_lines: usize) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = match target {
            Target::Off => return Ok(Self { queue: None, writer: Mutex::default() }),
            Target::Stdout => Box::new(io::stdout()),
            Target::File(path) => Box::new(File::options().append(true).create(true).open(path)?),
        };
        Self::start(output, most_lines)
    }

    fn start(output: Box<dyn Write + Send>, most_lines: usize) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            most_lines,
            dropped: AtomicU64::new(0),
        });
        let (end, ended) = oneshot::channel::<()>();
        let ours = Arc::clone(&queue);
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            ours.write_all(output);
            drop(end);
        })?;
        Ok(Self { queue: Some(queue), writer: Mutex::new(Some(Writer { thread, ended })) })
    }

    /// Whether lines are wanted.
    pub(super) const fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Appends `line`, or counts it as dropped.
    pub(super) fn push(&self, line: &[u8]) {
        if let Some(queue) = &self.queue {
            queue.push(line);
        }
    }

    /// Lines that were lost.
    pub(super) fn dropped(&self) -> u64 {
        self.queue.as_ref().map_or(0, |queue| queue.dropped.load(Ordering::Relaxed))
    }

    /// Writes what waits and ends the thread.
    pub(super) async fn close(&self) {
        if let Some(writer) = self.stop() {
            // Nothing is ever sent: the sender is dropped at the thread's end.
            let _ended: Result<(), _> = writer.ended.await;
        }
    }

    fn stop(&self) -> Option<Writer> {
        let queue = self.queue.as_ref()?;
        queue.lock().closing = true;
        queue.wake.notify_one();
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        if let Some(writer) = self.stop()
            && writer.thread.join().is_err()
        {
            tracing::error!("the access log's thread panicked");
        }
    }
}

impl Queue {
    /// Poison is no harm: at worst the buffer ends in a part of a line.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.closing || waiting.lines >= self.most_lines {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        if waiting.idle || waiting.lines == self.early() {
            waiting.idle = false;
            drop(waiting);
            self.wake.notify_one();
        }
    }

    /// With so many lines the writer does not linger.
    const fn early(&self) -> usize {
        self.most_lines.div_ceil(2)
    }

    /// Waits for lines and moves them to `batch`, which is empty. Returns their number, and
    /// whether they are the last.
    fn take(&self, batch: &mut Vec<u8>) -> (usize, bool) {
        let mut waiting = self.lock();
        waiting.idle = true;
        waiting = self
            .wake
            .wait_while(waiting, |waiting| waiting.lines == 0 && !waiting.closing)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.idle = false;
        let gathering = |waiting: &mut Waiting| waiting.lines < self.early() && !waiting.closing;
        (waiting, _) = self
            .wake
            .wait_timeout_while(waiting, LINGER, gathering)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.bytes, batch);
        (std::mem::take(&mut waiting.lines), waiting.closing)
    }

    /// The thread: writes until the log is closed.
    fn write_all(&self, mut output: Box<dyn Write + Send>) {
        let mut batch = vec![];
        let mut failed = false;
        loop {
            let (lines, last) = self.take(&mut batch);
            match output.write_all(&batch).and_then(|()| output.flush()) {
                Ok(()) => failed = false,
                Err(error) => {
                    self.dropped.fetch_add(lines as u64, Ordering::Relaxed);
                    if !failed {
                        tracing::error!(%error, "cannot write the access log; lines are lost");
                    }
                    failed = true;
                }
            }
            batch.clear();
            batch.shrink_to(KEEP_BYTES);
            if last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Holds the writer in `write` until it is let go, and keeps what was written.
    struct Gate {
        entered: mpsc::Sender<()>,
        go: mpsc::Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.entered.send(()).unwrap();
            self.go.recv().unwrap();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_slow_disk_costs_lines_that_are_counted_and_no_time() {
        let (entered, has_entered) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        let written = Arc::new(Mutex::new(vec![]));
        let gate = Gate { entered, go: may_go, written: Arc::clone(&written) };
        let log = AccessLog::start(Box::new(gate), 3).unwrap();
        log.push(b"first\n");
        has_entered.recv().unwrap();
        for line in [b"a\n", b"b\n", b"c\n", b"d\n", b"e\n"] {
            log.push(line);
        }
        assert_eq!(log.dropped(), 2);
        go.send(()).unwrap();
        go.send(()).unwrap();
        log.close().await;
        assert_eq!(*written.lock().unwrap(), b"first\na\nb\nc\n");
        log.push(b"late\n");
        assert_eq!(log.dropped(), 3);
    }

    #[tokio::test]
    async fn every_line_of_many_threads_is_in_the_file_after_close() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        std::fs::write(&path, "old\n").unwrap();
        let log = AccessLog::open(&Target::File(path.clone()), 100_000).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| log.push(b"{}\n")));
            }
        });
        log.close().await;
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("old\n{}", "{}\n".repeat(4000))
        );
        assert_eq!(log.dropped(), 0);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_counted() {
        let log = AccessLog::open(&Target::File("/dev/full".into()), 10).unwrap();
        log.push(b"1\n");
        log.push(b"2\n");
        log.close().await;
        assert_eq!(log.dropped(), 2);
    }

    #[test]
    fn dropping_the_log_writes_what_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&Target::File(path.clone()), 10).unwrap();
        log.push(b"1\n");
        drop(log);
        assert_eq!(std::fs::read(&path).unwrap(), b"1\n");
    }
}
