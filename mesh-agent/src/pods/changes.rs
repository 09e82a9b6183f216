//! Notices that places of workloads may have come or gone: folders of cgroups that are made and removed,
//! and mounts, by which network namespaces have names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::sys::readable::Readable;

/// The mounts that this process sees (`proc(5)`): there is something urgent to read when they change.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Folders that are watched at most: a document of a cgroup names its own.
const MAX_FOLDERS: usize = 4096;

/// Notices changes. A place that cannot be watched is looked at now and then.
#[derive(Debug, Default)]
pub struct Changes {
    folders: Option<Folders>,
    mounts: Option<(Readable, File)>,
}

/// Watches of folders, by inotify.
#[derive(Debug)]
struct Folders {
    inotify: Inotify,
    readable: Readable,
    watched: BTreeMap<PathBuf, WatchDescriptor>,
}

impl Changes {
    /// Watches the mounts, and no folder yet. Needs a runtime.
    pub fn new() -> Self {
        let told = |what: &'static str| {
            move |error: &io::Error| {
                tracing::warn!(%error, "changes of {what} are noticed some seconds late");
            }
        };
        let folders = Folders::new().inspect_err(told("cgroups")).ok();
        let mounts = mounts().inspect_err(told("mounts")).ok();
        Self { folders, mounts }
    }

    /// Watches these folders, and no others.
    pub fn watch(&mut self, folders: &BTreeSet<PathBuf>) {
        if let Some(watches) = &mut self.folders {
            watches.bring_to(folders);
        }
    }

    /// Waits until something has changed, and takes all that has.
    pub async fn wait(&self) {
        let folders = async {
            match &self.folders {
                Some(folders) => folders.changed().await,
                None => pending().await,
            }
        };
        let mounts = async {
            match &self.mounts {
                Some((mounts, _)) => drop(mounts.wait().await),
                None => pending().await,
            }
        };
        tokio::select! {
            () = folders => {}
            () = mounts => {}
        }
    }
}

fn mounts() -> io::Result<(Readable, File)> {
    let file = File::open(MOUNTS)?;
    Ok((Readable::urgent(&file)?, file))
}

impl Folders {
    fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let readable = Readable::new(&inotify)?;
        Ok(Self { inotify, readable, watched: BTreeMap::new() })
    }

    fn bring_to(&mut self, folders: &BTreeSet<PathBuf>) {
        let inotify = &self.inotify;
        self.watched.retain(|path, watch| {
            let stays = folders.contains(path);
            if !stays {
                // Fails if the folder is gone, and the watch with it.
                let _gone: nix::Result<()> = inotify.rm_watch(*watch);
            }
            stays
        });
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        for folder in folders.iter().take(MAX_FOLDERS) {
            // Also those that are watched: another folder may have the name now.
            if let Ok(watch) = self.inotify.add_watch(folder, flags) {
                self.watched.insert(folder.clone(), watch);
            }
        }
    }

    async fn changed(&self) {
        loop {
            if self.readable.wait().await.is_err() {
                return pending().await;
            }
            let mut any = false;
            loop {
                match self.inotify.read_events() {
                    Ok(_events) => any = true,
                    Err(Errno::EINTR) => {}
                    Err(_none) => break,
                }
            }
            if any {
                return;
            }
        }
    }
}

/// The folder in which the first missing part of `path` would be made, or `path`'s own if it is there:
/// its removal shows there too.
pub fn parent(path: &Path) -> PathBuf {
    let above = path.ancestors().skip(1).find(|folder| folder.is_dir());
    above.unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn folders_that_are_made_and_removed_are_noticed() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        assert_eq!(parent(&deep), root.path());
        let mut changes = Changes { folders: Folders::new().ok(), mounts: None };
        changes.watch(&[parent(&deep)].into());
        let soon = Duration::from_secs(10);
        fs::create_dir(root.path().join("a")).unwrap();
        timeout(soon, changes.wait()).await.unwrap();
        changes.watch(&[parent(&deep)].into());
        fs::create_dir(&deep).unwrap();
        timeout(soon, changes.wait()).await.unwrap();
        assert_eq!(parent(&deep), root.path().join("a"));
        fs::remove_dir(&deep).unwrap();
        timeout(soon, changes.wait()).await.unwrap();
        fs::create_dir(root.path().join("c")).unwrap();
        assert!(timeout(Duration::from_millis(1), changes.wait()).await.is_err(), "not watched");
    }
}
