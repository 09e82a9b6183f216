//! Control groups, version 2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::expect::eventually;

/// How long the processes of a killed group may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid systems.
///
/// # Errors
///
/// It is not mounted.
pub fn mount() -> Result<PathBuf> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    find(&mounts).context("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

fn find(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// Moves the calling process into the group at `path`.
///
/// # Errors
///
/// The group is gone, or we may not.
pub fn join(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), "0")
}

/// Kills every process of the group at `path` and below, and removes the groups. A group that is
/// gone already is no error.
///
/// # Errors
///
/// A process did not die, or a group cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    // Linux 5.14; where it is missing, the owners of the processes have killed them by id.
    let killed = fs::write(path.join("cgroup.kill"), "1");
    let mut last = None;
    let removed = eventually("the processes of a cgroup to end", KILL_DEADLINE, || {
        last = remove_tree(path).err();
        last.is_none().then_some(())
    });
    match (removed, last, killed) {
        (Err(_), _, Err(error)) => {
            Err(error).with_context(|| format!("cannot kill what runs in {}", path.display()))
        }
        (Err(_), Some(error), _) => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        (result, ..) => result,
    }
}

/// Kills every process of the group at `path`, and waits until they are gone. The group stays.
///
/// # Errors
///
/// A process cannot be killed, or did not die.
pub fn kill(path: &Path) -> Result<()> {
    eventually("the processes of a cgroup to end", KILL_DEADLINE, || match kill_once(path) {
        Ok(0) => Some(Ok(())),
        Ok(_some) => None,
        Err(error) => Some(Err(error)),
    })?
}

/// Kills the processes that a group has now. Returns how many they were: others may be their children.
fn kill_once(path: &Path) -> Result<usize> {
    let processes = fs::read_to_string(path.join("cgroup.procs"))
        .with_context(|| format!("cannot read who is in {}", path.display()))?;
    let ids: Vec<_> = processes.lines().filter_map(|line| line.parse().ok()).collect();
    for id in &ids {
        match signal::kill(Pid::from_raw(*id), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno).context("cannot kill a process of a cgroup"),
        }
    }
    Ok(ids.len())
}

/// Removes `path` and the groups below it, deepest first.
fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mounts: &str, expect: Option<&str>) {
        assert_eq!(find(mounts).as_deref(), expect.map(Path::new));
    }

    #[test]
    fn is_found_wherever_it_is_mounted() {
        check("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", Some("/sys/fs/cgroup"));
        check(
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0",
            Some("/sys/fs/cgroup/unified"),
        );
    }

    #[test]
    fn is_missed_where_only_version_1_is_mounted() {
        check("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ntmpfs /run tmpfs rw 0 0\n", None);
    }
}
