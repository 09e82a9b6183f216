//! Processes of a control group that are in another network namespace than this thread's.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::sys::cgroup;

/// Processes of one group that are looked at; the rest is taken for alike.
const MAX_PROCESSES: usize = 512;

/// Groups below one that are looked at.
const MAX_FOLDERS: usize = 128;

/// The first process that is found in another network namespace, of those in the group at `folder` and
/// below, but not in those that are others' by their ids.
///
/// A namespace is told by the inode of a file of its `/proc/net`: unlike `/proc/PID/ns`, that is there
/// for everybody, without the right to trace the process.
///
/// # Errors
///
/// The group or `/proc` cannot be read.
pub fn find(folder: &Path, is_other: impl Fn(u64) -> bool) -> io::Result<Option<u32>> {
    let own = fs::metadata("/proc/thread-self/net/dev")?.ino();
    let mut folders = vec![folder.to_owned()];
    let (mut n_folders, mut n_processes) = (0, 0);
    while let Some(folder) = folders.pop() {
        n_folders += 1;
        for pid in processes(&folder)? {
            n_processes += 1;
            // One that has ended meanwhile is nowhere.
            let Ok(file) = fs::metadata(format!("/proc/{pid}/net/dev")) else { continue };
            if file.ino() != own {
                return Ok(Some(pid));
            }
            if n_processes >= MAX_PROCESSES {
                return Ok(None);
            }
        }
        if n_folders < MAX_FOLDERS {
            folders
                .extend(below(&folder).filter(|folder| !cgroup::id(folder).is_ok_and(&is_other)));
        }
    }
    Ok(None)
}

fn processes(folder: &Path) -> io::Result<Vec<u32>> {
    match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        // It has gone meanwhile, or has threads only.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) =>
        {
            Ok(vec![])
        }
        Err(error) => Err(error),
    }
}

fn below(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_here_or_has_ended_is_no_stray() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("below");
        fs::create_dir(&below).unwrap();
        let own = std::process::id();
        // No process has the largest number that there is.
        fs::write(root.path().join("cgroup.procs"), format!("{own}\n{}\n", u32::MAX)).unwrap();
        fs::write(below.join("cgroup.procs"), format!("{own}\n")).unwrap();
        assert_eq!(find(root.path(), |_| false).unwrap(), None);
        // A group that has gone has none.
        assert_eq!(find(&root.path().join("gone"), |_| false).unwrap(), None);
    }
}
