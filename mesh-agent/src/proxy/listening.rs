//! The listeners of a namespace, or of one workload in it. They go on while the connections drain, so that nothing is refused until
//! the agent ends or a successor has their places.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_common::maps::ListenerKey;

use crate::bounds::Kept;
use crate::datapath::Kernel;
use crate::task::scope::Scope;

/// Listeners, and the tasks that accept.
#[derive(Debug)]
pub struct Listening {
    scope: Scope,
    /// Descriptors of those that are not given to the kernel yet.
    noted: Mutex<Vec<(ListenerKey, OwnedFd)>>,
    /// Places in the kernel's map of those that are given to it.
    given: Mutex<Vec<ListenerKey>>,
    /// The descriptors of all of them.
    _counted: Kept,
}

impl Listening {
    /// None yet; their tasks are those of `scope`, and their descriptors are counted already.
    pub fn new(scope: Scope, counted: Kept) -> Self {
        Self { scope, noted: Mutex::default(), given: Mutex::default(), _counted: counted }
    }

    /// Their tasks.
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Notes a listener that is to be given to the kernel later, in this order.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn note(&self, key: ListenerKey, listener: BorrowedFd<'_>) -> io::Result<()> {
        let kept = listener.try_clone_to_owned()?;
        self.noted().push((key, kept));
        Ok(())
    }

    /// Has the kernel give connections to those that were noted.
    ///
    /// # Errors
    ///
    /// The map is full.
    pub fn give(&self, kernel: &Kernel) -> io::Result<()> {
        let mut noted = self.noted();
        noted.iter().try_for_each(|(key, kept)| kernel.give_to(*key, kept.as_fd()))?;
        lock(&self.given).extend(noted.drain(..).map(|(key, _)| key));
        Ok(())
    }

    /// Has the kernel give them no more connections: a successor's have other places, and its own
    /// successor's have these.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn take_back(&self, kernel: &Kernel) -> io::Result<()> {
        lock(&self.given).drain(..).try_for_each(|key| kernel.take_from(key))
    }

    /// Takes no more connections.
    pub fn stop(&self) {
        self.scope.stop();
        self.noted().clear();
    }

    fn noted(&self) -> MutexGuard<'_, Vec<(ListenerKey, OwnedFd)>> {
        lock(&self.noted)
    }
}

/// No code panics while it holds one of the locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
