//! The limit of open files, and how many are open.

use std::fs;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files, with which systems start programs at 1,024, to the hard one.
/// Returns what is in force then.
///
/// # Errors
///
/// The limit cannot be read.
pub(super) fn raise_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        tracing::warn!(%error, soft, hard, "the limit of open files cannot be raised");
    }
    let (soft, _hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(soft)
}

/// How many descriptors this process has open now.
///
/// # Errors
///
/// `/proc` is not there.
pub(super) fn count_open() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}
