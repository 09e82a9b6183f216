//! Waits until a descriptor can be read, for kinds that tokio has no type for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor. It holds a duplicate, which nobody else can close.
#[derive(Debug)]
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Watches what `source` is a descriptor of. Needs a runtime.
    ///
    /// # Errors
    ///
    /// No descriptor is left, or it is of a kind that cannot be polled.
    pub fn new(source: impl AsFd) -> io::Result<Self> {
        Self::watch(source, Interest::READABLE)
    }

    /// Watches for what is urgent (`POLLPRI`): files of the kernel that change say so.
    ///
    /// # Errors
    ///
    /// As for [`Self::new`].
    pub fn urgent(source: impl AsFd) -> io::Result<Self> {
        Self::watch(source, Interest::PRIORITY)
    }

    fn watch(source: impl AsFd, interest: Interest) -> io::Result<Self> {
        let fd = source.as_fd().try_clone_to_owned()?;
        // JUSTIFICATION: the safe constructor is deprecated.
        // SAFETY: an `OwnedFd` always names the same open descriptor, for as long as it lives, and
        // it is moved in here.
        let fd = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
        Ok(Self(fd))
    }

    /// Waits until there is something to read. The caller reads until there is nothing more:
    /// what is left would not wake it again.
    ///
    /// # Errors
    ///
    /// The runtime is ending.
    pub async fn wait(&self) -> io::Result<()> {
        let any = Interest::READABLE | Interest::PRIORITY;
        self.0.ready(any).await?.clear_ready();
        Ok(())
    }
}
