//! Finds a workload's sockets on this node.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::model::workload::Place;
use crate::sys::cgroup;

/// Where a workload was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    /// A cgroup, by its id.
    Cgroup(u64),
    /// A network namespace.
    Netns {
        /// A path that can be opened.
        path: PathBuf,
        /// Its file system.
        device: u64,
        /// Its inode: another one under the same path is another namespace.
        inode: u64,
    },
}

/// A place by what the kernel calls it: the same one, by whatever path it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpotId {
    /// A cgroup, by its id.
    Cgroup(u64),
    /// A network namespace, by its file.
    Netns {
        /// The file system.
        device: u64,
        /// The inode.
        inode: u64,
    },
}

impl Spot {
    /// What tells it from other places.
    pub const fn id(&self) -> SpotId {
        match self {
            Self::Cgroup(id) => SpotId::Cgroup(*id),
            Self::Netns { device, inode, .. } => SpotId::Netns { device: *device, inode: *inode },
        }
    }
}

/// Finds `place`; cgroups are named below `cgroup_root`.
///
/// # Errors
///
/// It is not there.
pub fn find(place: &Place, cgroup_root: &Path) -> io::Result<Spot> {
    let named = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    match place {
        Place::Cgroup(path) => {
            let path = cgroup_root.join(path.strip_prefix("/").unwrap_or(path));
            cgroup::id(&path).map(Spot::Cgroup).map_err(|error| named(&path, error))
        }
        Place::Netns(path) => match path.metadata() {
            Ok(there) => {
                Ok(Spot::Netns { path: path.clone(), device: there.dev(), inode: there.ino() })
            }
            Err(error) => Err(named(path, error)),
        },
        Place::SystemdUnit(unit) => {
            cgroup::of_unit(cgroup_root, unit).and_then(|path| cgroup::id(&path)).map(Spot::Cgroup)
        }
        Place::Unplaced => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the workload has neither `netns`, `cgroup` nor `systemdUnit`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_named_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        let id = cgroup::id(&root.path().join("a/b")).unwrap();
        for name in ["a/b", "/a/b"] {
            let found = find(&Place::Cgroup(name.into()), root.path()).unwrap();
            assert_eq!(found, Spot::Cgroup(id));
        }
    }

    #[test]
    fn a_place_is_the_same_by_every_path() {
        let id = |path: &str| find(&Place::Netns(path.into()), Path::new("/")).unwrap().id();
        let own = format!("/proc/{}/ns/net", std::process::id());
        assert_eq!(id("/proc/self/ns/net"), id(&own));
        assert_ne!(id("/proc/self/ns/net"), id("/proc/self/ns/mnt"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = find(&Place::Netns("/nowhere/web".into()), Path::new("/")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/web: "), "{error}");
    }
}
