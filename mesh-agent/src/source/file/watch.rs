//! Notices that something in a directory has changed.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::net::unix::pipe;

/// Room for several events: one has at most 16 + 256 bytes (inotify(7)).
const READ_BYTES: usize = 4096;

/// A watch on a directory, by inotify.
#[derive(Debug)]
pub(super) struct Watch {
    dir: PathBuf,
    inotify: Inotify,
    /// The same descriptor. Bytes can be awaited on it as on a pipe; which events they are is of
    /// no interest here. (`AsyncFd` is the usual way, but takes unsafe code to make.)
    events: pipe::Receiver,
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
        let events = inotify.as_fd().try_clone_to_owned()?;
        let events = pipe::Receiver::from_owned_fd_unchecked(events)?;
        Ok(Self { dir: dir.to_owned(), inotify, events, current: None })
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
            self.events.readable().await?;
            loop {
                match self.events.try_read(&mut [0; READ_BYTES]) {
                    Ok(_) => any = true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if any {
                return Ok(());
            }
        }
    }
}
