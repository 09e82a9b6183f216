//! A second process of this program.

use std::io;

use nix::unistd::{ForkResult, Pid, fork as nix_fork};

/// A side of [`fork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The process that was there before, with its child.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Makes a copy of this process, which must have one thread: locks that others held would stay locked in
/// the copy.
///
/// # Errors
///
/// It has several threads, or the system refused.
pub fn fork() -> io::Result<Side> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("only a process with one thread can be copied"));
    }
    // JUSTIFICATION: no safe wrapper exists.
    // SAFETY: this is the only thread, so that the copy has no lock of another one.
    match unsafe { nix_fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent(child)),
        ForkResult::Child => Ok(Side::Child),
    }
}
