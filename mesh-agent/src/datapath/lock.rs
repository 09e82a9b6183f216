//! The lock of a node: of several agents, and of those who remove what agents have left, one at a time
//! changes what the node has in the kernel.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::datapath::load::node_folder;
use crate::sys::bpffs;

/// Held by the one who may. It goes with the process.
#[derive(Debug)]
pub struct NodeLock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl NodeLock {
    /// Takes the lock of `node`, whose folder in the BPF file system at `bpffs` is made if it is missing.
    /// `None`: somebody else holds it.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or opened.
    pub fn take(bpffs: &Path, node: &str) -> io::Result<Option<Self>> {
        bpffs::ensure_mounted(bpffs)?;
        let folder = node_folder(bpffs, node);
        bpffs::make_folders(bpffs, &folder)?;
        match Flock::lock(File::open(&folder)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self(lock))),
            Err((_folder, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_folder, error)) => Err(error.into()),
        }
    }
}
