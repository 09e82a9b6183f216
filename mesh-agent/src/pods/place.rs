//! Finds a workload's sockets on this node.

use std::io;
use std::path::{Path, PathBuf};

use mesh_common::source::SourceKey;

use crate::model::workload::Place;
use crate::sys::netns::Netns;
use crate::sys::{cgroup, socket};

/// Where a workload was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    /// A cgroup, by its id.
    Cgroup(u64),
    /// A network namespace.
    Netns {
        /// Its file system.
        device: u64,
        /// Its inode: another one under the same path is another namespace.
        inode: u64,
        /// The kernel's name for it.
        cookie: u64,
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
    /// The mark that tells it from other places.
    pub const fn id(&self) -> SpotId {
        match self {
            Self::Cgroup(id) => SpotId::Cgroup(*id),
            Self::Netns { device, inode, .. } => SpotId::Netns { device: *device, inode: *inode },
        }
    }

    /// The cgroup's id, if it is one.
    pub const fn cgroup(&self) -> Option<u64> {
        match self {
            Self::Cgroup(id) => Some(*id),
            Self::Netns { .. } => None,
        }
    }

    /// Its key in the kernel.
    pub const fn source(&self) -> SourceKey {
        match self {
            Self::Cgroup(id) => SourceKey::cgroup(*id),
            Self::Netns { cookie, .. } => SourceKey::netns(*cookie),
        }
    }
}

/// The error at a path.
pub fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Opens the network namespace at a path, which takes as long as its file system likes.
///
/// # Errors
///
/// There is none, or it cannot be entered.
pub fn open(path: &Path) -> io::Result<(Spot, Netns)> {
    let netns = Netns::open(path)?;
    let (device, inode) = netns.file()?;
    let cookie = netns.enter(socket::current_netns_cookie)??;
    Ok((Spot::Netns { device, inode, cookie }, netns))
}

/// The folder of a cgroup that is named below `cgroup_root`.
pub fn folder(cgroup_root: &Path, path: &Path) -> PathBuf {
    cgroup_root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Finds `place`; cgroups are named below `cgroup_root`. A network namespace takes as long as the file
/// system of its path likes.
///
/// # Errors
///
/// It is not there.
pub fn find(place: &Place, cgroup_root: &Path) -> io::Result<Spot> {
    match place {
        Place::Cgroup(path) => {
            let path = folder(cgroup_root, path);
            cgroup::id(&path).map(Spot::Cgroup).map_err(|error| named(&path, &error))
        }
        Place::SystemdUnit(unit) => {
            cgroup::of_unit(cgroup_root, unit).and_then(|path| cgroup::id(&path)).map(Spot::Cgroup)
        }
        Place::Netns(path) => open(path).map(|(spot, _)| spot).map_err(|error| named(path, &error)),
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
}
