//! Control groups, version 2: found, not assumed.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Where the cgroup v2 hierarchy is mounted: `/sys/fs/cgroup` on a unified system,
/// `/sys/fs/cgroup/unified` on a hybrid one.
///
/// # Errors
///
/// It is not mounted.
pub fn root() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    find_root(&mounts).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no cgroup v2 file system is mounted here; mount it: `mount -t cgroup2 none \
             /sys/fs/cgroup` (`ip netns exec` hides those of the host: use `nsenter --net=` to \
             start the agent in another namespace)",
        )
    })
}

/// The mount point of the first `cgroup2` line of `/proc/self/mounts`.
fn find_root(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_device, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path.replace("\\040", " ")))
    })
}

/// The id of a cgroup, as `bpf_get_current_cgroup_id()` answers it: the inode of its folder.
///
/// # Errors
///
/// There is no such folder.
pub fn id(path: &Path) -> io::Result<u64> {
    fs::metadata(path).map(|metadata| metadata.ino())
}

/// The cgroup of this process, below `root`.
///
/// # Errors
///
/// `/proc/self/cgroup` cannot be read or has no line for version 2.
pub fn own(root: &Path) -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    path.map(|path| root.join(path)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "this process is in no cgroup of version 2")
    })
}

/// Makes sure that this process is in the cgroup `watched` or below, so that the programs that are
/// attached there see its sockets too: without them applications see the agent's address in place of
/// their clients'.
///
/// # Errors
///
/// It is elsewhere, or that cannot be told.
pub fn contains_own(watched: &Path, root: &Path) -> io::Result<()> {
    let id_of_watched = id(watched).map_err(|error| unusable(watched, root, &error))?;
    // Roots of file systems of other kinds have the same inode.
    if !is_cgroup(watched) {
        let error = io::Error::new(io::ErrorKind::Unsupported, "it is no cgroup of version 2");
        return Err(unusable(watched, root, &error));
    }
    if id(root)? == id_of_watched {
        return Ok(());
    }
    let own = own(root)?;
    // By their ids: a path may lead through a symbolic link.
    let mut above = own.ancestors().take_while(|path| path.starts_with(root));
    if above.any(|path| id(path).is_ok_and(|id| id == id_of_watched)) {
        return Ok(());
    }
    let (watched, own) = (watched.display(), own.display());
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "{watched} (--cgroup) does not contain this process, which is in {own}: servers would see \
             the agent's address in place of their clients'; name a cgroup above both, or leave \
             --cgroup out, or start the agent below {watched}"
        ),
    ))
}

/// Whether a path is in a hierarchy of cgroup v2.
fn is_cgroup(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// An error of the watched cgroup, with the remedy.
fn unusable(watched: &Path, root: &Path, error: &io::Error) -> io::Error {
    let (watched, root) = (watched.display(), root.display());
    io::Error::new(
        error.kind(),
        format!(
            "{watched} (--cgroup) cannot be used: {error}; make the cgroup, name another one below \
             {root}, or leave --cgroup out"
        ),
    )
}

/// The folders of systemd units, by name.
pub type Units = HashMap<OsString, PathBuf>;

/// The folder of a systemd unit, searched below `root` (slices nest by their names).
///
/// # Errors
///
/// No such unit has a cgroup: it is not running.
pub fn of_unit(root: &Path, unit: &str) -> io::Result<PathBuf> {
    named(&units(root)?, root, unit)
}

/// The folders of all systemd units below `root`, by name.
///
/// # Errors
///
/// `root` cannot be read.
pub fn units(root: &Path) -> io::Result<Units> {
    let (mut units, mut folders) = (Units::new(), Vec::new());
    let mut next = fs::read_dir(root)?;
    loop {
        for entry in next.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            // Units live in slices only; what is inside a service or scope is its own business.
            if name.as_encoded_bytes().ends_with(b".slice") {
                folders.push(entry.path());
            }
            units.entry(name).or_insert_with(|| entry.path());
        }
        // A slice may have gone meanwhile.
        next = loop {
            let Some(folder) = folders.pop() else { return Ok(units) };
            if let Ok(found) = fs::read_dir(folder) {
                break found;
            }
        };
    }
}

/// The folder of one of those units.
///
/// # Errors
///
/// It is not among them: it is not running.
pub fn named(units: &Units, root: &Path, unit: &str) -> io::Result<PathBuf> {
    units.get(OsStr::new(unit)).cloned().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("the unit `{unit}` has no cgroup below {}; is it running?", root.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_unified_and_hybrid_mounts() {
        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      none /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(find_root(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(find_root(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_root("tmpfs /tmp tmpfs rw 0 0\n"), None);
    }

    #[test]
    fn a_cgroup_that_cannot_be_used_is_named_with_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        let refused = |watched: &Path| contains_own(watched, root.path()).unwrap_err().to_string();
        let absent = root.path().join("absent");
        let told = refused(&absent);
        let expect = format!("{} (--cgroup) cannot be used: No such file", absent.display());
        assert!(told.starts_with(&expect), "{told}");
        let remedy = format!("name another one below {}", root.path().display());
        assert!(told.contains(&remedy), "{told}");
        fs::create_dir(&absent).unwrap();
        let told = refused(&absent);
        assert!(told.contains("(--cgroup) cannot be used: it is no cgroup of version 2"), "{told}");
    }

    #[test]
    fn finds_a_unit_in_nested_slices() {
        let root = tempfile::tempdir().unwrap();
        let unit = root.path().join("system.slice/system-web.slice/web@1.service");
        fs::create_dir_all(&unit).unwrap();
        fs::create_dir_all(root.path().join("user.slice/a.scope/web@1.service")).unwrap();
        assert_eq!(of_unit(root.path(), "web@1.service").unwrap(), unit);
        assert!(of_unit(root.path(), "absent.service").is_err());
    }
}
