//! The BPF file system: where programs, links and maps are pinned.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::mount::{MsFlags, mount, umount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Nobody else may look into the agent's folders, lock them, or put anything there.
const FOLDER_MODE: u32 = 0o700;

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
    fs::create_dir_all(path)?;
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

/// Makes `folder`, and those above it up to the BPF file system at `root`, for this user alone: others may
/// write to `root` where it was mounted without a mode.
///
/// # Errors
///
/// One cannot be made, or is there and is somebody else's.
pub fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    let below: Vec<_> = folder.ancestors().take_while(|above| *above != root).collect();
    below.into_iter().rev().try_for_each(make_folder)
}

fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let there = fs::symlink_metadata(path)?;
    if !there.is_dir() || there.uid() != nix::unistd::geteuid().as_raw() {
        let message = format!(
            "{} is the user {}'s, who may have made it before the agent did; remove it, and mount the \
             file system with mode=0700",
            path.display(),
            there.uid()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    // An earlier agent's may be looked into, and so locked, by others.
    fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_nobody_elses() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("mesh/a");
        let modes = || {
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            [mode(folder.parent().unwrap()), mode(&folder)]
        };
        make_folders(root.path(), &folder).unwrap();
        assert_eq!(modes(), [0o700; 2]);
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        make_folders(root.path(), &folder).unwrap();
        assert_eq!(modes(), [0o700; 2]);
        fs::remove_dir(&folder).unwrap();
        std::os::unix::fs::symlink(root.path(), &folder).unwrap();
        let refused = make_folders(root.path(), &folder).unwrap_err();
        assert!(refused.to_string().contains("mesh/a is the user"), "{refused}");
    }
}
