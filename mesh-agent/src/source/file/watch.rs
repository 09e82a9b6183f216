//! Notices that something in a directory has changed.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::sys::readable::Readable;

/// A watch on a directory, by inotify.
#[derive(Debug)]
pub(super) struct Watch {
    dir: PathBuf,
    inotify: Inotify,
    readable: Readable,
    current: Option<WatchDescriptor>,
}

impl Watch {
    /// Watches nothing yet: [`Watch::renew`] does.
    ///
    /// # Errors
    ///
    /// The user has too many inotify instances (`fs.inotify.max_user_instances`) or descriptors.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let readable = Readable::new(&inotify)?;
        Ok(Self { dir: dir.to_owned(), inotify, readable, current: None })
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
        let inotify = &self.inotify;
        // A directory that is not there is noticed, and reported, by the one who reads it.
        let next = self.inotify.add_watch(&self.dir, flags).ok();
        if let Some(old) = self.current.filter(|old| Some(*old) != next) {
            // Fails if the directory is gone, and the watch with it.
            let _gone: nix::Result<()> = self.inotify.rm_watch(old);
        }
        self.current = next;
    }

    /// Waits for a change, and takes all that have happened.
    ///
    /// # Errors
    ///
    /// The descriptor cannot be read.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let mut any = false;
        loop {
            if self.readable.wait().await.is_err() {
                // The runtime is shutting down.
                return std::future::pending().await;
            }
            let mut any = false;
            let ended = loop {
                match self.inotify.read_events() {
                    Ok(_events) => any = true,
                    Err(errno) => break errno,
                }
            };
            if any || ended != Errno::EAGAIN {
                return;
            }
        }
    }
}
