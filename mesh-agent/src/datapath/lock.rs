//! The lock of a node: of several agents, and of those who remove what agents have left, one at a time
//! changes what the node has in the kernel.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::datapath::load::node_folder;
use crate::sys::bpffs;

/// Remedy for operators, where the lock cannot be taken.
pub const REMEDY: &str = "--bpffs: name the folder of a BPF filesystem, or one where it can be mounted, and \
     run as root";

/// Held by the one who may. It goes with the process; with it goes the node's folder if nothing is pinned
/// there, and the file system if it was mounted for that.
#[derive(Debug)]
pub struct NodeLock {
    folder: PathBuf,
    /// The file system that was mounted.
    mounted: Option<PathBuf>,
    /// `None`: being dropped.
    lock: Option<Flock<File>>,
}

impl NodeLock {
    /// Takes the lock of `node`, whose folder in the BPF file system at `bpffs` is made if it is missing.
    /// `None`: somebody else holds it.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or opened.
    pub fn take(bpffs: &Path, node: &str) -> io::Result<Option<Self>> {
        let mounted = bpffs::ensure_mounted(bpffs)?.then(|| bpffs.to_owned());
        Self::take_folder(bpffs, node, mounted)
    }

    fn take_folder(root: &Path, node: &str, mounted: Option<PathBuf>) -> io::Result<Option<Self>> {
        let folder = node_folder(root, node);
        loop {
            bpffs::make_folders(root, &folder)?;
            let opened = match File::open(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let lock = match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_folder, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_folder, error)) => return Err(error.into()),
            };
            // The one who had it before may have removed the folder: the lock of that one is worth nothing.
            if is_at(&lock, &folder)? {
                return Ok(Some(Self { folder, mounted, lock: Some(lock) }));
            }
        }
    }
}

impl Drop for NodeLock {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        // A folder that was removed and made again is another agent's.
        if is_at(&lock, &self.folder).unwrap_or(false) {
            // Pins are to outlive the agent.
            let _in_use: io::Result<()> = remove_empty(&self.folder);
        }
        drop(lock);
        if let Some(bpffs) = &self.mounted
            && self.folder.parent().is_some_and(|all_nodes| !all_nodes.exists())
        {
            // Somebody else may use it by now: then it stays.
            let _in_use: io::Result<()> = bpffs::unmount(bpffs);
        }
    }
}

/// Whether the folder that is locked is the one at `folder`.
fn is_at(lock: &File, folder: &Path) -> io::Result<bool> {
    let inode = lock.metadata()?.ino();
    Ok(fs::metadata(folder).is_ok_and(|there| there.ino() == inode))
}

/// Removes a node's folder, and the one of all nodes if nothing is left in it.
///
/// # Errors
///
/// The node's folder is not empty.
pub(super) fn remove_empty(folder: &Path) -> io::Result<()> {
    fs::remove_dir(folder)?;
    if let Some(above) = folder.parent() {
        // Other nodes may have theirs there.
        let _in_use: io::Result<()> = fs::remove_dir(above);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_nothing_is_left_where_nothing_was_pinned() {
        let bpffs = tempfile::tempdir().unwrap();
        let folder = node_folder(bpffs.path(), "a");
        let take = || NodeLock::take_folder(bpffs.path(), "a", None).unwrap();
        let first = take().unwrap();
        assert!(take().is_none());
        drop(first);
        assert_eq!(fs::read_dir(bpffs.path()).unwrap().count(), 0);
        let second = take().unwrap();
        fs::create_dir(folder.join("v1")).unwrap();
        drop(second);
        assert!(folder.join("v1").exists());
    }

    #[test]
    fn the_lock_of_a_folder_that_was_removed_is_worth_nothing() {
        let bpffs = tempfile::tempdir().unwrap();
        let folder = node_folder(bpffs.path(), "a");
        let take = || NodeLock::take_folder(bpffs.path(), "a", None).unwrap();
        let first = take().unwrap();
        fs::remove_dir(&folder).unwrap();
        let second = take().unwrap();
        // Empty, and not the first one's to remove.
        drop(first);
        assert!(take().is_none());
        drop(second);
        assert!(!folder.exists());
    }
}
