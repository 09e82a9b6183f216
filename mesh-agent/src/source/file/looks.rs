//! States of files when they were last read, so that only those are read that may be different.
//!
//! A file's state on disk says that it has changed, and not always that it has not: one that is
//! written twice within the granularity of the file system's clock may have the same state after
//! both. As git does with its index ("racy git"), the state of a file that had changed shortly before
//! it was read is not relied on: the file is read again until it is older. Now and then all are read,
//! for file systems that say something else.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::read;

/// A file that has changed as shortly before it was read may change again and look the same. FAT has
/// two seconds, ext3 and NFS of old servers one, Linux' own clock for files 10 ms at most.
const GRANULARITY: Duration = Duration::from_secs(3);

/// How often all files are read, whatever they look like.
const ALL_AGAIN: Duration = Duration::from_mins(5);

/// All files of a directory, as they were last looked at.
#[derive(Debug, Default)]
pub(super) struct Looks {
    files: BTreeMap<PathBuf, Look>,
    /// When all of them were last read.
    all: Option<Instant>,
    /// How many files were read the last time.
    n_read: usize,
}

/// One file.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Before it was read. `None`: it was not there, or is no file.
    state: Option<State>,
    /// Whether a later change is sure to show in the state.
    is_sure: bool,
    /// Fingerprint of the text, or of the error with which it could not be read.
    fingerprint: u64,
}

/// The state of a file on disk. Symbolic links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    size: u64,
    /// When its content changed, in seconds and nanoseconds: whoever writes it may say so.
    modified: (i64, i64),
    /// When its state changed: nobody may.
    changed: (i64, i64),
}

impl State {
    fn of(file: &Path) -> Option<Self> {
        let metadata = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether a change of the file from `now` on is sure to show.
    fn is_old(&self, now: SystemTime) -> bool {
        let changed = self.changed.max(self.modified).0;
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed.try_into().unwrap_or(0));
        now.duration_since(changed).is_ok_and(|age| age > GRANULARITY)
    }
}

impl Looks {
    /// A number that changes when any file of `dir` does. Reads those that may have changed. Not for
    /// use against adversaries. `is_known`: see [`read::files`].
    pub(super) fn fingerprint(
        &mut self,
        dir: &Path,
        is_known: impl Fn(&Path) -> bool,
        now: SystemTime,
    ) -> u64 {
        let mut hasher = DefaultHasher::new();
        match read::files(dir, is_known) {
            Ok(files) => {
                files.n_all.hash(&mut hasher);
                let instant = Instant::now();
                if self.all.is_none_or(|all| instant - all >= ALL_AGAIN) {
                    self.all = Some(instant);
                    self.files.clear();
                }
                // Those that are gone are forgotten.
                let mut before = std::mem::take(&mut self.files);
                let mut n_read = 0;
                for file in files.read {
                    let look = before.remove(&file).filter(|look| look.is_of(&file));
                    let look = look.unwrap_or_else(|| {
                        n_read += 1;
                        Look::read(&file, now)
                    });
                    (&file, look.fingerprint).hash(&mut hasher);
                    self.files.insert(file, look);
                }
                if n_read != std::mem::replace(&mut self.n_read, n_read) {
                    tracing::trace!(
                        n_read,
                        "other files of the configuration are read than before"
                    );
                }
            }
            Err(error) => error.to_string().hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Whether nothing seems to have been written since the files were looked at. Enough to know that who
    /// writes them has stopped, but not what is in them: two changes may have the same time.
    pub(super) fn are_settled(&self, dir: &Path, is_known: impl Fn(&Path) -> bool) -> bool {
        // A folder that cannot be read is for those to report who read it.
        let Ok(files) = read::files(dir, is_known) else { return true };
        let is_same =
            |file: &PathBuf| self.files.get(file).is_some_and(|look| look.state == State::of(file));
        files.read.len() == self.files.len() && files.read.iter().all(is_same)
    }

    /// Whether the text of a file is sure to be the one with this fingerprint.
    pub(super) fn is_same(&self, file: &Path, fingerprint: Option<u64>) -> bool {
        let Some(look) = self.files.get(file) else { return false };
        fingerprint == Some(look.fingerprint) && look.is_of(file)
    }
}

impl Look {
    /// Reads a file.
    fn read(file: &Path, now: SystemTime) -> Self {
        // Before it is read: what changes meanwhile is seen the next time.
        let state = State::of(file);
        let fingerprint = match read::text(file) {
            Ok(Some(text)) => read::text_fingerprint(&text),
            Ok(None) => 0,
            Err(error) => read::text_fingerprint(&error.to_string()),
        };
        let is_sure = state.is_some_and(|state| state.is_old(now));
        Self { state, is_sure, fingerprint }
    }

    /// Whether the file is sure to be as it was.
    fn is_of(&self, file: &Path) -> bool {
        self.is_sure && self.state == State::of(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::clock;

    /// How long after the files were written they are looked at.
    const LATER: Duration = Duration::from_secs(10);

    struct Lab {
        dir: tempfile::TempDir,
        looks: Looks,
    }

    impl Lab {
        fn new() -> Self {
            let lab = Self { dir: tempfile::tempdir().unwrap(), looks: Looks::default() };
            for name in ["a.yaml", "b.yaml", "c.yaml"] {
                lab.write(name, name);
            }
            lab
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.dir.path().join(name), text).unwrap();
        }

        /// Looks after so long; with the fingerprint, and how many files were read.
        fn look(&mut self, later: Duration) -> (u64, usize) {
            let fingerprint =
                self.looks.fingerprint(self.dir.path(), |_| false, clock::now() + later);
            (fingerprint, self.looks.n_read)
        }
    }

    #[test]
    fn only_what_has_changed_is_read_again() {
        let mut lab = Lab::new();
        let first = lab.look(LATER);
        assert_eq!(first.1, 3);
        assert_eq!(lab.look(LATER), (first.0, 0));
        lab.write("b.yaml", "of another length");
        let second = lab.look(LATER);
        assert_eq!(second.1, 1);
        assert_ne!(second.0, first.0);
        fs::remove_file(lab.dir.path().join("c.yaml")).unwrap();
        let third = lab.look(LATER);
        assert_eq!(third.1, 0);
        assert_ne!(third.0, second.0);
    }

    #[test]
    fn a_file_that_was_just_written_is_read_until_it_is_older() {
        let mut lab = Lab::new();
        let first = lab.look(Duration::ZERO);
        assert_eq!(lab.look(Duration::ZERO), (first.0, 3));
        assert_eq!(lab.look(LATER), (first.0, 3));
        assert_eq!(lab.look(LATER), (first.0, 0));
    }

    #[test]
    fn a_change_that_keeps_length_and_time_is_noticed() {
        let mut lab = Lab::new();
        let path = lab.dir.path().join("a.yaml");
        let first = lab.look(LATER);
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        lab.write("a.yaml", "A.yaml");
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), time);
        let second = lab.look(LATER);
        assert_ne!(second.0, first.0);
        assert_eq!(second.1, 1);
    }

    #[test]
    fn a_link_to_another_file_is_another_file() {
        let mut lab = Lab::new();
        let elsewhere = tempfile::tempdir().unwrap();
        for text in ["one", "two"] {
            fs::write(elsewhere.path().join(text), text).unwrap();
        }
        let link = lab.dir.path().join("link.yaml");
        std::os::unix::fs::symlink(elsewhere.path().join("one"), &link).unwrap();
        let first = lab.look(LATER);
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(elsewhere.path().join("two"), &link).unwrap();
        let second = lab.look(LATER);
        assert_ne!(second.0, first.0);
        // The file that it leads to is replaced.
        fs::write(elsewhere.path().join("two"), "TWO").unwrap();
        assert_ne!(lab.look(LATER).0, second.0);
    }

    #[tokio::test(start_paused = true)]
    async fn now_and_then_all_are_read() {
        let mut lab = Lab::new();
        lab.look(LATER);
        tokio::time::advance(ALL_AGAIN).await;
        assert_eq!(lab.look(LATER).1, 3);
        assert_eq!(lab.look(LATER).1, 0);
    }

    #[test]
    fn what_is_no_file_is_looked_at_each_time() {
        let mut lab = Lab::new();
        fs::create_dir(lab.dir.path().join("d.yaml")).unwrap();
        assert_eq!(lab.look(LATER).1, 4);
        assert_eq!(lab.look(LATER).1, 1);
    }
}
