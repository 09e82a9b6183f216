//! The access log's file, and the thread that writes to it what is in the [queue](super::queue).
//!
//! A file that was renamed is left for a new one of the old name by [`AccessLog::reopen`]: the
//! writer makes that first, and then writes to it whatever still waits.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::telemetry::Telemetry;
use crate::telemetry::queue::{Batch, Options, Queue};

/// How long the writer gathers lines after the first. Nobody reads a log faster; 100 wake-ups a
/// second cost nothing that can be measured.
const LINGER: Duration = Duration::from_millis(10);

/// How long the end of the log may take: its disk may hang, or its reader have stopped.
const END: Duration = Duration::from_secs(5);

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
    is_file: bool,
    /// Resolves, with an error, when the thread has ended.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

/// Opens a file to append to it, and makes it if it is not there.
fn open(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

impl AccessLog {
    /// Opens `target` and starts the thread `access-log`. At most so many bytes of lines wait, and as many
    /// are being written.
    pub(super) fn open(target: &Target, most_bytes: usize) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = match target {
            Target::Off => {
                return Ok(Self { queue: None, is_file: false, ended: Mutex::default() });
            }
            Target::Stdout => Box::new(io::stdout()),
            Target::File(path) => Box::new(open(path)?),
        };
        let path = match target {
            Target::File(path) => Some(path.clone()),
            Target::Off | Target::Stdout => None,
        };
        Self::start(output, path, most_bytes)
    }

    fn start(
        output: Box<dyn Write + Send>,
        path: Option<PathBuf>,
        most_bytes: usize,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(Options { most_bytes, linger: LINGER }));
        let (end, ended) = oneshot::channel::<()>();
        let is_file = path.is_some();
        let ours = Arc::clone(&queue);
        // It may be held up for ever by a disk or a reader, and is not waited for then.
        drop(thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            write_all(&ours, output, path.as_deref());
            drop(end);
        })?);
        Ok(Self { queue: Some(queue), is_file, ended: Mutex::new(Some(ended)) })
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
        self.queue.as_ref().map_or(0, |queue| queue.dropped())
    }

    /// Opens the file, which was renamed or removed, by its name again. Returns once nothing is
    /// written to the one before any more, and whether there is a file at all.
    ///
    /// # Errors
    ///
    /// It cannot be opened, and the log goes on in the file that it has; or the log was closed.
    pub(super) async fn reopen(&self) -> io::Result<bool> {
        let Some(queue) = self.queue.as_ref().filter(|_| self.is_file) else { return Ok(false) };
        let dropped = |_closed| io::Error::other("closed, or asked for again, before it was done");
        queue.reopen()?.await.map_err(dropped)?.map(|()| true)
    }

    /// Writes what waits and ends the thread, within [`END`].
    pub(super) async fn close(&self) {
        let Some(queue) = &self.queue else { return };
        queue.close();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Nothing is ever sent: the sender is dropped at the thread's end.
        if let Some(ended) = ended
            && timeout(END, ended).await.is_err()
        {
            tracing::error!("the access log's last lines are lost: they cannot be written in time");
        }
    }
}

impl Telemetry {
    /// Opens the access log's file, which was renamed, by its name again. Returns once the one
    /// before is not written to any more, and whether the log is a file.
    ///
    /// # Errors
    ///
    /// It cannot be opened: the log goes on in the file that it has.
    pub async fn reopen_access_log(&self) -> io::Result<bool> {
        self.shared.access_log.reopen().await
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // One that was closed was waited for.
        if let (Some(queue), Some(_ended)) = (&self.queue, ended) {
            queue.close();
            let _written = queue.flush(END);
        }
    }
}

/// The thread: writes until the log is closed. `path` is the file's, if the output is one.
fn write_all(queue: &Queue, mut output: Box<dyn Write + Send>, path: Option<&Path>) {
    let mut failed = false;
    queue.write_all(|Batch { lines, reopen, .. }| {
        if let (Some(done), Some(path)) = (reopen, path) {
            // Before what waits is written: the old file may be packed by now.
            let opened = open(path).map(|file| output = Box::new(file));
            // Nobody may wait for it any more.
            let _given_up: Result<(), _> = done.send(opened);
        }
        let written = output.write_all(lines).and_then(|()| output.flush());
        let has_failed = std::mem::replace(&mut failed, written.is_err());
        if let Err(error) = &written
            && !has_failed
        {
            tracing::error!(%error, "cannot write the access log; lines are lost");
        }
        written
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
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
            self.go.recv().map_err(io::Error::other)?;
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
        let log = AccessLog::start(Box::new(gate), None, 6).unwrap();
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

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_has_stopped_does_not_hold_up_the_end() {
        let (entered, has_entered) = mpsc::channel();
        let (_go, may_go) = mpsc::channel();
        let gate = Gate { entered, go: may_go, written: Arc::default() };
        let log = AccessLog::start(Box::new(gate), None, 1000).unwrap();
        log.push(b"first\n");
        has_entered.recv().unwrap();
        let began = tokio::time::Instant::now();
        log.close().await;
        assert_eq!(began.elapsed(), END);
        assert!(log.ended.lock().unwrap().is_none(), "it is waited for again");
    }

    #[tokio::test]
    async fn every_line_of_many_threads_is_in_the_file_after_close() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        std::fs::write(&path, "old\n").unwrap();
        let log = AccessLog::open(&Target::File(path.clone()), 1 << 20).unwrap();
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

    /// Threads log without a pause while the file is renamed again and again, as logrotate does.
    #[test]
    fn a_renamed_file_gets_nothing_once_the_log_was_reopened() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&Target::File(path.clone()), 1 << 30).unwrap();
        let old = |n: u32| folder.path().join(format!("access.log.{n}"));
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let (written, before) = thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|thread| {
                    let (log, is_over) = (&log, &is_over);
                    scope.spawn(move || {
                        let lines = (0_u32..).take_while(|_| !is_over.load(Ordering::Relaxed));
                        lines.inspect(|n| log.push(format!("{thread} {n}\n").as_bytes())).count()
                    })
                })
                .collect();
            let mut before = vec![];
            for n in 0..10 {
                std::fs::rename(&path, old(n)).unwrap();
                assert!(runtime.block_on(log.reopen()).unwrap());
                before.push(read(&old(n)));
                // Some lines are in the new one before it is renamed too.
                while std::fs::metadata(&path).unwrap().len() == 0 {
                    thread::yield_now();
                }
            }
            is_over.store(true, Ordering::Relaxed);
            (threads.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>(), before)
        });
        runtime.block_on(log.close());
        assert_eq!(log.dropped(), 0);
        let after: Vec<_> = (0..10).map(|n| read(&old(n))).collect();
        assert!(before == after, "a file was written to after it had been left");
        // Every line is there once, in the order in which its thread has written it.
        let all = after.concat() + &read(&path);
        for (thread, written) in written.into_iter().enumerate() {
            let of = |line: &&str| line.starts_with(&format!("{thread} "));
            let lines: Vec<_> = all.lines().filter(of).map(str::to_owned).collect();
            let wanted: Vec<_> = (0..written).map(|n| format!("{thread} {n}")).collect();
            assert!(lines == wanted, "{} lines of {written}", lines.len());
        }
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_reopened_goes_on_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/access.log");
        std::fs::create_dir(folder.path().join("logs")).unwrap();
        let log = AccessLog::open(&Target::File(path), 1000).unwrap();
        std::fs::rename(folder.path().join("logs"), folder.path().join("old")).unwrap();
        assert_eq!(log.reopen().await.unwrap_err().kind(), io::ErrorKind::NotFound);
        log.push(b"1\n");
        log.close().await;
        assert_eq!(std::fs::read(folder.path().join("old/access.log")).unwrap(), b"1\n");
        assert!(!AccessLog::open(&Target::Off, 10).unwrap().reopen().await.unwrap());
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_counted() {
        let log = AccessLog::open(&Target::File("/dev/full".into()), 1000).unwrap();
        log.push(b"1\n");
        log.push(b"2\n");
        log.close().await;
        assert_eq!(log.dropped(), 2);
    }

    #[test]
    fn dropping_the_log_writes_what_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&Target::File(path.clone()), 1000).unwrap();
        log.push(b"1\n");
        drop(log);
        assert_eq!(std::fs::read(&path).unwrap(), b"1\n");
    }
}
