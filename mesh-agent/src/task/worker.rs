//! The data path's threads, and others that have a `current_thread` runtime each.
//!
//! Both legs of a connection stay on one thread, so that a byte crosses no lock and wakes no other
//! core. A work-stealing runtime costs the connections that many streams share 20 to 40 % more.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::task::fair;

/// How many tasks are polled before sockets and times are looked at. Tokio's 61 are 4 ms where each of
/// them connects to an application, in which nobody who has been written to has a turn.
const POLLS: u32 = 16;

/// The threads. Dropping this stops them: whoever started them owns it, and no task does.
#[derive(Debug)]
pub struct Workers {
    runtimes: Runtimes,
    workers: Vec<Worker>,
}

/// The threads' runtimes, for those who spawn on them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtimes {
    handles: Arc<[Handle]>,
    turn: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Worker {
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads named `data-0`, `data-1`, …
    ///
    /// # Errors
    ///
    /// The system refused a thread or a runtime's descriptors.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        Self::start_all((0..count.get()).map(|index| format!("data-{index}")))
    }

    /// Starts one thread of this name.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_one(name: &str) -> io::Result<Self> {
        Self::start_all(std::iter::once(name.to_owned()))
    }

    fn start_all(names: impl Iterator<Item = String>) -> io::Result<Self> {
        let started = names.map(Worker::start).collect::<io::Result<Vec<_>>>()?;
        let (handles, workers): (Vec<_>, _) = started.into_iter().unzip();
        let runtimes = Runtimes { handles: handles.into(), turn: Arc::default() };
        Ok(Self { runtimes, workers })
    }

    /// The runtimes.
    pub const fn runtimes(&self) -> &Runtimes {
        &self.runtimes
    }
}

impl Runtimes {
    /// One a thread, in a fixed order.
    pub fn all(&self) -> &[Handle] {
        &self.handles
    }

    /// The next one in turn.
    pub fn next(&self) -> &Handle {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }
}

impl Worker {
    fn start(name: String) -> io::Result<(Handle, Self)> {
        let mut builder = Builder::new_current_thread();
        // The wait for sockets and times is nobody's turn.
        let runtime =
            builder.enable_all().event_interval(POLLS).on_thread_park(fair::rest).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(name).spawn(move || {
            fair::share_this_thread();
            // Ends when the sender is dropped; nothing is ever sent.
            let _ended: Result<(), _> = runtime.block_on(stopped);
        })?;
        Ok((handle, Self { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            drop(worker.stop.take());
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a data thread panicked outside of its tasks");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_run_on_the_threads_in_turn() {
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let (tx, rx) = std::sync::mpsc::channel();
        for _ in 0..3 {
            let tx = tx.clone();
            drop(workers.runtimes().next().spawn(async move {
                tx.send(thread::current().name().map(str::to_owned)).unwrap();
            }));
        }
        drop(tx);
        let mut names: Vec<_> = rx.iter().flatten().collect();
        names.sort();
        assert_eq!(names, ["data-0", "data-0", "data-1"]);
    }

    #[test]
    fn a_task_that_outlives_the_threads_does_not_own_them() {
        let workers = Workers::start(NonZeroUsize::MIN).unwrap();
        let runtimes = workers.runtimes().clone();
        drop(workers.runtimes().next().spawn(async move {
            let _held = runtimes;
            std::future::pending::<()>().await;
        }));
        drop(workers);
    }
}
