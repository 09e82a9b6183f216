//! Notices that something in a directory has changed.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;

/// A watch on a directory, by inotify.
#[derive(Debug)]
pub(super) struct Watch {
    dir: PathBuf,
    inotify: AsyncFd<Descriptor>,
    current: Option<WatchDescriptor>,
}

/// [`AsyncFd`] wants the number.
#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Watches nothing yet: [`Watch::renew`] does.
    ///
    /// # Errors
    ///
    /// The user has too many inotify instances (`fs.inotify.max_user_instances`) or descriptors.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let inotify = AsyncFd::new(Descriptor(inotify))?;
        Ok(Self { dir: dir.to_owned(), inotify, current: None })
    }

    /// Watches the directory that now has the name: it may be another than before.
    pub(super) fn renew(&mut self) {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVE_SELF;
        let inotify = &self.inotify.get_ref().0;
        // A directory that is not there is noticed, and reported, by the one who reads it.
        let next = inotify.add_watch(&self.dir, flags).ok();
        if let Some(old) = self.current.filter(|old| Some(*old) != next) {
            // Fails if the directory is gone, and the watch with it.
            let _gone: nix::Result<()> = inotify.rm_watch(old);
        }
        self.current = next;
    }

    /// Waits for a change, and takes all that have happened.
    pub(super) async fn changed(&mut self) {
        loop {
            let Ok(mut ready) = self.inotify.readable_mut().await else {
                // The runtime is shutting down.
                return std::future::pending().await;
            };
            let mut any = false;
            let ended = loop {
                match ready.get_inner().0.read_events() {
                    Ok(_events) => any = true,
                    Err(errno) => break errno,
                }
            };
            if ended == Errno::EAGAIN {
                ready.clear_ready();
            }
            if any || ended != Errno::EAGAIN {
                return;
            }
        }
    }
}
