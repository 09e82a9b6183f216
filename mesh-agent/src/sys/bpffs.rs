//! The BPF file system: where programs, links and maps are pinned.

use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount, umount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Whether a BPF file system is mounted at `path`.
pub fn is_mounted(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a BPF file system at `path` unless there is one. Returns whether it did.
///
/// # Errors
///
/// The folder cannot be made, or mounting is not permitted.
pub fn ensure_mounted(path: &Path) -> io::Result<bool> {
    if is_mounted(path) {
        return Ok(false);
    }
    std::fs::create_dir_all(path)?;
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))?;
    Ok(true)
}

/// Unmounts the BPF file system at `path`.
///
/// # Errors
///
/// Somebody uses it, or unmounting is not permitted.
pub fn unmount(path: &Path) -> io::Result<()> {
    Ok(umount(path)?)
}
