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
    pub(super) async fn changed(&self) -> io::Result<Change> {
        let mut all = None;
        loop {
            self.events.readable().await?;
            // Not for as long as it waits.
            let mut buffer = [0; READ_BYTES];
            loop {
                match self.events.try_read(&mut buffer) {
                    Ok(read) => {
                        let change = Change::of(buffer.get(..read).unwrap_or_default());
                        all = Some(all.map_or(change, |all: Change| all.max(change)));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if let Some(change) = all {
                return Ok(change);
            }
        }
    }
}

/// How files have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// Each was put in its place as a whole, by a rename.
    Whole,
    /// Some may be half written, or not all there.
    Parts,
}

impl Change {
    /// The change that these events say: each has the watch, the mask, a cookie and the length of its
    /// name, of 4 bytes each, and the name (inotify(7)).
    fn of(mut events: &[u8]) -> Self {
        while let Some((head, rest)) = events.split_first_chunk::<16>() {
            let field = |at: usize| {
                let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                bytes.map_or(0, u32::from_ne_bytes)
            };
            let length = usize::try_from(field(12)).unwrap_or(usize::MAX);
            let Some((name, rest)) = rest.split_at_checked(length) else { return Self::Parts };
            let mask = AddWatchFlags::from_bits_retain(field(4));
            // Editors write what is to be renamed into hidden files, and Kubernetes into hidden folders;
            // the link to these is hidden too.
            let is_hidden = name.first() == Some(&b'.');
            let is_whole = mask.intersects(AddWatchFlags::IN_MOVED_TO);
            if !is_whole && !is_hidden {
                return Self::Parts;
            }
            events = rest;
        }
        Self::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: AddWatchFlags, name: &str) -> Vec<u8> {
        let name = [name.as_bytes(), &[0; 3]].concat();
        let fields = [1, mask.bits(), 0, u32::try_from(name.len()).unwrap()];
        [fields.map(u32::to_ne_bytes).as_flattened(), &name].concat()
    }

    #[track_caller]
    fn check(events: &[(AddWatchFlags, &str)], expect: Change) {
        let events: Vec<u8> = events.iter().flat_map(|(mask, name)| event(*mask, name)).collect();
        assert_eq!(Change::of(&events), expect);
    }

    #[test]
    fn what_is_renamed_into_its_place_is_whole() {
        const CREATE: AddWatchFlags = AddWatchFlags::IN_CREATE;
        const WRITTEN: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE;
        const FROM: AddWatchFlags = AddWatchFlags::IN_MOVED_FROM;
        const TO: AddWatchFlags = AddWatchFlags::IN_MOVED_TO;
        let whole = [(CREATE, ".a.new"), (WRITTEN, ".a.new"), (FROM, ".a.new"), (TO, "a.yaml")];
        check(&whole, Change::Whole);
        check(&[(CREATE, "..2026"), (CREATE, "..data_tmp"), (TO, "..data")], Change::Whole);
        check(&[(TO, "a.yaml"), (CREATE, "b.yaml")], Change::Parts);
        check(&[(CREATE, "a.yaml"), (WRITTEN, "a.yaml")], Change::Parts);
        check(&[(AddWatchFlags::IN_DELETE, "a.yaml")], Change::Parts);
        check(&[(AddWatchFlags::IN_DELETE_SELF, "")], Change::Parts);
        assert_eq!(Change::of(&event(TO, "a.yaml")[..18]), Change::Parts, "cut off");
    }
}
