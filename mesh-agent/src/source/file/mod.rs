//! A directory of YAML files: Kubernetes' documents and this mesh's own.
//!
//! [`FileSource::load`] reads the directory once; [`FileSource::run`] does so whenever it changes.
//! The task owns what was last good of every document: that stays in force while the document is
//! broken. It ends when its scope drains or nobody listens to its updates.

mod split;
mod wording;
mod yaml;
mod locate;
mod schema;
mod convert;
mod like;
mod header;
mod salvage;
mod document;
mod looks;
mod read;
mod watch;
mod in_force;
mod merge;
mod news;
mod again;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::failure::chain;
use crate::model::condition::{Condition, Location, Reason};
use crate::model::trust_domain::TrustDomains;
use crate::store::update::{Resource, Update};
use crate::task::clock;
use crate::task::ready::Gate;
use crate::task::scope::Scope;

use document::{Document, Documents, Outcome};
use in_force::InForce;
use looks::Looks;
use watch::{Change, Watch};

pub use again::{Again, Asked, channel};
pub use read::Error;

/// The source's name in its updates.
const NAME: &str = "file";

/// How long the files have to be the same before they are read: editors and copies write in steps.
const SETTLE: Duration = Duration::from_millis(50);

/// Settling time where each was put in its place as a whole: several may be renamed one after the other.
const SETTLE_WHOLE: Duration = Duration::from_millis(5);

/// How often that is waited for; then they are read as they are. 20 × 50 ms = 1 s.
const MAX_SETTLES: u32 = 20;

/// How often the directory is looked at without an event: for file systems that have none, and
/// symbolic links to elsewhere.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Reads a configuration directory.
#[derive(Debug)]
pub struct FileSource {
    dir: PathBuf,
    domains: TrustDomains,
    /// Whether it may become empty.
    allow_empty: bool,
    looks: Looks,
    /// The documents of each file as they were last read.
    files: BTreeMap<PathBuf, Contents>,
    /// The documents in force.
    good: InForce,
    /// Whether the directory had more files than are read, when it was last looked at.
    is_cut: bool,
}

/// The document in force under one name.
#[derive(Clone, Debug)]
struct Good {
    resource: Resource,
    /// How many documents of its file had this name before it did: which of several it was.
    nth: usize,
    /// It stands in the place of a document that never was good.
    is_closed: bool,
}

impl Good {
    /// Whether it was written in this file.
    fn is_of(&self, file: &Path) -> bool {
        *self.resource.location.file == *file
    }
}

/// A file that has been read.
#[derive(Debug)]
struct Contents {
    /// Of the text; `None` if it could not be read.
    fingerprint: Option<u64>,
    documents: Documents,
}

impl FileSource {
    /// A source that has read nothing yet. `domains` are those of identities and principals.
    /// `allow_empty`: a directory without documents means that there shall be nothing, also where there
    /// was something before; otherwise that is taken for a mistake.
    ///
    /// # Errors
    ///
    /// The directory cannot be read now. Later that is a condition.
    pub fn new(dir: PathBuf, domains: TrustDomains, allow_empty: bool) -> Result<Self, Error> {
        let is_cut = read::files(&dir, |_| false)?.is_cut();
        let (looks, files, good) = (Looks::default(), BTreeMap::new(), InForce::default());
        Ok(Self { dir, domains, allow_empty, looks, files, good, is_cut })
    }

    /// Reads the directory and says what is in force now.
    ///
    /// A document that is broken now and was good before stays as it was. If it cannot be told
    /// which one it was, all that its file once said, and no document says now, stays.
    pub fn load(&mut self) -> Update {
        let is_known = |file: &Path| self.files.contains_key(file);
        let files = match read::files(&self.dir, is_known) {
            Ok(files) => files,
            Err(error) => {
                let condition = self.unreadable_directory(&error);
                return self.update(vec![condition]);
            }
        };
        self.is_cut = files.is_cut();
        let cut = files.is_cut().then(|| self.too_many_files(files.n_all));
        let mut contents = BTreeMap::new();
        for file in files.read {
            if let Some(read) = self.read(&file) {
                contents.insert(file, read);
            }
        }
        self.files = contents;
        let is_empty = self.files.values().all(|file| file.documents.all.is_empty());
        if is_empty && !self.good.is_empty() && !self.allow_empty {
            let condition = self.empty_directory();
            return self.update(vec![condition]);
        }
        let mut conditions = self.merge();
        conditions.extend(cut);
        self.update(conditions)
    }

    /// Whether the directory has more files than are read: policies may be missing.
    pub const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The number of documents that were read last, whether they are good or not.
    pub fn n_documents(&self) -> usize {
        self.files.values().map(|file| file.documents.all.len()).sum()
    }

    /// Sends an update now, whenever the files say something else, and, if they do, when it is
    /// asked to look, until `scope` drains. Passes `whole` while all files are read.
    pub async fn run(self, updates: mpsc::Sender<Update>, asked: Asked, whole: Gate, scope: Scope) {
        tokio::select! {
            biased;
            () = scope.draining() => {}
            () = updates.closed() => {}
            () = self.follow(&updates, asked, whole) => {}
        }
    }

    async fn follow(mut self, updates: &mpsc::Sender<Update>, mut asked: Asked, whole: Gate) {
        let mut watch = Watch::new(&self.dir)
            .inspect_err(|error| tracing::warn!(%error, "cannot watch; looking every 5 s instead"))
            .ok();
        let mut sent: Option<Update> = None;
        let mut seen = None;
        loop {
            // Before the files are read, so that no later change is missed.
            if let Some(watch) = &mut watch {
                watch.renew();
            }
            let now = seen.take().unwrap_or_else(|| self.look());
            let began = Instant::now();
            let update = self.load();
            if self.is_cut {
                whole.close();
            } else {
                whole.pass();
            }
            tracing::debug!(read_ms = began.elapsed().as_millis(), "read the configuration");
            if sent.as_ref() != Some(&update) {
                let before = sent.as_ref().map_or(&[][..], |sent| &sent.conditions);
                let (news, more) = news::news(before, &update.conditions);
                for condition in news {
                    tracing::warn!("{condition}");
                }
                if more > 0 {
                    tracing::warn!(
                        more,
                        "there are more conditions than are logged: ask /conditions"
                    );
                }
                if updates.send(update.clone()).await.is_err() {
                    return;
                }
                sent = Some(update);
            }
            asked.answer();
            tokio::select! {
                biased;
                () = asked.wait() => {}
                next = self.changed(watch.as_mut(), now) => seen = Some(next),
            }
        }
    }

    /// Waits until the files are not as they were when `seen` was taken, and have settled. Returns what
    /// they look like then, or looked like before something was written that has not settled yet.
    async fn changed(&mut self, mut watch: Option<&mut Watch>, seen: u64) -> u64 {
        let mut now = seen;
        let mut settle = SETTLE_WHOLE;
        while now == seen {
            settle = settle.max(event(&mut watch).await);
            now = self.look();
        }
        for _ in 0..MAX_SETTLES {
            sleep(settle).await;
            if self.looks.are_settled(&self.dir, |file| self.files.contains_key(file)) {
                break;
            }
            now = self.look();
        }
        now
    }

    /// See [`Looks::fingerprint`].
    fn look(&mut self) -> u64 {
        let files = &self.files;
        self.looks.fingerprint(&self.dir, |file| files.contains_key(file), clock::now())
    }

    /// The documents of a file, or `None` if it has vanished meanwhile.
    fn read(&mut self, file: &Path) -> Option<Contents> {
        let last = self.files.get(file).and_then(|last| last.fingerprint);
        if self.looks.is_same(file, last) {
            return self.files.remove(file);
        }
        let text = match read::text(file) {
            Ok(text) => text?,
            Err(error) => return Some(unreadable_file(file, &error)),
        };
        let fingerprint = Some(read::text_fingerprint(&text));
        let last = match self.files.remove(file) {
            Some(last) if last.fingerprint == fingerprint => return Some(last),
            last => last.map(|last| last.documents).unwrap_or_default(),
        };
        let documents = document::read(file, &text, &self.domains, &last);
        Some(Contents { fingerprint, documents })
    }

    fn update(&self, conditions: Vec<Condition>) -> Update {
        let resources = self.good.iter().map(|(_, good)| good.resource.clone()).collect();
        Update { source: NAME, resources, conditions }
    }

    fn empty_directory(&self) -> Condition {
        let message = format!(
            "the configuration directory {} holds no documents any more; the last configuration \
             stays in force until it does. If nothing shall be in force, start the agent with \
             --allow-empty",
            self.dir.display()
        );
        whole(&self.dir, "directory", message)
    }

    fn too_many_files(&self, n_all: usize) -> Condition {
        let message = format!(
            "the configuration directory {} has {n_all} files, and {} are read: {} are not, and until \
             there are fewer, nothing that was in force is taken away; put several documents into \
             one file, with lines `---` between them",
            self.dir.display(),
            read::MAX_FILES,
            n_all - read::MAX_FILES,
        );
        Condition { reason: Reason::LimitExceeded, ..whole(&self.dir, "directory", message) }
    }

    fn unreadable_directory(&self, error: &Error) -> Condition {
        let message =
            format!("{}; until that is put right, all stays as it was last", chain(error));
        whole(&self.dir, "directory", message)
    }
}

/// Waits until the directory may have changed, and says how long to wait for it to settle. `watch` is
/// taken away when it does not work.
async fn event(watch: &mut Option<&mut Watch>) -> Duration {
    let deadline = Instant::now() + LOOK_AGAIN;
    let Some(events) = watch else {
        sleep_until(deadline).await;
        return SETTLE;
    };
    match timeout_at(deadline, events.changed()).await {
        Ok(Ok(change)) => {
            events.renew();
            return if change == Change::Whole { SETTLE_WHOLE } else { SETTLE };
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot watch; looking every 5 s instead");
            *watch = None;
        }
        Err(_elapsed) => events.renew(),
    }
    SETTLE
}

/// A file of which nothing is known but that it is there.
fn unreadable_file(file: &Path, error: &Error) -> Contents {
    let remedy = match error {
        Error::TooLarge => "divide it into several files",
        Error::File(_) => "let the agent read it, or remove it",
        _ => {
            "put a file of YAML in UTF-8 there, or give it a name that does not end in .yaml or .yml"
        }
    };
    let message = format!("{}; {remedy}", chain(error));
    let conditions = vec![whole(file, "file", message)];
    let mut documents = Documents::default();
    documents.all.push(Document { outcome: Outcome::Broken(None), conditions });
    Contents { fingerprint: None, documents }
}

/// A condition on all of a path.
fn whole(path: &Path, subject: &str, message: String) -> Condition {
    Condition {
        location: Location { file: path.into(), document: 1, line: 1 },
        subject: subject.to_owned(),
        field: String::new(),
        reason: Reason::Invalid,
        message,
    }
}

#[cfg(test)]
mod tests;
