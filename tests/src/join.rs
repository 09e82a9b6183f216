//! Becoming part of a pod: what a child process does before anything else.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::cgroup;

/// Moves the calling process into a cgroup, and the calling thread into a network namespace.
///
/// To be called before there are other threads and before any socket: a socket belongs for life to
/// the cgroup and the namespace in which it was made.
///
/// # Errors
///
/// One of them is gone, or we may not enter it.
pub fn join(netns: Option<&Path>, group: Option<&Path>) -> Result<()> {
    if let Some(path) = group {
        cgroup::join(path).with_context(|| format!("cannot join {}", path.display()))?;
    }
    if let Some(path) = netns {
        let file = File::open(path).with_context(|| format!("no namespace {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {}", path.display()))?;
    }
    Ok(())
}
